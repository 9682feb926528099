//! What the dead leave: a start repairs it, and `uninstall` removes it.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use redirector_tests::{
    Host, Lab, Offloads, Scenario, netlink, new_connections_are_served_by, nothing_is_left,
    one_program_on_each_hook, routes_a_vip,
};
use rtnetlink::{
    LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{link::LinkMessage, route::RouteAttribute},
};

use super::{START, nothing_is_attached};

/// Many starts in one scenario.
const LIMIT: Duration = Duration::from_secs(180);

/// How to leave something so after a SIGKILL.
type Leave = fn(&Lab) -> Result<()>;

const LEFTOVERS: [(&str, Leave); 11] = [
    ("an agent that was killed", |_| Ok(())),
    ("maps without links", |lab| remove(lab, "links")),
    ("links without maps", |lab| remove(lab, "maps")),
    ("a VIP device without programs", |lab| {
        remove(lab, "links")?;
        remove(lab, "maps")
    }),
    ("half a set of maps, and links", half_of_the_maps),
    ("half a set of maps, and no links", |lab| {
        half_of_the_maps(lab)?;
        remove(lab, "links")
    }),
    ("pins without a VIP device", |lab| device(lab.app(), "redirector0", Change::Remove)),
    ("a link whose device's index is another device's", |lab| {
        device(lab.app(), "redirector0", Change::Replace)
    }),
    ("links under each other's names", |lab| {
        let links = lab.config().pin_dir().join("links");
        let names: Vec<_> = fs::read_dir(&links)?.map(|link| Ok(link?.path())).collect::<Result<_>>()?;
        let [one, other] = &names[..] else { anyhow::bail!("not two links: {names:?}") };
        let aside = links.join("aside");
        Ok([(one, &aside), (other, one), (&aside, other)]
            .into_iter()
            .try_for_each(|(from, to)| fs::rename(from, to))?)
    }),
    ("a VIP device whose other end has another name", |lab| {
        device(lab.app(), "redirector0-p", Change::Rename)
    }),
    ("a route that no VIP has any more", |lab| route_to_the_vip_device(lab.app())),
];

#[test]
fn a_start_repairs() {
    Scenario::new(Offloads::On).limit(LIMIT).run(|lab| {
        let mut agent = lab.agent(&lab.config())?;
        for (what, leave) in LEFTOVERS {
            agent.wait_active("m1", START).context(what)?;
            agent.kill()?;
            leave(lab).context(what)?;
            agent.start().context(what)?;
            agent.wait_active("m1", START).context(what)?;
            one_program_on_each_hook(lab).context(what)?;
            new_connections_are_served_by(lab, "m1").context(what)?;
            let links = fs::read_dir(lab.config().pin_dir().join("links"))?.count();
            ensure!(links == 2, "{what}: {links} links are pinned");
            ensure!(!routes(lab.app())?, "{what}: the route of a VIP that is no more is left");
        }
        Ok(())
    });
}

#[test]
fn uninstall_removes() {
    Scenario::new(Offloads::On).limit(LIMIT).run(|lab| {
        let mut agent = lab.agent_to_start(&lab.config())?;
        for (what, leave) in LEFTOVERS {
            agent.start().context(what)?;
            agent.wait_active("m1", START).context(what)?;
            agent.kill()?;
            leave(lab).context(what)?;
            agent.uninstall().context(what)?;
            nothing_is_left(lab).context(what)?;
            ensure!(!routes(lab.app())? && !routes_a_vip(lab.app())?, "{what}: a route is left");
        }
        Ok(())
    });
}

fn remove(lab: &Lab, pins: &str) -> Result<()> {
    fs::remove_dir_all(lab.config().pin_dir().join(pins))?;
    if pins == "links" { nothing_is_attached(lab) } else { Ok(()) }
}

fn half_of_the_maps(lab: &Lab) -> Result<()> {
    let mut maps: Vec<_> = fs::read_dir(lab.config().pin_dir().join("maps"))?
        .map(|map| Ok(map?.path()))
        .collect::<Result<_>>()?;
    maps.sort();
    let is_meta = |map: &Path| map.display().to_string().contains("meta_v");
    maps.iter().filter(|map| !is_meta(map)).step_by(2).try_for_each(fs::remove_file)?;
    Ok(())
}

#[derive(Clone, Copy)]
enum Change {
    Remove,
    /// By another device of somebody else, with the same index.
    Replace,
    Rename,
}

fn device(host: &Host, name: &str, change: Change) -> Result<()> {
    netlink(host, |handle| async move {
        let mut found = Box::pin(handle.link().get().match_name(name.to_owned()).execute());
        let link = tokio_stream::StreamExt::try_next(&mut found).await?;
        let index = link.with_context(|| format!("there is no device {name}"))?.header.index;
        if matches!(change, Change::Rename) {
            let renamed: LinkMessage = LinkUnspec::new_with_index(index).down().name("lost").build();
            handle.link().set(renamed).execute().await?;
            return Ok(());
        }
        handle.link().del(index).execute().await?;
        if matches!(change, Change::Replace) {
            // Anybody's: it goes with its lab.
            let other = format!("other{index}");
            let mut pair = LinkVeth::new(&other, &format!("{other}-p")).build();
            pair.header.index = index;
            handle.link().add(pair).execute().await?;
        }
        Ok(())
    })
}

const OLD_VIP: [u8; 4] = [10, 255, 0, 77];

fn route_to_the_vip_device(host: &Host) -> Result<()> {
    netlink(host, |handle| async move {
        let mut found = Box::pin(handle.link().get().match_name("redirector0").execute());
        let link = tokio_stream::StreamExt::try_next(&mut found).await?.context("there is no VIP device")?;
        let mut route =
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().destination_prefix(OLD_VIP.into(), 32).build();
        route.attributes.push(RouteAttribute::Oif(link.header.index));
        route.header.scope = rtnetlink::packet_route::route::RouteScope::Link;
        Ok(handle.route().add(route).execute().await?)
    })
}

/// Whether the route of [`route_to_the_vip_device`] is there.
fn routes(host: &Host) -> Result<bool> {
    Ok(host.run(|| fs::read_to_string("/proc/thread-self/net/route"))?.contains("\t4D00FF0A\t"))
}
