//! CPU time of other processes, to the nanosecond: `/proc/<pid>/stat` counts in ticks of 10 ms.

use std::{io, time::Duration};

use anyhow::{Context, Result};

/// CPU time of a process since its start, all threads, also those that have ended.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let mut clock = 0;
    // SAFETY: the call writes a clock id to a variable that lives until it returns.
    let error = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    let read = if error == 0 { read(clock) } else { Err(io::Error::from_raw_os_error(error)) };
    read.with_context(|| format!("the CPU time of process {pid}"))
}

fn read(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes a time to a variable that lives until it returns.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(duration(time.tv_sec, time.tv_nsec))
}

/// CPU time of all children of this process that have ended and were waited for.
pub fn cpu_time_of_ended_children() -> Result<Duration> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call fills the structure, which lives until it returns.
    if unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error()).context("the CPU time of ended children");
    }
    // SAFETY: filled above; and zeros are a value of it.
    let usage = unsafe { usage.assume_init() };
    let part = |time: libc::timeval| duration(time.tv_sec, time.tv_usec * 1000);
    Ok(part(usage.ru_utime) + part(usage.ru_stime))
}

/// Clocks of processes do not run below zero.
fn duration(seconds: i64, nanoseconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs()) + Duration::from_nanos(nanoseconds.unsigned_abs())
}
