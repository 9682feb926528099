//! The keys of checks that ask somebody else than the member's Redis: `lag`, `http`, `exec`.

use std::{ops::RangeInclusive, time::Duration};

use super::{
    error::Complaint,
    read::{Section, Written},
    tls, url, user,
};
use crate::model::{
    Check, CheckKind, Endpoint, Exec, ExecOf, Http, HttpTarget, Lag, LagOf, Rest, Tls, Trust, Url,
};

/// How far behind a member may be, where nothing is said: as the client libraries.
const TOLERANCE: Duration = Duration::from_secs(5);

/// Longest text to look for.
const LONGEST_TEXT: usize = 1024;

pub(super) fn lag(section: &Section<'_>) -> CheckKind {
    let tolerance = section.time("tolerance", Duration::from_millis(1));
    if let Some(tolerance) = tolerance.filter(|tolerance| tolerance.value.subsec_nanos() % 1_000_000 != 0) {
        let complaint = Complaint::new("`tolerance` has a part of a millisecond", "round it");
        section.fault(tolerance.at, complaint);
    }
    let extended = section.boolean("extended").unwrap_or(true);
    if let Some(at) = section.place_of("tolerance").filter(|_| !extended) {
        let next = "remove one of them: without `extended` nobody asks for the lag";
        section.fault(at, Complaint::new("`tolerance` with `extended = false`", next));
    }
    CheckKind::Lag(Lag { tolerance: tolerance.map_or(TOLERANCE, |time| time.value), extended, of: None })
}

pub(super) fn http(section: &Section<'_>) -> CheckKind {
    let url = section.text("url", |text| url::url("url", text));
    let path = section.text("path", |text| url::path("path", text));
    let target = match (section.place_of("url"), section.place_of("path")) {
        (Some(_), Some(at)) => {
            let next =
                "remove one of them: `path` is asked of each address of a member, `url` is the same for all";
            section.fault(at, Complaint::new("`url` and `path` in one check", next));
            None
        }
        (None, None) => {
            let next = "add one of them, for example path = \"/health\" with port = 8080";
            section.fault(section.at(), Complaint::new("an http check without `path` or `url`", next));
            None
        }
        _ => url
            .map(|url| HttpTarget::Url(url.value))
            .or_else(|| Some(HttpTarget::Path { path: path?.value, port: port(section) })),
    };
    if let Some(at) = section.place_of("port").filter(|_| section.has("url")) {
        section.fault(at, Complaint::new("`port` beside `url`", "write it into the URL"));
    }
    // With a fault nothing is let out: one of the right sort will do for what members override of it.
    let target = target.unwrap_or_else(|| {
        let path = "/".to_owned();
        if section.has("url") {
            HttpTarget::Url(Url { is_https: true, host: String::new(), port: 443, path })
        } else {
            HttpTarget::Path { path, port: None }
        }
    });
    CheckKind::Http(Http {
        tls: tls_of(section, &target),
        target,
        status: section.text("status", statuses).map_or_else(|| vec![200..=200], |status| status.value),
        contains: section.text("contains", contains).map(|text| text.value),
    })
}

/// What a member overrides of an `http` check: where its server is. A URL stays one, and a path.
pub(super) fn other_target(section: &Section<'_>, kind: &mut CheckKind) {
    let CheckKind::Http(http) = kind else { return };
    let (kept, others): (_, &[_]) = match http.target {
        HttpTarget::Url(_) => ("url", &["path", "port"]),
        HttpTarget::Path { .. } => ("path", &["url"]),
    };
    for key in others {
        if let Some(at) = section.place_of(key) {
            let cause = format!("`{key}` overrides nothing of a check with `{kept}`");
            section.fault(at, Complaint::new(cause, format!("give another `{kept}`, or remove it")));
        }
    }
    match &mut http.target {
        HttpTarget::Url(old) => {
            let Some(url) = section.text("url", |text| url::url("url", text)) else { return };
            *old = url.value;
            http.tls = old.is_https.then(|| http.tls.take().unwrap_or_else(system));
        }
        HttpTarget::Path { path, port: at } => {
            if let Some(other) = section.text("path", |text| url::path("path", text)) {
                *path = other.value;
            }
            *at = port(section).or(*at);
        }
    }
}

/// Believes whom this host believes.
fn system() -> Tls {
    Tls { server_name: None, trust: Trust::system().into() }
}

