//! The kernel programs' time per packet under load, from the kernel's own run-time statistics.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::{
    programs::{
        ProgramInfo, TcAttachType,
        links::{FdLink, PinnedLink},
    },
    sys::{Stats, enable_stats},
};
use redirector::datapath::programs::links_dir;
use redirector_tests::{AgentConfig, Lab, VIP_PORT, VIP_V4, foreign_program, program_info};

use crate::{
    START,
    effort::Effort,
    figures::{Readings, row, table},
    load::{CLIENTS, Load, PIPELINES},
};

pub fn measure(effort: &Effort) -> Result<()> {
    let lab = Lab::builder().build()?;
    let config = lab.config().timing(None);
    let agent = lab.agent(&config)?;
    agent.wait_active("m1", START)?;

    let mut nothing = foreign_program()?;
    // The same packets, where they pass the router: one direction in, the other out.
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        lab.router().run(|| nothing.attach("to-app", direction))?;
    }
    let watched = [attached(&config, "egress_")?, attached(&config, "ingress_")?, nothing.info()?.id()];
    // Nothing else is left enabled when this descriptor is closed, in whatever way this process ends.
    let _counting = enable_stats(Stats::RunTime).context("the kernel cannot measure programs")?;

    table(
        "Kernel programs under load",
        &format!(
            "`run_time_ns / run_cnt` (`BPF_ENABLE_STATS`) during {} runs of `redis-benchmark -c {CLIENTS} GET whoami` \
             of {:?} through the VIP; the empty program runs at the router on the same packets, and net is without \
             its time in the same run. Nanoseconds per packet, median (min to max). What interrupts a program is in \
             its time; the redirect that it asks for is not.",
            effort.program_legs, effort.leg
        ),
        &["pipeline", "egress", "ingress", "empty program", "egress, net", "ingress, net", "packets/GET"],
    );
    for pipeline in PIPELINES {
        let load = Load::calibrated(&lab, lab.member("m1"), pipeline, effort.leg)?;
        let legs = (0..effort.program_legs).map(|_| leg(&load, watched)).collect::<Result<Vec<_>>>()?;
        let of = |value: &dyn Fn(&Leg) -> f64| Readings::new(legs.iter().map(value));
        row(&[
            pipeline.to_string(),
            format!("{:.0}", of(&|leg| leg.egress)?),
            format!("{:.0}", of(&|leg| leg.ingress)?),
            format!("{:.0}", of(&|leg| leg.empty)?),
            format!("{:.0}", of(&|leg| leg.egress - leg.empty)?),
            format!("{:.0}", of(&|leg| leg.ingress - leg.empty)?),
            format!("{:.2}", of(&|leg| leg.packets / f64::from(load.commands))?),
        ]);
    }
    println!();
    Ok(())
}

/// The program behind the pinned link whose name starts so. Not by the program's name: other labs may run.
fn attached(config: &AgentConfig, prefix: &str) -> Result<u32> {
    let dir = links_dir(config.pin_dir());
    let mut entries = fs::read_dir(&dir).with_context(|| dir.display().to_string())?.filter_map(Result::ok);
    let pin = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    let pin = pin.with_context(|| format!("{} has no link {prefix}…", dir.display()))?;
    Ok(FdLink::from(PinnedLink::from_pin(pin.path())?).info()?.program_id())
}

/// Nanoseconds per packet of each program during one run, and packets that passed both programs of the agent.
struct Leg {
    egress: f64,
    ingress: f64,
    empty: f64,
    packets: f64,
}

fn leg(load: &Load<'_>, watched: [u32; 3]) -> Result<Leg> {
    let before = watched.map(Spent::of);
    load.run((VIP_V4, VIP_PORT).into())?;
    let mut spent = Vec::new();
    for (id, before) in watched.into_iter().zip(before) {
        spent.push(Spent::of(id)?.since(before?));
    }
    for (id, spent) in watched.iter().zip(&spent) {
        ensure!(spent.packets > 1000, "program {id} saw {} packets only", spent.packets);
    }
    let [egress, ingress, empty] = [0, 1, 2].map(|at: usize| spent[at].mean());
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 packets")]
    let packets = (spent[0].packets + spent[1].packets) as f64;
    Ok(Leg { egress, ingress, empty, packets })
}

/// Time in a program.
#[derive(Clone, Copy)]
struct Spent {
    time: Duration,
    packets: u64,
}

impl Spent {
    /// Since it was loaded, as far as it was counted.
    fn of(id: u32) -> Result<Self> {
        let info: ProgramInfo = program_info(id)?;
        Ok(Self { time: info.run_time(), packets: info.run_count() })
    }

    fn since(self, before: Self) -> Self {
        Self { time: self.time.saturating_sub(before.time), packets: self.packets - before.packets }
    }

    /// Nanoseconds per packet.
    fn mean(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 packets")]
        let packets = self.packets as f64;
        self.time.as_secs_f64() * 1e9 / packets
    }
}
