//! Idle connections at a switch: when the first and the last of them hear of it, what that costs, and whether anybody is missed
//! or ended by mistake.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use redirector_tests::{Agent, Assembly, Held, Lab, Member};

use crate::{
    START,
    clocks::cpu_time,
    figures::{row, table},
    rest::resident,
};

/// Whoever has not heard by then is missed.
const PATIENCE: Duration = Duration::from_secs(10);
/// The last pass of a small sweep is over.
const SWEPT: Duration = Duration::from_secs(1);
/// The sweep is over when the agent used less than this much of its time.
const REST: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(300));
/// Those that nobody may touch, of each kind.
const BYSTANDERS: usize = 100;

/// Connections of a planned switch, and how long their resets are spread.
const PLANNED: usize = 10_000;
const SPREAD: Duration = Duration::from_secs(2);

/// `crowds`: connections of one switch each.
pub fn measure(crowds: &[usize]) -> Result<()> {
    at_once(crowds)?;
    spread().with_context(|| format!("{PLANNED} connections over {SPREAD:?}"))
}

fn at_once(crowds: &[usize]) -> Result<()> {
    table(
        "Every connection at once",
        &format!(
            "Idle connections over IPv4, half of clients in the host's network namespace, half in three containers, in \
             processes of at most 18000 each. The member that is left lives, or was cut off just before: what the host sends \
             it is lost behind the host's own network card. From the order to switch, on the control socket, until the first \
             and the last client has its error. CPU time of the agent, user and system, until all passes of the sweep are \
             over, with what the kernel does meanwhile. Cut off, that is what this host does, its containers and its clients' \
             sockets included. A member that lives adds what the router and the member do to hear of it, which are other \
             machines outside of this lab. Resident memory of the agent before, and at most. Missed: not ended. \
             Wrong: {BYSTANDERS} direct connections to that member, {BYSTANDERS} of another service with it (if it lives: else \
             that leaves it too), {BYSTANDERS} that were opened right after the switch; how many of them ended."
        ),
        &["connections", "member", "first", "last", "CPU for each", "memory", "missed", "wrong"],
    );
    for &count in crowds {
        for fate in [Fate::Lives, Fate::CutOff] {
            let lab = Lab::builder().build()?;
            let assembly = Assembly::new(&lab, count)?;
            let agent = lab.agent(&assembly.config())?;
            agent.wait_active("m1", START)?;
            let left = leave(&lab, &assembly, &agent, count, fate);
            left.with_context(|| format!("{count} connections"))?.print();
        }
    }
    println!();
    Ok(())
}

/// What happens to the member before it is left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lives,
    CutOff,
}

struct Left {
    count: usize,
    fate: Fate,
    asked: Duration,
    held: Held,
    cpu: Duration,
    /// KiB.
    memory: (u64, u64),
    wrong: usize,
}

/// Opens a crowd at m1 and leaves that member.
fn leave(lab: &Lab, assembly: &Assembly<'_>, agent: &Agent, count: usize, fate: Fate) -> Result<Left> {
    let pid = agent.pid().context("the agent does not run")?;
    let crowd = assembly.clients(count)?;
    let bystanders = [assembly.direct_clients("m1", BYSTANDERS)?, assembly.clients_of_other(BYSTANDERS)?];
    ensure!(assembly.server("m1")?.report()?.open >= count + BYSTANDERS * 2);
    // What opening them left to do is done.
    thread::sleep(SWEPT);
    // Forgets the highest resident memory so far: proc_pid_clear_refs(5).
    fs::write(format!("/proc/{pid}/clear_refs"), "5").context("clear_refs")?;
    let (resident_before, cpu_before) = (resident(pid, "VmRSS")?, cpu_time(pid)?);

    if fate == Fate::CutOff {
        cut_off(lab, lab.member("m1"))?;
    }
    let asked = agent.switch_at_once("orders", "m2")?;
    let switched = Instant::now();
    let late = assembly.clients(BYSTANDERS)?;
    // Nobody is asked before it is over: answering takes processors.
    thread::sleep(SWEPT.saturating_sub(switched.elapsed()));
    let cpu = at_rest(pid)?.saturating_sub(cpu_before);
    let held = crowd.wait_ended(PATIENCE).or_else(|_| crowd.report())?;
    let mut wrong = 0;
    let [direct, of_other] = &bystanders;
    // Of a member that is cut off, the other service makes the same.
    for others in [direct, &late].into_iter().chain((fate == Fate::Lives).then_some(of_other)) {
        wrong += others.report()?.ended.count;
    }
    let memory = (resident_before, resident(pid, "VmHWM")?);
    Ok(Left { count, fate, asked, held, cpu, memory, wrong })
}

