//! `[[service.hook]]`: commands and webhooks around switches.

use std::time::Duration;

use super::{
    error::Complaint,
    read::{Section, word},
    rest, url, user, witness,
};
use crate::model::{Hook, HookFailure, HookRun, HookWhen, SwitchKind};

const KINDS: [(&str, SwitchKind); 4] = [
    ("initial", SwitchKind::Initial),
    ("failover", SwitchKind::Failover),
    ("failback", SwitchKind::Failback),
    ("manual", SwitchKind::Manual),
];

/// Those of switches that can wait.
const PATIENT: [SwitchKind; 2] = [SwitchKind::Failback, SwitchKind::Manual];

const TIMEOUT: Duration = Duration::from_secs(5);

/// How long all hooks before a switch may take together: an operator who asked for it waits, the control socket no longer
/// than 40 s, the round of checks included.
const LONGEST: Duration = Duration::from_secs(20);

pub(super) fn read(service: &Section<'_>) -> Vec<Hook> {
    let sections = service.list("hook");
    let hooks: Vec<_> = sections.iter().map(hook).collect();
    let before = hooks.iter().filter(|hook| hook.when == HookWhen::Before);
    if let Some(section) = sections.last()
        && before.map(|hook| hook.timeout).sum::<Duration>() > LONGEST
    {
        let cause = "the hooks before a switch may take longer than 20s together";
        section.fault(section.at(), Complaint::new(cause, "shorten their `timeout`s"));
    }
    hooks
}

fn hook(section: &Section<'_>) -> Hook {
    if !section.has("when") {
        section.missing("when");
    }
    let whens = [("before", HookWhen::Before), ("after", HookWhen::After)];
    let when = section.word("when", &whens, &[]).unwrap_or(HookWhen::After);
    let failures = [("go_on", HookFailure::GoOn), ("veto", HookFailure::Veto)];
    let on_failure = section.word("on_failure", &failures, &[]).unwrap_or(HookFailure::Veto);
    if let Some(at) = section.place_of("on_failure").filter(|_| when == HookWhen::After) {
        let cause = "`on_failure` of a hook after the switch, which nothing waits for";
        section.fault(at, Complaint::new(cause, "remove it, or write when = \"before\""));
    }
    let run = run(section);
    Hook {
        name: match &run {
            HookRun::Command { command, .. } => command.first().cloned().unwrap_or_default(),
            HookRun::Url { url, .. } => {
                format!("{}://{}", if url.is_https { "https" } else { "http" }, url.authority())
            }
        },
        when,
        kinds: kinds(section, when),
        timeout: section.time("timeout", Duration::from_millis(1)).map_or(TIMEOUT, |time| time.value),
        on_failure,
        run,
    }
}

fn kinds(section: &Section<'_>, when: HookWhen) -> Vec<SwitchKind> {
    let written = section.texts("kinds", |text| word("kinds", text, &KINDS, &[]));
    let Some(written) = written else {
        return match when {
            HookWhen::Before => PATIENT.to_vec(),
            HookWhen::After => KINDS.map(|(_, kind)| kind).to_vec(),
        };
    };
    if when == HookWhen::Before
        && let Some(kind) = written.iter().find(|kind| !PATIENT.contains(&kind.value))
    {
        let cause = format!("a hook before a switch of kind \"{}\", which nothing may delay", kind.value);
        let next = "leave \"failback\" and \"manual\", or write when = \"after\"";
        section.fault(kind.at, Complaint::new(cause, next));
    }
    written.into_iter().map(|kind| kind.value).collect()
}

fn run(section: &Section<'_>) -> HookRun {
    match (section.place_of("command"), section.place_of("url")) {
        (Some(_), Some(at)) => {
            section.fault(at, Complaint::new("`command` and `url` in one hook", "make two hooks of them"));
        }
        (None, None) => {
            let next =
                format!("add one of them, for example {}", "command = [\"/usr/local/lib/redirector/tell\"]");
            section.fault(section.at(), Complaint::new("a hook without `command` or `url`", next));
        }
        _ => {}
    }
    let (of, others): (_, &[_]) = match section.has("url") {
        true => ("url", &["user"]),
        false => ("command", &["ca_file", "server_name"]),
    };
    for key in others {
        if let Some(at) = section.place_of(key) {
            let cause = format!("`{key}` means nothing to a hook with `{of}`");
            section.fault(at, Complaint::new(cause, "remove it"));
        }
    }
    if section.has("url") {
        let Some(url) = section.text("url", |text| url::url("url", text)) else { return HookRun::default() };
        return HookRun::Url { tls: rest::tls(section, &url), url: url.value };
    }
    let user = section.text("user", user::user).map(|user| user.value);
    let command = if section.has("command") { witness::command(section) } else { Vec::new() };
    HookRun::Command { command, user: user.unwrap_or_else(user::nobody) }
}
