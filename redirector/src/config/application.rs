//! `[service.application]`: the applications' own login and the name that they verify.

use std::time::Duration;

use super::{error::Complaint, login, read::Section, tls};
use crate::model::{Application, Login, Member};

/// Shortest time from one look to the next: every look is a whole handshake or two.
const SHORTEST: Duration = Duration::from_secs(1);

/// What `section` says of the applications of a service with these `members`.
pub(super) fn read(section: &Section<'_>, members: &[Member]) -> Application {
    let (password, has_password) = login::password(section);
    let username = login::username(section);
    if let Some(username) = username.as_ref().filter(|_| !has_password) {
        let complaint = Complaint::new(
            "`username` without `password_file` or `password_credential`",
            "name the file with the password that applications use, or remove `username`",
        );
        section.fault(username.at, complaint);
    }
    Application {
        login: Login { username: username.map(|username| username.value), password },
        server_name: server_name(section, members),
        ready_every: ready_every(section).unwrap_or(Application::default().ready_every),
    }
}

/// Means something only where there is a certificate.
fn server_name(section: &Section<'_>, members: &[Member]) -> Option<String> {
    let name = tls::server_name(section);
    let has_tls = members.iter().any(|member| member.access.tls.is_some());
    if let Some(at) = section.place_of("server_name").filter(|_| !has_tls) {
        let next = "add `tls` to [service.redis], or remove `server_name`";
        section.fault(at, Complaint::new("`server_name` where no member is reached by TLS", next));
    }
    name
}

fn ready_every(section: &Section<'_>) -> Option<Duration> {
    let every = section.time("ready_every", Duration::ZERO)?;
    if !every.value.is_zero() && every.value < SHORTEST {
        let cause = format!("`ready_every` is {}, under 1s", humantime::format_duration(every.value));
        let next = "give at least 1s, or 0s for no look with the applications' login";
        section.fault(every.at, Complaint::new(cause, next));
    }
    Some(every.value)
}
