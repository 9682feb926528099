//! A crowd of connections, more than one process may have files open: clients and servers in processes of their own
//! (`bin/crowd`).

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::{ChildStdin, ChildStdout, Command},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;

use crate::{Host, Process, slowness, wait_until};

/// Connections of one process: what it may have open (20 000 files are common), and some for itself.
const MOST: usize = 18_000;

/// A question is answered within this, also by a process that has just been told of the end of all its connections.
const ANSWER: Duration = Duration::from_secs(10);

/// For each connection of a crowd, the time that opening it may take; all of them share two processors with everything else.
const OPENING: Duration = Duration::from_millis(1);

/// Clients of one host.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// Where they are.
    pub host: &'a Host,
    /// Their source addresses, in turns; empty: what the route prefers.
    pub from: Vec<IpAddr>,
    /// How many.
    pub count: usize,
}

/// Times of things of one kind; those of `CLOCK_MONOTONIC`.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How many.
    pub count: usize,
    /// When the first was seen.
    pub first: Option<Duration>,
    /// When the last was seen.
    pub last: Option<Duration>,
    /// How many in which hundredth of a second since the start of the clock.
    pub hundredths: BTreeMap<u64, usize>,
}

/// What the clients of a crowd saw.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// Connections that were opened, those that came again included.
    pub opened: Seen,
    /// Connections that ended.
    pub ended: Seen,
    /// With what they ended: `ECONNABORTED`, `ECONNRESET`, `end of file`.
    pub errors: BTreeMap<String, usize>,
}

/// What the processes of a server saw.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// Connections that were accepted.
    pub accepted: Seen,
    /// Those that are open.
    pub open: usize,
}

/// Idle clients. They end with this value.
#[derive(Debug)]
pub struct Crowd {
    count: usize,
    holders: Vec<Talker>,
}

