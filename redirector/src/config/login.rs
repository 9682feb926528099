//! `[service.redis]` and `[service.member.redis]`: how checks reach and enter a member.

use std::path::Path;

use super::{
    error::Complaint,
    files::{self, Holds},
    read::{Section, Written},
    tls::{self, TlsKeys},
};
use crate::model::{Access, Endpoint, Login, Secret};

/// What one section says. The keys that a member gives override those of its service one by one.
#[derive(Clone, Default)]
pub(super) struct Credentials {
    username: Option<Written<String>>,
    password: Option<Secret>,
    /// Also when it could not be read, which is reported already.
    has_password: bool,
    tls: Option<TlsKeys>,
}

pub(super) fn read(section: &Section<'_>) -> Credentials {
    let (password, has_password) = password(section);
    Credentials { username: username(section), password, has_password, tls: tls::read(section) }
}

/// `username`: not empty.
pub(super) fn username(section: &Section<'_>) -> Option<Written<String>> {
    section.text("username", |text| {
        if text.is_empty() {
            let next = "remove the key for the default user";
            return Err(Complaint::new("`username` is empty", next));
        }
        Ok(text.to_owned())
    })
}

/// `password_file` or `password_credential`; and whether one is written, which it may be without being of use.
pub(super) fn password(section: &Section<'_>) -> (Option<Secret>, bool) {
    let file = password_file(section);
    let credential = section.text("password_credential", |name| credential(section, name));
    let written = [section.has("password_file"), section.has("password_credential")];
    if let ([true, true], Some(credential)) = (written, &credential) {
        let complaint =
            Complaint::new("`password_file` and `password_credential` in one section", "remove one of them");
        section.fault(credential.at, complaint);
    }
    (file.or(credential).map(|password| password.value), written.contains(&true))
}

/// `password_file`: a relative path counts from the configuration file.
pub(super) fn password_file(section: &Section<'_>) -> Option<Written<Secret>> {
    let config = section.document().path();
    section.text("password_file", |file| secret(&config.with_file_name(file), "`password_file`"))
}

/// A credential that systemd hands to the service: a file of that name in a directory that it tells.
fn credential(section: &Section<'_>, name: &str) -> Result<Secret, Complaint> {
    let is_name = Path::new(name).file_name().is_some_and(|file| file == name);
    if !is_name {
        let next = "give the name before the colon in LoadCredential=NAME:PATH";
        return Err(Complaint::new(
            format!("`password_credential` {name:?} is not the name of a file"),
            next,
        ));
    }
    let Some(directory) = section.document().credentials() else {
        let cause = format!(
            "`password_credential` {name:?} without $CREDENTIALS_DIRECTORY, which systemd sets for a service \
             that has credentials"
        );
        let next = format!(
            "add LoadCredential={name}:PATH to the unit; outside of it set CREDENTIALS_DIRECTORY, or use \
             `password_file`"
        );
        return Err(Complaint::new(cause, next));
    };
    secret(&directory.join(name), "`password_credential`")
}

/// Reads a password; one newline at the end is not part of it.
fn secret(path: &Path, key: &str) -> Result<Secret, Complaint> {
    let text = files::read(path, Holds::Password)?;
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        let next = format!("write the password into it, or remove {key}");
        return Err(Complaint::new(format!("password file {} is empty", path.display()), next));
    }
    Ok(Secret::new(line.to_owned()))
}

impl Credentials {
    /// How to enter a member whose own section says `self`, in a service that says `service`.
    pub(super) fn within(
        self,
        service: &Self,
        member: &Section<'_>,
        endpoint: Option<&Written<Endpoint>>,
    ) -> Access {
        let username = self.username.or_else(|| service.username.clone());
        if let Some(username) = username.as_ref().filter(|_| !self.has_password && !service.has_password) {
            let complaint = Complaint::new(
                "`username` without `password_file` or `password_credential`",
                "name the file with the user's password, or remove `username`",
            );
            member.fault(username.at, complaint);
        }
        Access {
            login: Login {
                username: username.map(|username| username.value),
                password: self.password.or_else(|| service.password.clone()),
            },
            tls: tls::within(self.tls, service.tls.as_ref(), member, endpoint),
            host: endpoint.map_or_else(String::new, |endpoint| endpoint.value.host.clone()),
        }
    }
}
