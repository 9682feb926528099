//! What an operator may ask for, how it is written as JSON, and what is answered. A promise to scripts: fields may be
//! added, none changes its meaning.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::access::Who;
pub use crate::model::FlowPolicy;

/// Longest body of a request.
pub const LONGEST_BODY: usize = 4096;

/// Longest reason, in bytes.
pub const LONGEST_REASON: usize = 500;

/// No pin is longer; one without an end has none at all.
pub const LONGEST_PIN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What is done, by its name in paths, logs and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Make a member active, and keep it so.
    Switch,
    /// End the pin of a switch.
    Release,
    /// Take a member out.
    Drain,
    /// Take it back.
    Undrain,
    /// Stop automatic switching.
    Pause,
    /// Start it again.
    Resume,
    /// Give a member another weight.
    Weight,
    /// Add a member.
    AddMember,
    /// Remove a member.
    RemoveMember,
    /// Read the configuration file again.
    Reload,
}

impl Verb {
    /// The verb of `POST /v1/services/{service}/{name}`.
    #[must_use]
    pub fn of_service(name: &str) -> Option<Self> {
        let all = [
            Self::Switch,
            Self::Release,
            Self::Drain,
            Self::Undrain,
            Self::Pause,
            Self::Resume,
            Self::Weight,
        ];
        all.into_iter().find(|verb| verb.name() == name)
    }

    /// As it stands in paths, logs and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Switch => "switch",
            Self::Release => "release",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Weight => "weight",
            Self::AddMember => "add_member",
            Self::RemoveMember => "remove_member",
            Self::Reload => "reload",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is to be done with a service. Members are named; whether there is one of that name, the agent knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// `switch`
    Switch {
        /// The member that is to be active.
        member: String,
        /// How long it stays so; `None`: until it is released.
        hold: Option<Duration>,
        /// Without asking its checks, and although somebody else has pinned another one.
        force: bool,
    },
    /// `release`
    Release,
    /// `drain`
    Drain {
        /// Which member.
        member: String,
        /// Although it is the last one that is up, or the other one is not ready.
        force: bool,
    },
    /// `undrain`
    Undrain {
        /// Which member.
        member: String,
    },
    /// `pause`
    Pause,
    /// `resume`
    Resume,
    /// `weight`
    Weight {
        /// Which member.
        member: String,
        /// At least 1.
        weight: u32,
    },
}

impl Order {
    /// Its verb.
    #[must_use]
    pub fn verb(&self) -> Verb {
        match self {
            Self::Switch { .. } => Verb::Switch,
            Self::Release => Verb::Release,
            Self::Drain { .. } => Verb::Drain,
            Self::Undrain { .. } => Verb::Undrain,
            Self::Pause => Verb::Pause,
            Self::Resume => Verb::Resume,
            Self::Weight { .. } => Verb::Weight,
        }
    }

    /// The member that it names.
    #[must_use]
    pub fn member(&self) -> Option<&str> {
        match self {
            Self::Switch { member, .. }
            | Self::Drain { member, .. }
            | Self::Undrain { member }
            | Self::Weight { member, .. } => Some(member),
            Self::Release | Self::Pause | Self::Resume => None,
        }
    }
}

/// A request for a change, as its body says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What is to be done.
    pub order: Order,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Whether it is only to be said what would happen.
    pub dry_run: bool,
}

/// Body of `switch`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SwitchBody {
    member: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    r#for: Option<Span>,
    #[serde(default)]
    force: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// Body of `drain`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainBody {
    member: String,
    #[serde(default)]
    force: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// Body of `undrain`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UndrainBody {
    member: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// Body of `weight`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightBody {
    member: String,
    weight: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// Body of the others.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// A time as people write it: `"1h 30m"`.
struct Span(Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        span(&text).map(Self).map_err(D::Error::custom)
    }
}

