//! An initial RAM file system: the kernel's `cpio` archive of the format "newc"
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::collections::BTreeSet;

/// An archive in the making.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    const DIRECTORY: u32 = 0o040_000;
    const FILE: u32 = 0o100_000;

    /// Adds a directory and what is missing above it.
    pub(super) fn directory(&mut self, path: &str) {
        if let Some((above, _)) = path.rsplit_once('/').filter(|(above, _)| !above.is_empty()) {
            self.directory(above);
        }
        if self.directories.insert(path.to_owned()) {
            self.entry(path, Self::DIRECTORY | 0o755, &[]);
        }
    }

    /// Adds a file and the directories that it is in.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        if let Some((directory, _)) = path.rsplit_once('/').filter(|(above, _)| !above.is_empty()) {
            self.directory(directory);
        }
        self.entry(path, Self::FILE | mode, content);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let name = path.trim_start_matches('/');
        self.entries += 1;
        // A file of 4 GiB is none of a test's.
        let length = u32::try_from(content.len()).expect("a file below 4 GiB");
        let name_length = u32::try_from(name.len() + 1).expect("a name below 4 GiB");
        // inode, mode, user, group, links, time, length, four device numbers, name's length, checksum (unused)
        let fields = [self.entries, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08x}").bytes()));
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_directories_come_once_and_first() {
        let mut archive = Archive::default();
        archive.file("/lib/a/x", 0o644, b"12345");
        archive.file("/lib/a/y", 0o755, b"");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert!(starts.iter().all(|at| at % 4 == 0), "{starts:?}");
        let names: Vec<&str> = starts.iter().map(|at| text[at + 110..].split('\0').next().unwrap()).collect();
        assert_eq!(names, ["lib", "lib/a", "lib/a/x", "lib/a/y", "TRAILER!!!"]);
        assert!(text[starts[2]..].starts_with("07070100000003000081a4"), "{text:?}");
    }
}
