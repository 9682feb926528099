//! One look at one address of a member: as the checks come, then as the applications come.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use tokio::time::timeout;

use super::{
    Finding, Target,
    certificate::Expiry,
    cluster,
    facts::{Facts, Info},
    software,
};
use crate::{
    model::{Access, Cause, Failure, Phase, RedisErrorKind, Tls, TlsFault},
    probe::{
        redis::Connection,
        stop::{self, Stop},
    },
};

/// How long one question of a look may take. Nobody waits for it, and a member that is slow is not one that breaks
/// applications.
const PATIENCE: Duration = Duration::from_secs(5);

/// Exists nowhere, and is only read.
const KEY: &str = "redirector:readiness";

/// What one look at one address saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// When it ended.
    pub at: SystemTime,
    /// Whether Redis let the checks in; else hardly anything is known.
    pub is_inside: bool,
    /// When the first certificate that the member showed is over; `None`: none was seen.
    pub certificate_expires: Option<SystemTime>,
    /// What would hurt, by itself; comparisons come with [`super::judge`].
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why, in words.
    pub unknown: Vec<String>,
    pub(super) facts: Facts,
}

/// Looks once. It opens connections of its own, and takes a small multiple of [`PATIENCE`] at most.
pub async fn look(target: &Target, address: SocketAddr) -> Look {
    let mut look = Look {
        at: SystemTime::now(),
        is_inside: false,
        certificate_expires: None,
        findings: Vec::new(),
        unknown: Vec::new(),
        facts: Facts::default(),
    };
    look.as_checks(target, address).await;
    look.as_applications(target, address).await;
    if let Some(rest) = &target.rest {
        software::look(&mut look, rest, target, address).await;
    }
    look.at = SystemTime::now();
    look
}

impl Look {
    /// What the member shows to whoever may look.
    async fn as_checks(&mut self, target: &Target, address: SocketAddr) {
        let entered = async {
            let mut connection = self.connect(address, &target.access).await?;
            let mut phase = Phase::Authenticate;
            let entered = within(connection.enter(&target.access.login, &mut phase)).await;
            settle(entered, phase, address)?;
            Ok(connection)
        };
        let mut connection = match entered.await {
            Ok(connection) => connection,
            Err(failure) => return self.note("the member", &failure),
        };
        self.is_inside = true;
        let Some(info) = self.info(&mut connection, address).await else { return };
        info.fill(&mut self.facts);
        self.findings.extend(info.maxclients());
        if info.is_cluster() {
            self.cluster(&mut connection, address, &target.vips).await;
        }
    }

    async fn info(&mut self, connection: &mut Connection, address: SocketAddr) -> Option<Info> {
        // All sections: several by name are known since Redis 7.
        let answer = within(connection.ask(&redis::cmd("INFO"))).await;
        match settle(answer, Phase::Command, address) {
            Ok(answer) => Info::of(answer).or_else(|| self.unclear("INFO: the answer is no text".to_owned())),
            Err(failure) => {
                self.note("INFO", &failure);
                None
            }
        }
    }

    async fn cluster(&mut self, connection: &mut Connection, address: SocketAddr, vips: &[SocketAddr]) {
        let answer = within(connection.ask(redis::cmd("CLUSTER").arg("SLOTS"))).await;
        match settle(answer, Phase::Command, address).map(|answer| cluster::around(&answer, vips)) {
            Ok(Ok(found)) => self.findings.extend(found),
            Ok(Err(())) => {
                self.unclear::<()>("CLUSTER SLOTS: not an answer that its documents know".to_owned());
            }
            Err(failure) => self.note("CLUSTER SLOTS", &failure),
        }
    }

    /// Comes as the applications do, as far as that is known and is another way than that of the checks.
    async fn as_applications(&mut self, target: &Target, address: SocketAddr) {
        let login = &target.application.login;
        let name = target.application.server_name.as_ref().filter(|_| target.access.tls.is_some());
        if login.password.is_none() && name.is_none() {
            return;
        }
        let tls = target.access.tls.as_ref().map(|tls| Tls {
            server_name: name.or(tls.server_name.as_ref()).cloned(),
            trust: tls.trust.clone(),
        });
        let access = Access { login: login.clone(), tls, host: target.access.host.clone() };
        let mut connection = match self.connect(address, &access).await {
            Ok(connection) => connection,
            // Said already.
            Err(_) if !self.is_inside && self.findings.is_empty() => return,
            Err(failure) => return self.note("the way of the applications", &failure),
        };
        if login.password.is_none() {
            return;
        }
        let mut phase = Phase::Authenticate;
        let entered = settle(within(connection.enter(login, &mut phase)).await, phase, address);
        let answer = match entered {
            Ok(()) => {
                let answer = within(connection.ask(redis::cmd("GET").arg(KEY))).await;
                settle(answer, Phase::Command, address).map(|_| ())
            }
            Err(failure) => Err(failure),
        };
        match answer {
            Ok(()) => self.facts.may_get = Some(true),
            Err(Failure { cause: Cause::Redis(RedisErrorKind::NoPerm, text), .. }) => {
                self.facts.may_get = Some(is_about_a_key(&text));
            }
            Err(Failure { cause: Cause::Redis(kind, text), .. }) if kind.is_about_credentials() => {
                self.findings.push(Finding::Credentials(text));
            }
            Err(failure) => self.note("the login of the applications", &failure),
        }
    }

