//! Nanoseconds per packet, a packet at a time: `BPF_PROG_TEST_RUN` with a repeat count. No traffic, no interrupts of
//! devices, warm caches: the figure that two versions of the programs are compared by.
//!
//! A repeated run gets the packet that the last one left. So the flow here is one whose translation changes nothing:
//! the member has the VIP's address, and the range of source ports is the client's port. The programs do not know.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use redirector::{
    datapath::{
        network::Network,
        programs::{EGRESS, HalfOpen, INGRESS, Settings, classifier, load},
    },
    model::PortRange,
};
use redirector_common::{
    addr::{Addr, Port},
    decision::Decision,
    layout::{Slot, VipKey, slot_index},
    outcome::{Count, Outcome, counter_index},
};
use redirector_tests::{Lab, foreign_program};

use crate::{
    effort::Effort,
    figures::{Readings, row, table},
    packets::frame::{Names, build},
};

/// The words of the packet table.
#[path = "../../../tests/packets/frame.rs"]
#[allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "written for tests: a frame that cannot be built is a slip in its words"
)]
mod frame;

const SERVICE: u16 = 0;
const MEMBER: u16 = 0;
const CLIENT_PORT: u16 = 40_000;

/// A packet whose time is taken.
struct Case {
    name: &'static str,
    program: &'static str,
    words: &'static str,
    /// What the program is to make of it each time, and for which member it counts that.
    outcome: Outcome,
    member: Option<u16>,
}

const CASES: [Case; 4] = [
    Case {
        name: "egress: acknowledgement of an established flow",
        program: EGRESS,
        words: "client > vip ACK seq=131 ack=508 tcpopt=12",
        outcome: Outcome::Carried,
        member: Some(MEMBER),
    },
    // Of one packet again and again, all but the first are that.
    Case {
        name: "egress: data that is sent again",
        program: EGRESS,
        words: "client > vip PSH ACK seq=101 ack=501 len=30 tcpopt=12",
        outcome: Outcome::Carried,
        member: Some(MEMBER),
    },
    Case {
        name: "ingress: reply on an established flow",
        program: INGRESS,
        words: "vip > client PSH ACK seq=501 ack=131 len=7 tcpopt=12",
        outcome: Outcome::Replied,
        member: Some(MEMBER),
    },
    Case {
        name: "ingress: a packet of nobody's flow",
        program: INGRESS,
        words: "stranger > client PSH ACK seq=501 ack=131 len=7 tcpopt=12",
        outcome: Outcome::NotOurs,
        member: None,
    },
];

pub fn measure(effort: &Effort) -> Result<()> {
    table(
        "Kernel programs, a packet at a time",
        &format!(
            "`BPF_PROG_TEST_RUN` of one packet of an established flow, {} repeats, {} rounds in turns with an empty \
             program, whose time is taken off. Nanoseconds per packet, median (min to max). The redirect that the \
             program asks for is not part of it.",
            effort.packet_repeats, effort.packet_rounds
        ),
        &["packet", "IPv4, net", "IPv6, net", "empty program"],
    );
    let lab = Lab::builder().members(1).build()?;
    let mut cells = CASES.map(|case| vec![case.name.to_owned()]);
    let mut empties = CASES.map(|_| Vec::new());
    for v6 in [false, true] {
        let mut table = lab.app().block_on(|| Table::new(&lab, v6))??;
        lab.app().run(|| -> Result<()> {
            table.open()?;
            for ((case, cells), empties) in CASES.iter().zip(&mut cells).zip(&mut empties) {
                let rounds = (0..effort.packet_rounds)
                    .map(|_| table.time(case, effort.packet_repeats))
                    .collect::<Result<Vec<_>>>()
                    .context(case.name)?;
                empties.extend(rounds.iter().map(|[_, empty]| *empty));
                let net = Readings::new(rounds.iter().map(|[program, empty]| program - empty))?;
                cells.push(format!("{net:.0}"));
            }
            Ok(())
        })?;
    }
    for (mut cells, empties) in cells.into_iter().zip(empties) {
        cells.push(format!("{:.0}", Readings::new(empties)?));
        row(&cells);
    }
    println!();
    Ok(())
}

