//! Programs of others on the same hooks keep their place and keep working.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::{
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
    sys::{Stats, enable_stats},
};
use redirector_tests::{
    Agent, Lab, Offloads, Scenario, Value, binary, foreign_program, new_connections_are_served_by,
    program_info, programs, upgrade_binary, wait_until,
};

use super::START;

const UPLINK: (&str, TcAttachType) = ("eth0", TcAttachType::Ingress);
const VIP_DEVICE: (&str, TcAttachType) = ("redirector0", TcAttachType::Egress);

/// Somebody's program before ours and one after it, on one hook. Both let all packets go on.
struct Neighbours {
    device: &'static str,
    hook: TcAttachType,
    before: SchedClassifier,
    after: SchedClassifier,
}

impl Neighbours {
    fn attach(lab: &Lab, (device, hook): (&'static str, TcAttachType)) -> Result<Self> {
        let attached = |order| -> Result<SchedClassifier> {
            let mut program = foreign_program()?;
            let options = TcAttachOptions::TcxOrder(order);
            lab.app().run(|| program.attach_with_options(device, hook, options))?;
            Ok(program)
        };
        Ok(Self { device, hook, before: attached(LinkOrder::first())?, after: attached(LinkOrder::last())? })
    }

    /// Ids of the programs on the hook.
    fn order(&self, lab: &Lab) -> Result<Vec<u32>> {
        Ok(programs(lab.app(), self.device, self.hook)?.iter().map(aya::programs::ProgramInfo::id).collect())
    }

    /// The two are where they were, with one of ours between them; answers its id.
    fn stand_around(&self, lab: &Lab) -> Result<u32> {
        let (order, before, after) = (self.order(lab)?, self.before.info()?.id(), self.after.info()?.id());
        let [first, ours, last] = order[..] else { anyhow::bail!("{}: {order:?}", self.device) };
        ensure!(first == before && last == after, "{}: {order:?}, not {before} … {after}", self.device);
        Ok(ours)
    }
}

/// Packets that a program has seen while statistics were on.
fn seen(program: &SchedClassifier) -> Result<u64> {
    Ok(program_info(program.info()?.id())?.run_count())
}

/// Packets of a VIP's connections, and of direct ones, meet the neighbours that they should meet.
fn see_packets(lab: &Lab, uplink: &Neighbours, vip_device: &Neighbours) -> Result<()> {
    let before = [&uplink.before, &uplink.after, &vip_device.before];
    let counts = before.map(seen).into_iter().collect::<Result<Vec<_>>>()?;
    new_connections_are_served_by(lab, "m1")?;
    let mut direct = lab.app().connect(lab.member("m1").v4())?;
    ensure!(direct.command(&["PING"])? == Value::Status("PONG".into()), "a direct connection is disturbed");
    for (program, (count, which)) in before.iter().zip(counts.iter().zip([
        "before ours at the uplink",
        "after ours at the uplink, for what is not ours",
        "before ours at the VIP device",
    ])) {
        ensure!(seen(program)? > *count, "the program {which} sees nothing");
    }
    Ok(())
}

#[test]
fn neighbours_keep_their_places_over_restart_upgrade_and_uninstall() {
    Scenario::new(Offloads::On).run(|lab| {
        let _counting = enable_stats(Stats::RunTime).context("the kernel cannot count what programs see")?;
        let mut agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let (uplink, vip_device) = (Neighbours::attach(lab, UPLINK)?, Neighbours::attach(lab, VIP_DEVICE)?);
        let mut ours = [uplink.stand_around(lab)?, vip_device.stand_around(lab)?];
        see_packets(lab, &uplink, &vip_device)?;

        let upgrade = upgrade_binary().map_or_else(binary, Ok)?;
        for next in [binary()?, upgrade, binary()?] {
            restart(&mut agent, &next)?;
            let now = [uplink.stand_around(lab)?, vip_device.stand_around(lab)?];
            ensure!(
                now[0] != ours[0] && now[1] != ours[1],
                "the programs are not replaced: {ours:?}, {now:?}"
            );
            ours = now;
            see_packets(lab, &uplink, &vip_device)?;
        }

        agent.terminate()?;
        agent.uninstall()?;
        let (order, before, after) =
            (uplink.order(lab)?, uplink.before.info()?.id(), uplink.after.info()?.id());
        ensure!(order == [before, after], "after uninstall: {order:?}, not {before}, {after}");
        let count = seen(&uplink.after)?;
        lab.app().connect(lab.member("m1").v4())?.command(&["PING"])?;
        ensure!(seen(&uplink.after)? > count, "somebody's program is attached and sees nothing");
        Ok(())
    });
}

fn restart(agent: &mut Agent, binary: &std::path::Path) -> Result<()> {
    agent.kill()?;
    agent.becomes(binary, &[]);
    agent.start()?;
    agent.wait_active("m1", START)?;
    Ok(())
}

/// Ours come after those that are there already, so that they see what comes before it is rewritten; and a VIP device
/// that lost its pins, but has somebody's program, is no other agent's.
#[test]
fn those_that_were_there_first_stay_first() {
    Scenario::new(Offloads::On).run(|lab| {
        let attach = |device: &'static str, hook| -> Result<SchedClassifier> {
            let mut program = foreign_program()?;
            lab.app().run(|| program.attach(device, hook))?;
            Ok(program)
        };
        let at_uplink = attach(UPLINK.0, UPLINK.1)?;
        let mut agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let at_vip_device = attach(VIP_DEVICE.0, VIP_DEVICE.1)?;
        agent.kill()?;
        std::fs::remove_dir_all(lab.config().pin_dir().join("links"))?;
        let one = |(device, hook)| programs(lab.app(), device, hook).is_ok_and(|found| found.len() == 1);
        wait_until("ours are gone", Duration::from_secs(5), || one(UPLINK) && one(VIP_DEVICE))?;
        agent.start()?;
        agent.wait_active("m1", START)?;
        for ((device, hook), first) in [(UPLINK, &at_uplink), (VIP_DEVICE, &at_vip_device)] {
            let found = programs(lab.app(), device, hook)?;
            ensure!(found.len() == 2 && found[0].id() == first.info()?.id(), "{device}: {found:?}");
        }
        new_connections_are_served_by(lab, "m1")
    });
}