/// Reads how long a pin holds.
///
/// # Errors
/// It is no time, or too short or long; in words.
pub fn span(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("{text:?} is no time ({error}); write number and unit, such as \"1h\""))?;
    if (Duration::from_secs(1)..=LONGEST_PIN).contains(&time) {
        return Ok(time);
    }
    Err(format!("{text:?} is outside of 1s to {}", humantime::format_duration(LONGEST_PIN)))
}

impl Asked {
    /// Reads the body of a request; nothing at all is `{}`.
    ///
    /// # Errors
    /// What is wrong, in words.
    ///
    /// # Panics
    /// For a verb that is not one of a service ([`Verb::of_service`]).
    pub fn read(verb: Verb, body: &[u8]) -> Result<Self, String> {
        fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
            let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
            serde_json::from_slice(body).map_err(|error| error.to_string())
        }

        let (order, reason, dry_run) = match verb {
            Verb::Switch => {
                let SwitchBody { member, r#for, force, reason, dry_run } = json(body)?;
                (Order::Switch { member, hold: r#for.map(|span| span.0), force }, reason, dry_run)
            }
            Verb::Drain => {
                let DrainBody { member, force, reason, dry_run } = json(body)?;
                (Order::Drain { member, force }, reason, dry_run)
            }
            Verb::Undrain => {
                let UndrainBody { member, reason, dry_run } = json(body)?;
                (Order::Undrain { member }, reason, dry_run)
            }
            Verb::Weight => {
                let WeightBody { member, weight, reason, dry_run } = json(body)?;
                if weight == 0 {
                    return Err("`weight` is 0; the lowest is 1, and `drain` takes a member out".into());
                }
                (Order::Weight { member, weight }, reason, dry_run)
            }
            Verb::Release | Verb::Pause | Verb::Resume => {
                let PlainBody { reason, dry_run } = json(body)?;
                let order = match verb {
                    Verb::Release => Order::Release,
                    Verb::Pause => Order::Pause,
                    _ => Order::Resume,
                };
                (order, reason, dry_run)
            }
            Verb::AddMember | Verb::RemoveMember | Verb::Reload => unreachable!("no verb of a service"),
        };
        let reason = reason.map(|reason| checked_reason(&reason)).transpose()?.flatten();
        Ok(Self { order, reason, dry_run })
    }

    /// The body of the request. [`Asked::read`] reads it.
    ///
    /// # Errors
    /// Never, as far as is known: text and numbers can be written.
    pub fn to_body(&self) -> serde_json::Result<Vec<u8>> {
        let (reason, dry_run) = (self.reason.clone(), self.dry_run);
        match &self.order {
            Order::Switch { member, hold, force } => serde_json::to_vec(&SwitchBody {
                member: member.clone(),
                r#for: hold.map(Span),
                force: *force,
                reason,
                dry_run,
            }),
            Order::Drain { member, force } => {
                serde_json::to_vec(&DrainBody { member: member.clone(), force: *force, reason, dry_run })
            }
            Order::Undrain { member } => {
                serde_json::to_vec(&UndrainBody { member: member.clone(), reason, dry_run })
            }
            Order::Weight { member, weight } => {
                serde_json::to_vec(&WeightBody { member: member.clone(), weight: *weight, reason, dry_run })
            }
            Order::Release | Order::Pause | Order::Resume => {
                serde_json::to_vec(&PlainBody { reason, dry_run })
            }
        }
    }
}

/// A reason that can stand in a log line. An empty one is none.
///
/// # Errors
/// It cannot; in words.
pub fn checked_reason(text: &str) -> Result<Option<String>, String> {
    let text = text.trim();
    if text.len() > LONGEST_REASON {
        return Err(format!("`reason` has {} bytes, and may have {LONGEST_REASON}", text.len()));
    }
    if text.contains(char::is_control) {
        return Err("`reason` has a line break or another control character".into());
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// What became of a request for a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`super::status::VERSION`].
    pub version: u32,
    /// Name of the service.
    pub service: String,
    /// What was asked for.
    pub verb: Verb,
    /// The member that was named.
    pub member: Option<String>,
    /// Whether this says what *would* happen.
    pub dry_run: bool,
    /// What happened, or would, in words.
    pub message: String,
    /// Name of the active member now.
    pub active: Option<String>,
    /// Epoch now.
    pub epoch: u32,
    /// Name of the member that is pinned now.
    pub pinned: Option<String>,
    /// Whether automatic switching is stopped now.
    pub paused: bool,
    /// The member that the request left, and what becomes of its flows; `None`: it left none.
    pub left: Option<Left>,
}

/// A member that was left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Its name.
    pub member: String,
    /// What becomes of its flows.
    pub flows: FlowPolicy,
    /// Until when they may go on (RFC 3339, UTC); `None`: they are reset at once, or go on for ever.
    pub until: Option<String>,
}

/// Why a request for a change was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which kind of refusal.
    pub kind: RefusedKind,
    /// What stands against it.
    pub message: String,
    /// What to do.
    pub next: String,
}

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedKind {
    /// There is no service or member of that name.
    Unknown,
    /// As things are, it cannot be done.
    Conflict,
    /// The kernel refused.
    Failed,
}

/// A change that somebody asked for, for the record: also those that were refused, and dry runs as such.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// What.
    pub verb: Verb,
    /// Name of the service, as it was asked for; `None`: the whole agent.
    pub service: Option<String>,
    /// Name of the member, likewise.
    pub member: Option<String>,
    /// Whether it was only to be said what would happen.
    pub dry_run: bool,
    /// Who.
    pub who: Who,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// What became of it.
    pub result: OperationResult,
    /// What happened or stood against it, in words.
    pub message: String,
}

