//! `redirector simulate`: replays a recording through the core and shows the switches that come of it.
//!
//! Times are counted from the first line: the recording has the clock of a machine that has booted since, perhaps.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Write},
    path::Path,
    time::Duration,
};

use serde::Serialize;

use super::{
    Exit, Output, SimulateArgs,
    table::{Align, Table},
};
use crate::{
    control::status::VERSION,
    decide::{
        Action, Core, Switch, Time,
        record::{Input, Line},
    },
    model::{MemberId, SwitchKind, TroubleKind},
};

/// What came of a recording, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Simulation {
    version: u32,
    /// Lines that were read.
    lines: usize,
    /// From the first line to the last.
    seconds: f64,
    /// How often probers looked because of a signal of the kernel.
    looks: usize,
    /// In the order of time.
    switches: Vec<Simulated>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Simulated {
    /// From the first line of the recording.
    seconds: f64,
    service: String,
    from: Option<String>,
    to: Option<String>,
    epoch: u32,
    kind: SwitchKind,
    reason: String,
    /// Of a failover: what took `from` down, and how long that was borne.
    trouble: Option<TroubleKind>,
    borne_seconds: Option<f64>,
}

/// Replays a file.
pub fn run(args: &SimulateArgs, out: &mut impl Write, err: &mut impl Write) -> Exit {
    let simulation = match File::open(&args.file) {
        Ok(file) => replay(BufReader::new(file)).map_err(|why| format!("{}:{why}", args.file.display())),
        Err(error) => Err(unreadable(&args.file, &error)),
    };
    match simulation {
        Ok(simulation) => {
            let written = write(&simulation, args.output, out);
            super::conclude("simulation", written, Exit::Done, err)
        }
        Err(error) => {
            let _nowhere_to_say_it = writeln!(err, "error: {error}");
            Exit::WrongUsage
        }
    }
}

fn unreadable(file: &Path, error: &io::Error) -> String {
    format!("{}: cannot be read ({error}); name the file that `record` in [agent] names", file.display())
}

/// Cause and next step after `LINE: `.
fn replay(lines: impl io::BufRead) -> Result<Simulation, String> {
    let mut cores: BTreeMap<String, Core> = BTreeMap::new();
    let (mut switches, mut looks) = (Vec::new(), 0);
    let (mut first, mut last, mut number) = (None, Time::default(), 0);
    for line in lines.lines() {
        number += 1;
        let fault = |cause: String, next: &str| format!("{number}: {cause}; {next}");
        let line = line.map_err(|error| fault(format!("cannot be read ({error})"), "copy the file anew"))?;
        if line.is_empty() {
            continue;
        }
        let Line { at, service, input } = serde_json::from_str(&line).map_err(|error| {
            fault(
                format!("not a line of a recording ({error})"),
                "remove it, if the agent was killed while it wrote; or replay with the version that recorded it",
            )
        })?;
        last = at.max(last);
        let began = *first.get_or_insert(at);
        if let Input::Core(core) = &input {
            cores.entry(service.clone()).or_insert_with(|| Core::clone(core));
        }
        let Some(core) = cores.get_mut(&service) else {
            let cause = format!("service {service:?} is not known yet");
            return Err(fault(cause, "begin with the line that has its \"core\""));
        };
        let actions = core.replay(at, &input).map_err(|cause| fault(cause, "replay the whole file"))?;
        for action in actions {
            match action {
                Action::Switch(switch) => switches.push(simulated(core, service.clone(), switch, began)),
                Action::Look { .. } => looks += 1,
                _ => {}
            }
        }
    }
    let Some(first) = first else {
        return Err("1: the recording is empty; wait until the agent has written to it".to_owned());
    };
    Ok(Simulation { version: VERSION, lines: number, seconds: seconds(last.since(first)), looks, switches })
}

fn simulated(core: &Core, service: String, switch: Switch, began: Time) -> Simulated {
    let name = |member: MemberId| core.name_of(member);
    Simulated {
        seconds: seconds(switch.at.since(began)),
        service,
        from: switch.from.map(name),
        to: switch.to.map(name),
        epoch: switch.epoch.0,
        kind: switch.kind,
        reason: switch.reason,
        trouble: switch.borne.map(|borne| borne.trouble),
        borne_seconds: switch.borne.map(|borne| seconds(borne.lasted)),
    }
}

/// To the millisecond.
fn seconds(duration: Duration) -> f64 {
    let millis = u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    f64::from(millis) / 1e3
}

