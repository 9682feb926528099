//! Whose pins are these, and can this agent use them? Asked before anything is loaded over them.
//!
//! Pins outlive everything: the agent that made them (that is what they are for), its devices and network namespace,
//! and a start that was killed halfway. What is pinned is judged by two questions:
//!
//! * **Is it alive?** A program that some packet can meet keeps it so. The links tell: one that is attached to no device
//!   any more is dead, and when all are, so is the directory. Nothing else is as good a witness: an attached link also
//!   proves that this boot has made it, whatever boot id the maps name (containers may be given one of their own).
//! * **Whose is it?** `meta` names layout, boot and network namespace. Where there is no `meta` to read, the hooks of
//!   this network namespace are asked whether they run the links.
//!
//! | pinned | alive | dead |
//! |---|---|---|
//! | this layout, this network namespace, all maps | taken over | taken over |
//! | another layout | refused | removed |
//! | another network namespace | refused | removed |
//! | another boot | taken over: it is none | removed |
//! | maps or `meta` missing | removed | removed |

use std::{
    collections::HashSet,
    fmt, fs, io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::{Array, Map, MapData};
use redirector_common::layout::{self, Meta};

use super::{
    attach, links,
    programs::{self, links_dir, maps_dir},
};

/// What a pin directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// No pins.
    Nothing,
    /// All maps, of this layout and this network namespace: to be taken over.
    Ours,
    /// Remains that nothing runs on.
    Dead(Dead),
    /// It runs in this network namespace, but without what an agent could take over.
    Broken(String),
    /// It runs in this network namespace, with maps of this layout, which this agent does not know.
    OtherLayout(String),
    /// It runs in another network namespace: the cookie of that, if it is known.
    Foreign(Option<u64>),
}

/// Why pins are remains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dead {
    /// A start or an uninstallation that was killed.
    Half,
    /// Maps of a layout that this agent does not know.
    Layout(String),
    /// The boot that they were made in is over.
    Boot,
    /// The devices of the network namespace with this cookie are gone, and most likely the namespace.
    Namespace(u64),
}

impl fmt::Display for Dead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Half => write!(f, "a start or an uninstallation was killed halfway"),
            Self::Layout(layout) => write!(f, "maps of layout {layout}, which nothing uses any more"),
            Self::Boot => write!(f, "their boot is over"),
            Self::Namespace(cookie) => {
                write!(f, "the devices of their network namespace (cookie {cookie}) are gone")
            }
        }
    }
}

impl Holds {
    /// Looks at a pin directory and changes nothing.
    pub(super) fn look(pin_dir: &Path) -> Result<Self> {
        let links = attached_links(&links_dir(pin_dir))?;
        let maps = names_in(&maps_dir(pin_dir))?;
        if links.pinned == 0 && maps.is_empty() {
            return Ok(Self::Nothing);
        }
        let (unlinked, unlinked_here) = settled(|| attach::without_links(pin_dir, &links.programs))?;
        let found = Found {
            alive: !links.attached.is_empty() || unlinked != 0,
            here: links.attached.iter().all(|(_, here)| *here) && unlinked_here,
            layouts: other_layouts(&maps),
            complete: programs::PINNED.iter().all(|name| maps.iter().any(|map| map == name)),
            meta: if maps.iter().any(|map| map == programs::META) { meta(pin_dir) } else { None },
        };
        Ok(found.judge(own_namespace()?, &own_boot()?))
    }

    /// Whether this agent may take over or replace what is there. The error says what it is, and the way out.
    pub(super) fn may_be_used(&self, pin_dir: &Path) -> Result<()> {
        let shown = pin_dir.display();
        match self {
            Self::OtherLayout(other) => bail!(
                "the programs of {shown} run with maps of layout {other}, this agent knows layout {}; start the \
                 version of Redirector that made them, or run `redirector uninstall`, which ends their flows \
                 without a reset",
                layout::VERSION
            ),
            _ => self.may_be_removed(pin_dir),
        }
    }

    /// Whether `uninstall` may remove what is there.
    pub(super) fn may_be_removed(&self, pin_dir: &Path) -> Result<()> {
        let Self::Foreign(cookie) = self else { return Ok(()) };
        let cookie = cookie.map(|cookie| format!(" (cookie {cookie})")).unwrap_or_default();
        bail!(
            "the pins in {} belong to another network namespace{cookie}, where their programs run; give this agent a \
             pin_dir of its own in [datapath], or uninstall the other one from there (`nsenter --net=`)",
            pin_dir.display()
        )
    }

    /// Removes pins that cannot be taken over, and says why. The directory stays: it is locked. Whether it is empty
    /// now.
    pub(super) fn repair(&self, pin_dir: &Path) -> Result<bool> {
        let shown = pin_dir.display();
        match self {
            Self::Nothing => {}
            Self::Ours => return Ok(false),
            Self::OtherLayout(_) | Self::Foreign(_) => return self.may_be_used(pin_dir).map(|()| false),
            Self::Dead(why) => tracing::warn!("removed the dead pins in {shown}: {why}"),
            Self::Broken(what) => tracing::warn!(
                "beginning anew in {shown}, where programs run but {what}: their flows end with the next packet of \
                 each client"
            ),
        }
        programs::remove_contents(pin_dir)?;
        Ok(true)
    }
}