/// What became of a request for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationResult {
    /// It was done; or would be, if it was a dry run.
    Done,
    /// It could not be done.
    Refused,
    /// Whoever asked may not.
    Denied,
}

impl fmt::Display for OperationResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Denied => "denied",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order() -> impl Strategy<Value = Order> {
        let member = || ".{0,80}".prop_map(String::from);
        let hold = prop::option::of((1000..2_592_000_000_u64).prop_map(Duration::from_millis));
        prop_oneof![
            (member(), hold, any::<bool>()).prop_map(|(member, hold, force)| Order::Switch {
                member,
                hold,
                force
            }),
            Just(Order::Release),
            (member(), any::<bool>()).prop_map(|(member, force)| Order::Drain { member, force }),
            member().prop_map(|member| Order::Undrain { member }),
            Just(Order::Pause),
            Just(Order::Resume),
            (member(), 1..=u32::MAX).prop_map(|(member, weight)| Order::Weight { member, weight }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(order in order(), reason in prop::option::of("[a-zà-ü\"\\\\]{1,100}"), dry_run: bool) {
            let asked = Asked { order, reason, dry_run };
            prop_assert_eq!(Asked::read(asked.order.verb(), &asked.to_body().unwrap()), Ok(asked));
        }

        /// Whatever comes is a request or is refused in words.
        #[test]
        fn no_body_is_too_strange(body: Vec<u8>, json in "\\{(\"(member|for|weight|reason|dry_run|x)\":(1|-1|null|true|\"1h\"|\"a\"|\\[\\]),?){0,5}\\}?") {
            for verb in ["switch", "release", "drain", "undrain", "pause", "resume", "weight"] {
                let verb = Verb::of_service(verb).unwrap();
                for body in [&body[..], json.as_bytes()] {
                    match Asked::read(verb, body) {
                        Ok(asked) => prop_assert_eq!(asked.order.verb(), verb),
                        Err(error) => prop_assert!(!error.is_empty()),
                    }
                }
            }
        }
    }

    #[test]
    fn a_reason_fits_on_a_line() {
        assert_eq!(checked_reason("  "), Ok(None));
        assert_eq!(checked_reason(" a b\n"), Ok(Some("a b".to_owned())));
        for wrong in ["a\nb", "\u{1b}[2J", &"x".repeat(LONGEST_REASON + 1)] {
            assert!(checked_reason(wrong).is_err(), "{wrong}");
        }
    }
}
