//! The programs, loaded in a network namespace of their own and run packet by packet with `BPF_PROG_TEST_RUN`.

use std::{collections::HashMap as StdMap, net::SocketAddr, os::fd::OwnedFd};

use aya::{
    Ebpf,
    maps::{Array, HashMap, PerCpuArray},
    programs::{TestRun as _, TestRunOptions},
};
use redirector::{
    datapath::{
        network::Network,
        programs::{EGRESS, HalfOpen, INGRESS, INGRESS_L3, Settings, classifier, load},
    },
    model::PortRange,
};
use redirector_common::{
    addr::{Addr, Port, Tuple},
    decision::Decision,
    flow::{Flow, Stub, Way},
    inject::{Home, MOST, Order, Target, for_all},
    layout::{FragmentKey, Fragments, SLOTS, Service, Slot, SourceKey, VipKey, slot_index},
    outcome::{Count, Outcome, counter_index},
    rate::Rate,
    signal::Pulse,
};
use rtnetlink::LinkUnspec;
use rustix::net::RecvFlags;

use super::{
    devices::{client_socket, forget_gateways, socket_beside, tap, uplink},
    frame::{Names, build, describe, describe_ip, is_tcp},
};

/// Ids of the one service and its two members.
const SERVICE: u16 = 0;
pub const MEMBER: u16 = 0;
pub const OTHER: u16 = 1;

const PORTS: PortRange = PortRange { first: 10_000, last: 10_019 };

/// What a program said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The packet goes on as if the program were not there.
    Leave,
    /// It ends.
    Drop,
    /// It leaves by another way.
    Redirect,
}

/// Everything that one packet led to.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub verdict: Verdict,
    pub outcome: &'static str,
    /// The packet as it left the program; `unchanged` when not a byte differs.
    pub packet: String,
    /// What else entered the stack through the VIP device, or left by the uplink.
    pub copy: Option<String>,
}

