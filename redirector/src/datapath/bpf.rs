//! `bpf(2)`, as far as aya does not offer what is needed: hash maps read in batches and shared between threads, and a
//! program that is run once.
//!
//! Attributes are declared after `union bpf_attr` in `include/uapi/linux/bpf.h`.

use std::{
    io,
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    sync::Arc,
};

use aya::Pod;

/// Elements read with one system call. No bucket of a map holds that many.
const BATCH: usize = 1024;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// A hash map. Clones are the same map; the kernel orders what they do, so no lock is needed.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    fd: Arc<OwnedFd>,
    types: PhantomData<fn(K) -> V>,
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self { fd: Arc::clone(&self.fd), types: PhantomData }
    }
}

/// For commands on one element.
#[repr(C)]
struct Element {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// For commands on many elements.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// `fd` must be a hash map, not one per processor, with keys and values of the sizes of these types.
    pub(super) fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { fd: Arc::new(fd.try_clone_to_owned()?), types: PhantomData })
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = MaybeUninit::<V>::uninit();
        let found = self.element(BPF_MAP_LOOKUP_ELEM, key, value.as_mut_ptr() as u64, 0)?;
        // SAFETY: the kernel filled it, and the type is plain data.
        Ok(found.then(|| unsafe { value.assume_init() }))
    }

    /// Replaces the value of a key that is there. Returns whether it was.
    pub(super) fn replace(&self, key: &K, value: &V) -> io::Result<bool> {
        const BPF_EXIST: u64 = 2;
        self.element(BPF_MAP_UPDATE_ELEM, key, (&raw const *value) as u64, BPF_EXIST)
    }

    /// Removes a key. Returns whether it was there.
    pub(super) fn remove(&self, key: &K) -> io::Result<bool> {
        self.element(BPF_MAP_DELETE_ELEM, key, 0, 0)
    }

    /// One command on one element; `false`: there is none.
    fn element(&self, command: libc::c_long, key: &K, value: u64, flags: u64) -> io::Result<bool> {
        let mut attributes =
            Element { map_fd: self.raw(), reserved: 0, key: (&raw const *key) as u64, value, flags };
        // SAFETY: the key has the map's size, and so has what `value` leads to.
        match unsafe { call(command, &mut attributes) } {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Calls `each` for every element until it says to stop. One that comes or goes meanwhile may be seen or missed;
    /// none is seen twice unless it came twice. `each` may remove elements (Linux 5.6).
    pub(super) fn for_each(
        &self,
        mut each: impl FnMut(&K, &V) -> std::ops::ControlFlow<()>,
    ) -> io::Result<()> {
        let mut keys = vec![MaybeUninit::<K>::uninit(); BATCH];
        let mut values = vec![MaybeUninit::<V>::uninit(); BATCH];
        // The kernel's cursor.
        let (mut position, mut next) = (0_u32, 0_u32);
        let mut first = true;
        loop {
            let mut attributes = Batch {
                in_batch: if first { 0 } else { (&raw const position) as u64 },
                out_batch: (&raw mut next) as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: u32::try_from(BATCH).unwrap_or(u32::MAX),
                map_fd: self.raw(),
                elem_flags: 0,
                flags: 0,
            };
            // SAFETY: keys and values have room for as many elements of the map's sizes as `count` says.
            let end = match unsafe { call(BPF_MAP_LOOKUP_BATCH, &mut attributes) } {
                Ok(_) => false,
                // The end of the map. What came before it is counted.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Err(error) => return Err(error),
            };
            for (key, value) in keys.iter().zip(&values).take(attributes.count as usize) {
                // SAFETY: the kernel filled the first `count` elements, and both types are plain data.
                if unsafe { each(key.assume_init_ref(), value.assume_init_ref()) }.is_break() {
                    return Ok(());
                }
            }
            if end {
                return Ok(());
            }
            (position, first) = (next, false);
        }
    }

    fn raw(&self) -> u32 {
        self.fd.as_raw_fd().cast_unsigned()
    }
}

/// Runs a classifier once, on a packet of zeros, and returns its verdict.
pub(super) fn run_once(program: BorrowedFd<'_>) -> io::Result<u32> {
    /// The first part of what the command takes.
    #[repr(C)]
    struct TestRun {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
    }

    // An Ethernet header and a little more: kernels refuse less.
    let packet = [0_u8; 64];
    let mut attributes = TestRun {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        retval: 0,
        data_size_in: u32::try_from(packet.len()).unwrap_or(0),
        data_size_out: 0,
        data_in: packet.as_ptr() as u64,
        data_out: 0,
        repeat: 0,
        duration: 0,
        ctx_size_in: 0,
        ctx_size_out: 0,
        ctx_in: 0,
        ctx_out: 0,
    };
    // SAFETY: the packet has the length that is given, and nothing is to be written anywhere else.
    unsafe { call(BPF_PROG_TEST_RUN, &mut attributes)? };
    Ok(attributes.retval)
}

/// The system call. What it returns: a descriptor, or 0.
///
/// # Safety
/// The attributes must be laid out as the command wants its part of `union bpf_attr`, and every pointer in them lead to
/// what it says.
pub(super) unsafe fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: the caller's promise; the size is that of the attributes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    // Descriptors and 0 fit.
    i32::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}
