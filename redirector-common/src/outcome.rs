//! What became of a packet. One list: counter index, metric label, and text of docs and `explain`.

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// What became of a packet. No packet leaves a program without one.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Outcome { $($(#[doc = $doc])+ $variant,)+ }

        impl Outcome {
            /// Every outcome, in the order of its counter.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name that metrics, events and docs use.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+),)+ }
            }
        }
    };
}

outcomes! {
    /// A segment of an established flow was carried to its member.
    Carried = "carried",
    /// A segment of a member was carried back to the client.
    Replied = "replied",
    /// A SYN opened a flow and was carried to the active member.
    Opened = "opened",
    /// A reset on a stale flow was translated and let through.
    ResetPassed = "reset_passed",
    /// A segment on a stale flow was answered with a reset to both ends.
    ResetBoth = "reset_both",
    /// The agent had the client of a flow reset.
    ResetClient = "reset_client",
    /// The agent had the member of a flow reset.
    ResetMember = "reset_member",
    /// The agent had a flow forgotten that nobody needs any more.
    Forgotten = "forgotten",
    /// A connection to a VIP's address on a port without a service was refused.
    RefusedNoService = "refused_no_service",
    /// A connection was refused because the service has no member to offer.
    RefusedNoMember = "refused_no_member",
    /// A connection was refused because the flow table is full.
    RefusedTableFull = "refused_table_full",
    /// A connection was refused because no source port towards the member is free.
    RefusedNoPort = "refused_no_port",
    /// A connection was refused because too many of its source, or of its service, are not established yet.
    RefusedHalfOpen = "refused_half_open",
    /// A connection was refused because the service's cap on new connections was reached.
    RefusedRate = "refused_rate",
    /// A connection was refused because the routing table has no way to the member.
    RefusedNoRoute = "refused_no_route",
    /// A UDP datagram to a VIP's address was answered with port unreachable.
    RefusedUdp = "refused_udp",
    /// An echo request to a VIP's address was answered.
    EchoAnswered = "echo_answered",
    /// A segment in the middle of a flow that is not known was answered with a reset.
    RefusedUnknownFlow = "refused_unknown_flow",
    /// A reset for a flow that is not known was dropped: a reset is never answered.
    ResetDropped = "reset_dropped",
    /// A segment of a flow was dropped because the routing table has no way to the member any more.
    DroppedNoRoute = "dropped_no_route",
    /// A segment was dropped because another processor opened or ended the same flow in the same moment; it is sent
    /// again.
    DroppedRace = "dropped_race",
    /// A packet was dropped because the kernel refused to change it.
    DroppedKernel = "dropped_kernel",
    /// The program that the packet was to be handed on to is not there: left alone.
    NoContinuation = "no_continuation",
    /// The halves of a flow did not belong together: the stub was removed and the packet left alone.
    HalvesMismatched = "halves_mismatched",
    /// Neither to a VIP's address nor of a flow: left alone.
    NotOurs = "not_ours",
    /// An ICMP error about what a client sent was translated for that client.
    IcmpToClient = "icmp_to_client",
    /// An ICMP error about what a member sent was translated for that member.
    IcmpToMember = "icmp_to_member",
    /// An ICMP error quotes what its receiver cannot have sent just now: left alone.
    IcmpNotBelieved = "icmp_not_believed",
    /// A fragment was dropped because the first one of its segment is not known, or was answered with resets.
    FragmentUnknown = "fragment_unknown",
    /// In a form that is not carried: left alone.
    NotCarried = "not_carried",
    /// Tagged for a VLAN: left to the device of that VLAN.
    Vlan = "vlan",
    /// Neither IPv4 nor IPv6: left alone.
    NotIp = "not_ip",
    /// No TCP, and nothing that a VIP's address answers: left alone.
    NotTcp = "not_tcp",
    /// A fragment of a packet that is no TCP, or that is nobody's as far as is known: left alone.
    Fragment = "fragment",
    /// Shorter than its headers say, or with impossible header lengths: left alone.
    Malformed = "malformed",
}

/// Packets and bytes of one outcome on one processor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets, as the hook sees them: a large segment before segmentation is one.
    pub packets: u64,
    /// Bytes with all headers.
    pub bytes: u64,
}

/// Rows of the counter map: row 0 for packets of no member, row `1 + member` for the others.
#[inline(always)]
#[must_use]
pub const fn counter_index(outcome: Outcome, member: Option<u16>) -> u32 {
    let row = match member {
        None => 0,
        Some(member) => member as u32 + 1,
    };
    row * Outcome::ALL.len() as u32 + outcome as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_belongs_to_one_outcome_of_one_member() {
        let mut seen = std::collections::HashSet::new();
        for member in [None, Some(0), Some(1), Some(7)] {
            for outcome in Outcome::ALL {
                assert!(seen.insert(counter_index(*outcome, member)));
            }
        }
    }

    #[test]
    fn names_are_labels() {
        for outcome in Outcome::ALL {
            assert!(outcome.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            assert!(outcome.meaning().trim().ends_with('.'));
        }
    }
}
