//! Random packets and random map contents against every program.
//!
//! Whatever comes and whatever the maps hold: every packet has one outcome; a packet that is left alone is unchanged; one
//! that is neither to a VIP's address nor of a flow is left alone; and no packet leaves a flow with one half only. In a
//! world that an agent could have made, what leaves has right checksums too.
//!
//! Ten seconds by default; `REDIRECTOR_FUZZ_SECONDS` says how long. The seed is printed, and `REDIRECTOR_FUZZ_SEED` takes it.

use std::{
    collections::HashSet,
    env,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant, SystemTime},
};

use aya::maps::Array;
use redirector::datapath::programs::{EGRESS, INGRESS};
use redirector_common::{
    addr::Tuple,
    flow::{Flow, Stub},
    layout::{Continuation, MAX_SOURCES, Slot, slot_index},
};

use super::{
    bench::{Bench, MEMBER, OTHER, Verdict, table},
    frame::{build, describe},
};

/// How wrong the maps may get.
#[derive(Clone, Copy, PartialEq, Eq)]
enum World {
    /// As an agent could make them.
    Sound,
    /// Anything.
    Corrupt,
}

#[test]
fn random_packets_in_a_sound_world_ipv4() {
    run(false, World::Sound);
}

#[test]
fn random_packets_in_a_sound_world_ipv6() {
    run(true, World::Sound);
}

#[test]
fn random_packets_and_random_maps_ipv4() {
    run(false, World::Corrupt);
}

#[test]
fn random_packets_and_random_maps_ipv6() {
    run(true, World::Corrupt);
}

fn run(v6: bool, world: World) {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(number("REDIRECTOR_FUZZ_SECONDS").unwrap_or(10));
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("REDIRECTOR_FUZZ_SEED").unwrap_or_else(clock) | 1;
    println!("seed {seed}");
    let end = Instant::now() + time;
    let mut fuzz =
        Fuzz { bench: Bench::new(v6, 48, false), world, random: Random(seed), packets: 0, opened: 0 };
    while Instant::now() < end {
        fuzz.step();
    }
    println!("{} packets, {} flows opened", fuzz.packets, fuzz.opened);
    assert!(
        fuzz.opened > fuzz.packets / 200,
        "too few flows were opened: {} of {}",
        fuzz.opened,
        fuzz.packets
    );
}

/// Xorshift.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.word() % bound as u64) as usize
    }

    fn one_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Random bytes in the place of a plain value.
    fn scribble<T: Copy>(&mut self, value: &mut T) {
        // SAFETY: for types that are plain integers, for which every byte is a value.
        let bytes = unsafe { std::slice::from_raw_parts_mut((&raw mut *value).cast::<u8>(), size_of::<T>()) };
        for _ in 0..=self.below(6) {
            bytes[self.below(bytes.len())] = self.word() as u8;
        }
    }
}

struct Fuzz {
    bench: Bench,
    world: World,
    random: Random,
    packets: u64,
    opened: u64,
}

/// Both halves of all flows.
struct Halves {
    flows: Vec<(Tuple, Flow)>,
    stubs: Vec<(Tuple, Stub)>,
}

impl Halves {
    fn read(bench: &mut Bench) -> Self {
        let flows = table::<Tuple, Flow>(&mut bench.programs, "flows_v4");
        let flows = flows.iter().filter_map(Result::ok).collect();
        let stubs = table::<Tuple, Stub>(&mut bench.programs, "replies_v4");
        Self { flows, stubs: stubs.iter().filter_map(Result::ok).collect() }
    }

    /// Keys of entries without their other half: flows first, then stubs.
    fn alone(&self) -> (HashSet<Tuple>, HashSet<Tuple>) {
        let pair = |client_side: &Tuple, flow: &Flow, member_side: &Tuple, stub: &Stub| {
            flow.member_side == *member_side
                && stub.client_side == *client_side
                && flow.incarnation == stub.incarnation
        };
        let flows = self.flows.iter().filter(|(key, flow)| {
            !self.stubs.iter().any(|(member_side, stub)| pair(key, flow, member_side, stub))
        });
        let stubs = self.stubs.iter().filter(|(member_side, stub)| {
            !self.flows.iter().any(|(key, flow)| pair(key, flow, member_side, stub))
        });
        (flows.map(|(key, _)| *key).collect(), stubs.map(|(key, _)| *key).collect())
    }
}