fn port(section: &Section<'_>) -> Option<u16> {
    section.number("port", 1..=u16::MAX.into()).and_then(|port| u16::try_from(port).ok())
}

/// Of a path it makes https; a URL has it by its scheme.
fn tls_of(section: &Section<'_>, target: &HttpTarget) -> Option<Tls> {
    let keys = tls::read(section);
    match target {
        HttpTarget::Url(Url { is_https: false, .. }) => {
            if let Some(at) = section.place_of("tls") {
                let cause = "`tls` means nothing with a `url` that is not https";
                section.fault(at, Complaint::new(cause, "remove it, or write https"));
            }
            None
        }
        HttpTarget::Url(_) => Some(match keys {
            Some(keys) => tls::within(Some(keys), None, section, None)?,
            None => system(),
        }),
        HttpTarget::Path { .. } => tls::within(keys, None, section, None),
    }
}

/// `200`, `200-299`, or several of these with commas between them.
fn statuses(text: &str) -> Result<Vec<RangeInclusive<u16>>, Complaint> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let is_status = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            is_status
                .then(|| text.parse::<u16>().ok())
                .flatten()
                .filter(|status| (200..=599).contains(status))
        };
        let (first, last) = (number(first.trim())?, number(last.trim())?);
        (first <= last).then_some(first..=last)
    };
    text.split(',').map(range).collect::<Option<Vec<_>>>().ok_or_else(|| {
        let next = "write codes or ranges from 200 to 599, for example status = \"200-299\" or \"200, 204\"";
        Complaint::new(format!("`status` {text:?} has something that is no status code"), next)
    })
}

fn contains(text: &str) -> Result<String, Complaint> {
    if (1..=LONGEST_TEXT).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    let next = "shorten it, or remove the key: any body will do then";
    Err(Complaint::new(format!("`contains` must have 1 to {LONGEST_TEXT} bytes"), next))
}

pub(super) fn exec(section: &Section<'_>) -> CheckKind {
    let user = section.text("user", user::user).map(|user| user.value);
    CheckKind::Exec(Exec { command: command(section), user: user.unwrap_or_else(user::nobody), of: None })
}

/// A program by its absolute path, and its arguments.
pub(super) fn command(section: &Section<'_>) -> Vec<String> {
    let words = section.words("command").unwrap_or_default();
    match words.first() {
        None if !section.has("command") => section.missing("command"),
        Some(program) if !program.value.starts_with('/') => {
            let cause = format!("the program {:?} is not an absolute path", program.value);
            let next = "write where it is; no shell and no search path looks for it";
            section.fault(program.at, Complaint::new(cause, next));
        }
        _ => {}
    }
    if let Some(word) = words.iter().find(|word| word.value.contains('\0')) {
        section.fault(word.at, Complaint::new("`command` has a NUL character", "remove it"));
    }
    words.iter().map(|word| word.value.to_owned()).collect()
}

/// A member, as checks are told of it.
pub(super) struct Of<'a> {
    pub(super) service: &'a str,
    pub(super) member: &'a str,
    pub(super) endpoint: Option<&'a Written<Endpoint>>,
    pub(super) rest: Option<Rest>,
}

/// The checks of a member, which know now whom they are about.
pub(super) fn bind(mut checks: Vec<Check>, member: &Section<'_>, of: &Of<'_>) -> Vec<Check> {
    let lag = checks.iter().find(|check| matches!(check.kind, CheckKind::Lag(_)));
    if let Some(check) = lag.filter(|_| !member.has("rest")) {
        let cause = format!(
            "check {:?} asks the REST API of the member's cluster, and [service.member.rest] is missing",
            check.name
        );
        let next = "add it with `url`, `username` and `password_file`, or remove the check";
        member.fault(member.at(), Complaint::new(cause, next));
    }
    let Some(endpoint) = of.endpoint.map(|endpoint| &endpoint.value) else { return checks };
    for check in &mut checks {
        match &mut check.kind {
            CheckKind::Lag(lag) => {
                lag.of = of.rest.clone().map(|rest| LagOf { rest, endpoint: endpoint.clone() });
            }
            CheckKind::Exec(exec) => {
                let (service, member) = (of.service.to_owned(), of.member.to_owned());
                exec.of = Some(ExecOf { service, member, endpoint: endpoint.clone() });
            }
            _ => {}
        }
    }
    checks
}
