//! Halves that have lost their other half: a stub that leads to no flow, a flow that no stub leads to.
//!
//! Programs put such a thing right when a packet comes by. Where none comes, it would hold an entry and a source port
//! for ever. A flow that is being opened or ends looks the same for a moment; so whatever is found is only suspected,
//! and looked up once more by the next collection, seconds later.
//!
//! Eight bytes are kept for each flow while the tables are read.

use std::collections::HashSet;

use anyhow::Result;
use redirector_common::{
    addr::Tuple,
    flow::{Flow, Stub},
};

use crate::datapath::flows::Flows;

/// Suspects that are remembered from one collection to the next.
const MOST: usize = 4096;

/// What the last collection suspected.
#[derive(Debug, Default)]
pub(super) struct Halves {
    /// Member sides and stubs.
    stubs: Vec<(Tuple, Stub)>,
    /// Incarnations of flows.
    flows: HashSet<u64>,
}

/// What one collection has seen so far.
#[derive(Debug)]
pub(super) struct Seen {
    incarnations: Vec<u64>,
    suspected: HashSet<u64>,
    /// Flows that the last collection suspected and that are there still.
    again: Vec<(Tuple, Flow)>,
}

impl Seen {
    /// A flow's entry.
    pub(super) fn saw_flow(&mut self, client_side: &Tuple, flow: &Flow) {
        self.incarnations.push(flow.incarnation);
        if self.suspected.contains(&flow.incarnation) {
            self.again.push((*client_side, *flow));
        }
    }

    /// How many flows were seen.
    pub(super) fn flows(&self) -> usize {
        self.incarnations.len()
    }
}

impl Halves {
    /// Before the flow table is read.
    pub(super) fn begin(&mut self) -> Seen {
        Seen { incarnations: Vec::new(), suspected: std::mem::take(&mut self.flows), again: Vec::new() }
    }

    /// After the flow table was read: removes what was suspected twice, and reads the stubs for new suspects. Returns
    /// how many halves were removed.
    pub(super) fn end(&mut self, seen: Seen, flows: &Flows) -> Result<u64> {
        let Seen { mut incarnations, again, .. } = seen;
        let mut removed = 0;
        for (member_side, stub) in std::mem::take(&mut self.stubs) {
            removed += u64::from(flows.remove_stray(&member_side, &stub)?);
        }
        for (client_side, flow) in again {
            if !flows.has_stub(&flow)? {
                removed += u64::from(flows.remove_idle(&client_side, &flow)?);
            }
        }

        incarnations.sort_unstable();
        let mut has_stub = vec![false; incarnations.len()];
        flows.for_each_stub(|member_side, stub| match incarnations.binary_search(&stub.incarnation) {
            Ok(at) => has_stub[at] = true,
            Err(_) if self.stubs.len() < MOST => self.stubs.push((*member_side, *stub)),
            Err(_) => {}
        })?;
        let alone = incarnations.iter().zip(has_stub).filter(|(_, has_stub)| !has_stub);
        self.flows.extend(alone.map(|(incarnation, _)| *incarnation).take(MOST));
        Ok(removed)
    }
}
