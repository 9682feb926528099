//! A second agent, or a start that fails, beside one that serves: the application does not notice.

use anyhow::{Context as _, Result, ensure};
use aya::programs::TcAttachType;
use redirector_tests::{Lab, Offloads, Scenario, Value, binary, wait_until};

use super::attempt::{Attempt, FAILED, START, Serving, nothing_is_left, programs};

fn scenario() -> Scenario {
    Scenario::new(Offloads::On)
}

/// A second configuration for the same host.
struct Second(Attempt);

impl Second {
    fn new(lab: &Lab) -> Self {
        Self(Attempt::new(lab))
    }

    fn own_pins(self, lab: &Lab) -> Self {
        let pins = lab.config().pin_dir().display().to_string();
        Self(self.0.replace(&pins, &format!("{pins}-second")))
    }

    fn own_socket(self, lab: &Lab) -> Self {
        let socket = lab.config().control_socket().display().to_string();
        Self(self.0.replace(&socket, &format!("{socket}-second")))
    }

    fn own_device(self) -> Self {
        Self(self.0.replace("redirector0", "redirector1"))
    }

    fn own_vips(self) -> Self {
        Self(self.0.replace("10.255.0.1:", "10.255.0.9:").replace("[fd00:255::1]:", "[fd00:255::9]:"))
    }
}

/// Nothing of the second one is there.
fn no_second(lab: &Lab) -> Result<()> {
    let pins = format!("{}-second", lab.config().pin_dir().display());
    let socket = format!("{}-second", lab.config().control_socket().display());
    for path in [pins, socket] {
        ensure!(!std::path::Path::new(&path).exists(), "{path} is left");
    }
    ensure!(lab.app().offloads("redirector1").is_err(), "the second VIP device is left");
    Ok(())
}

#[test]
fn a_second_agent_is_refused_and_the_first_goes_on() {
    scenario().run(|lab| {
        let serving = Serving::start(lab)?;
        let pins = lab.config().pin_dir().display().to_string();
        let socket = lab.config().control_socket().display().to_string();
        let second = || Second::new(lab);
        let cases = [
            (
                "same everything",
                second(),
                vec!["another agent is running on the pin directory", &pins, "stop that"],
            ),
            (
                "same pins",
                second().own_socket(lab).own_device().own_vips(),
                vec!["pin directory", &pins, "stop that"],
            ),
            (
                "same device",
                second().own_pins(lab).own_socket(lab),
                vec!["the device redirector0 belongs to an agent with another pin_dir", "device of its own"],
            ),
            (
                "same control socket",
                second().own_pins(lab).own_device().own_vips(),
                vec!["control socket", &socket, "another agent answers on it", "stop that"],
            ),
        ];
        for (title, second, fragments) in cases {
            second.0.refused("run", FAILED, &fragments).context(title)?;
            no_second(lab).context(title)?;
            serving.goes_on(lab).context(title)?;
        }

        // Found here: the second one took the VIP's route from the first.
        let attempt = second().own_pins(lab).own_socket(lab).own_device().0;
        let (v4, v6) = ("10.255.0.1", "fd00:255::1");
        let ended = attempt.run("run")?;
        let lines: Vec<_> = ended.stderr.lines().collect();
        ensure!(ended.code == 2 && lines.len() == 2, "{ended:#?}");
        for (line, vip) in lines.iter().zip([v4, v6]) {
            let said =
                format!("a route for the VIP's address {vip} already to the device redirector0; uninstall");
            ensure!(line.contains(&said), "{line}");
        }
        no_second(lab)?;
        serving.goes_on(lab)
    });
}

