//! Programs of others, and pins that nothing stands behind.

use anyhow::{Context as _, Result};
use aya::programs::{
    LinkOrder, TcAttachType,
    tc::{self, NlOptions, TcAttachOptions},
};
use redirector_tests::{Lab, foreign_program, netlink};

use super::{DONE, FAILED, START, Visit, scenario};

/// Where somebody's program stands is said, whichever way it is attached.
#[test]
fn programs_of_others_are_listed_with_their_place() {
    scenario().run(|lab| {
        let agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let attach = |options: TcAttachOptions| -> Result<_> {
            let mut program = foreign_program()?;
            let id = program.info()?.id();
            lab.app().run(|| program.attach_with_options("eth0", TcAttachType::Ingress, options))?;
            Ok((program, id))
        };
        let (_first, first) = attach(TcAttachOptions::TcxOrder(LinkOrder::first()))?;
        let (_last, last) = attach(TcAttachOptions::TcxOrder(LinkOrder::last()))?;
        lab.app().run(|| tc::qdisc_add_clsact("eth0"))?;
        let (_filter, _) = attach(TcAttachOptions::Netlink(NlOptions::default()))?;

        let diagnosis = Visit::new(lab).diagnose()?;
        diagnosis.exits(DONE)?;
        let row = diagnosis.row("hook", Some("eth0 ingress"))?;
        let found = row["found"].as_str().unwrap_or_default();
        let at = |what: &str| found.find(what).with_context(|| format!("no {what:?}: {row:#}"));
        let places = [
            at(&format!("(tcx, id {first})"))?,
            at(", ours)")?,
            at(&format!("(tcx, id {last})"))?,
            at("clsact")?,
        ];
        anyhow::ensure!(places.is_sorted() && row["verdict"] == "note", "{row:#}");
        diagnosis.says("hook", Some("redirector0 egress"), "good", &["ours"])
    });
}

fn remove_the_vip_device(lab: &Lab) -> Result<()> {
    netlink(lab.app(), |handle| async move {
        let mut found = Box::pin(handle.link().get().match_name("redirector0".to_owned()).execute());
        let link = tokio_stream::StreamExt::try_next(&mut found).await?.context("there is no VIP device")?;
        Ok(handle.link().del(link.header.index).execute().await?)
    })
}

#[test]
fn a_pin_whose_device_is_gone_is_named() {
    scenario().run(|lab| {
        let mut agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        agent.kill()?;
        remove_the_vip_device(lab)?;
        let diagnosis = Visit::new(lab).diagnose()?;
        let stale = diagnosis.row("stale_pin", None)?;
        anyhow::ensure!(
            stale["verdict"] == "note"
                && stale["subject"].as_str().is_some_and(|pin| pin.starts_with("egress_")),
            "{stale:#}"
        );
        diagnosis.says("vip_device", None, "bad", &["no redirector0 any more", "start the agent"])?;
        diagnosis.exits(FAILED)?;
        // What is said to help does.
        agent.start()?;
        agent.wait_active("m1", START)?;
        Visit::new(lab).diagnose()?.exits(DONE)
    });
}

/// What `run` refuses, in its words.
#[test]
fn a_vip_device_of_another_agent_is_named() {
    scenario().run(|lab| {
        let agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        let pins = lab.config().pin_dir().display().to_string();
        let visit = Visit::new(lab).replace(&pins, &format!("{pins}-second"));
        let diagnosis = visit.diagnose()?;
        diagnosis.says("vip_device", None, "bad", &["belongs to an agent with another pin_dir"])?;
        diagnosis.exits(FAILED)
    });
}

/// Without its program a hook carries nothing.
#[test]
fn a_hook_without_its_program_is_bad() {
    scenario().run(|lab| {
        let mut agent = lab.agent(&lab.config())?;
        agent.wait_active("m1", START)?;
        // A running agent would attach it again.
        agent.kill()?;
        let links = lab.config().pin_dir().join("links");
        for link in std::fs::read_dir(links)? {
            let path = link?.path();
            if path.display().to_string().contains("ingress_") {
                std::fs::remove_file(path)?;
            }
        }
        let gone = || redirector_tests::programs(lab.app(), "eth0", TcAttachType::Ingress);
        redirector_tests::wait_until("the kernel frees the link", START, || {
            gone().is_ok_and(|found| found.is_empty())
        })?;
        let diagnosis = Visit::new(lab).diagnose()?;
        diagnosis.says("hook", Some("eth0 ingress"), "bad", &["missing", "start the agent again"])?;
        diagnosis.exits(FAILED)
    });
}
