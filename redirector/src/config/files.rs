//! The files that a configuration names: passwords, certificates, keys. No message contains any of what they hold.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use super::error::Complaint;

/// What a file is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Password,
    Certificates,
    Key,
}

impl Holds {
    fn name(self) -> &'static str {
        match self {
            Self::Password => "password file",
            Self::Certificates => "certificate file",
            Self::Key => "key file",
        }
    }

    /// In bytes. Larger files are a mistake: a key or a log in place of a password. The certificates of a whole system are
    /// below it.
    fn largest(self) -> u64 {
        match self {
            Self::Password => 4096,
            Self::Certificates => 4 << 20,
            Self::Key => 64 << 10,
        }
    }

    fn as_text(self) -> &'static str {
        match self {
            Self::Password => "write the password as text",
            Self::Certificates | Self::Key => "save it in PEM form",
        }
    }
}

/// Reads a file as text. A secret that everybody may read is warned about.
pub(super) fn read(path: &Path, holds: Holds) -> Result<String, Complaint> {
    let (name, shown) = (holds.name(), path.display());
    let bytes = read_small(path, holds).map_err(|error| {
        let next = "correct the path, or let the user that runs the agent read the file";
        Complaint::new(format!("{name} {shown} cannot be read ({error})"), next)
    })?;
    String::from_utf8(bytes)
        .map_err(|_| Complaint::new(format!("{name} {shown} is not UTF-8"), holds.as_text()))
}

/// Looks at the file before it is opened: to open a FIFO would wait for somebody to write to it.
fn read_small(path: &Path, holds: Holds) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if holds != Holds::Certificates && metadata.mode() & 0o004 != 0 {
        tracing::warn!("{} {} can be read by everybody; chmod o-r it", holds.name(), path.display());
    }
    let mut bytes = Vec::new();
    let largest = holds.largest();
    let size = File::open(path)?.take(largest + 1).read_to_end(&mut bytes)?;
    if size as u64 > largest {
        return Err(io::Error::other(format!("larger than {largest} bytes")));
    }
    Ok(bytes)
}
