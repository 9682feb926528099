//! Whether a configuration fits this host. Asks, and changes nothing.

use anyhow::Result;

use super::network::{Network, SingleRoute};
use crate::{
    config::{Misfit, Resolved},
    model::{Config, MemberId, ServiceId},
};

/// Everything that the configuration says and this host contradicts. Needs no privileges, but a tokio runtime.
///
/// # Errors
/// When the kernel does not answer.
pub async fn misfits(config: &Config, resolved: &Resolved) -> Result<Vec<Misfit>> {
    let network = Network::connect()?;
    let own = network.addresses().await?;
    let device = network.find(&config.datapath.device).await?;
    let routes = network.routes_to_single_addresses().await?;
    let mut misfits = Vec::new();
    for (uplink, name) in config.datapath.uplinks.iter().enumerate() {
        if network.find(name).await?.is_none() {
            misfits.push(Misfit::NoUplink { uplink });
        }
    }
    for (at, from) in config.services.iter().enumerate() {
        let service = ServiceId(at);
        for (vip, address) in from.vips.iter().enumerate() {
            let ours = |route: &SingleRoute| device.is_some() && route.device == device;
            let foreign = routes.iter().find(|route| route.to == address.ip() && !ours(route));
            if own.contains(&address.ip()) {
                misfits.push(Misfit::VipIsOwn { service, vip });
            } else if let Some(route) = foreign {
                let device = match route.device {
                    Some(index) => network.name_of(index).await?,
                    None => None,
                };
                misfits.push(Misfit::VipIsRouted { service, vip, device });
            }
        }
        for number in 0..from.members.len() {
            let member = MemberId(number);
            for address in resolved.addresses(service, member).iter() {
                match network.route_to(address.ip()).await? {
                    None => misfits.push(Misfit::NoRoute { service, member, address }),
                    Some(way) if way.local => misfits.push(Misfit::MemberIsOwn { service, member, address }),
                    Some(_) => {}
                }
            }
        }
    }
    Ok(misfits)
}