/// What was found, before it is judged.
#[derive(Clone, Debug)]
struct Found {
    /// Whether any packet can meet a program.
    alive: bool,
    /// Whether every link or filter that is attached is so in this network namespace.
    here: bool,
    /// Layouts of maps that are not this agent's.
    layouts: Vec<String>,
    /// Whether all maps of this layout are there.
    complete: bool,
    /// `None`: it is not there, not of this layout, or nobody has written it.
    meta: Option<Meta>,
}

impl Found {
    fn judge(self, namespace: u64, boot: &[u8; 40]) -> Holds {
        let elsewhere = |cookie| if self.here { None } else { Some(Holds::Foreign(cookie)) };
        let mut layouts = self.layouts;
        layouts.extend(
            self.meta.filter(|meta| meta.version != layout::VERSION).map(|meta| meta.version.to_string()),
        );
        if !layouts.is_empty() {
            let layouts = layouts.join(" and ");
            return match self.alive {
                true => elsewhere(None).unwrap_or(Holds::OtherLayout(layouts)),
                false => Holds::Dead(Dead::Layout(layouts)),
            };
        }
        match (self.alive, self.meta) {
            (true, None) => elsewhere(None).unwrap_or(Holds::Broken("nothing says with what".into())),
            (true, Some(meta)) if meta.namespace != namespace => Holds::Foreign(Some(meta.namespace)),
            (true, Some(_)) if !self.complete => Holds::Broken("some of their maps are not pinned".into()),
            (false, None) => Holds::Dead(Dead::Half),
            (false, Some(meta)) if meta.boot_id != *boot => Holds::Dead(Dead::Boot),
            (false, Some(meta)) if meta.namespace != namespace => {
                Holds::Dead(Dead::Namespace(meta.namespace))
            }
            (false, Some(_)) if !self.complete => Holds::Dead(Dead::Half),
            (_, Some(_)) => Holds::Ours,
        }
    }
}

/// The links in a directory of pins.
struct Links {
    pinned: usize,
    /// Numbers of the programs that they hold, attached or not.
    programs: HashSet<u32>,
    /// Those that any packet can meet, and whether that is in this network namespace.
    attached: Vec<(PathBuf, bool)>,
}

fn attached_links(dir: &Path) -> Result<Links> {
    let mut found = Links { pinned: 0, programs: HashSet::new(), attached: Vec::new() };
    for name in names_in(dir)? {
        found.pinned += 1;
        let pin = dir.join(name);
        let link = links::look(&pin).with_context(|| format!("cannot look at the link {}", pin.display()))?;
        found.programs.extend(link.map(|link| link.program));
        if let Some(link) = link.filter(|link| link.is_attached()) {
            let here = link
                .is_here()
                .with_context(|| format!("cannot ask what runs on the device of {}", pin.display()))?;
            found.attached.push((pin, here));
        }
    }
    Ok(found)
}

/// What is in a directory; nothing, if it is not there.
pub(super) fn paths_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> io::Result<Vec<_>> { fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect() };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.with_context(|| format!("cannot read {}", dir.display())),
    }
}

/// Last parts of the paths of what is in a directory.
fn names_in(dir: &Path) -> Result<Vec<String>> {
    Ok(paths_in(dir)?
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect())
}

/// Layouts that the names of maps end in, but for this agent's; `?`, where a name has none.
fn other_layouts(maps: &[String]) -> Vec<String> {
    let own = layout::VERSION.to_string();
    let layout = |name: &String| match name.rsplit_once("_v") {
        Some((_, version)) => version.to_owned(),
        None => "?".to_owned(),
    };
    let mut others: Vec<_> = maps.iter().map(layout).filter(|layout| *layout != own).collect();
    others.sort_unstable();
    others.dedup();
    others
}

