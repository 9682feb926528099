//! Detaching a pinned link at once.
//!
//! Removing its pin ends a link too, but only when the kernel frees the pin's inode, an RCU grace period later: until
//! then the program runs. aya has neither of the two commands for a link that is not its own.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Detaches the link that is pinned at `pin`; the pin stays. A link whose device is gone is no error. Linux 6.6.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    const BPF_OBJ_GET: libc::c_long = 7;
    const BPF_LINK_DETACH: libc::c_long = 34;

    /// The part of `union bpf_attr` that `BPF_OBJ_GET` uses.
    #[repr(C)]
    struct Get {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }

    let path = CString::new(pin.as_os_str().as_bytes())?;
    let get = Get { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the attributes are laid out as the kernel wants them, and the path lives until the call returns.
    let link =
        checked(unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const get, size_of::<Get>()) })?;
    // SAFETY: the kernel has just given this descriptor, to nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let descriptor = link.as_raw_fd();
    // SAFETY: the command's only attribute is the descriptor, 32 bits, which is open until the call has returned.
    checked(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const descriptor, size_of_val(&descriptor))
    })?;
    Ok(())
}

fn checked(result: libc::c_long) -> io::Result<i32> {
    // Descriptors and 0 fit.
    i32::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}
