//! Reading the flow table in batches, and deleting from it.
//!
//! The agent never writes a flow: an update of a hash map replaces the element, and would lose what programs wrote
//! in between. It only deletes.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData, MapError};
use redirector_common::{
    addr::Tuple,
    flow::{Flow, Stub},
};

/// Entries read with one system call.
const BATCH: usize = 1024;

/// Both halves of all flows.
pub(super) struct Flows {
    fd: OwnedFd,
    flows: HashMap<MapData, Tuple, Flow>,
    replies: HashMap<MapData, Tuple, Stub>,
}

impl Flows {
    /// `fd` is that of `flows`.
    pub(super) fn new(
        fd: OwnedFd,
        flows: HashMap<MapData, Tuple, Flow>,
        replies: HashMap<MapData, Tuple, Stub>,
    ) -> Self {
        Self { fd, flows, replies }
    }

    /// Calls `each` for every flow. One that is opened or ends meanwhile may be missed or seen; none is seen twice
    /// unless it was opened twice.
    pub(super) fn for_each(&self, mut each: impl FnMut(&Tuple, &Flow)) -> Result<()> {
        let fd = self.fd.as_raw_fd();
        let mut keys = vec![MaybeUninit::<Tuple>::uninit(); BATCH];
        let mut values = vec![MaybeUninit::<Flow>::uninit(); BATCH];
        let mut position = None;
        loop {
            let (count, end) = lookup_batch(fd, &mut position, &mut keys, &mut values)
                .context("cannot read the flow table")?;
            for (key, flow) in keys.iter().zip(&values).take(count) {
                // SAFETY: the kernel filled the first `count` elements, and both types are plain data.
                unsafe { each(key.assume_init_ref(), flow.assume_init_ref()) };
            }
            if end {
                return Ok(());
            }
        }
    }

    /// Forgets a flow, both halves, unless the entry is another one by now.
    pub(super) fn remove(&mut self, client_side: &Tuple, flow: &Flow) -> Result<()> {
        match self.flows.get(client_side, 0) {
            Ok(now) if now.incarnation == flow.incarnation => {}
            Ok(_) | Err(MapError::KeyNotFound) => return Ok(()),
            Err(error) => return Err(error).context("cannot read a flow"),
        }
        gone_is_fine(self.replies.remove(&flow.member_side))?;
        gone_is_fine(self.flows.remove(client_side))
    }
}

fn gone_is_fine(result: Result<(), MapError>) -> Result<()> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(error).context("cannot delete a flow"),
    }
}

/// `BPF_MAP_LOOKUP_BATCH` (Linux 5.6). Returns how many elements came, and whether they are the last ones.
///
/// `position` is the kernel's cursor, `None` at first.
fn lookup_batch(
    map: i32,
    position: &mut Option<u32>,
    keys: &mut [MaybeUninit<Tuple>],
    values: &mut [MaybeUninit<Flow>],
) -> io::Result<(usize, bool)> {
    const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

    /// The part of `union bpf_attr` that batch commands use.
    #[repr(C)]
    struct Attributes {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map_fd: u32,
        elem_flags: u64,
        flags: u64,
    }

    let start = position.unwrap_or_default();
    let mut next = 0_u32;
    let mut attributes = Attributes {
        in_batch: if position.is_some() { (&raw const start) as u64 } else { 0 },
        out_batch: (&raw mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(keys.len().min(values.len())).unwrap_or(u32::MAX),
        map_fd: map.cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the attributes are laid out as the kernel wants them, and every pointer leads to memory of the size
    // that `count` and the map's types say.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attributes, size_of::<Attributes>())
    };
    let end = result != 0;
    if end {
        let error = io::Error::last_os_error();
        // ENOENT: the end of the table. What came before it is counted.
        if error.raw_os_error() != Some(libc::ENOENT) {
            return Err(error);
        }
    }
    *position = Some(next);
    Ok((attributes.count as usize, end))
}