impl Fuzz {
    fn step(&mut self) {
        if self.random.one_in(12) {
            self.change_the_world();
        } else {
            self.send_something();
        }
    }

    fn send_something(&mut self) {
        let before = Halves::read(&mut self.bench);
        let (program, words, ends) = self.words(&before);
        let mut frame = build(&words, &self.bench.names);
        let sound = !self.random.one_in(5);
        if !sound {
            for _ in 0..=self.random.below(4) {
                let at = 12 + self.random.below(frame.len() - 12);
                frame[at] = self.random.word() as u8;
            }
            if self.random.one_in(3) {
                frame.truncate(14 + self.random.below(frame.len() - 13));
            }
        }
        // Kernels differ in which frames are too short for them to run a program on at all.
        let Some((verdict, out, outcome)) = self.bench.run_frame(program, &frame) else { return };
        self.packets += 1;
        self.opened += u64::from(outcome == "opened");
        let said =
            format!("{program}: {words}{}: {verdict:?} {outcome}", if sound { "" } else { " (mutated)" });

        if verdict == Verdict::Leave && outcome != "icmp_to_client" {
            assert_eq!(out, frame, "{said}: left alone and yet changed");
        }
        // These are handed packets that are to be refused, and lists that were read before.
        let is_handed_over = ["redirector_refuse", "redirector_inject"].contains(&program);
        // Only by its identification, which all segments here share, does it belong to anybody.
        let has_no_ports = words.contains("frag=24-");
        if sound
            && !is_handed_over
            && !has_no_ports
            && is_nobodys(program, ends, &before, self.bench.names["vip"].ip())
        {
            assert_eq!(verdict, Verdict::Leave, "{said}: nobody's packet");
        }
        if sound && self.world == World::Sound && (verdict == Verdict::Redirect || out != frame) {
            let packet = describe(&out, &self.bench.names);
            assert!(!packet.contains("BAD"), "{said}: {packet}");
        }
        let (flows_before, stubs_before) = before.alone();
        let (flows, stubs) = Halves::read(&mut self.bench).alone();
        assert!(flows.is_subset(&flows_before), "{said}: a flow without its stub");
        assert!(stubs.is_subset(&stubs_before), "{said}: a stub without its flow");
    }