/// The programs and a table with one flow.
struct Table {
    programs: Ebpf,
    empty: SchedClassifier,
    names: Names,
}

impl Table {
    /// In the application's namespace, which has a route to the member.
    async fn new(lab: &Lab, v6: bool) -> Result<Self> {
        let device = Network::connect()?.ensure_device("redirector0", false).await?.device;
        let port_range = PortRange { first: CLIENT_PORT, last: CLIENT_PORT };
        let mut programs = load(
            &Settings {
                device,
                port_range,
                max_flows: 65_536,
                half_open: HalfOpen::of(65_536, port_range),
                log: false,
            },
            None,
        )?;

        let vip = if v6 { lab.member("m1").v6() } else { lab.member("m1").v4() };
        let own = if v6 { "fd01::2" } else { "10.1.0.2" };
        let client = SocketAddr::new(own.parse()?, CLIENT_PORT);
        let stranger = SocketAddr::new(vip.ip(), vip.port() + 1);
        let names = Names::from([("client", client), ("vip", vip), ("stranger", stranger)]);

        let vip_socket = vip;
        let address = Addr::from(vip.ip());
        let port = Port::new(vip.port());
        let vip = VipKey { address, port, protocol: VipKey::TCP };
        map::<VipKey>(&mut programs, "vips_v4")?.insert(vip, u32::from(SERVICE), 0)?;
        map::<Addr>(&mut programs, "vip_addrs_v4")?.insert(address, 1, 0)?;
        let slot = Slot::new(vip_socket, &[client.ip()], Slot::OFFERED);
        let mut slots: Array<_, Slot> = programs.map_mut("slots_v4").context("slots_v4")?.try_into()?;
        slots.set(slot_index(MEMBER, 0), slot, 0)?;
        let word = Decision { active: Some(MEMBER), epoch: 1 }.word();
        let mut decisions: Array<_, u64> =
            programs.map_mut("decisions_v4").context("decisions_v4")?.try_into()?;
        decisions.set(u32::from(SERVICE), word, 0)?;
        Ok(Self { programs, empty: foreign_program()?, names })
    }

    /// The programs open the flow themselves.
    fn open(&mut self) -> Result<()> {
        for (program, words, outcome) in [
            (EGRESS, "client > vip SYN seq=100 tcpopt=20", Outcome::Opened),
            (INGRESS, "vip > client SYN ACK seq=500 ack=101 tcpopt=20", Outcome::Replied),
            (EGRESS, "client > vip ACK seq=101 ack=501 tcpopt=12", Outcome::Carried),
        ] {
            let case = Case { name: words, program, words, outcome, member: Some(MEMBER) };
            self.time(&case, 1).context(words)?;
        }
        Ok(())
    }

    /// Nanoseconds per packet: of the program, and of the empty one right after it.
    fn time(&mut self, case: &Case, repeat: u32) -> Result<[f64; 2]> {
        let frame = build(case.words, &self.names);
        let run = |program: &SchedClassifier| -> Result<f64> {
            let options = TestRunOptions { data_in: Some(&frame), repeat, ..TestRunOptions::new() };
            Ok(program.test_run(options)?.duration.as_secs_f64() * 1e9)
        };
        let before = self.counted(case)?;
        let program = run(classifier(&mut self.programs, case.program)?)?;
        let counted = self.counted(case)? - before;
        ensure!(
            counted == u64::from(repeat),
            "{counted} of {repeat} packets were counted as {}",
            case.outcome.name()
        );
        Ok([program, run(&self.empty)?])
    }

    /// Packets of the case's outcome so far.
    fn counted(&self, case: &Case) -> Result<u64> {
        let counts: PerCpuArray<&MapData, Count> =
            self.programs.map("outcomes_v4").context("outcomes_v4")?.try_into()?;
        let counts = counts.get(&counter_index(case.outcome, case.member), 0)?;
        Ok(counts.iter().map(|count| count.packets).sum())
    }
}

fn map<'a, K: aya::Pod>(programs: &'a mut Ebpf, name: &str) -> Result<HashMap<&'a mut MapData, K, u32>> {
    Ok(programs.map_mut(name).with_context(|| format!("no map {name}"))?.try_into()?)
}
