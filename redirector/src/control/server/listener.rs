//! The control socket in the file system: opened, taken from an agent that is gone, removed.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    os::unix::net::{UnixListener as StdListener, UnixStream as StdStream},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use tokio::net::UnixListener;

/// The control socket, open and in the file system. Dropping it removes the file.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UnixListener,
    path: PathBuf,
    /// Device and inode: another agent may have replaced the file by the time of the drop.
    file: (u64, u64),
}

/// Opens the control socket at `path`, in mode 0666: everybody may read the status.
///
/// Makes the directory. Replaces the socket of an agent that is gone. The look at the old socket and its removal are
/// two steps, so of two agents that start in the same instant the caller must have stopped one already (they would
/// share the pin directory).
///
/// # Errors
///
/// Another agent answers on the socket; the path is something else than a socket; the file system says no.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn bind(path: &Path) -> Result<Listener> {
    let shown = path.display();
    let next = "run as root, or change control_socket in [agent]";
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::AlreadyExists => format!("{} is not a directory", directory.display()),
                _ => error.to_string(),
            };
            anyhow!("control socket {shown}: its directory cannot be made ({why}); {next}")
        })?;
    }
    refuse_taken(path)?;
    remove_abandoned(path).map_err(|error| {
        anyhow!("control socket {shown}: the old one cannot be removed ({error}); {next}")
    })?;
    let socket = StdListener::bind(path).map_err(|error| {
        anyhow!(
            "control socket {shown}: cannot bind ({error}); check the path (at most 107 bytes) and its directory's mode"
        )
    })?;
    let file = identity(&fs::symlink_metadata(path)?);
    socket.set_nonblocking(true)?;
    let listener = Listener { socket: UnixListener::from_std(socket)?, path: path.to_owned(), file };
    let everybody = fs::Permissions::from_mode(0o666);
    fs::set_permissions(path, everybody)
        .with_context(|| format!("control socket {shown}: cannot set its mode"))?;
    Ok(listener)
}

/// Removes the socket that an agent left behind when it was killed. Whatever else is there stays.
///
/// # Errors
///
/// The file system says no.
pub fn remove_abandoned(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    match StdStream::connect(path) {
        Err(error) if is_socket && error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Refuses a path where something else than an abandoned socket is.
fn refuse_taken(path: &Path) -> Result<()> {
    let shown = path.display();
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|error| {
            anyhow!("control socket {shown}: cannot look at it ({error}); change control_socket in [agent]")
        })?,
    };
    if !metadata.file_type().is_socket() {
        bail!(
            "control socket {shown}: there is something else than a socket; move it away or change control_socket in \
             [agent]"
        );
    }
    match StdStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => bail!(
            "control socket {shown}: cannot tell whether an agent uses it ({error}); run as root, or change \
             control_socket in [agent]"
        ),
        Ok(_) => bail!(
            "control socket {shown}: another agent answers on it; stop that one, or give this one its own \
             `control_socket`, `device` and `pin_dir`"
        ),
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Drop for Listener {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.file) {
            // Nothing depends on it: the next agent replaces a file that stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}