    /// A frame in words, its ends, and the program that sees it.
    fn words(&mut self, halves: &Halves) -> (&'static str, String, Tuple) {
        let names = &mut self.bench.names;
        let client = SocketAddr::new(names["client"].ip(), 40_000 + self.random.below(60) as u16);
        names.insert("someone", client);
        names.insert("else", SocketAddr::new(names["vip"].ip(), self.random.word() as u16 | 1));
        let known = (!halves.flows.is_empty() && !self.random.one_in(3))
            .then(|| halves.flows[self.random.below(halves.flows.len())]);
        let (mut near, mut far) = ("someone", "vip");
        let (mut sequence, mut acknowledged) = (self.random.word() as u32, self.random.word() as u32);
        let mut program = EGRESS;
        if let Some((key, flow)) = known {
            let is_client = self.random.one_in(2);
            let half = if is_client { flow.client } else { flow.replies };
            if !self.random.one_in(4) {
                (sequence, acknowledged) = (half.next, half.acknowledged);
            }
            let same_family = |a: SocketAddr, b: SocketAddr| a.is_ipv4() == b.is_ipv4();
            let ends = if is_client { key } else { flow.member_side.reversed() };
            let (a, b) = (ends.near_socket(), ends.far_socket());
            if same_family(a, b) {
                names.insert("a", a);
                names.insert("b", b);
                (near, far) = ("a", "b");
            }
            program = if is_client { EGRESS } else { INGRESS };
        }
        if self.random.one_in(8) {
            (near, far) = (
                self.random.of(&["someone", "member", "other", "stranger", "vip", "else"]),
                self.random.of(&["someone", "member", "vip:80", "stranger", "vip", "else"]),
            );
        }
        if self.random.one_in(12) {
            program = self.random.of(&[EGRESS, INGRESS]);
        } else if self.random.one_in(20) {
            program = self.random.of(&Continuation::ALL).1;
        }
        let opening = known.is_none() && !self.random.one_in(6);
        let flags = if opening {
            "SYN"
        } else {
            self.random.of(&["ACK", "PSH ACK", "FIN ACK", "SYN ACK", "RST", "RST ACK", "SYN", "FIN", ""])
        };
        let mut words =
            format!("{near} > {far} {flags} seq={sequence} ack={acknowledged} len={}", self.random.below(40));
        if self.random.one_in(10) {
            let kind = self.random.of(&["udp", "echo", "echo-reply"]);
            words = format!("{near} > {far} {kind} len={}", self.random.below(40));
        }
        for (often, word) in
            [(6, "tcpopt=12"), (9, "padded"), (25, "frag=0-24"), (25, "frag=24-"), (25, "vlan")]
        {
            if self.random.one_in(often) && !(word == "tcpopt=12" && words.contains("udp")) {
                words = format!("{words} {word}");
            }
        }
        if names[near].is_ipv4() && self.random.one_in(10) {
            words += " ipopt=3";
        }
        if names[near].is_ipv6() && self.random.one_in(10) {
            words =
                format!("{words} ext={}", self.random.of(&["hop", "dest,route", "whole", "dest,whole,dest"]));
        }
        if names[near].is_ipv4() == names["stranger"].is_ipv4() && self.random.one_in(8) {
            // A router's word about a packet like this one, to its sender.
            let error = self.random.of(&["too-big=1300", "unreachable", "expired", "port-unreachable"]);
            let about = if program == EGRESS { INGRESS } else { EGRESS };
            let ends = Tuple::between(names["stranger"], names[near]);
            return (about, format!("stranger > {near} {error} quoting {words}"), ends);
        }
        let ends = Tuple::between(names[near], names[far]);
        (program, words, ends)
    }

    /// A switch, an address that comes or goes, a table that loses something.
    fn change_the_world(&mut self) {
        let halves = Halves::read(&mut self.bench);
        // Programs take none off of what is lost.
        self.bench.forget_half_open();
        match self.random.below(if self.world == World::Sound { 7 } else { 14 }) {
            0 | 1 => {
                let active = self.random.of(&[Some(MEMBER), Some(OTHER), Some(MEMBER), None]);
                let reset = self.random.one_in(2);
                self.bench.switch(active, reset);
            }
            2 => self.bench.switch(Some(MEMBER), false),
            3 | 4 => self.replace_a_slot(),
            5 => self.lose_flows(&halves, 4),
            6 => self.lose_a_half(&halves),
            7 => self.corrupt("decisions_v4", u64::from(MEMBER)),
            8 => self.corrupt("floors_v4", u64::from(MEMBER)),
            9 => self.corrupt_a_slot(),
            10 | 11 => self.corrupt_a_flow(&halves),
            12 => self.corrupt_a_stub(&halves),
            _ => self.lose_flows(&halves, 48),
        }
    }

    fn slots(&mut self) -> Array<&mut aya::maps::MapData, Slot> {
        self.bench.programs.map_mut("slots_v4").unwrap().try_into().unwrap()
    }

