//! Where a new flow goes: which of a member's addresses, from which source, and what a member on this host sees.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use aya::maps::Array;
use redirector_common::{
    addr::Tuple,
    flow::Flow,
    layout::{Slot, slot_index},
};

use super::bench::{Bench, MEMBER, Seen, Verdict, table};

impl Bench {
    fn set_slot(&mut self, number: u32, slot: Slot) {
        let mut slots: Array<_, Slot> = self.programs.map_mut("slots_v4").unwrap().try_into().unwrap();
        slots.set(slot_index(MEMBER, number), slot, 0).unwrap();
    }

    /// The same member, `number` addresses further.
    fn neighbour(&self, number: u8) -> SocketAddr {
        let member = self.names["member"];
        let ip = match member.ip() {
            IpAddr::V4(v4) => IpAddr::from((u32::from(v4) + u32::from(number)).to_be_bytes()),
            IpAddr::V6(v6) => IpAddr::from((u128::from(v6) + u128::from(number)).to_be_bytes()),
        };
        SocketAddr::new(ip, member.port())
    }

    fn sources(&self, count: usize) -> Vec<IpAddr> {
        let own: [IpAddr; 3] = if self.v6 {
            ["fd00:1::2", "fd00:1::3", "fd00:1::4"].map(|text| text.parse().unwrap())
        } else {
            ["10.1.0.2", "10.1.0.3", "10.1.0.4"].map(|text| text.parse().unwrap())
        };
        own[..count].to_vec()
    }

    /// Opens a flow from a port of the client, and says where it goes.
    fn open_from(&mut self, port: u16) -> Flow {
        let client = SocketAddr::new(self.names["client"].ip(), port);
        self.names.insert("client", client);
        let seen = self.sent("client > vip SYN seq=100");
        assert_eq!(seen.outcome, "opened");
        let key = Tuple::between(client, self.names["vip"]);
        table::<Tuple, Flow>(&mut self.programs, "flows_v4").get(&key, 0).unwrap()
    }
}

/// Runs a test for both IP versions, each in a namespace of its own.
fn both(test: fn(&mut Bench)) {
    for v6 in [false, true] {
        std::thread::spawn(move || test(&mut Bench::new(v6, 1024, false))).join().unwrap();
    }
}

#[test]
fn flows_are_spread_over_the_addresses_that_are_offered() {
    both(|bench| {
        let source = bench.sources(1);
        for number in [1, 2, 3] {
            // The last one is there for its old flows only.
            let flags = if number == 3 { 0 } else { Slot::OFFERED };
            bench.set_slot(4 + u32::from(number), Slot::new(bench.neighbour(number), &source, flags));
        }
        // An address of the other IP version is none for this flow.
        let other: SocketAddr =
            if bench.v6 { "10.2.1.9:6380" } else { "[fd00:2:1::9]:6380" }.parse().unwrap();
        bench.set_slot(9, Slot::new(other, &[], Slot::OFFERED));

        let mut shares = BTreeMap::<SocketAddr, u32>::new();
        for port in 20_000..20_015 {
            let flow = bench.open_from(port);
            assert_eq!(
                bench.neighbour(u8::try_from(flow.slot.saturating_sub(4)).unwrap() % 4),
                flow.member_side.far_socket()
            );
            *shares.entry(flow.member_side.far_socket()).or_default() += 1;
        }
        let offered = [0, 1, 2].map(|number| bench.neighbour(number));
        assert!(shares.keys().all(|address| offered.contains(address)), "{shares:?}");
        assert!(shares.len() == 3, "each gets some of 15: {shares:?}");
    });
}

#[test]
fn a_member_without_an_offered_address_refuses() {
    both(|bench| {
        bench.set_slot(3, Slot::new(bench.names["member"], &[], 0));
        let seen = bench.sent("client > vip SYN seq=100");
        let packet = "vip > client RST ACK seq=0 ack=101".into();
        assert_eq!(
            seen,
            Seen { verdict: Verdict::Redirect, outcome: "refused_no_member", packet, copy: None }
        );
    });
}

/// Twenty ports and three sources: sixty flows where one source would end at twenty.
#[test]
fn every_source_address_adds_its_ports() {
    both(|bench| {
        let mut slot = Slot::new(bench.names["member"], &bench.sources(3), Slot::OFFERED);
        slot.generation = 1;
        bench.set_slot(3, slot);
        let mut taken = BTreeMap::<IpAddr, u32>::new();
        for port in 20_000..20_040 {
            *taken.entry(bench.open_from(port).member_side.near_socket().ip()).or_default() += 1;
        }
        assert!(taken.len() == 3 && taken.values().all(|count| *count <= 20), "{taken:?}");
    });
}

#[test]
fn a_member_on_this_host_sees_the_vip_and_its_answers_are_found() {
    both(|bench| {
        bench.set_slot(3, Slot::new(bench.names["member"], &[], Slot::OFFERED | Slot::LOCAL));
        let flow = bench.open_from(40_000);
        assert_eq!(flow.member_side.near_socket().ip(), bench.names["vip"].ip());
        // Its answers are routed to the VIP, so they come by where clients' packets do.
        for (words, packet) in [
            ("member > port SYN ACK seq=500 ack=101", "vip > client SYN ACK seq=500 ack=101"),
            ("member > port PSH ACK seq=501 ack=101 len=9", "vip > client PSH ACK seq=501 ack=101 len=9"),
            ("member > port RST seq=510", "vip > client RST seq=510"),
        ] {
            let seen = bench.sent(words);
            let packet = packet.into();
            assert_eq!(seen, Seen { verdict: Verdict::Redirect, outcome: "replied", packet, copy: None });
            bench.sent("client > vip ACK seq=101 ack=501");
        }
        assert_eq!(bench.entries(), (0, 0));
    });
}