/// What the messages advise works: with everything of its own, two agents serve beside each other.
#[test]
fn a_second_agent_with_everything_of_its_own_serves_too() {
    scenario().run(|lab| {
        let serving = Serving::start(lab)?;
        let attempt = Second::new(lab).own_pins(lab).own_socket(lab).own_device().own_vips().0;
        let checked = attempt.run("check")?;
        ensure!(checked.code == 0, "{checked:#?}");
        let mut command = lab.app().command(binary()?);
        command.arg("run").arg("--config").arg(attempt.file());
        let mut process = lab.app().spawn("second agent", command)?;
        let whoami = || {
            let mut connection = lab.app().connect("10.255.0.9:6379".parse()?)?;
            connection.set_time_limit(Some(START))?;
            anyhow::Ok(connection.command(&["GET", "whoami"])?)
        };
        wait_until("the second one serves", START, || {
            whoami().is_ok_and(|value| value == Value::Bulk(Some(b"m1".to_vec())))
        })
        .with_context(|| process.log().text())?;
        let both = programs(lab.app(), "eth0", TcAttachType::Ingress)?.len();
        ensure!(both == 2, "{both} programs at the uplink");
        process.signal(rustix::process::Signal::TERM)?;
        ensure!(process.wait(START)?.success(), "{}", process.log().text());
        let ended = attempt.run("uninstall")?;
        ensure!(ended.code == 0, "{ended:#?}");
        no_second(lab)?;
        serving.goes_on(lab)
    });
}

/// `uninstall` beside an agent that runs, with its own configuration and with another one.
#[test]
fn what_runs_is_not_uninstalled() {
    scenario().run(|lab| {
        let serving = Serving::start(lab)?;
        let pins = lab.config().pin_dir().display().to_string();
        let attempt = Attempt::new(lab);
        attempt.refused(
            "uninstall",
            FAILED,
            &["another agent is running on the pin directory", &pins, "stop that"],
        )?;
        serving.goes_on(lab)?;
        // Found here: without pins of its own, `uninstall` removed the device of the agent that had it.
        let second = Second::new(lab).own_pins(lab).own_socket(lab);
        second.0.refused(
            "uninstall",
            FAILED,
            &["redirector0 belongs to an agent with another pin_dir", "uninstall"],
        )?;
        serving.goes_on(lab)
    });
}

/// Invariant 10, at a restart: what the agent before has left carries on, whatever the new file says.
#[test]
fn a_restart_with_a_wrong_file_changes_nothing() {
    scenario().run(|lab| {
        let mut serving = Serving::start(lab)?;
        serving.agent.terminate()?;
        let socket = lab.config().control_socket().display().to_string();
        let attempt = || Attempt::new(lab);
        // Found here: a member that the new file does not have was retired before the start failed.
        let without_m1 = || attempt().replace("name = \"m1\"", "name = \"m9\"");
        without_m1().replace("10.255.0.1:6379", "10.1.0.2:6379").refused(
            "run",
            2,
            &["VIP 10.1.0.2:6379 is an address of this host"],
        )?;
        serving.is_undisturbed(lab).context("a VIP that is the host's own address")?;
        without_m1().replace(&socket, "/proc/nosuch/socket").refused(
            "run",
            FAILED,
            &["/proc/nosuch/socket"],
        )?;
        serving.is_undisturbed(lab).context("a control socket that cannot be")?;
        let other_place = attempt().on(lab.router());
        other_place.refused("run", FAILED, &["belong to another network namespace", "pin_dir of its own"])?;
        ensure!(lab.router().offloads("redirector0").is_err(), "a VIP device is left at the router");
        serving.is_undisturbed(lab).context("an agent in another namespace")?;
        serving.agent.start()?;
        serving.goes_on(lab)
    });
}

/// SIGKILL leaves traffic running and the control socket behind; `uninstall` removes it all, and twice is no error.
///
/// Found here, once in three runs: `uninstall` was done a moment before the program at the uplink was gone.
#[test]
fn uninstall_after_a_kill_leaves_nothing() {
    scenario().run(|lab| {
        let mut serving = Serving::start(lab)?;
        serving.agent.kill()?;
        serving.is_undisturbed(lab).context("after SIGKILL")?;
        ensure!(lab.config().control_socket().exists(), "nobody has removed the socket");
        for _ in 0..2 {
            serving.agent.uninstall()?;
            nothing_is_left(lab)?;
        }
        Ok(())
    });
}