/// Asks again for a moment while programs are loaded that nothing here runs: one that was detached is listed until the
/// kernel has freed it, and an agent that was killed holds its own until it is gone.
fn settled(ask: impl Fn() -> Result<(usize, bool)>) -> Result<(usize, bool)> {
    const LONGEST: Duration = Duration::from_millis(300);

    let started = Instant::now();
    loop {
        let answer = ask()?;
        if answer.1 || started.elapsed() > LONGEST {
            return Ok(answer);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whose maps these are; `None`: nobody has said yet, or not in this layout.
fn meta(pin_dir: &Path) -> Option<Meta> {
    let data = MapData::from_pin(maps_dir(pin_dir).join(programs::META)).ok()?;
    let map: Array<_, Meta> = Map::from_map_data(data).ok()?.try_into().ok()?;
    map.get(&0, 0).ok().filter(|meta| meta.version != 0)
}

/// What a starting agent writes into maps that are new.
pub(super) fn own_meta() -> Result<Meta> {
    Ok(Meta { version: layout::VERSION, reserved: 0, namespace: own_namespace()?, boot_id: own_boot()? })
}

/// This boot: a number that no other boot has, as text.
///
/// # Errors
/// There is no `/proc`.
pub fn boot_id() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    Ok(text.trim().to_owned())
}

/// This boot, as `meta` has it.
fn own_boot() -> Result<[u8; 40]> {
    let mut boot = [0; 40];
    boot.iter_mut().zip(boot_id()?.bytes()).for_each(|(to, from)| *to = from);
    Ok(boot)
}

/// Cookie of this process's network namespace, which no other one gets in this boot (Linux 5.14).
fn own_namespace() -> Result<u64> {
    /// `include/uapi/asm-generic/socket.h`; the C library's headers do not have it everywhere.
    const SO_NETNS_COOKIE: libc::c_int = 71;

    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&cookie)).unwrap_or_default();
    // SAFETY: the kernel writes at most `length` bytes, which `cookie` has.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if failed != 0 {
        return Err(anyhow!(io::Error::last_os_error()))
            .context("cannot read the cookie of the network namespace");
    }
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: u64 = 1;
    const THERE: u64 = 2;
    const NOW: [u8; 40] = [1; 40];
    const BEFORE: [u8; 40] = [2; 40];

    fn meta(namespace: u64, boot_id: [u8; 40]) -> Meta {
        Meta { version: layout::VERSION, reserved: 0, namespace, boot_id }
    }

    fn found(alive: bool, meta: Option<Meta>) -> Found {
        Found { alive, here: true, layouts: Vec::new(), complete: true, meta }
    }

    fn judged(found: Found) -> Holds {
        found.judge(HERE, &NOW)
    }

    #[test]
    fn what_is_alive_is_ours_or_refused() {
        assert_eq!(judged(found(true, Some(meta(HERE, NOW)))), Holds::Ours);
        assert_eq!(judged(found(true, Some(meta(THERE, NOW)))), Holds::Foreign(Some(THERE)));
        let elsewhere = Found { here: false, ..found(true, None) };
        assert_eq!(judged(elsewhere), Holds::Foreign(None));
    }

    /// A container may be given a boot id of its own at each start: attached links know better.
    #[test]
    fn another_boot_is_over_only_when_nothing_is_attached() {
        assert_eq!(judged(found(true, Some(meta(HERE, BEFORE)))), Holds::Ours);
        assert_eq!(judged(found(false, Some(meta(HERE, BEFORE)))), Holds::Dead(Dead::Boot));
    }

    /// All devices were taken away under the agent: decisions and epochs are worth keeping.
    #[test]
    fn our_own_maps_are_kept_without_links() {
        assert_eq!(judged(found(false, Some(meta(HERE, NOW)))), Holds::Ours);
        assert_eq!(judged(found(false, Some(meta(THERE, NOW)))), Holds::Dead(Dead::Namespace(THERE)));
    }

    #[test]
    fn a_set_with_gaps_is_begun_anew() {
        let gaps = |alive, meta| Found { complete: false, ..found(alive, meta) };
        assert_eq!(judged(gaps(false, None)), Holds::Dead(Dead::Half));
        assert_eq!(judged(gaps(false, Some(meta(HERE, NOW)))), Holds::Dead(Dead::Half));
        assert!(matches!(judged(gaps(true, Some(meta(HERE, NOW)))), Holds::Broken(_)));
        assert!(matches!(judged(gaps(true, None)), Holds::Broken(_)));
        assert_eq!(judged(gaps(true, Some(meta(THERE, NOW)))), Holds::Foreign(Some(THERE)));
    }

    #[test]
    fn a_layout_that_is_not_known_is_refused_while_it_runs() {
        let names = ["flows_v999".to_owned(), "meta_v999".to_owned(), programs::META.to_owned()];
        let layouts = other_layouts(&names);
        assert_eq!(layouts, ["999"]);
        let old = |alive| Found { layouts: layouts.clone(), complete: false, ..found(alive, None) };
        assert_eq!(judged(old(true)), Holds::OtherLayout("999".into()));
        assert_eq!(judged(old(false)), Holds::Dead(Dead::Layout("999".into())));
        assert_eq!(judged(Found { here: false, ..old(true) }), Holds::Foreign(None));

        let newer = Meta { version: layout::VERSION + 1, ..meta(HERE, NOW) };
        assert!(matches!(judged(found(true, Some(newer))), Holds::OtherLayout(_)));

        let error = Holds::OtherLayout("999".into()).may_be_used(Path::new("/pins")).unwrap_err().to_string();
        assert!(error.contains("layout 999") && error.contains("redirector uninstall"), "{error}");
        assert!(Holds::OtherLayout("999".into()).may_be_removed(Path::new("/pins")).is_ok());
    }
}
