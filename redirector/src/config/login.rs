//! `[service.redis]` and `[service.member.redis]`: how checks log in, and the password files.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use super::{
    error::Complaint,
    read::{Section, Written},
};
use crate::model::{Login, Secret};

/// Larger files are a mistake (a key, a log), not a password.
const LARGEST_PASSWORD: u64 = 4096;

/// What one section says. The keys that a member gives override those of its service one by one.
#[derive(Clone, Default)]
pub(super) struct Credentials {
    username: Option<Written<String>>,
    password: Option<Secret>,
    /// Also when the file could not be read, which is reported already.
    has_password: bool,
}

pub(super) fn read(section: &Section<'_>) -> Credentials {
    let username = section.text("username", |text| {
        if text.is_empty() {
            let next = "remove the key for the default user";
            return Err(Complaint::new("`username` is empty", next));
        }
        Ok(text.to_owned())
    });
    let config = section.document().path();
    let password = section.text("password_file", |file| password(&config.with_file_name(file)));
    Credentials {
        username,
        password: password.map(|password| password.value),
        has_password: section.has("password_file"),
    }
}

impl Credentials {
    /// The login of a member whose own section says `self`, in a service that says `service`.
    pub(super) fn within(self, service: &Self, member: &Section<'_>) -> Login {
        let username = self.username.or_else(|| service.username.clone());
        if let Some(username) = username.as_ref().filter(|_| !self.has_password && !service.has_password) {
            let complaint = Complaint::new(
                "`username` without `password_file`",
                "name the file with the user's password, or remove `username`",
            );
            member.fault(username.at, complaint);
        }
        Login {
            username: username.map(|username| username.value),
            password: self.password.or_else(|| service.password.clone()),
        }
    }
}

/// Reads a password; one newline at the end is not part of it. No message contains any of it.
fn password(path: &Path) -> Result<Secret, Complaint> {
    let shown = path.display();
    let bytes = read_small(path).map_err(|error| {
        let next = "correct the path, or let the user that runs the agent read the file";
        Complaint::new(format!("password file {shown} cannot be read ({error})"), next)
    })?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Complaint::new(format!("password file {shown} is not UTF-8"), "write the password as text")
    })?;
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        let next = "write the password into it, or remove `password_file`";
        return Err(Complaint::new(format!("password file {shown} is empty"), next));
    }
    Ok(Secret::new(line.to_owned()))
}

/// Looks at the file before it is opened: to open a FIFO would wait for somebody to write to it.
fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.mode() & 0o004 != 0 {
        tracing::warn!("password file {} can be read by everybody; chmod o-r it", path.display());
    }
    let mut bytes = Vec::new();
    let size = File::open(path)?.take(LARGEST_PASSWORD + 1).read_to_end(&mut bytes)?;
    if size as u64 > LARGEST_PASSWORD {
        return Err(io::Error::other(format!("larger than {LARGEST_PASSWORD} bytes")));
    }
    Ok(bytes)
}
