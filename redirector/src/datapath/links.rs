//! Links that are pinned or run on a hook, as the kernel sees them. aya asks none of this about a link that is not
//! its own.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::bpf::call;

/// Where a link is attached (`struct bpf_link_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Its number, which the kernel gives once in a boot.
    id: u32,
    /// Index of the device in the network namespace of that device; 0: none any more. A link outlives its device.
    pub(super) device: u32,
    /// `enum bpf_attach_type`.
    hook: u32,
    /// Number of the program that it holds.
    pub(super) program: u32,
}

impl Link {
    /// Whether any packet can meet its program.
    pub(super) fn is_attached(self) -> bool {
        self.device != 0
    }

    /// Whether it is attached in this network namespace: an index alone does not tell, each namespace has its own.
    pub(super) fn is_here(self) -> io::Result<bool> {
        Ok(self.is_attached() && on_hook(self.device, self.hook)?.contains(&self.id))
    }
}

/// The link that is pinned at `pin`; `None`: what is pinned there is no link to a device's tcx hook. Linux 6.6.
pub(super) fn look(pin: &Path) -> io::Result<Option<Link>> {
    /// Of `enum bpf_link_type`.
    const BPF_LINK_TYPE_TCX: u32 = 11;

    /// The start of `struct bpf_link_info`, with its union as tcx uses it.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        reserved: u32,
        device: u32,
        hook: u32,
    }

    /// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` uses.
    #[repr(C)]
    struct GetInfo {
        descriptor: RawFd,
        length: u32,
        info: u64,
    }

    let pinned = open(pin)?;
    let mut info = Info::default();
    let length = u32::try_from(size_of::<Info>()).unwrap_or_default();
    let mut request =
        GetInfo { descriptor: pinned.as_raw_fd(), length, info: (&raw mut info).expose_provenance() as u64 };
    // SAFETY: the kernel writes at most `length` bytes to `info`, which lives until the call has returned.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &mut request) }?;
    let Info { id, device, hook, program, .. } = info;
    Ok((info.kind == BPF_LINK_TYPE_TCX).then_some(Link { id, device, hook, program }))
}

/// Detaches the link that is pinned at `pin`; the pin stays. A link whose device is gone is no error. Linux 6.6.
///
/// Removing its pin ends a link too, but only when the kernel frees the pin's inode, an RCU grace period later: until
/// then the program runs.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let link = open(pin)?;
    // SAFETY: the command's only attribute is the descriptor, 32 bits, which is open until the call has returned.
    unsafe { call(BPF_LINK_DETACH, &mut link.as_raw_fd()) }?;
    Ok(())
}

/// Numbers of the links on a hook of a device of this network namespace; none, if there is no such device. What is
/// attached there without a link has number 0.
fn on_hook(device: u32, hook: u32) -> io::Result<Vec<u32>> {
    /// `BPF_MPROG_MAX`: no hook has more.
    const MOST: u32 = 64;

    /// The part of `union bpf_attr` that `BPF_PROG_QUERY` uses for tcx.
    #[repr(C)]
    struct Query {
        device: u32,
        hook: u32,
        flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        reserved: u32,
        program_flags: u64,
        links: u64,
        link_flags: u64,
        revision: u64,
    }

    let (mut programs, mut links) = ([0_u32; MOST as usize], [0_u32; MOST as usize]);
    let mut query = Query {
        device,
        hook,
        flags: 0,
        attach_flags: 0,
        programs: programs.as_mut_ptr().expose_provenance() as u64,
        count: MOST,
        reserved: 0,
        program_flags: 0,
        links: links.as_mut_ptr().expose_provenance() as u64,
        link_flags: 0,
        revision: 0,
    };
    // SAFETY: the kernel writes at most `count` numbers to each of the two arrays, which live until the call has
    // returned, and the query's own results into it.
    match unsafe { call(BPF_PROG_QUERY, &mut query) } {
        Ok(_) => Ok(links.into_iter().take(query.count as usize).collect()),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Of `enum bpf_cmd`.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Opens what is pinned at `pin`.
fn open(pin: &Path) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` that `BPF_OBJ_GET` uses.
    #[repr(C)]
    struct Get {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }

    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = Get { pathname: path.as_ptr().expose_provenance() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the path lives until the call has returned, and ends with NUL.
    let descriptor = unsafe { call(BPF_OBJ_GET, &mut get) }?;
    // SAFETY: the kernel has just given this descriptor, to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
