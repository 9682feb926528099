//! Supplementary groups of the process at the other end of a Unix socket.
//!
//! `SO_PEERCRED` tells user and main group only, and whoever was let into a group with `usermod -aG` has it among the
//! others. `/proc/PID/status` would tell what they are now, of whatever process has that number now; the socket keeps what they
//! were when it was connected.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// Groups that a process seldom has more of; `NGROUPS_MAX` is 65536.
const USUAL: usize = 32;

/// The supplementary groups that the peer had when it connected (`SO_PEERGROUPS`, Linux 4.13).
///
/// # Errors
/// The socket is no connected Unix socket.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; USUAL];
    loop {
        let room = size_of_val(groups.as_slice());
        let mut length = libc::socklen_t::try_from(room).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes to `groups`, which has that many and takes any bits, and the
        // length to `length`; both outlive the call.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let needed = usize::try_from(length).map_err(io::Error::other)?.div_ceil(size_of::<u32>());
        if answer == 0 {
            groups.truncate(needed);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Too small: the kernel says what is needed.
        if error.raw_os_error() != Some(libc::ERANGE) || needed <= groups.len() {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::{fd::AsFd as _, unix::net::UnixStream},
    };

    use super::*;

    #[test]
    fn they_are_those_of_the_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut groups = peer_groups(one.as_fd()).unwrap();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        let mut own: Vec<u32> = line.split_whitespace().map(|group| group.parse().unwrap()).collect();
        groups.sort_unstable();
        own.sort_unstable();
        assert_eq!(groups, own);
    }

    #[test]
    fn a_file_has_none() {
        assert!(peer_groups(fs::File::open("/dev/null").unwrap().as_fd()).is_err());
    }
}
