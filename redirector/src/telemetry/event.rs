//! Everything that happens, as one typed enum. A promise to scripts: fields may be added, none changes its meaning.
//!
//! `docs/telemetry.md` lists every event; a test compares it with [`Event::NAMES`].

use std::{net::SocketAddr, time::SystemTime};

use serde::{Deserialize, Serialize};

pub use crate::control::access::Who;
use crate::model::{FlowPolicy, MemberState, OnStop, SwitchKind, TroubleKind};

/// Version of a [`Record`] as JSON.
pub const VERSION: u32 = 1;

/// An event with its place in the order of events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// Grows by one with each event, over restarts too.
    pub sequence: u64,
    /// RFC 3339, UTC, with milliseconds. A clock that is set back goes back here too; `sequence` never does.
    pub at: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

impl Record {
    /// An event that happens now.
    #[must_use]
    pub fn new(sequence: u64, at: SystemTime, event: Event) -> Self {
        Self { version: VERSION, sequence, at: humantime::format_rfc3339_millis(at).to_string(), event }
    }
}

/// Makes the enum, and the list of names that scripts, metrics and docs use.
macro_rules! events {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal {
        $($(#[doc = $field_doc:literal])+ $field:ident: $kind:ty,)*
    })+) => {
        /// What happened.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "event")]
        pub enum Event {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $variant {
                $($(#[doc = $field_doc])+ $field: $kind,)*
            },)+
        }

        impl Event {
            /// The name of every event.
            pub const NAMES: &[&str] = &[$($name,)+];

            /// The fields of every event, in the order of [`Self::NAMES`].
            pub const FIELDS: &[&[&str]] = &[$(&[$(stringify!($field),)*],)+];

            /// Its name.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $name,)+ }
            }
        }
    };
}