impl Crowd {
    /// Connects to `to` from all of `parts` at once, and waits until every client is connected.
    ///
    /// # Errors
    /// When one is not.
    pub fn open(to: SocketAddr, parts: &[Part<'_>]) -> Result<Self> {
        Self::start(to, parts, false)
    }

    /// The same with clients that connect again at once when they are ended.
    ///
    /// # Errors
    /// When one does not connect the first time.
    pub fn open_persistent(to: SocketAddr, parts: &[Part<'_>]) -> Result<Self> {
        Self::start(to, parts, true)
    }

    fn start(to: SocketAddr, parts: &[Part<'_>], again: bool) -> Result<Self> {
        let mut holders = Vec::new();
        for part in parts {
            let processes = part.count.div_ceil(MOST);
            for number in 0..processes {
                // As even as it goes.
                let count = (part.count * (number + 1) / processes) - (part.count * number / processes);
                let mut command = part.host.command(binary()?);
                command.args(["hold", "--to", &to.to_string(), "--count", &count.to_string()]);
                command.args(part.from.iter().flat_map(|from| ["--from".to_owned(), from.to_string()]));
                command.args(again.then_some("--again"));
                holders.push(Talker::start(part.host, "clients", command)?);
            }
        }
        let count = parts.iter().map(|part| part.count).sum();
        let within = ANSWER + OPENING * u32::try_from(count)?;
        holders.iter().try_for_each(|holder| holder.ready(within))?;
        Ok(Self { count, holders })
    }

    /// What they saw.
    ///
    /// # Errors
    /// When a process does not answer.
    pub fn report(&self) -> Result<Held> {
        let mut all = Held::default();
        for holder in &self.holders {
            let report = holder.report()?;
            all.opened.add(&Seen::read(&report["opened"])?);
            all.ended.add(&Seen::read(&report["ended"])?);
            let errors = report["errors"].as_object().context("no errors")?;
            for (name, count) in errors {
                *all.errors.entry(name.clone()).or_default() += number(count)?;
            }
        }
        Ok(all)
    }

    /// Waits until every connection has ended, those that came again not counted.
    ///
    /// # Errors
    /// When one has not within `within`, with what was seen.
    pub fn wait_ended(&self, within: Duration) -> Result<Held> {
        let mut last = None;
        let all_ended = wait_until("every connection has ended", within, || {
            // Asking takes its share of the processors.
            thread::sleep(Duration::from_millis(20));
            last = self.report().ok();
            last.as_ref().is_some_and(|held| held.ended.count >= self.count)
        });
        let seen = last.as_ref().map(|held| (self.count, held.ended.count, &held.errors));
        all_ended.with_context(|| format!("all, ended, with what: {seen:?}"))?;
        last.context("nothing was seen")
    }
}

/// A server for a crowd: accepts, and echoes what it is sent. It ends with this value.
#[derive(Debug)]
pub struct CrowdServer {
    processes: Vec<Talker>,
}

impl CrowdServer {
    /// Listens on an address of `host` with as many processes as `connections` take.
    ///
    /// # Errors
    /// When the address is not free.
    pub fn start(host: &Host, address: SocketAddr, connections: usize) -> Result<Self> {
        let mut processes = Vec::new();
        // The kernel spreads connections over them by chance: not quite evenly.
        for _ in 0..connections.div_ceil(MOST - MOST / 20) {
            let mut command = host.command(binary()?);
            command.args(["serve", &address.to_string()]);
            processes.push(Talker::start(host, "server", command)?);
        }
        processes.iter().try_for_each(|process| process.ready(ANSWER))?;
        Ok(Self { processes })
    }

    /// What they saw.
    ///
    /// # Errors
    /// When a process does not answer.
    pub fn report(&self) -> Result<Served> {
        let mut all = Served::default();
        for process in &self.processes {
            let report = process.report()?;
            all.accepted.add(&Seen::read(&report["accepted"])?);
            all.open += number(&report["open"])?;
        }
        Ok(all)
    }
}

impl Seen {
    fn read(json: &Json) -> Result<Self> {
        let time = |name: &str| json[name].as_u64().map(Duration::from_nanos);
        let pairs = json["hundredths"].as_array().context("no hundredths")?;
        let pair = |pair: &Json| Ok((pair[0].as_u64().context("no hundredth")?, number(&pair[1])?));
        Ok(Self {
            count: number(&json["count"])?,
            first: time("first_ns"),
            last: time("last_ns"),
            hundredths: pairs.iter().map(pair).collect::<Result<_>>()?,
        })
    }

    /// How many in which hundredth of a second, from the one that `time` is in.
    #[must_use]
    pub fn since(&self, time: Duration) -> BTreeMap<u64, usize> {
        let first = time.as_secs() * 100 + u64::from(time.subsec_millis() / 10);
        self.hundredths.range(first..).map(|(hundredth, count)| (*hundredth, *count)).collect()
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.first = self.first.into_iter().chain(other.first).min();
        self.last = self.last.max(other.last);
        for (hundredth, count) in &other.hundredths {
            *self.hundredths.entry(*hundredth).or_default() += count;
        }
    }
}

fn number(json: &Json) -> Result<usize> {
    let number = json.as_u64().with_context(|| format!("no number: {json}"))?;
    Ok(usize::try_from(number)?)
}

/// A process of `bin/crowd`. Ends with this value.
#[derive(Debug)]
struct Talker {
    process: Process,
    /// One question at a time.
    pipes: Mutex<(ChildStdin, mpsc::Receiver<String>)>,
}

impl Talker {
    fn start(host: &Host, name: &str, command: Command) -> Result<Self> {
        let (process, input, output) = host.spawn_to_talk(name, command)?;
        let (lines, told) = mpsc::channel();
        thread::Builder::new().name(format!("hear-{name}")).spawn(move || hear(output, &lines))?;
        Ok(Self { process, pipes: Mutex::new((input, told)) })
    }

    fn ready(&self, within: Duration) -> Result<()> {
        let pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let line = self.line(&pipes.1, within)?;
        ensure!(line["ready"] == true, "{line}");
        Ok(())
    }

    fn report(&self) -> Result<Json> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        pipes.0.write_all(b"report\n").with_context(|| self.process.log().text())?;
        self.line(&pipes.1, ANSWER)
    }

    fn line(&self, told: &mpsc::Receiver<String>, within: Duration) -> Result<Json> {
        let line = told.recv_timeout(within * slowness()).with_context(|| {
            // The last words may still be in the pipe.
            thread::sleep(Duration::from_millis(50));
            self.process.log().text()
        })?;
        serde_json::from_str(&line).with_context(|| line)
    }
}

/// Passes lines on until there are no more, or nobody listens.
fn hear(output: ChildStdout, lines: &mpsc::Sender<String>) {
    for line in BufReader::new(output).lines() {
        if line.is_ok_and(|line| lines.send(line).is_ok()) {
            continue;
        }
        return;
    }
}

/// `crowd`, which Cargo built beside this program; or `REDIRECTOR_CROWD_BIN`.
fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("REDIRECTOR_CROWD_BIN") {
        return Ok(path.into());
    }
    // target/<profile>/<program> or target/<profile>/deps/<test>
    let program = env::current_exe()?;
    let mut near = program.ancestors().skip(1).take(2).map(|dir| dir.join("crowd"));
    near.find(|path| path.is_file()).context(
        "there is no program `crowd` beside this one; build it with `cargo build -p redirector-tests --bin crowd`, or name it \
         in REDIRECTOR_CROWD_BIN",
    )
}