fn write(simulation: &Simulation, output: Output, out: &mut impl Write) -> io::Result<()> {
    if output == Output::Json {
        serde_json::to_writer_pretty(&mut *out, simulation)?;
        return writeln!(out);
    }
    let left = |title| (title, Align::Left);
    let mut table = Table::new([
        ("after", Align::Right),
        left("service"),
        left("from"),
        left("to"),
        ("epoch", Align::Right),
        left("kind"),
        left("reason"),
    ]);
    let name = |member: &Option<String>| member.clone().unwrap_or_else(|| "-".to_owned());
    for switch in &simulation.switches {
        table.row([
            format!("{:.3}s", switch.seconds),
            switch.service.clone(),
            name(&switch.from),
            name(&switch.to),
            switch.epoch.to_string(),
            switch.kind.to_string(),
            switch.reason.clone(),
        ]);
    }
    write!(out, "{table}")?;
    let Simulation { lines, seconds, looks, switches, .. } = simulation;
    write!(out, "\n{} switches in {seconds:.0} s, from {lines} lines", switches.len())?;
    if *looks > 0 {
        write!(out, "; probers looked {looks} times because of signals")?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::*;
    use crate::{
        decide::record::Outcome,
        model::{Cause, CheckId, Failure, Offer, Phase, Signal, SignalKind},
    };

    /// Paris and dublin come up, then paris is refused three times.
    fn recording() -> String {
        let text = "[[service]]\nname = \"orders\"\nvips = [\"10.255.0.1:6379\"]\n[[service.member]]\nname = \"paris\"\n\
                    endpoint = \"10.2.1.2:6379\"\n[[service.member]]\nname = \"dublin\"\nendpoint = \"10.2.2.2:6379\"\n\
                    weight = 50\n";
        let mut loaded = crate::config::parse(Path::new("r.toml"), text).unwrap();
        let service = loaded.config.services.remove(0);
        let addresses = ["10.2.1.2:6379", "10.2.2.2:6379"].map(|address| address.parse().unwrap());
        let known = addresses.map(|address| vec![Offer { address, offered: true }]);
        let time = |ms: u64| Time(Duration::from_millis(1_000_000 + ms));
        let core = Core::new(service, &known, None, time(0));
        let refused = || Outcome::Fail(Failure { phase: Phase::Connect, cause: Cause::Refused });
        let probe =
            |member: usize, outcome| Input::Probe(MemberId(member), addresses[member], CheckId(0), outcome);
        let closed = Signal { kind: SignalKind::Closed, ago: Duration::ZERO, count: 3 };
        let inputs = [
            (0, Input::Core(Box::new(core))),
            (1, probe(0, Outcome::Pass(300_000))),
            (2, probe(1, Outcome::Pass(300_000))),
            (1500, Input::Signal(MemberId(0), closed)),
            (1500, probe(0, refused())),
            (1502, probe(0, refused())),
            (1504, probe(0, refused())),
        ];
        let line = |(ms, input)| Line { at: time(ms), service: "orders".to_owned(), input };
        inputs.map(|input| serde_json::to_string(&line(input)).unwrap() + "\n").concat()
    }

    /// Exit, standard output, standard error without the directory.
    fn simulate(text: &str, output: Output) -> (Exit, String, String) {
        let name = format!("redirector-simulate-{}-{:?}", process::id(), std::thread::current().id());
        let file = env::temp_dir().join(name);
        fs::write(&file, text).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = run(&SimulateArgs { file: file.clone(), output }, &mut out, &mut err);
        fs::remove_file(&file).unwrap();
        let err = String::from_utf8(err).unwrap().replace(file.to_str().unwrap(), "FILE");
        (exit, String::from_utf8(out).unwrap(), err)
    }

    #[test]
    fn switches_are_shown_with_their_times_and_reasons() {
        let (exit, out, err) = simulate(&recording(), Output::Table);
        assert_eq!((exit, err.as_str()), (Exit::Done, ""));
        insta::assert_snapshot!(out, @r#"
         after  service  from   to      epoch  kind      reason
        0.002s  orders   -      paris       1  initial   first choice: member "paris" has weight 100 and is the best of 2 up, 0 down, 0 unknown
        1.504s  orders   paris  dublin      2  failover  member "paris" down: connection refused (3 in a row)

        2 switches in 2 s, from 7 lines; probers looked 1 times because of signals
        "#);
        let (exit, out, _) = simulate(&recording(), Output::Json);
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (exit, &json["version"], &json["switches"][1]["seconds"]),
            (Exit::Done, &1.into(), &1.504.into())
        );
        let borne = (&json["switches"][1]["trouble"], &json["switches"][1]["borne_seconds"]);
        assert_eq!((borne, &json["looks"]), ((&"refused".into(), &0.004.into()), &1.into()));
    }

    #[test]
    fn a_wrong_line_is_named_with_cause_and_next_step() {
        let lines = recording();
        let (first, rest) = lines.split_once('\n').unwrap();
        let other = rest.replace("\"probe\":[1,", "\"probe\":[5,");
        let cases = [
            (String::new(), "error: FILE:1: the recording is empty; wait until the agent has written to it"),
            (
                rest.to_owned(),
                "error: FILE:1: service \"orders\" is not known yet; begin with the line that has its",
            ),
            (
                format!("{first}\n{{\"t\":1"),
                "error: FILE:2: not a line of a recording (EOF while parsing an object",
            ),
            (
                format!("{first}\n{other}"),
                "error: FILE:3: it names member 5, and the service has 2; replay the whole",
            ),
        ];
        for (text, expected) in cases {
            let (exit, out, err) = simulate(&text, Output::Table);
            assert_eq!((exit, out.as_str()), (Exit::WrongUsage, ""));
            assert!(err.starts_with(expected), "{err}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let args = SimulateArgs { file: "/nowhere/record".into(), output: Output::Table };
        let mut err = Vec::new();
        assert_eq!(run(&args, &mut Vec::new(), &mut err), Exit::WrongUsage);
        let err = String::from_utf8(err).unwrap();
        assert!(
            err.contains("/nowhere/record: cannot be read (No such file")
                && err.contains("`record` in [agent]")
        );
    }
}
