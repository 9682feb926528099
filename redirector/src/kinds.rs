//! Whether what is at the paths of `[agent]` is of the kind that an agent needs there. What is not there is made by it.

use std::{
    fs, io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use crate::{config::Misfit, model::Agent};

/// Everything that is of another kind. What cannot be looked at is not said to be wrong.
#[must_use]
pub fn wrong(agent: &Agent) -> Vec<Misfit> {
    let Agent { control_socket, state_dir, record, .. } = agent;
    let misfit = |key, path, needed| Misfit::WrongKind { key, path, needed };
    let above = |key, path: &Path| Some(misfit(key, no_directory(path.parent()?)?, "directory"));
    let mut wrong = Vec::new();
    // A link to a socket is no place to bind one.
    if fs::symlink_metadata(control_socket).is_ok_and(|found| !found.file_type().is_socket()) {
        wrong.push(misfit("control_socket", control_socket.clone(), "socket"));
    }
    wrong.extend(above("control_socket", control_socket));
    wrong.extend(no_directory(state_dir).map(|path| misfit("state_dir", path, "directory")));
    if let Some(record) = record {
        if record.is_dir() {
            wrong.push(misfit("record", record.clone(), "file"));
        }
        wrong.extend(above("record", record));
    }
    wrong
}

/// What keeps `path` from being a directory, or from being made one: the first thing there, or above it, if that is none.
fn no_directory(path: &Path) -> Option<PathBuf> {
    for path in path.ancestors() {
        match fs::metadata(path) {
            Ok(found) => return (!found.is_dir()).then(|| path.to_owned()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::config;

    #[test]
    fn what_is_of_another_kind_is_named_and_what_is_not_there_is_not() {
        let dir = std::env::temp_dir().join(format!("redirector-kinds-{}", std::process::id()));
        fs::create_dir_all(dir.join("dir")).unwrap();
        fs::write(dir.join("file"), "").unwrap();
        let _listener = UnixListener::bind(dir.join("socket")).unwrap();
        let with = |control_socket: &str, state_dir: &str, record: &str| {
            let agent = config::defaults_of_the_host().0;
            let at = |path: &str| dir.join(path);
            let paths = (at(control_socket), at(state_dir), Some(at(record)));
            let found =
                wrong(&Agent { control_socket: paths.0, state_dir: paths.1, record: paths.2, ..agent });
            let shown = found.into_iter().map(|misfit| match misfit {
                Misfit::WrongKind { key, path, needed } => {
                    (key, path.strip_prefix(&dir).unwrap().display().to_string(), needed)
                }
                other => panic!("{other:?}"),
            });
            shown.collect::<Vec<_>>()
        };
        assert_eq!(with("socket", "dir", "file"), []);
        assert_eq!(with("new/socket", "new/state", "new/record"), []);
        let expected = [
            ("control_socket", "dir", "socket"),
            ("state_dir", "file", "directory"),
            ("record", "dir", "file"),
        ];
        assert_eq!(
            with("dir", "file", "dir"),
            expected.map(|(key, path, kind)| (key, path.to_owned(), kind))
        );
        let above =
            ["control_socket", "state_dir", "record"].map(|key| (key, "file".to_owned(), "directory"));
        assert_eq!(with("file/a/socket", "file/state", "file/record"), above);
        fs::remove_dir_all(&dir).unwrap();
    }
}
