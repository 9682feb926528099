//! A `/etc/resolv.conf` for one process: a mount namespace of its own with another file bound over it.
//!
//! Everything else stays as it is in there, `/sys/fs/bpf` too.

use std::{ffi::CStr, io, ptr};

/// Makes `file` the calling process's `/etc/resolv.conf`. For use between fork and exec: system calls only.
pub(crate) fn replace(file: &CStr) -> io::Result<()> {
    let nothing = ptr::null();
    // SAFETY: a process with one thread may leave the mount namespace that it shares.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // Else the mount below would be seen outside too.
    // SAFETY: the target is a string that lives for ever; the other arguments are not used with these flags.
    check(unsafe {
        libc::mount(nothing, c"/".as_ptr(), nothing, libc::MS_REC | libc::MS_PRIVATE, nothing.cast())
    })?;
    let target = c"/etc/resolv.conf".as_ptr();
    // SAFETY: both are strings that outlive the call; the other arguments are not used with this flag.
    check(unsafe { libc::mount(file.as_ptr(), target, nothing, libc::MS_BIND, nothing.cast()) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
