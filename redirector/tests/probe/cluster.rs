//! A cluster of real Redis servers, primaries only.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::server::{Redis, free_address};

/// What each of three has.
pub(crate) const THIRDS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

/// Nodes that know each other, in the order of their slots.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Redis>,
}

impl Cluster {
    /// Three primaries with a third of the slots each.
    pub(crate) fn start() -> Self {
        Self::with(&THIRDS, |_| Vec::new())
    }

    /// One node for each range, with options of its own.
    pub(crate) fn with(ranges: &[(u16, u16)], options: impl Fn(usize) -> Vec<String>) -> Self {
        let mut buses = Vec::new();
        let nodes: Vec<_> = (0..ranges.len())
            .map(|number| {
                // By default the bus is 10000 above, which not every free port has room for.
                let bus = free_address().port().to_string();
                let options = options(number);
                let mut all = vec![
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    &bus,
                    "--cluster-node-timeout",
                    "1000",
                ];
                all.extend(options.iter().map(String::as_str));
                let node = Redis::start(&all);
                buses.push(bus.clone());
                node
            })
            .collect();
        for (number, (node, (first, last))) in nodes.iter().zip(ranges).enumerate() {
            // Nodes that begin with the same epoch would first have to settle whose is whose.
            node.tell(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
            node.tell(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            let port = node.address().port().to_string();
            nodes[0].tell(&["CLUSTER", "MEET", "127.0.0.1", &port, &buses[number]]);
        }
        let cluster = Self { nodes };
        let assigned: u16 = ranges.iter().map(|(first, last)| last - first + 1).sum();
        cluster.wait(|info| {
            info.contains(&format!("cluster_known_nodes:{}\r", ranges.len()))
                && info.contains(&format!("cluster_slots_ok:{assigned}\r"))
        });
        if assigned == 16384 {
            cluster.wait(|info| info.contains("cluster_state:ok"));
        }
        cluster
    }

    /// Until `CLUSTER INFO` of every node says so.
    pub(crate) fn wait(&self, until: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        for node in &self.nodes {
            loop {
                let info: String =
                    redis::cmd("CLUSTER").arg("INFO").query(&mut node.client()).expect("a node that answers");
                if until(&info) {
                    break;
                }
                assert!(Instant::now() < deadline, "{info}");
                thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Name of a node in the cluster.
    pub(crate) fn id(&self, number: usize) -> String {
        redis::cmd("CLUSTER")
            .arg("MYID")
            .query(&mut self.nodes[number].client())
            .expect("a node that answers")
    }
}