    /// As the agent does it: emptied, then filled, each with the next generation.
    fn replace_a_slot(&mut self) {
        let member = self.random.of(&[MEMBER, OTHER]);
        let index = slot_index(member, 3 + self.random.below(2) as u32);
        let address = self.bench.names[if member == MEMBER { "member" } else { "other" }];
        let source: IpAddr = if self.bench.v6 { "fd00:1::2" } else { "10.1.0.2" }.parse().unwrap();
        let flags = self.random.of(&[Slot::OFFERED, Slot::OFFERED, Slot::OFFERED | Slot::LOCAL, 0]);
        let mut slots = self.slots();
        let generation = slots.get(&index, 0).unwrap().generation;
        slots.set(index, Slot { generation: generation + 1, ..Slot::default() }, 0).unwrap();
        let mut slot = Slot::new(address, &[source], flags);
        slot.generation = generation + 2;
        slots.set(index, slot, 0).unwrap();
    }

    /// As the collector does it: both halves.
    fn lose_flows(&mut self, halves: &Halves, at_most: usize) {
        for _ in 0..at_most.min(halves.flows.len()) {
            let (key, flow) = halves.flows[self.random.below(halves.flows.len())];
            let _gone =
                table::<Tuple, Stub>(&mut self.bench.programs, "replies_v4").remove(&flow.member_side);
            let _gone = table::<Tuple, Flow>(&mut self.bench.programs, "flows_v4").remove(&key);
        }
    }

    fn lose_a_half(&mut self, halves: &Halves) {
        if halves.flows.is_empty() {
            return;
        }
        let (key, flow) = halves.flows[self.random.below(halves.flows.len())];
        if self.random.one_in(2) {
            let _gone =
                table::<Tuple, Stub>(&mut self.bench.programs, "replies_v4").remove(&flow.member_side);
        } else {
            let _gone = table::<Tuple, Flow>(&mut self.bench.programs, "flows_v4").remove(&key);
        }
    }

    fn corrupt(&mut self, map: &str, index: u64) {
        let word = self.random.of(&[self.random.0, 2 << 32 | 2, u64::MAX, 0, self.random.0 & 0xff_0000_0003]);
        let mut words: Array<_, u64> = self.bench.programs.map_mut(map).unwrap().try_into().unwrap();
        words.set(index as u32, word, 0).unwrap();
    }

    fn corrupt_a_slot(&mut self) {
        let index = slot_index(self.random.of(&[MEMBER, OTHER]), self.random.below(16) as u32);
        let mut slot = self.slots().get(&index, 0).unwrap();
        self.random.scribble(&mut slot);
        slot.source_count = self.random.of(&[slot.source_count, 0, 1, MAX_SOURCES as u32, u32::MAX]);
        self.slots().set(index, slot, 0).unwrap();
    }

    /// All but where its stub is: what is lost with that was not lost by a packet.
    fn corrupt_a_flow(&mut self, halves: &Halves) {
        if halves.flows.is_empty() {
            return;
        }
        let (key, mut flow) = halves.flows[self.random.below(halves.flows.len())];
        let (member, member_side) = (flow.member, flow.member_side);
        self.random.scribble(&mut flow);
        flow.member_side = member_side;
        // Members whose counters the bench reads, and one that cannot be.
        flow.member = self.random.of(&[member, MEMBER, OTHER, 5000]);
        let _full = table::<Tuple, Flow>(&mut self.bench.programs, "flows_v4").insert(key, flow, 0);
    }

    fn corrupt_a_stub(&mut self, halves: &Halves) {
        if halves.stubs.is_empty() {
            return;
        }
        let (key, mut stub) = halves.stubs[self.random.below(halves.stubs.len())];
        self.random.scribble(&mut stub);
        let _full = table::<Tuple, Stub>(&mut self.bench.programs, "replies_v4").insert(key, stub, 0);
    }
}

/// Neither to a VIP's address nor of a flow.
fn is_nobodys(program: &str, ends: Tuple, halves: &Halves, vip: IpAddr) -> bool {
    let is_reply = || halves.stubs.iter().any(|(key, _)| *key == ends.reversed());
    let is_of_a_client = || halves.flows.iter().any(|(key, _)| *key == ends);
    let to_the_vip = ends.far_socket().ip() == vip;
    if program == INGRESS { !is_reply() } else { !is_reply() && !is_of_a_client() && !to_the_vip }
}
