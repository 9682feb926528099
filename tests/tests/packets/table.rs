//! The table.

use super::bench::{Bench, MEMBER, OTHER, Verdict};
use Given::{Came, Do, Sent};
use Verdict::{Drop, Leave, Redirect};

/// Something that happens.
pub enum Given {
    /// The host routes a packet to the VIP device.
    Sent(&'static str),
    /// An uplink receives a packet.
    Came(&'static str),
    /// The same for one without Ethernet header.
    CameL3(&'static str),
    /// The agent or the world does something.
    Do(fn(&mut Bench)),
}

/// A row.
pub struct Case {
    pub says: &'static str,
    pub given: &'static [Given],
    pub packet: Given,
    pub outcome: &'static str,
    pub verdict: Verdict,
    pub out: &'static str,
    /// What else the client hears.
    pub copy: Option<&'static str>,
    /// Entries in each half of the flow table afterwards.
    pub left: Option<usize>,
    /// What the packet shows of the member.
    pub signals: &'static [&'static str],
    pub only_v4: bool,
    pub only_v6: bool,
}

pub const CASE: Case = Case {
    says: "",
    given: &[],
    packet: Sent(""),
    outcome: "",
    verdict: Leave,
    out: "unchanged",
    copy: None,
    left: None,
    signals: &[],
    only_v4: false,
    only_v6: false,
};

pub const SYN: Given = Sent("client > vip SYN seq=100 tcpopt=20");
/// From another port of the client.
const SYN2: Given = Sent("client:2 > vip SYN seq=100");
pub const SYN_ACK: Given = Came("member > port SYN ACK seq=500 ack=101 tcpopt=20");
pub const HANDSHAKE_ACK: Given = Sent("client > vip ACK seq=101 ack=501 tcpopt=12");
pub const REQUEST: Given = Sent("client > vip PSH ACK seq=101 ack=501 len=30 tcpopt=12");
pub const RESPONSE: Given = Came("member > port PSH ACK seq=501 ack=131 len=7 tcpopt=12");

pub const LEFT_AND_RESET: Given = Do(|bench| bench.switch(Some(OTHER), true));
/// Some ticks go by.
const WAIT: Given = Do(Bench::wait);
/// Longer than a copy of a SYN takes, and shorter than a client waits before it sends it again.
const WAIT_FOR_LONG: Given = Do(|bench| (0..5).for_each(|_| bench.wait()));
const LEFT_AND_KEPT: Given = Do(|bench| bench.switch(Some(OTHER), false));

#[rustfmt::skip]
pub const TABLE: &[Case] = &[
    // ------------------------------------------------------------------ opening
    Case { says: "a SYN to a VIP opens a flow to the active member",
        packet: SYN, outcome: "opened", verdict: Redirect,
        out: "port > member SYN seq=100 tcpopt=20", left: Some(1), ..CASE },
    Case { says: "a SYN that is sent again keeps its member and its port",
        given: &[SYN], packet: SYN, outcome: "carried", verdict: Redirect,
        out: "port > member SYN seq=100 tcpopt=20", left: Some(1), ..CASE },
    Case { says: "after a switch a new connection goes to the other member",
        given: &[LEFT_AND_RESET], packet: SYN, outcome: "opened", verdict: Redirect,
        out: "port > other SYN seq=100 tcpopt=20", left: Some(1), ..CASE },
    Case { says: "a SYN that is sent again goes to the new member when its own was left",
        given: &[SYN, LEFT_AND_RESET], packet: SYN, outcome: "opened", verdict: Redirect,
        out: "port > other SYN seq=100 tcpopt=20", left: Some(1), ..CASE },
    Case { says: "a SYN that is sent again keeps a member whose flows are kept",
        given: &[SYN, LEFT_AND_KEPT], packet: SYN, outcome: "carried", verdict: Redirect,
        out: "port > member SYN seq=100 tcpopt=20", left: Some(1), ..CASE },
    Case { says: "a SYN on a flow that the client had closed starts a new one",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, Sent("client > vip FIN ACK seq=101 ack=501"), LEFT_AND_KEPT],
        packet: Sent("client > vip SYN seq=9000"), outcome: "opened", verdict: Redirect,
        out: "port > other SYN seq=9000", left: Some(1), ..CASE },

    // ------------------------------------------------------------------ carrying
    Case { says: "the member's answer comes back as the VIP's",
        given: &[SYN], packet: SYN_ACK, outcome: "replied", verdict: Redirect,
        out: "vip > client SYN ACK seq=500 ack=101 tcpopt=20", ..CASE },
    Case { says: "data is carried to the member",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK], packet: REQUEST, outcome: "carried", verdict: Redirect,
        out: "port > member PSH ACK seq=101 ack=501 len=30 tcpopt=12", ..CASE },
    Case { says: "an odd number of bytes keeps its checksum right",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK],
        packet: Sent("client > vip PSH ACK seq=101 ack=501 len=1333"), outcome: "carried", verdict: Redirect,
        out: "port > member PSH ACK seq=101 ack=501 len=1333", ..CASE },
    Case { says: "data comes back from the member",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, REQUEST], packet: RESPONSE, outcome: "replied", verdict: Redirect,
        out: "vip > client PSH ACK seq=501 ack=131 len=7 tcpopt=12", ..CASE },
    Case { says: "a flow of a member that was left is carried on when flows are kept",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, LEFT_AND_KEPT], packet: REQUEST, outcome: "carried", verdict: Redirect,
        out: "port > member PSH ACK seq=101 ack=501 len=30 tcpopt=12", ..CASE },
    Case { says: "going back to a member does not reset the flows that stayed on it",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, LEFT_AND_KEPT, Do(|bench| bench.switch(Some(MEMBER), true))],
        packet: REQUEST, outcome: "carried", verdict: Redirect,
        out: "port > member PSH ACK seq=101 ack=501 len=30 tcpopt=12", ..CASE },
    Case { says: "IP options are kept",
        given: &[], packet: Sent("client > vip SYN seq=100 ipopt=3"), outcome: "opened", verdict: Redirect,
        out: "port > member SYN seq=100 ipopt=3", only_v4: true, ..CASE },

    Case { says: "without a route to its member a flow waits: nothing is sent astray",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, Do(Bench::remove_route)], packet: REQUEST,
        outcome: "dropped_no_route", verdict: Drop, left: Some(1), ..CASE },

    // ------------------------------------------------------------------ ending
    Case { says: "a reset of the client is carried and ends the flow",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK], packet: Sent("client > vip RST seq=101"),
        outcome: "carried", verdict: Redirect, out: "port > member RST seq=101", left: Some(0), ..CASE },
    Case { says: "a reset of the member, as a refused connection is, is carried and ends the flow",
        given: &[SYN], packet: Came("member > port RST ACK seq=0 ack=101"),
        outcome: "replied", verdict: Redirect, out: "vip > client RST ACK seq=0 ack=101", left: Some(0), signals: &["refused"], ..CASE },
    Case { says: "the acknowledgement of the second FIN is carried and ends the flow",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, Sent("client > vip FIN ACK seq=101 ack=501"),
            Came("member > port FIN ACK seq=501 ack=102")],
        packet: Sent("client > vip ACK seq=102 ack=502"),
        outcome: "carried", verdict: Redirect, out: "port > member ACK seq=102 ack=502", left: Some(0), ..CASE },
    Case { says: "a FIN that is not acknowledged yet ends nothing",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, Sent("client > vip FIN ACK seq=101 ack=501")],
        packet: Came("member > port FIN ACK seq=501 ack=102"),
        outcome: "replied", verdict: Redirect, out: "vip > client FIN ACK seq=501 ack=102", left: Some(1), ..CASE },

    Case { says: "a reset of the member that the client does not believe is carried and ends nothing",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK], packet: Came("member > port RST seq=12345"),
        outcome: "replied", verdict: Redirect, out: "vip > client RST seq=12345", left: Some(1), ..CASE },
    Case { says: "a reset of the client that the member does not believe is carried and ends nothing",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK], packet: Sent("client > vip RST seq=12345"),
        outcome: "carried", verdict: Redirect, out: "port > member RST seq=12345", left: Some(1), ..CASE },

    // ------------------------------------------------------------------ a port that the member keeps for a minute
    Case { says: "an ACK of an earlier connection is carried to a client whose SYN is not answered",
        given: &[SYN], packet: Came("member > port ACK seq=7000 ack=90000"),
        outcome: "replied", verdict: Redirect, out: "vip > client ACK seq=7000 ack=90000", left: Some(1), ..CASE },
    Case { says: "the reset that the client answers it with is carried and ends nothing",
        given: &[SYN, Came("member > port ACK seq=7000 ack=90000")], packet: Sent("client > vip RST seq=90000"),
        outcome: "carried", verdict: Redirect, out: "port > member RST seq=90000", left: Some(1), ..CASE },
    // The client sends it at once (`TCP_TIMEOUT_MIN`), and it will be answered: no failure, and no signal.
    Case { says: "and its SYN keeps its port, which the member has forgotten by then",
        given: &[SYN, Came("member > port ACK seq=7000 ack=90000"), Sent("client > vip RST seq=90000")], packet: SYN,
        outcome: "carried", verdict: Redirect, out: "port > member SYN seq=100 tcpopt=20", left: Some(1), ..CASE },

    // ------------------------------------------------------------------ a half that is lost
    Case { says: "data that is sent again on a flow without its stub resets both ends: no answer would come back",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, REQUEST, Do(Bench::lose_stub)], packet: REQUEST,
        outcome: "reset_both", verdict: Redirect,
        out: "port > member RST ACK seq=131 ack=501", copy: Some("vip > client RST seq=501"), ..CASE },
    Case { says: "a SYN that is sent again on a flow without its stub opens it anew",
        given: &[SYN, Do(Bench::lose_stub)], packet: SYN, outcome: "opened", verdict: Redirect,
        out: "port > member SYN seq=100 tcpopt=20", left: Some(1), ..CASE },

    // ------------------------------------------------------------------ stale flows
    Case { says: "data of the client on a stale flow resets both ends",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, REQUEST, RESPONSE, LEFT_AND_RESET],
        packet: Sent("client > vip PSH ACK seq=131 ack=508 len=30 tcpopt=12"), outcome: "reset_both", verdict: Redirect,
        out: "port > member RST ACK seq=131 ack=508", copy: Some("vip > client RST seq=508"), left: Some(1), ..CASE },
    Case { says: "data of the member on a stale flow resets both ends",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, REQUEST, LEFT_AND_RESET], packet: RESPONSE,
        outcome: "reset_both", verdict: Redirect,
        out: "port > member RST seq=131", copy: Some("vip > client RST ACK seq=501 ack=131"), ..CASE },
    Case { says: "the answer to a SYN that went to a member that was left resets both ends",
        given: &[SYN, LEFT_AND_RESET], packet: SYN_ACK, outcome: "reset_both", verdict: Redirect,
        out: "port > member RST seq=101", copy: Some("vip > client RST ACK seq=0 ack=101"), ..CASE },
    Case { says: "IP options of a stale segment are blanked in both resets",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, LEFT_AND_RESET],
        packet: Sent("client > vip ACK seq=101 ack=501 len=5 ipopt=3"), outcome: "reset_both", verdict: Redirect,
        out: "port > member RST ACK seq=101 ack=501 ipopt=3", copy: Some("vip > client RST seq=501 ipopt=3"),
        only_v4: true, ..CASE },
    Case { says: "a reset of the client on a stale flow passes and is not answered",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, LEFT_AND_RESET], packet: Sent("client > vip RST ACK seq=101 ack=501"),
        outcome: "reset_passed", verdict: Redirect, out: "port > member RST ACK seq=101 ack=501", left: Some(0), ..CASE },
    Case { says: "a reset of the member on a stale flow passes and is not answered",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, LEFT_AND_RESET], packet: Came("member > port RST seq=501"),
        outcome: "reset_passed", verdict: Redirect, out: "vip > client RST seq=501", left: Some(0), ..CASE },
    Case { says: "a flow is stale when the address of its member was replaced",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, Do(Bench::replace_address)], packet: REQUEST,
        outcome: "reset_both", verdict: Redirect,
        out: "port > member RST ACK seq=101 ack=501", copy: Some("vip > client RST seq=501"), ..CASE },

    // ------------------------------------------------------------------ refusing
    Case { says: "a VIP's address on a port without a service refuses",
        packet: Sent("client > vip:80 SYN seq=100"), outcome: "refused_no_service", verdict: Redirect,
        out: "vip:80 > client RST ACK seq=0 ack=101", left: Some(0), ..CASE },
    Case { says: "a held service refuses",
        given: &[Do(|bench| bench.switch(None, false))], packet: SYN, outcome: "refused_no_member", verdict: Redirect,
        out: "vip > client RST ACK seq=0 ack=101", left: Some(0), ..CASE },
    Case { says: "a service whose lease ended refuses",
        given: &[Do(Bench::end_lease)], packet: SYN, outcome: "refused_no_member", verdict: Redirect,
        out: "vip > client RST ACK seq=0 ack=101", left: Some(0), ..CASE },
    Case { says: "a full flow table refuses and evicts nobody",
        given: &[Do(Bench::fill)], packet: SYN, outcome: "refused_table_full", verdict: Redirect,
        out: "vip > client RST ACK seq=0 ack=101", ..CASE },
    Case { says: "a connection that is refused for another reason uses up nothing of the service's cap",
        given: &[Do(|bench| bench.cap(1, 6)), Do(Bench::flood), Sent("client:2 > vip SYN seq=100"),
            Sent("client:2 > vip SYN seq=100")],
        packet: Sent("neighbour > vip SYN seq=100"), outcome: "opened", verdict: Redirect,
        out: "port > member SYN seq=100", left: Some(6), ..CASE },
    Case { says: "nor does one without a source port",
        given: &[Do(|bench| bench.cap(1, 1)), Do(Bench::refuse_without_port)], packet: SYN, outcome: "opened",
        verdict: Redirect, out: "port > member SYN seq=100 tcpopt=20", left: Some(1), ..CASE },
    Case { says: "each connection that is opened uses up one",
        given: &[Do(|bench| bench.cap(1, 6)), Do(Bench::flood), Sent("neighbour > vip SYN seq=100")],
        packet: Sent("third > vip SYN seq=100"), outcome: "refused_rate", verdict: Redirect,
        out: "vip > third RST ACK seq=0 ack=101", left: Some(6), ..CASE },
    Case { says: "a connection above the service's cap is refused",
        given: &[Do(|bench| bench.cap(1, 1)), SYN], packet: SYN2, outcome: "refused_rate", verdict: Redirect,
        out: "vip > client:2 RST ACK seq=0 ack=101", left: Some(1), ..CASE },
    Case { says: "without a free source port a client is refused",
        given: &[Do(Bench::take_ports)], packet: SYN, outcome: "refused_no_port", verdict: Redirect,
        out: "vip > client RST ACK seq=0 ack=101", ..CASE },
    Case { says: "without a route to the member a client is refused",
        given: &[Do(Bench::remove_route)], packet: SYN, outcome: "refused_no_route", verdict: Redirect,
        out: "vip > client RST ACK seq=0 ack=101", left: Some(0), ..CASE },
    Case { says: "a segment in the middle of an unknown flow is answered with a reset",
        packet: REQUEST, outcome: "refused_unknown_flow", verdict: Redirect,
        out: "vip > client RST seq=501", left: Some(0), ..CASE },
    Case { says: "a reset of an unknown flow is dropped, never answered",
        packet: Sent("client > vip RST seq=101"), outcome: "reset_dropped", verdict: Drop, ..CASE },
    Case { says: "data in a refused SYN and padding of the frame are told apart",
        given: &[Do(|bench| bench.switch(None, false))], packet: Sent("client > vip SYN seq=100 len=5 padded"),
        outcome: "refused_no_member", verdict: Redirect, out: "vip > client RST ACK seq=0 ack=106", ..CASE },

    // ------------------------------------------------------------------ half open
    // Packets of the table have no socket, as those of containers and other machines. The caps are 5 and 10.
    Case { says: "a source with too many half-open flows is refused",
        given: &[Do(Bench::flood)], packet: SYN, outcome: "refused_half_open", verdict: Redirect,
        out: "vip > client RST ACK seq=0 ack=101", left: Some(5), ..CASE },
    Case { says: "a SYN that is sent again is no further flow",
        given: &[SYN, Do(Bench::flood)], packet: SYN, outcome: "carried", verdict: Redirect,
        out: "port > member SYN seq=100 tcpopt=20", left: Some(5), ..CASE },
    Case { says: "a flow that is opened anew is counted once",
        given: &[SYN, LEFT_AND_RESET, SYN, Do(Bench::flood)], packet: SYN2, outcome: "refused_half_open",
        verdict: Redirect, out: "vip > client:2 RST ACK seq=0 ack=101", left: Some(5), ..CASE },
    Case { says: "another source is not refused because of it",
        given: &[Do(Bench::flood)], packet: Sent("neighbour > vip SYN seq=100"), outcome: "opened", verdict: Redirect,
        out: "port > member SYN seq=100", left: Some(6), ..CASE },
    Case { says: "all sources of a service together have a cap too",
        given: &[Do(Bench::flood_twice)], packet: Sent("third > vip SYN seq=100"), outcome: "refused_half_open",
        verdict: Redirect, out: "vip > third RST ACK seq=0 ack=101", left: Some(10), ..CASE },
    Case { says: "a flow that is established makes room",
        given: &[SYN, SYN_ACK, Do(Bench::flood), HANDSHAKE_ACK], packet: SYN2, outcome: "opened", verdict: Redirect,
        out: "port > member SYN seq=100", left: Some(6), ..CASE },
    Case { says: "an acknowledgement of what the member never sent makes no room",
        given: &[SYN, SYN_ACK, Do(Bench::flood), Sent("client > vip ACK seq=101 ack=77777")], packet: SYN2,
        outcome: "refused_half_open", verdict: Redirect, out: "vip > client:2 RST ACK seq=0 ack=101", left: Some(5),
        ..CASE },
    Case { says: "a flow that the member refuses makes room",
        given: &[SYN, Do(Bench::flood), Do(Bench::refuse_client)], packet: SYN2, outcome: "opened",
        verdict: Redirect, out: "port > member SYN seq=100", left: Some(5), ..CASE },
    Case { says: "a flow that the client gives up makes room",
        given: &[SYN, Do(Bench::flood), Sent("client > vip RST seq=101")], packet: SYN2, outcome: "opened",
        verdict: Redirect, out: "port > member SYN seq=100", left: Some(5), ..CASE },
    Case { says: "a client that is refused for another reason takes no room",
        given: &[Do(Bench::refuse_without_port), Do(Bench::flood)], packet: SYN, outcome: "refused_half_open",
        verdict: Redirect, out: "vip > client RST ACK seq=0 ack=101", left: Some(5), ..CASE },

    // ------------------------------------------------------------------ what it shows of the member
    // Every other row says that its packet is no signal.
    Case { says: "a SYN that is sent again because nobody answers is a signal",
        given: &[SYN, WAIT_FOR_LONG], packet: SYN, outcome: "carried", verdict: Redirect,
        out: "port > member SYN seq=100 tcpopt=20", left: Some(1), signals: &["unanswered"], ..CASE },
    Case { says: "a member that resets an established flow is a signal",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK], packet: Came("member > port RST seq=501"), outcome: "replied",
        verdict: Redirect, out: "vip > client RST seq=501", left: Some(0), signals: &["reset"], ..CASE },
    Case { says: "a member that ends an established flow first is a signal",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK], packet: Came("member > port FIN ACK seq=501 ack=101"),
        outcome: "replied", verdict: Redirect, out: "vip > client FIN ACK seq=501 ack=101", signals: &["closed"], ..CASE },
    Case { says: "a FIN that is sent again is none more",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, Came("member > port FIN ACK seq=501 ack=101")],
        packet: Came("member > port FIN ACK seq=501 ack=101"), outcome: "replied", verdict: Redirect,
        out: "vip > client FIN ACK seq=501 ack=101", ..CASE },
    Case { says: "a SYN that is sent again although it was answered is none: the answer was lost on the client's side",
        given: &[SYN, SYN_ACK], packet: SYN, outcome: "carried", verdict: Redirect,
        out: "port > member SYN seq=100 tcpopt=20", ..CASE },
    Case { says: "data that is sent again, and nothing was heard since, is silence",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, WAIT, REQUEST, WAIT], packet: REQUEST, outcome: "carried",
        verdict: Redirect, out: "port > member PSH ACK seq=101 ack=501 len=30 tcpopt=12", signals: &["silent"], ..CASE },
    Case { says: "data that is sent again, while the member is heard, was lost",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, REQUEST, WAIT, Came("member > port ACK seq=501 ack=101"), WAIT],
        packet: REQUEST, outcome: "carried", verdict: Redirect,
        out: "port > member PSH ACK seq=101 ack=501 len=30 tcpopt=12", signals: &["retransmitted"], ..CASE },
    Case { says: "data that is sent again although the member acknowledged it is no signal",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, REQUEST, RESPONSE], packet: REQUEST, outcome: "carried",
        verdict: Redirect, out: "port > member PSH ACK seq=101 ack=501 len=30 tcpopt=12", ..CASE },
    Case { says: "a keepalive, which repeats a byte, is no signal",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, REQUEST, RESPONSE],
        packet: Sent("client > vip ACK seq=130 ack=508 len=1"), outcome: "carried", verdict: Redirect,
        out: "port > member ACK seq=130 ack=508 len=1", ..CASE },
    Case { says: "a reply that begins with an error of the member is a signal",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, REQUEST],
        packet: Came("member > port PSH ACK seq=501 ack=131 tcpopt=12 says=-LOADING_Redis"), outcome: "replied",
        verdict: Redirect, out: "vip > client PSH ACK seq=501 ack=131 len=16 tcpopt=12",
        signals: &["error_reply"], ..CASE },
    Case { says: "a reply that begins with an error of the command is none",
        given: &[SYN, SYN_ACK, HANDSHAKE_ACK, REQUEST],
        packet: Came("member > port PSH ACK seq=501 ack=131 tcpopt=12 says=-BUSYKEY_Target"), outcome: "replied",
        verdict: Redirect, out: "vip > client PSH ACK seq=501 ack=131 len=17 tcpopt=12", ..CASE },

    // ------------------------------------------------------------------ beside TCP
    Case { says: "UDP to a VIP's address is answered with port unreachable, which quotes the datagram",
        packet: Sent("client > vip udp len=30"), outcome: "refused_udp", verdict: Redirect,
        out: "vip > client port-unreachable quoting client > vip udp", left: Some(0), ..CASE },
    Case { says: "a short UDP datagram has room for the error too",
        packet: Sent("client > vip:80 udp"), outcome: "refused_udp", verdict: Redirect,
        out: "vip > client port-unreachable quoting client > vip:80 udp", ..CASE },
    Case { says: "an echo request to a VIP's address is answered",
        packet: Sent("client > vip echo seq=7 len=33"), outcome: "echo_answered", verdict: Redirect,
        out: "vip > client echo-reply seq=7 len=33", left: Some(0), ..CASE },
    Case { says: "an echo reply to a VIP's address answers nothing and is left alone",
        packet: Sent("client > vip echo-reply seq=7"), outcome: "not_tcp", ..CASE },

    // ------------------------------------------------------------------ leaving alone
    Case { says: "a packet to somebody else is left alone",
        packet: Sent("client > stranger SYN seq=100"), outcome: "not_ours", ..CASE },
    Case { says: "a packet that an uplink receives for no flow is left alone",
        packet: Came("stranger > client PSH ACK seq=1 ack=1 len=10"), outcome: "not_ours", ..CASE },
    Case { says: "the agent's own connection to a member is left alone",
        given: &[SYN], packet: Came("member > client SYN ACK seq=500 ack=101"), outcome: "not_ours", ..CASE },
    Case { says: "a stub without its entry is removed, and the packet left to the host's stack",
        given: &[SYN, Do(Bench::mismatch)], packet: SYN_ACK, outcome: "halves_mismatched", ..CASE },
    Case { says: "a truncated segment is left alone",
        packet: Sent("client > vip SYN seq=100 short"), outcome: "malformed", ..CASE },
    Case { says: "UDP to somebody else is left alone",
        packet: Sent("client > stranger udp"), outcome: "not_tcp", ..CASE },
    Case { says: "UDP that an uplink receives is left alone",
        packet: Came("member > client udp"), outcome: "not_tcp", ..CASE },
    Case { says: "an echo request to somebody else is left alone",
        packet: Sent("client > stranger echo seq=7"), outcome: "not_tcp", ..CASE },
];