events! {
    /// The agent has started.
    Started = "started" {
        /// Its release.
        release: String,
        /// Process id.
        pid: u32,
        /// How many services it has.
        services: usize,
    }
    /// The agent stops in order.
    Stopping = "stopping" {
        /// What stays in the kernel.
        on_stop: OnStop,
    }
    /// An earlier agent's decision goes on.
    TookOver = "took_over" {
        /// Whose.
        service: String,
        /// The active member; `None`: new connections are refused.
        active: Option<String>,
        /// Of the decision.
        epoch: u32,
    }
    /// Every service has made its first choice, or its time for it is over.
    Ready = "ready" {}
    /// The active member has changed.
    Switch = "switch" {
        /// Of which service.
        service: String,
        /// The member that is left; `None`: none was active.
        from: Option<String>,
        /// The member that is active now; `None`: new connections are refused.
        to: Option<String>,
        /// Why the agent moved.
        kind: SwitchKind,
        /// In words.
        reason: String,
        /// Of this switch.
        epoch: u32,
        /// What happens to the flows of `from`.
        policy: FlowPolicy,
        /// Milliseconds over which their resets are spread; `None`: all at once, or they are not reset.
        reset_over_ms: Option<f64>,
        /// Of a failover: what took `from` down.
        trouble: Option<TroubleKind>,
        /// How long that was borne, from its beginning as the checks saw it, in milliseconds.
        borne_ms: Option<f64>,
        /// Milliseconds from the start of the first failed probe of the run that made the member down to this switch. `None`:
        /// this was not a failover, or there was nobody to go to when the member went down.
        detected_in_ms: Option<f64>,
        /// Milliseconds from the end of the last probe of that check that passed to this switch: the outage began at most so
        /// long ago. `None`: as above, or none ever passed.
        outage_at_most_ms: Option<f64>,
    }
    /// Flows were reset, after a switch, a drain, or because an address was taken out.
    FlowsReset = "flows_reset" {
        /// Whose; `None`: the configuration does not have it any more.
        service: Option<String>,
        /// The member that they went to; the same.
        member: Option<String>,
        /// The newest epoch of the service.
        epoch: Option<u32>,
        /// Flows whose sockets on this host were destroyed: their clients know.
        reset: u64,
        /// Flows of other clients, which are reset with their next packet.
        waiting: u64,
        /// Milliseconds from what made them stale until this pass had ended.
        after_ms: f64,
    }
    /// A member's state has changed.
    MemberChanged = "member_changed" {
        /// Of which service.
        service: String,
        /// Which one.
        member: String,
        /// What it is now.
        state: MemberState,
        /// Why, in words.
        reason: String,
        /// Of one that is down: what took it down.
        trouble: Option<TroubleKind>,
        /// How long that was borne, from its beginning as the checks saw it, in milliseconds.
        borne_ms: Option<f64>,
        /// The signal of the kernel that made the probers look; `None`: they came by themselves.
        signal: Option<String>,
        /// Milliseconds from the beginning of the trouble, as the traffic saw it.
        signalled_ms: Option<f64>,
    }
    /// Traffic with a member has shown something. Of a kind and a member at most every 10 s.
    Signal = "signal" {
        /// Of which service.
        service: String,
        /// Which member.
        member: String,
        /// What it was.
        signal: String,
        /// How often, since the event before.
        count: u32,
        /// How many milliseconds ago the newest began.
        began_ms: f64,
        /// Whether the member's probers look.
        looked: bool,
    }
    /// The state of one of several addresses of a member has changed.
    AddressChanged = "address_changed" {
        /// Of which service.
        service: String,
        /// Of which member.
        member: String,
        /// Which one.
        address: SocketAddr,
        /// What it is now.
        state: MemberState,
        /// Why, in words.
        reason: String,
    }
    /// An endpoint resolves to other addresses.
    AddressesChanged = "addresses_changed" {
        /// Of which service.
        service: String,
        /// Whose endpoint.
        member: String,
        /// The addresses up to now.
        from: String,
        /// The addresses from now on.
        to: String,
        /// How many more there are than a member can have.
        left_out: usize,
    }
    /// New flows to a member go to other addresses of it.
    Offered = "offered" {
        /// Of which service.
        service: String,
        /// Which member.
        member: String,
        /// Where new flows may go.
        offered: Vec<SocketAddr>,
        /// Its other addresses.
        left_out: Vec<SocketAddr>,
    }
    /// The flows of an address that is not offered any more are reset.
    AddressReset = "address_reset" {
        /// Of which service.
        service: String,
        /// Of which member.
        member: String,
        /// Which one.
        address: SocketAddr,
        /// It is not the member's any more.
        removed: bool,
    }
    /// The flows of a member that was left go on for a while.
    DrainBegan = "drain_began" {
        /// Of which service.
        service: String,
        /// The member that was left.
        member: String,
        /// Of the switch.
        epoch: u32,
        /// For how long.
        lasts_ms: u64,
    }
    /// A drain has ended: what is left of its flows is reset.
    DrainEnded = "drain_ended" {
        /// Of which service.
        service: String,
        /// The member that has gone down, whose flows alone are reset; `None`: the time is over.
        member: Option<String>,
        /// Of the switch that began it.
        epoch: u32,
        /// Why it ended early; `None`: it did not.
        reason: Option<String>,
    }
    /// A check says nothing about its member: the probe's credentials are refused, or something on this host is in its way.
    /// That is not counted against the member.
    CheckInconclusive = "check_inconclusive" {
        /// Of which service.
        service: String,
        /// Of which member.
        member: String,
        /// Of which of its addresses.
        address: SocketAddr,
        /// Which check.
        check: String,
        /// The outcome in a word, as in the metric `redirector_probes_total`.
        outcome: String,
        /// The same in words.
        reason: String,
    }
    /// Such a check says something again.
    CheckConclusive = "check_conclusive" {
        /// Of which service.
        service: String,
        /// Of which member.
        member: String,
        /// Of which of its addresses.
        address: SocketAddr,
        /// Which check.
        check: String,
        /// The outcome in words.
        reason: String,
    }
    /// An operator wanted something.
    Operator = "operator" {
        /// What: `switch`, `drain`, ….
        verb: String,
        /// With which service; `None`: with the whole agent.
        service: Option<String>,
        /// With which member.
        member: Option<String>,
        /// It was only to be said what would happen.
        dry_run: bool,
        /// Who it was.
        who: Who,
        /// Why, in the operator's words.
        reason: Option<String>,
        /// `done`, `refused` (it could not be done) or `denied` (whoever asked may not).
        result: String,
        /// What happened or stood against it, in words.
        message: String,
    }
    /// A configuration was read again.
    Reload = "reload" {
        /// Whether it holds now; if not, the one before does.
        done: bool,
        /// What is different, a sentence each.
        changes: Vec<String>,
        /// Why it does not hold.
        error: Option<String>,
    }
    /// Somebody else took away what the agent needs on this host, and it was restored.
    NetworkRestored = "network_restored" {
        /// What, in words.
        what: String,
    }
    /// The agent's loop came late to a probe's report: this host has no time for it.
    Late = "late" {
        /// From the end of the probe until the loop had its report, in milliseconds.
        late_ms: f64,
        /// How many reports before this one were late and not said so.
        more: u64,
    }
    /// A hook has run.
    Hook = "hook" {
        /// Of which service.
        service: String,
        /// Which one.
        hook: String,
        /// `before` or `after` the switch.
        when: String,
        /// Whether it was done.
        done: bool,
        /// What became of it, in words.
        result: String,
        /// How long it took.
        took_ms: f64,
    }
    /// Something that the agent needed to do did not work.
    Error = "error" {
        /// Of which service, if of one.
        service: Option<String>,
        /// Of which member, if of one.
        member: Option<String>,
        /// What, and why.
        message: String,
    }
    /// Only in a stream: its reader was too slow, and does not get these events. They may still be asked for.
    Lost = "lost" {
        /// How many events, of all services, up to this record's `sequence`.
        events: u64,
    }
}

