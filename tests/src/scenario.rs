//! The frame of an end-to-end test: a lab with offloads on or off, one at a time, in bounded time, and no checksum
//! error anywhere at the end.

use std::{
    env,
    net::{IpAddr, Ipv6Addr},
    process::{self, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Builder, Host, Lab, Offloads, Tunnel,
    diagnostics::Collector,
    network::{self, End},
    process::all_logs,
    slowness,
};

/// What this machine lacks for a lab; `None`: nothing. Found out once, by doing it.
#[must_use]
pub fn unavailable() -> Option<&'static str> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    REASON.get_or_init(|| try_everything().err().map(|error| format!("{error:#}"))).as_deref()
}

fn try_everything() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the lab needs root");
    let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
    found.context("redis-server does not run; install it with `cargo xtask setup`")?;
    for (program, argument, package) in [("ip", "-V", "iproute2"), ("nft", "--version", "nftables")] {
        let found = Command::new(program).arg(argument).stdout(Stdio::null()).status();
        found.with_context(|| {
            format!("{program} does not run; install it with `cargo xtask setup` (Debian: {package})")
        })?;
    }
    let found = Command::new("dnsmasq").arg("--version").stdout(Stdio::null()).status();
    found.context("dnsmasq does not run; install it with `cargo xtask setup`")?;
    let (one, other) = (Host::new("one")?, Host::new("other")?);
    let end = |host| End { host, device: "veth0", addresses: &[] };
    network::cable(end(&one), End { device: "veth1", ..end(&other) })
        .context("veth devices (CONFIG_VETH)")?;
    let everybody = [[10, 0, 0, 1].into(), IpAddr::from(Ipv6Addr::LOCALHOST)];
    network::black_hole(&one, &everybody, true).context("policy rules (CONFIG_IP[V6]_MULTIPLE_TABLES)")?;
    one.ip("link add br0 type bridge").context("bridges (CONFIG_BRIDGE)")?;
    one.nft("table inet lab { chain c { type filter hook prerouting priority raw; fib saddr . iif oif missing drop; }; }")
        .context("nftables with fib (CONFIG_NFT_FIB_INET)")?;
    one.nft("table inet nat { chain c { type nat hook postrouting priority srcnat; masquerade; }; }")
        .context("masquerade (CONFIG_NFT_MASQ)")?;
    drop(Tunnel::new((&one, "tun0"), (&other, "tun0"))?);
    Ok(())
}

/// One test. [`Scenario::run`] panics when its body returns an error.
#[derive(Clone, Debug)]
pub struct Scenario {
    builder: Builder,
    limit: Duration,
}

/// Scenarios measure time: two of them at once on a small machine would measure each other.
static ALONE: Mutex<()> = Mutex::new(());

impl Scenario {
    /// With two members and a limit of one minute.
    #[must_use]
    pub fn new(offloads: Offloads) -> Self {
        Self { builder: Lab::builder().offloads(offloads), limit: Duration::from_secs(60) }
    }

    /// Longest time that the body may take; then the process aborts after printing all logs.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Changes what the lab is made of.
    #[must_use]
    pub fn lab(mut self, change: impl FnOnce(Builder) -> Builder) -> Self {
        self.builder = change(self.builder);
        self
    }

    /// Builds the lab, runs `body` in it, and asserts that no host saw a wrong checksum. Says why it is skipped on
    /// a machine that cannot run it, unless `REDIRECTOR_LAB_REQUIRED` is set.
    ///
    /// # Panics
    /// When the body fails, or the machine cannot run it and must.
    pub fn run(self, body: impl FnOnce(&Lab) -> Result<()>) {
        if let Some(reason) = unavailable() {
            assert!(env::var_os("REDIRECTOR_LAB_REQUIRED").is_none(), "{reason}");
            eprintln!("skipped: {reason}");
            return;
        }
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let _in_time = Watchdog::start(self.limit * slowness());
        let _last_words = Collector::start();
        let lab = self.builder.build().unwrap_or_else(|error| panic!("the lab cannot be built: {error:?}"));
        let result = body(&lab).and_then(|()| lab.assert_no_checksum_errors());
        drop(lab);
        if let Err(error) = result {
            panic!("{error:?}");
        }
    }
}

/// Aborts the process unless it is dropped in time. A thread that hangs cannot be ended in any other way, and a lab
/// vanishes with its process.
struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    fn start(limit: Duration) -> Self {
        let (alive, dropped) = mpsc::channel::<()>();
        thread::spawn(move || {
            if dropped.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{}the scenario hangs: not done after {limit:?}", all_logs());
                process::abort();
            }
        });
        Self { _alive: alive }
    }
}

/// Makes a module for each case, with a test for offloads on and one for offloads off. A case is a function
/// `fn(Scenario)`.
#[macro_export]
macro_rules! with_and_without_offloads {
    ($($(#[$doc:meta])* $case:ident),+ $(,)?) => {$(
        $(#[$doc])*
        mod $case {
            #[test]
            fn offloads_on() {
                super::$case($crate::Scenario::new($crate::Offloads::On));
            }

            #[test]
            fn offloads_off() {
                super::$case($crate::Scenario::new($crate::Offloads::Off));
            }
        }
    )+};
}
