//! A link without Ethernet headers: two TUN devices on two hosts, and a thread that copies packets between them.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};

use crate::Host;

/// How long the thread waits for a packet before it looks whether it shall end, in nanoseconds.
const LOOK: i64 = 20_000_000;
/// Larger than any packet of the lab: a TUN device hands over no more than its MTU without `IFF_VNET_HDR`.
const LARGEST: usize = 65_536;

/// Two joined devices. They vanish when it is dropped.
#[derive(Debug)]
pub struct Tunnel {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tunnel {
    /// Makes a device on each of two hosts and joins them. Both are down and have no addresses.
    ///
    /// # Errors
    /// Without `/dev/net/tun`, or when a device of that name is there.
    pub fn new(one: (&Host, &str), other: (&Host, &str)) -> Result<Self> {
        let ends = [one, other].map(|(host, device)| {
            host.run(|| open(device))
                .with_context(|| format!("host {}: TUN {device} (CONFIG_TUN)", host.name()))
        });
        let [one, other] = ends;
        let ends = [one?, other?];
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("tunnel".into()).spawn(move || copy(&ends, &stopped))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

/// A new TUN device in the calling thread's namespace; it lives as long as the file.
fn open(device: &str) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun")?;
    let mut name = [0; libc::IFNAMSIZ];
    if device.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    // No IFF_VNET_HDR: so there are no offloads, and packets look as on a wire.
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    let mut request = libc::ifreq {
        ifr_name: name,
        // Both flags are within the lower 16 bits (linux/if_tun.h).
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: i16::try_from(flags).map_err(io::Error::other)?,
        },
    };
    // SAFETY: TUNSETIFF reads and writes a struct ifreq, which lives until the end of this function.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

/// Hands each packet of one end to the other. A packet that the other end does not take (it is down, its queue is
/// full) is lost, as on a wire.
fn copy(ends: &[File; 2], stop: &AtomicBool) {
    let mut packet = vec![0; LARGEST];
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(&ends[0], PollFlags::IN), PollFd::new(&ends[1], PollFlags::IN)];
        // Interrupted: tried again.
        let _ = poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: LOOK }));
        for (from, to) in [(0, 1), (1, 0)] {
            // Bounded: the other direction shall not wait for ever.
            for _ in 0..64 {
                let Ok(length) = (&ends[from]).read(&mut packet) else { break };
                let _ = (&ends[to]).write(&packet[..length]);
            }
        }
    }
}