impl Event {
    /// The service that it is about; `None`: about none, or about all.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::TookOver { service, .. }
            | Self::Switch { service, .. }
            | Self::MemberChanged { service, .. }
            | Self::Signal { service, .. }
            | Self::AddressChanged { service, .. }
            | Self::AddressesChanged { service, .. }
            | Self::Offered { service, .. }
            | Self::AddressReset { service, .. }
            | Self::DrainBegan { service, .. }
            | Self::DrainEnded { service, .. }
            | Self::CheckInconclusive { service, .. }
            | Self::CheckConclusive { service, .. }
            | Self::Hook { service, .. } => Some(service),
            Self::FlowsReset { service, .. }
            | Self::Operator { service, .. }
            | Self::Error { service, .. } => service.as_deref(),
            Self::Started { .. }
            | Self::Stopping { .. }
            | Self::Ready {}
            | Self::Reload { .. }
            | Self::NetworkRestored { .. }
            | Self::Late { .. }
            | Self::Lost { .. } => None,
        }
    }

    /// The member that it is about; of a switch the one that is active now.
    #[must_use]
    pub fn member(&self) -> Option<&str> {
        match self {
            Self::MemberChanged { member, .. }
            | Self::Signal { member, .. }
            | Self::AddressChanged { member, .. }
            | Self::AddressesChanged { member, .. }
            | Self::Offered { member, .. }
            | Self::AddressReset { member, .. }
            | Self::DrainBegan { member, .. }
            | Self::CheckInconclusive { member, .. }
            | Self::CheckConclusive { member, .. } => Some(member),
            Self::FlowsReset { member, .. }
            | Self::DrainEnded { member, .. }
            | Self::Operator { member, .. }
            | Self::Error { member, .. } => member.as_deref(),
            Self::Switch { to: member, .. } | Self::TookOver { active: member, .. } => member.as_deref(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_flat_document() {
        let event = Event::DrainEnded { service: "orders".into(), member: None, epoch: 7, reason: None };
        let record = Record::new(3, SystemTime::UNIX_EPOCH, event);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(
            text,
            r#"{"version":1,"sequence":3,"at":"1970-01-01T00:00:00.000Z","event":"drain_ended","service":"orders","member":null,"epoch":7,"reason":null}"#
        );
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }

    /// Variants without fields, with optional ones and with nested ones are read back too.
    #[test]
    fn records_survive_json() {
        let events = [
            Event::Ready {},
            Event::FlowsReset {
                service: None,
                member: None,
                epoch: None,
                reset: 3,
                waiting: u64::MAX,
                after_ms: 1.25,
            },
            Event::Operator {
                verb: "switch".into(),
                service: Some("orders".into()),
                member: None,
                dry_run: false,
                who: Who { user: Some("root".into()), pid: Some(77), ..Who::default() },
                reason: None,
                result: "refused".into(),
                message: "it is down".into(),
            },
        ];
        for event in events {
            let record = Record::new(1, SystemTime::now(), event);
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record, "{text}");
        }
    }

    /// The page and the code say the same; a new event has to be explained.
    #[test]
    fn every_event_and_field_is_in_the_docs() {
        let page = include_str!("../../../docs/telemetry.md");
        for (name, fields) in Event::NAMES.iter().zip(Event::FIELDS) {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
            let row = row.unwrap_or_else(|| panic!("docs/telemetry.md has no row for the event {name}"));
            for field in *fields {
                assert!(
                    row.contains(&format!("`{field}`")),
                    "the row of {name} lacks the field {field}: {row}"
                );
            }
        }
    }
}
