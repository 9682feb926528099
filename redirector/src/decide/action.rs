//! What goes out of the core, [`Action`], and what an earlier agent left for it, [`Resumed`].

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Draining, Orders, Refused, Time};
use crate::model::{Borne, Epoch, FlowPolicy, MemberId, MemberState, Offer, Pace, Signal, SwitchKind};

/// What the caller has to do. To be carried out in the order of [`Core::poll_action`]: what moves traffic comes
/// before what reports on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Write the decision word, and the floor with it when the policy is [`FlowPolicy::Reset`] and [`Switch::over`] zero.
    Switch(Switch),
    /// A drain has ended. Flows older than `epoch` on another member than the active one are reset.
    RaiseFloor {
        /// Of the switch that began the drain; never above the epoch of the newest switch.
        epoch: Epoch,
    },
    /// The member that a drain is about, or whose resets are being spread, is down: its flows older than `epoch` are reset now,
    /// and nobody else's.
    EndDrain {
        /// Whose flows; not the active one.
        member: MemberId,
        /// Of the newest switch that began a drain of it.
        epoch: Epoch,
        /// Why it is down, in words.
        reason: String,
    },
    /// The flows that an [`Action::RaiseFloor`] with the same epoch will reset, those of `from` below `epoch`, are reset little by
    /// little until then. Comes right after its [`Action::Switch`], or first of all when an earlier agent had begun it.
    /// Ends early when the floor rises by something else, or `from` becomes active again.
    Spread {
        /// The member that was left.
        from: MemberId,
        /// Of the switch.
        epoch: Epoch,
        /// Within which time from now.
        over: Duration,
    },
    /// The probers of a member probe now: a signal gave a reason to.
    Look {
        /// Whom.
        member: MemberId,
    },
    /// A signal of the kernel is worth an event. Not every one is: they come by the hundred.
    Signal {
        /// Whose traffic it was.
        member: MemberId,
        /// What was seen; its count covers all of this kind since the last event.
        signal: Signal,
        /// Whether it made the probers look ([`Action::Look`]).
        looked: bool,
    },
    /// New flows to a member may go to these of its addresses. Those that it had and that are not among them were
    /// removed: no new flow goes there, and their flows go on until [`Action::ResetAddress`], if it comes.
    Offer {
        /// Whose addresses.
        member: MemberId,
        /// All that it has.
        addresses: Vec<Offer>,
    },
    /// The flows of an address that is not offered any more are reset.
    ResetAddress {
        /// Whose address.
        member: MemberId,
        /// Which one.
        address: SocketAddr,
        /// It is not the member's any more.
        removed: bool,
    },
    /// Every check of a member is asked once, now: before it is gone to, or before it is believed to be down.
    Round {
        /// Whom.
        member: MemberId,
    },
    /// Every check of one address is asked once, now: before its flows, or those of another address, are reset.
    Ask {
        /// Whose address.
        member: MemberId,
        /// Which one.
        address: SocketAddr,
    },
    /// The hooks before a switch are asked, one after the other; what they say comes with
    /// [`Core::on_hooks`](super::Core::on_hooks). A question of the same service that is still open means nothing any more.
    AskHooks {
        /// Tells questions apart.
        ask: u64,
        /// The member that would become active.
        to: MemberId,
        /// Why the agent would move.
        kind: SwitchKind,
        /// In words.
        reason: String,
    },
    /// What came of a switch that waited for its round ([`Accepted::Waits`](super::Accepted::Waits)); an
    /// [`Action::Switch`] of kind manual stands before an `Ok`.
    Answer {
        /// It was made, or not.
        result: Result<(), Refused>,
    },
    /// What an operator has said and still holds is this now: to be kept for the next agent ([`Core::take_up`](super::Core::take_up)).
    Orders(Orders),
    /// These are the drains under way now, and spread resets among them, in the order in which they began: to be kept for the
    /// next agent ([`ResumedSwitch::drains`]). Those that have ended have so by the actions before.
    Drains(Vec<Draining>),
    /// The probes of an address go over to another interval. Every address begins at [`Pace::Fast`].
    Pace {
        /// Whose address.
        member: MemberId,
        /// Which one.
        address: SocketAddr,
        /// Which interval.
        pace: Pace,
    },
    /// The state of one of several addresses has changed.
    AddressChanged {
        /// Whose address.
        member: MemberId,
        /// Which one.
        address: SocketAddr,
        /// What it is now.
        state: MemberState,
        /// Why, in words.
        reason: String,
    },
    /// A member's state has changed.
    MemberChanged {
        /// Which one.
        member: MemberId,
        /// What it is now.
        state: MemberState,
        /// Why, in words.
        reason: String,
        /// What took it down; `None`: it is not down, or an operator took it out.
        borne: Option<Borne>,
    },
}

/// A change of the active member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// The member that is left; `None`: none was active.
    pub from: Option<MemberId>,
    /// The member that is active now; `None`: new connections are refused.
    pub to: Option<MemberId>,
    /// Of this switch, one above the one before.
    pub epoch: Epoch,
    /// What happens to the flows of `from`; [`FlowPolicy::Keep`] when there is none to leave.
    pub policy: FlowPolicy,
    /// Over which time their resets are spread, with [`FlowPolicy::Reset`]: an [`Action::Spread`] follows, and at the end an
    /// [`Action::RaiseFloor`]. Zero: all at once.
    pub over: Duration,
    /// Why the agent moved.
    pub kind: SwitchKind,
    /// In words.
    pub reason: String,
    /// Of a failover: what took `from` down.
    pub borne: Option<Borne>,
    /// When.
    pub at: Time,
}

/// What an earlier agent left in the kernel (maps) and on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// From the decision word. A member that the configuration no longer has is `None`.
    pub active: Option<MemberId>,
    /// From the decision word.
    pub epoch: Epoch,
    /// Flows below it, on another member than the active one, are reset already.
    pub floor: Epoch,
    /// The switch to `epoch`, or the one before; `None` when the record on disk is missing or of another epoch. Without it no drain
    /// goes on.
    pub last: Option<ResumedSwitch>,
}

/// The newest switch of an earlier agent. Where it went is [`Resumed::active`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumedSwitch {
    /// The member that was left.
    pub from: Option<MemberId>,
    /// Why the agent moved.
    pub kind: SwitchKind,
    /// What was to happen to the flows of `from`, whatever the configuration says by now; `None`: nobody wrote it down, and it is what a
    /// switch of this kind would do now.
    pub policy: Option<FlowPolicy>,
    /// In words.
    pub reason: String,
    /// How long ago.
    pub age: Duration,
    /// What the newest [`Action::Drains`] said, of this switch and those before. A deadline may have passed. `None`: the earlier
    /// agent was of a version that did not write it down. Then this switch has done what it would do now, and nothing is known of
    /// those before.
    pub drains: Option<Vec<Draining>>,
    /// It is the switch before that to [`Resumed::epoch`], of which nothing is known: only its drains go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_older: bool,
}