/// Loses what the host sends to a member as soon as it leaves the host. ([`Lab::black_hole`] has the router do all of its work
/// first, on the same processors.)
fn cut_off(lab: &Lab, member: &Member) -> Result<()> {
    let address = member.v4().ip();
    let router = lab.router();
    router
        .nft(&format!(
            "table netdev cut {{ chain c {{ type filter hook ingress device to-{} priority 0; ip daddr {address} drop; }}; }}",
            lab.app().name()
        ))
        .map(drop)
}

/// The CPU time of a process when it has nothing to do any more.
fn at_rest(pid: u32) -> Result<Duration> {
    let start = Instant::now();
    let mut before = cpu_time(pid)?;
    loop {
        thread::sleep(REST.1);
        let now = cpu_time(pid)?;
        if now.saturating_sub(before) < REST.0 || start.elapsed() > PATIENCE {
            return Ok(now);
        }
        before = now;
    }
}

impl Left {
    fn print(&self) {
        let after = |at: Option<Duration>| {
            at.map_or_else(|| "never".to_owned(), |at| milliseconds(at.saturating_sub(self.asked)))
        };
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let each = self.cpu.as_secs_f64() * 1e6 / self.count as f64;
        row(&[
            self.count.to_string(),
            if self.fate == Fate::Lives { "lives" } else { "cut off" }.to_owned(),
            after(self.held.ended.first),
            after(self.held.ended.last),
            format!("{each:.1} µs"),
            format!("{} KiB, {} KiB", self.memory.0, self.memory.1),
            self.count.saturating_sub(self.held.ended.count).to_string(),
            self.wrong.to_string(),
        ]);
    }
}

/// A planned switch, whose clients connect again at once.
fn spread() -> Result<()> {
    let lab = Lab::builder().build()?;
    let assembly = Assembly::new(&lab, PLANNED)?;
    let config = assembly.config().service_line(&format!("reset_over = \"{}s\"", SPREAD.as_secs()));
    let agent = lab.agent(&config)?;
    agent.wait_active("m1", START)?;
    let crowd = assembly.persistent_clients(PLANNED)?;
    thread::sleep(SWEPT);
    let asked = agent.switch_at_once("orders", "m2")?;
    thread::sleep(SPREAD + SWEPT);
    let held = crowd.wait_ended(PATIENCE)?;
    let again = held.opened.since(asked);
    ensure!(again.values().sum::<usize>() == PLANNED, "not everybody connected again: {held:?}");
    let (Some(first), Some(last)) = (again.keys().next(), again.keys().next_back()) else {
        bail!("nobody connected again");
    };
    // Whole tenths of a second.
    let tenths = (*first..=last.saturating_sub(9)).step_by(10);
    let rates: Vec<usize> =
        tenths.map(|start| again.range(start..start + 10).map(|(_, count)| count).sum()).collect();
    table(
        "A planned switch",
        &format!(
            "{PLANNED} connections as above with `reset_over = \"{SPREAD:?}\"`, whose clients connect again at once; \
             connections that the new member accepts in each tenth of a second, from the first to the last."
        ),
        &["least", "most", "first to last"],
    );
    row(&[
        rates.iter().min().map_or_else(String::new, ToString::to_string),
        rates.iter().max().map_or_else(String::new, ToString::to_string),
        format!("{:.2} s", f64::from(u32::try_from(last - first + 1)?) / 100.0),
    ]);
    println!();
    Ok(())
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