    /// Over TLS if the checks do, and with a look at the certificates.
    async fn connect(&mut self, address: SocketAddr, access: &Access) -> Result<Connection, Failure> {
        let mut phase = Phase::Connect;
        let connected = within(Connection::connect(address, access, &mut phase)).await;
        let connection = settle(connected, phase, address)?;
        if self.certificate_expires.is_none()
            && let Some(expiry) = Expiry::of(connection.certificates())
        {
            self.certificate_expires = Some(expiry.at);
            self.findings.extend(expiry.finding(SystemTime::now()));
        }
        Ok(connection)
    }

    /// A failure that hurts applications just as well is found, another one leaves something unknown.
    pub(super) fn note(&mut self, what: &str, failure: &Failure) {
        match hurts(&failure.cause) {
            Some(finding) if self.findings.contains(&finding) => {}
            Some(finding) => self.findings.push(finding),
            None => {
                self.unclear::<()>(format!("{what}: {failure}{}", next(&failure.cause)));
            }
        }
    }

    pub(super) fn unclear<T>(&mut self, why: String) -> Option<T> {
        self.unknown.push(why);
        None
    }
}

/// One question within [`PATIENCE`]: what came of it, and how long that took.
pub(super) async fn within<T>(
    asked: impl Future<Output = Result<T, Stop>>,
) -> (Option<Result<T, Stop>>, Duration) {
    let started = Instant::now();
    let ended = timeout(PATIENCE, asked).await.ok();
    (ended, started.elapsed())
}

/// The same in the words of probes.
pub(super) fn settle<T>(
    (ended, elapsed): (Option<Result<T, Stop>>, Duration),
    phase: Phase,
    address: SocketAddr,
) -> Result<T, Failure> {
    let cause = match ended {
        Some(Ok(value)) => return Ok(value),
        Some(Err(Stop::Answer(cause))) => cause,
        Some(Err(Stop::Io(error))) => stop::cause(&error, address, elapsed),
        None => Cause::TimedOut(PATIENCE),
    };
    Err(Failure { phase, cause })
}

/// What applications would meet, too. A client certificate of the checks that is refused is their own trouble.
fn hurts(cause: &Cause) -> Option<Finding> {
    match cause {
        Cause::Tls(TlsFault::Refused, _) => None,
        Cause::Tls(TlsFault::WrongName, text) => Some(Finding::CertificateName(text.clone())),
        Cause::Tls(TlsFault::Expired, text) => Some(Finding::CertificateExpired(text.clone())),
        Cause::Tls(_, text) => Some(Finding::Tls(text.clone())),
        Cause::Redis(RedisErrorKind::MaxClients, _) => Some(Finding::MaxclientsReached),
        _ => None,
    }
}

/// What to do about something unknown, where that is not said already.
fn next(cause: &Cause) -> &'static str {
    match cause {
        Cause::Redis(RedisErrorKind::NoPerm, _) => {
            "; give the user of the checks the rights +info and +cluster|slots"
        }
        _ => "",
    }
}

/// Redis judges the command before its keys: who may not touch this key may say `GET`.
fn is_about_a_key(text: &str) -> bool {
    text.contains("key") && !text.contains("command")
}

#[cfg(test)]
mod tests {
    use super::is_about_a_key;

    /// Of Redis 6 and 7.
    #[test]
    fn a_key_that_is_refused_is_no_command_that_is() {
        for text in [
            "NOPERM this user has no permissions to access one of the keys used as arguments",
            "NOPERM No permissions to access a key",
        ] {
            assert!(is_about_a_key(text), "{text}");
        }
        for text in [
            "NOPERM this user has no permissions to run the 'get' command or its subcommand",
            "NOPERM User app has no permissions to run the 'get' command",
        ] {
            assert!(!is_about_a_key(text), "{text}");
        }
    }
}
