//! What a VIP's address gets beside TCP: it belongs to Redirector on every port, so echo requests are answered and
//! UDP is refused. The rest is left alone.

use redirector_common::{
    outcome::Outcome,
    packet::{Datagram, PROTOCOL_UDP},
};

use crate::{
    hook::{Hook, Verdict},
    maps,
};

/// Decides and applies.
#[inline(always)]
pub fn handle<H: Hook>(hook: &mut H, datagram: &Datagram) -> Verdict<H> {
    if !maps::is_vip_address(&datagram.ends.far) {
        return Verdict::leave(Outcome::NotTcp);
    }
    let (outcome, answered) = if datagram.protocol == PROTOCOL_UDP {
        (Outcome::RefusedUdp, hook.become_port_unreachable(datagram))
    } else {
        (Outcome::EchoAnswered, hook.become_echo_reply(datagram))
    };
    match answered {
        Some(()) => Verdict { outcome, member: None, action: hook.to_client() },
        None => Verdict::leave(Outcome::NotTcp),
    }
}
