//! What is collected, and what is not.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use redirector_common::flow::Stub;
use redirector_tests::{Lab, Offloads, Scenario, Value, first_vips};

use super::{START, collected, config, count, flows, impatient, tables::Tables, wait_count};

fn whoami(connection: &mut redirector_tests::Connection) -> Result<()> {
    ensure!(connection.command(&["GET", "whoami"])?.text().as_deref() == Some("m1"));
    Ok(())
}

/// A container that is switched off says no goodbye. A local client that waits for a day does not say anything either.
#[test]
fn idle_flows_go_unless_their_socket_is_on_this_host() {
    Scenario::new(Offloads::On).run(|lab| {
        let agent = lab.agent(&impatient(config(lab), "1s"))?;
        agent.wait_active("m1", START)?;
        let container = lab.container("c1")?;
        for vip in first_vips() {
            let mut local = lab.app().connect(vip)?;
            let mut forwarded = container.connect(vip)?;
            whoami(&mut local)?;
            whoami(&mut forwarded)?;
            let client = forwarded.socket().local_addr()?.to_string();
            ensure!(count(&agent, &["--client", &client, "--state", "established"])? == 1);
            let list = flows(&agent, &[])?;
            let list = list["flows"].as_array().cloned().unwrap_or_default();
            ensure!(list.iter().any(|flow| flow["local"] == true), "{list:?}");
            ensure!(list.iter().any(|flow| flow["client"] == client && flow["local"] == false), "{list:?}");

            wait_count(&agent, 1, START)?;
            // Several collections more: the socket is looked up each time.
            thread::sleep(Duration::from_secs(3));
            let left = flows(&agent, &[])?;
            let own = local.socket().local_addr()?.to_string();
            ensure!(left["matched"] == 1 && left["flows"][0]["client"] == own, "{left:#}");
            ensure!(left["flows"][0]["idle_ms"].as_u64() > Some(2000), "{left:#}");
            ensure!(local.command(&["PING"])? == Value::Status("PONG".into()));
            // Whose flow is gone hears it when he goes on.
            ensure!(forwarded.command(&["PING"]).is_err(), "the flow was collected");
            drop(local);
            wait_count(&agent, 0, START)?;
        }
        ensure!(collected(&agent, "established")? == 2, "{:#}", agent.status()?);
        ensure!(Tables::open(lab.config().pin_dir())?.stubs() == 0, "stubs are left");
        Ok(())
    });
}

/// A member that answers nothing: local clients wait for as long as their kernel does, others for the time-out.
#[test]
fn flows_that_nobody_answers_go_unless_a_local_socket_waits() {
    Scenario::new(Offloads::On).run(|lab| {
        let agent = lab.agent(&impatient(config(lab).one_service(), "1h"))?;
        agent.wait_active("m1", START)?;
        let container = lab.container("c1")?;
        lab.router().lose(&["tcp dport 6379 tcp flags == syn"])?;
        let vip = first_vips()[0];
        let connecting = |host: &redirector_tests::Host| {
            let dial = host.dial(vip).limit(Duration::from_secs(8));
            host.spawn_thread("connecting", move || dial.connect().err().map(|error| error.kind()))
        };
        let (local, forwarded) = (connecting(lab.app())?, connecting(&container)?);
        wait_count(&agent, 2, START)?;
        // A SYN that is sent again opens the flow anew, so that one end of the two is counted more than once.
        redirector_tests::wait_until("it is collected", START, || {
            collected(&agent, "opening").is_ok_and(|number| number > 0)
        })?;
        let local_ones = flows(&agent, &["--state", "opening"])?;
        let is_local = |flow: &serde_json::Value| flow["local"] == true;
        let all = local_ones["flows"].as_array().cloned().unwrap_or_default();
        ensure!(all.iter().filter(|flow| is_local(flow)).count() == 1, "{local_ones:#}");
        for thread in [local, forwarded] {
            ensure!(thread.join().unwrap().is_some(), "somebody answered");
        }
        wait_count(&agent, 0, START)
    });
}

/// A half without its other half holds an entry or a source port for ever, where no packet comes by.
#[test]
fn halves_that_lost_each_other_go() {
    Scenario::new(Offloads::On).run(|lab: &Lab| {
        let config = impatient(config(lab).one_service(), "1h");
        let agent = lab.agent(&config)?;
        agent.wait_active("m1", START)?;
        let mut kept = lab.app().connect(first_vips()[0])?;
        whoami(&mut kept)?;
        let mut tables = Tables::open(config.pin_dir())?;
        let (_, flow) = tables.flows.iter().next().unwrap()?;

        let mut stray = flow.member_side;
        stray.near_port = redirector_common::addr::Port::new(9);
        let stub = Stub { incarnation: 7, client_side: flow.member_side, reserved: 0 };
        tables.replies.insert(stray, stub, 0)?;
        let mut lost = lab.app().connect(first_vips()[0])?;
        whoami(&mut lost)?;
        let member_side = tables.flows.iter().map(|entry| entry.unwrap().1.member_side);
        let member_side: Vec<_> = member_side.filter(|side| *side != flow.member_side).collect();
        tables.replies.remove(&member_side[0])?;

        redirector_tests::wait_until("both are collected", START, || {
            collected(&agent, "halves").is_ok_and(|number| number == 2)
        })?;
        ensure!(count(&agent, &[])? == 1 && tables.stubs() == 1);
        whoami(&mut kept)
    });
}
