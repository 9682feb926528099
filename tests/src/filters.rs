//! What runs on the hooks of a device: by tcx, and by filters of `clsact`.

use anyhow::{Context, Result};
use aya::{
    programs::{ProgramError, ProgramInfo, SchedClassifier, TcAttachType},
    sys::SyscallError,
};
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};
use tokio_stream::StreamExt as _;

use crate::{Host, foreign::program_info, netlink, network::index};

/// A filter that runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Lower ones come first.
    pub priority: u32,
    /// Its number within the priority.
    pub handle: u32,
    /// The program's number.
    pub program: u32,
}

/// The programs on a hook of a device, in the order in which packets meet them: those of tcx, then those of filters.
///
/// # Errors
/// When there is no such device.
pub fn programs(host: &Host, device: &str, hook: TcAttachType) -> Result<Vec<ProgramInfo>> {
    let mut found = match host.run(|| SchedClassifier::query_tcx(device, hook)) {
        Ok((_, found)) => found,
        Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
            if io_error.raw_os_error() == Some(libc::EINVAL) =>
        {
            // The kernel has no tcx.
            Vec::new()
        }
        Err(error) => return Err(error.into()),
    };
    for filter in filters(host, device, hook)? {
        found.push(program_info(filter.program)?);
    }
    Ok(found)
}

/// Whether this machine's kernel has tcx.
#[must_use]
pub fn has_tcx() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

/// The filters on a hook of a device, in the order in which packets meet them.
///
/// # Errors
/// When there is no such device.
pub fn filters(host: &Host, device: &str, hook: TcAttachType) -> Result<Vec<Filter>> {
    let mut found = Vec::new();
    netlink(host, |handle| {
        let found = &mut found;
        async move {
            let mut filters = handle.traffic_filter(index(device)?.cast_signed());
            let request = match hook {
                TcAttachType::Ingress => filters.get().ingress(),
                _ => filters.get().egress(),
            };
            let mut list = Box::pin(request.execute());
            while let Some(message) = list.try_next().await? {
                found.extend(filter(&message));
            }
            Ok(())
        }
    })?;
    Ok(found)
}

fn filter(message: &TcMessage) -> Option<Filter> {
    let program = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.iter().find_map(|option| match option {
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
            _ => None,
        }),
        _ => None,
    })?;
    let header = &message.header;
    Some(Filter { priority: header.info >> 16, handle: header.handle.into(), program })
}

/// Whether a device has the queueing discipline `clsact`.
///
/// # Errors
/// When there is no such device.
pub fn has_clsact(host: &Host, device: &str) -> Result<bool> {
    let mut found = false;
    netlink(host, |handle| {
        let found = &mut found;
        async move {
            let device = index(device)?.cast_signed();
            let mut list = Box::pin(handle.qdisc().get().execute());
            while let Some(message) = list.try_next().await.context("queueing disciplines")? {
                let is_clsact = |attribute: &TcAttribute| *attribute == TcAttribute::Kind("clsact".into());
                *found |= message.header.index == device && message.attributes.iter().any(is_clsact);
            }
            Ok(())
        }
    })?;
    Ok(found)
}