/// How often each outcome was counted, if it was.
pub type Counted = Vec<(&'static str, u64)>;

pub struct Bench {
    pub programs: Ebpf,
    pub names: Names,
    /// Whose packet was the last one to a VIP.
    sender: String,
    device: u32,
    uplink: u32,
    pub v6: bool,
    epoch: u32,
    /// Nothing happened that [`Bench::renew`] cannot undo.
    fresh: bool,
    /// These hear what `bpf_clone_redirect` sends, by the VIP device and the uplink.
    taps: [OwnedFd; 2],
    _runtime: tokio::runtime::Runtime,
}

impl Bench {
    /// Moves this thread into a network namespace of its own; the kernel removes it with the thread.
    pub fn new(v6: bool, max_flows: u32, log: bool) -> Self {
        // SAFETY: no other thread shares what is unshared.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET).unwrap() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (device, uplink) = runtime.block_on(async {
            let device =
                Network::connect().unwrap().ensure_device("redirector0", false).await.unwrap().device;
            (device, uplink().await)
        });
        // 5 and 10 in the table, which has room for 64 flows.
        let half_open = HalfOpen { per_source: max_flows / 12, per_service: max_flows / 6 };
        let settings = Settings { device, port_range: PORTS, max_flows, half_open, log };
        let mut programs = load(&settings, None).unwrap();

        let at = |v4: &str, six: &str| -> SocketAddr { if v6 { six } else { v4 }.parse().unwrap() };
        let names = Names::from([
            ("client", at("192.0.2.9:40000", "[2001:db8::9]:40000")),
            ("client:2", at("192.0.2.9:40001", "[2001:db8::9]:40001")),
            ("neighbour", at("192.0.2.10:40000", "[2001:db8::10]:40000")),
            ("third", at("192.0.2.11:40000", "[2001:db8::11]:40000")),
            ("vip", at("10.255.0.1:6379", "[fd00:255::1]:6379")),
            ("vip:80", at("10.255.0.1:80", "[fd00:255::1]:80")),
            ("member", at("10.2.1.2:6380", "[fd00:2:1::2]:6380")),
            ("other", at("10.2.2.2:6381", "[fd00:2:2::2]:6381")),
            ("stranger", at("198.51.100.7:443", "[2001:db8:7::7]:443")),
        ]);
        table::<VipKey, u32>(&mut programs, "vips_v4")
            .insert(
                VipKey { address: names["vip"].ip().into(), port: Port::new(6379), protocol: VipKey::TCP },
                u32::from(SERVICE),
                0,
            )
            .unwrap();
        table::<Addr, u32>(&mut programs, "vip_addrs_v4")
            .insert(Addr::from(names["vip"].ip()), 1, 0)
            .unwrap();
        let taps = [device.index, uplink].map(tap);
        let mut bench = Self {
            programs,
            names,
            sender: "client".to_owned(),
            device: device.index,
            uplink,
            v6,
            epoch: 0,
            fresh: true,
            taps,
            _runtime: runtime,
        };
        bench.renew();
        bench
    }

    /// Whether nothing happened that [`Bench::renew`] cannot undo.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Forgets what happened. Loading the programs anew takes a hundred times as long.
    pub fn renew(&mut self) {
        clear::<Tuple, Flow>(&mut self.programs, "flows_v4");
        clear::<Tuple, Stub>(&mut self.programs, "replies_v4");
        clear::<FragmentKey, Fragments>(&mut self.programs, "fragments_v4");
        clear::<u32, u32>(&mut self.programs, "l3_devices_v4");
        self.forget_half_open();
        self.set("services_v4", u32::from(SERVICE), Service::default());
        self.set::<u64>("opens_v4", u32::from(SERVICE), 0);
        let source = if self.v6 { "fd00:1::2" } else { "10.1.0.2" }.parse().unwrap();
        for (member, name) in [(MEMBER, "member"), (OTHER, "other")] {
            self.set::<u64>("floors_v4", u32::from(member), 0);
            self.set("pulses_v4", u32::from(member), Pulse::default());
            for slot in 0..SLOTS {
                self.set("slots_v4", slot_index(member, slot), Slot::default());
            }
            // Not the first one: programs look through all of them.
            let slot = Slot::new(self.names[name], &[source], Slot::OFFERED);
            self.set("slots_v4", slot_index(member, 3), slot);
        }
        self.sender = "client".to_owned();
        self.names.remove("port");
        self.epoch = 0;
        self.switch(Some(MEMBER), false);
    }

    /// What the agent's counting anew comes to, when none is half open.
    pub fn forget_half_open(&mut self) {
        clear::<SourceKey, i64>(&mut self.programs, "half_open_v4");
        self.set::<i64>("half_open_sums_v4", u32::from(SERVICE), 0);
    }

    fn set<V: aya::Pod>(&mut self, map: &str, index: u32, value: V) {
        let mut array: Array<_, V> = self.programs.map_mut(map).unwrap().try_into().unwrap();
        array.set(index, value, 0).unwrap();
    }

    /// A switch of the service, with or without a reset of older flows.
    pub fn switch(&mut self, active: Option<u16>, reset: bool) {
        self.epoch += 1;
        let word = Decision { active, epoch: self.epoch }.word();
        let mut decisions: Array<_, u64> = self.programs.map_mut("decisions_v4").unwrap().try_into().unwrap();
        decisions.set(u32::from(SERVICE), word, 0).unwrap();
        if reset {
            let mut floors: Array<_, u64> = self.programs.map_mut("floors_v4").unwrap().try_into().unwrap();
            for member in [MEMBER, OTHER].into_iter().filter(|member| active != Some(*member)) {
                floors.set(u32::from(member), u64::from(self.epoch), 0).unwrap();
            }
        }
    }

    /// The device that leads to the members has no Ethernet header.
    pub fn lead_over_a_tunnel(&mut self) {
        table::<u32, u32>(&mut self.programs, "l3_devices_v4").insert(self.uplink, 1, 0).unwrap();
    }

    /// The way to the member that the only flow keeps.
    pub fn way(&mut self) -> Way {
        let flows = table::<Tuple, Flow>(&mut self.programs, "flows_v4");
        flows.iter().next().unwrap().unwrap().1.route.way()
    }

    /// A lease that ended one nanosecond after boot.
    pub fn end_lease(&mut self) {
        let service = Service { deadline: 1, ..Service::default() };
        let mut services: Array<_, Service> =
            self.programs.map_mut("services_v4").unwrap().try_into().unwrap();
        services.set(u32::from(SERVICE), service, 0).unwrap();
    }

    /// The service takes so many connections in a second, and so many in one moment.
    pub fn cap(&mut self, per_second: u32, burst: u32) {
        let service = Service::default().with_rate(Rate::new(per_second, burst));
        self.set("services_v4", u32::from(SERVICE), service);
    }

    /// The member's address is replaced: what the agent does when it resolves to another one.
    pub fn replace_address(&mut self) {
        let index = slot_index(MEMBER, 3);
        let mut slots: Array<_, Slot> = self.programs.map_mut("slots_v4").unwrap().try_into().unwrap();
        let mut slot = slots.get(&index, 0).unwrap();
        slot.generation += 1;
        slots.set(index, slot, 0).unwrap();
    }

    /// The flow table is full: other clients have it.
    pub fn fill(&mut self) {
        let stranger = self.names["stranger"];
        let mut flows = table::<Tuple, Flow>(&mut self.programs, "flows_v4");
        for port in 1..=u16::MAX {
            let key = Tuple::between(SocketAddr::new(stranger.ip(), port), stranger);
            // SAFETY: the type is plain data, for which zeros are a value.
            if flows.insert(key, unsafe { std::mem::zeroed::<Flow>() }, 0).is_err() {
                return;
            }
        }
        panic!("the table never filled");
    }

    /// A client sends SYNs from other ports, until it is refused.
    pub fn flood(&mut self) {
        self.flood_from("client");
    }

    /// As [`Bench::flood`], and another one too.
    pub fn flood_twice(&mut self) {
        self.flood_from("client");
        self.flood_from("neighbour");
    }

    fn flood_from(&mut self, name: &str) {
        let address = self.names[name].ip();
        for port in 50_000..50_064 {
            self.names.insert("flooder", SocketAddr::new(address, port));
            match self.sent("flooder > vip SYN seq=7").outcome {
                "opened" => {}
                "refused_half_open" => return,
                other => panic!("{other}"),
            }
        }
        panic!("nothing was refused");
    }

    /// The member refuses the client's connection.
    pub fn refuse_client(&mut self) {
        self.sender = "client".to_owned();
        self.learn_port();
        assert_eq!(self.came("member > port RST ACK seq=0 ack=101").outcome, "replied");
    }

    /// Three connections find no source port; then there are some again.
    pub fn refuse_without_port(&mut self) {
        self.take_ports();
        for _ in 0..3 {
            assert_eq!(self.sent("client > vip SYN seq=100").outcome, "refused_no_port");
        }
        let mut replies = table::<Tuple, Stub>(&mut self.programs, "replies_v4");
        let taken: Vec<_> = replies.keys().map(Result::unwrap).collect();
        taken.iter().for_each(|key| replies.remove(key).unwrap());
    }

    /// Every source port towards the member is taken.
    pub fn take_ports(&mut self) {
        let source = if self.v6 { "fd00:1::2" } else { "10.1.0.2" }.parse().unwrap();
        let own = self.names["client"].port();
        let member = self.names["member"];
        let mut replies = table::<Tuple, Stub>(&mut self.programs, "replies_v4");
        for port in (PORTS.first..=PORTS.last).chain([own]) {
            let stub = Stub { incarnation: 7, client_side: Tuple::default(), reserved: 0 };
            replies.insert(Tuple::between(SocketAddr::new(source, port), member), stub, 0).unwrap();
        }
    }

    /// The stub is there but its entry is another one.
    pub fn mismatch(&mut self) {
        let key = Tuple::between(self.names["port"], self.names["member"]);
        let mut replies = table::<Tuple, Stub>(&mut self.programs, "replies_v4");
        let mut stub = replies.get(&key, 0).unwrap();
        stub.incarnation ^= 1;
        replies.insert(key, stub, 0).unwrap();
    }

    /// The stub is gone and its entry is not.
    pub fn lose_stub(&mut self) {
        let key = Tuple::between(self.names["port"], self.names["member"]);
        table::<Tuple, Stub>(&mut self.programs, "replies_v4").remove(&key).unwrap();
    }

    /// The way to the members is gone.
    pub fn remove_route(&mut self) {
        self.fresh = false;
        self._runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            handle.link().set(LinkUnspec::new_with_name("up0").down().build()).execute().await.unwrap();
        });
        // A flow asks the routing table again after this time.
        std::thread::sleep(std::time::Duration::from_millis(120));
    }

    /// Entries in both halves of the table.
    pub fn entries(&mut self) -> (usize, usize) {
        let flows = table::<Tuple, Flow>(&mut self.programs, "flows_v4").keys().count();
        (flows, table::<Tuple, Stub>(&mut self.programs, "replies_v4").keys().count())
    }

    /// Runs a packet through egress of the VIP device.
    pub fn sent(&mut self, words: &str) -> Seen {
        self.sender = words.split(' ').next().unwrap().to_owned();
        let seen = self.run(EGRESS, words);
        self.learn_port();
        seen
    }

    /// The same packet many times, and nobody looks what becomes of it.
    pub fn send_quickly(&mut self, words: &str, times: u32) {
        let frame = build(words, &self.names);
        let program = classifier(&mut self.programs, EGRESS).unwrap();
        for _ in 0..times {
            program.test_run(TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() }).unwrap();
        }
    }

    /// Frames through ingress of an uplink, one right after the other; nobody looks what becomes of them.
    pub fn come_quickly(&mut self, frames: &[Vec<u8>]) {
        let program = classifier(&mut self.programs, INGRESS).unwrap();
        for frame in frames {
            program.test_run(TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() }).unwrap();
        }
    }

    /// Runs a packet through ingress of an uplink.
    pub fn came(&mut self, words: &str) -> Seen {
        self.run(INGRESS, words)
    }

    /// The gateway's link-layer address is not known any more.
    pub fn forget_gateways(&mut self) {
        self.fresh = false;
        self._runtime.block_on(forget_gateways(self.uplink));
    }

    /// The client's socket, in this network namespace.
    pub fn client_socket(&mut self) -> OwnedFd {
        self.fresh = false;
        client_socket(self.names["client"], self.names["vip"])
    }

    /// The same in a network namespace beside this one, which this one has the number 0 for. It ends with the socket.
    pub fn client_socket_beside(&mut self) -> OwnedFd {
        let (client, vip) = (self.names["client"], self.names["vip"]);
        self._runtime.block_on(socket_beside(client, vip))
    }

    /// The agent lists the only flow, once for each of these: with an incarnation that differs in these bits. What all the
    /// packets were that came of it, and how often each outcome was counted.
    pub fn asked_for(&mut self, wrong: &[u64], order: Order) -> (Vec<String>, Counted) {
        self.asked_at(Home::UNKNOWN, wrong, order)
    }

    /// The same, with the client's socket in this network namespace, as far as the agent knows.
    pub fn asked_at(&mut self, home: Home, wrong: &[u64], order: Order) -> (Vec<String>, Counted) {
        let flows = table::<Tuple, Flow>(&mut self.programs, "flows_v4");
        let (client_side, flow) = flows.iter().next().unwrap().unwrap();
        let target = |wrong: &u64| Target::new(client_side, flow.incarnation ^ wrong, home);
        let targets: Vec<_> = wrong.iter().map(target).collect();
        let (frame, length) = for_all(&targets, order);
        let (verdict, out, counted) = self.run_counted(EGRESS, &frame[..length]).unwrap();
        let mut packets = self.all_heard();
        if verdict == Verdict::Redirect {
            packets.push(describe(&out, &self.names));
        }
        (packets, counted)
    }

    /// Runs a frame through a program: the verdict, the frame afterwards, and the outcome. `None`: the kernel takes no
    /// frame like this.
    pub fn run_frame(&mut self, program: &str, frame: &[u8]) -> Option<(Verdict, Vec<u8>, &'static str)> {
        let (verdict, out, counted) = self.run_counted(program, frame)?;
        let [(outcome, count)] = counted[..] else { panic!("{frame:02x?}: one outcome, not {counted:?}") };
        // Random data may be a list, of flows that are not there.
        let is_list = outcome == "reset_dropped" && count <= MOST as u64;
        assert!(count == 1 || is_list, "{frame:02x?}: counted {count} times");
        Some((verdict, out, outcome))
    }

    /// The same, with whatever was counted, and how often.
    fn run_counted(&mut self, program: &str, frame: &[u8]) -> Option<(Verdict, Vec<u8>, Counted)> {
        let mut out = vec![0; frame.len() + 256];
        let before = self.outcomes();
        let result = classifier(&mut self.programs, program)
            .unwrap()
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ..TestRunOptions::new()
            })
            .ok()?;
        out.truncate(result.data_size_out as usize);
        let counted = self.outcomes().into_iter().map(|(name, count)| (name, count - before[name]));
        let mut counted: Vec<_> = counted.filter(|(_, count)| *count > 0).collect();
        counted.sort_unstable();
        let verdict = match result.return_value.cast_signed() {
            -1 => Verdict::Leave,
            2 => Verdict::Drop,
            7 => Verdict::Redirect,
            other => panic!("{frame:02x?}: verdict {other}"),
        };
        Some((verdict, out, counted))
    }

    /// Runs a packet through ingress of an uplink without Ethernet header.
    pub fn came_l3(&mut self, words: &str) -> Seen {
        self.run(INGRESS_L3, words)
    }

    fn run(&mut self, program: &str, words: &str) -> Seen {
        let mut frame = build(words, &self.names);
        if program == INGRESS_L3 {
            frame.drain(..14);
        }
        let (verdict, out, outcome) = self.run_frame(program, &frame).unwrap();
        if verdict == Verdict::Redirect && !outcome.starts_with("refused") {
            self.learn_port();
        }
        let packet = if out == frame {
            "unchanged".into()
        } else if program == INGRESS_L3 && verdict == Verdict::Leave {
            describe_ip(&out, &self.names, false)
        } else {
            describe(&out, &self.names)
        };
        Seen { verdict, outcome, packet, copy: self.heard() }
    }

    /// The names of everything that one run of a program under a repeat count takes, in nanoseconds.
    fn outcomes(&mut self) -> StdMap<&'static str, u64> {
        let counts: PerCpuArray<_, Count> = self.programs.map("outcomes_v4").unwrap().try_into().unwrap();
        let packets = |outcome, member| -> u64 {
            counts.get(&counter_index(outcome, member), 0).unwrap().iter().map(|count| count.packets).sum()
        };
        Outcome::ALL
            .iter()
            .map(|outcome| {
                let all = [None, Some(MEMBER), Some(OTHER)].map(|member| packets(*outcome, member));
                (outcome.name(), all.iter().sum())
            })
            .collect()
    }

    /// The table's word `port` means the translated source of the newest flow.
    fn learn_port(&mut self) {
        let key = Tuple::between(self.names[self.sender.as_str()], self.names["vip"]);
        if let Ok(flow) = table::<Tuple, Flow>(&mut self.programs, "flows_v4").get(&key, 0) {
            self.names.insert("port", flow.member_side.near_socket());
        }
    }

    fn heard(&self) -> Option<String> {
        let heard = self.all_heard();
        assert!(heard.len() <= 1, "{heard:?}");
        heard.into_iter().next()
    }

    fn all_heard(&self) -> Vec<String> {
        let (mut buffer, mut heard) = ([0; 2048], Vec::new());
        // What came in is handled before the call that sent it returns, but for the backlog of another processor.
        for _ in 0..2 {
            for tap in &self.taps {
                while let Ok((length, _)) = rustix::net::recv(tap, &mut buffer[..], RecvFlags::DONTWAIT) {
                    // The devices' own multicast reports pass here too.
                    if is_tcp(&buffer[..length]) {
                        heard.push(describe(&buffer[..length], &self.names));
                    }
                }
            }
            if !heard.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        heard
    }

    /// The translated source port lies in the range that is set aside.
    pub fn port_is_of_the_range(&self) -> bool {
        (PORTS.first..=PORTS.last).contains(&self.names["port"].port())
    }

    /// Runs frames with random faults through both programs: whatever is left alone is left unchanged.
    pub fn survives_noise(&mut self, rounds: u32) {
        let sound = ["client > vip SYN seq=1 ipopt=2", "member > client ACK seq=5 ack=6 len=40 tcpopt=12"]
            .map(|words| build(words, &self.names));
        // Xorshift with a fixed seed: a failure comes again.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut left = 0;
        for _ in 0..rounds {
            let mut frame = sound[random(2)].clone();
            for _ in 0..=random(4) {
                let at = 12 + random(frame.len() - 12);
                frame[at] = random(256) as u8;
            }
            frame.truncate(14 + random(frame.len() - 13));
            for program in [EGRESS, INGRESS] {
                let mut out = vec![0; frame.len() + 256];
                let result = classifier(&mut self.programs, program).unwrap().test_run(TestRunOptions {
                    data_in: Some(&frame),
                    data_out: Some(&mut out),
                    ..TestRunOptions::new()
                });
                // Kernels differ in which frames are too short for them to run a program on at all.
                let Ok(result) = result else { continue };
                if result.return_value.cast_signed() == -1 {
                    out.truncate(result.data_size_out as usize);
                    assert_eq!(out, frame);
                    left += 1;
                }
            }
        }
        assert!(left > rounds / 2, "only {left} of {rounds} frames were left alone: the noise is too tame");
    }

    /// Index of the VIP device.
    pub fn device(&self) -> u32 {
        self.device
    }
}

pub fn table<'a, K: aya::Pod, V: aya::Pod>(
    programs: &'a mut Ebpf,
    name: &str,
) -> HashMap<&'a mut aya::maps::MapData, K, V> {
    programs.map_mut(name).unwrap().try_into().unwrap()
}

fn clear<K: aya::Pod, V: aya::Pod>(programs: &mut Ebpf, name: &str) {
    let mut map = table::<K, V>(programs, name);
    let keys: Vec<K> = map.keys().filter_map(Result::ok).collect();
    keys.iter().for_each(|key| map.remove(key).unwrap());
}
