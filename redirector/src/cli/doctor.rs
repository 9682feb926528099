//! `redirector doctor`: can this host do it, and what is in the way? Every condition is a row. Needs no running agent,
//! and changes nothing that stays.
//!
//! What is found out about the kernel is the datapath's ([`crate::datapath::doctor`]); here it is judged, by functions
//! from facts to rows.

use std::{
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::Result;
use serde::Serialize;

use super::{
    DoctorArgs, Exit, Output, run,
    table::{Align, Table},
};
use crate::{
    config::{self, Answers, Loaded},
    control::status::VERSION,
    datapath::{
        self,
        doctor::{Kernel, Pins, Trials, hooks, netfilter, routes},
    },
    model::{CheckKind, Datapath, HookRun, Service},
};

mod agent;
mod configuration;
mod host;
mod kernel;
mod row;

use row::{Row, Verdict};

/// The whole answer.
#[derive(Debug, Serialize)]
struct Diagnosis {
    version: u32,
    /// That of the worst row.
    verdict: Verdict,
    rows: Vec<Row>,
}

impl Diagnosis {
    fn of(rows: Vec<Row>) -> Self {
        let verdict = rows.iter().map(|row| row.verdict).max().unwrap_or(Verdict::Good);
        Self { version: VERSION, verdict, rows }
    }

    fn exit(&self) -> Exit {
        match self.verdict {
            Verdict::Good | Verdict::Note => Exit::Done,
            Verdict::Warning => Exit::Degraded,
            Verdict::Bad => Exit::Failed,
        }
    }
}

/// Looks at everything and prints it. `socket` counts where no configuration names one.
pub async fn run(socket: &Path, args: &DoctorArgs, out: &mut impl Write) -> Exit {
    run::log_to_standard_error("warn");
    let loaded = match args.config.as_deref().map(config::load).transpose() {
        Ok(loaded) => loaded,
        Err(error) => return run::wrong_configuration(&error),
    };
    let diagnosis = match diagnose(socket, loaded.as_ref()).await {
        Ok(rows) => Diagnosis::of(rows),
        Err(error) => return run::failed(&error),
    };
    let written = write(&diagnosis, args.output, out);
    super::conclude("diagnosis", written, diagnosis.exit(), &mut io::stderr())
}

async fn diagnose(socket: &Path, loaded: Option<&Loaded>) -> Result<Vec<Row>> {
    let (socket, datapath) = match loaded {
        Some(loaded) => (loaded.config.agent.control_socket.clone(), loaded.config.datapath.clone()),
        None => (socket.to_owned(), config::defaults_of_the_host().1),
    };
    let kernel = Kernel::look()?;
    // Without the privileges every trial would fail for the same reason, which has a row.
    let trials = if kernel.unprivileged.is_none() { Trials::run()? } else { Trials::without_privileges() };
    let services = loaded.map_or(&[][..], |loaded| &loaded.config.services);
    let needs = kernel::Needs {
        memory: datapath::kernel_memory(datapath.max_flows)?,
        members: services.iter().map(|service| service.members.len()).sum(),
        commands: services.iter().any(runs_commands),
    };
    let mut rows = kernel::rows(&kernel, &trials, needs);
    let mut uplinks = datapath.uplinks.clone();
    let mut of_the_configuration = Vec::new();
    if let Some(loaded) = loaded {
        (of_the_configuration, uplinks) = configured(loaded).await?;
    }
    rows.extend(of_the_host(&datapath, &uplinks).await?);
    rows.extend(of_the_configuration);
    rows.extend(of_the_agent(socket, &datapath, &uplinks, &kernel).await?);
    Ok(rows)
}

/// Whether checks or hooks of a service do.
fn runs_commands(service: &Service) -> bool {
    service.checks.iter().any(|check| matches!(check.kind, CheckKind::Exec(_)))
        || service.hooks.iter().any(|hook| matches!(hook.run, HookRun::Command { .. }))
}

async fn of_the_host(datapath: &Datapath, uplinks: &[String]) -> Result<Vec<Row>> {
    let devices: Vec<_> = [datapath.device.clone()].into_iter().chain(uplinks.iter().cloned()).collect();
    let devices = routes::existing(&devices).await?;
    let settings = host::Settings::read(devices.iter().map(String::as_str));
    let masquerades = netfilter::masquerades(&datapath.device).await;
    Ok(host::rows(datapath, &settings, masquerades.as_deref()))
}

/// Rows about the configuration, and the uplinks that follow from it.
async fn configured(loaded: &Loaded) -> Result<(Vec<Row>, Vec<String>)> {
    let config = &loaded.config;
    let mut rows = configuration::vips(config, &routes::subnets().await?);
    let asked = Instant::now();
    let resolved = match config::resolve(loaded, &Arc::default(), &Answers::default()).await {
        Ok(resolved) => resolved,
        Err(error) => {
            rows.extend(configuration::faults("endpoint", &error));
            return Ok((rows, config.datapath.uplinks.clone()));
        }
    };
    rows.extend(configuration::names(config, asked.elapsed()));
    let misfits = datapath::survey(config, &resolved).await?.misfits;
    if let Some(error) = loaded.misfits(&misfits) {
        rows.extend(configuration::faults("misfit", &error));
    }
    let ways = routes::ways(config, &resolved).await?;
    rows.extend(configuration::members(config, &ways));
    rows.extend(configuration::mtu(config, &ways));
    Ok((rows, configuration::uplinks(config, &ways)))
}

async fn of_the_agent(
    socket: PathBuf,
    datapath: &Datapath,
    uplinks: &[String],
    kernel: &Kernel,
) -> Result<Vec<Row>> {
    let pin_dir = &datapath.pin_dir;
    let answer = agent::Answer::ask(&socket).await;
    if kernel.unprivileged.is_some() {
        // Pins and programs are nobody's to read without the privileges.
        return Ok(vec![agent::agent(&answer, &socket, &Pins::none())]);
    }
    let pins = Pins::look(pin_dir)?;
    let hooks = hooks::look(pin_dir, &datapath.device, uplinks).await?;
    let refused = hooks::refusal(pin_dir, &datapath.device).await?;
    let mut rows = vec![agent::agent(&answer, &socket, &pins)];
    rows.extend(agent::pins(&pins));
    rows.extend(agent::hooks(&hooks, &datapath.device, &pins, refused.as_deref()));
    Ok(rows)
}

fn write(diagnosis: &Diagnosis, output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Table => write!(out, "{}", Page(&diagnosis.rows))?,
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, diagnosis)?;
            writeln!(out)?;
        }
    }
    out.flush()
}

/// A table of all rows, and what to do about those that are not good.
struct Page<'a>(&'a [Row]);

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new([("", Align::Left), ("check", Align::Left), ("found", Align::Left)]);
        for row in self.0 {
            table.row([row.verdict.mark().into(), row.title(), row.found.clone()]);
        }
        write!(f, "{table}")?;
        let mut rows: Vec<_> = self.0.iter().filter(|row| row.next.is_some()).collect();
        // The worst first; within one verdict in the order of the table.
        rows.sort_by_key(|row| std::cmp::Reverse(row.verdict));
        if !rows.is_empty() {
            writeln!(f, "\nWhat to do:")?;
        }
        for row in rows {
            let next = row.next.as_deref().unwrap_or_default().replace(char::is_control, "?");
            writeln!(f, "{:<4}  {}: {next}", row.verdict.mark(), row.title())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{row::Area, *};

    fn rows() -> Vec<Row> {
        vec![
            Row::good(Area::Kernel, "version", "Linux 6.18.1"),
            Row::note(Area::Host, "ip_forward", "0", "nothing"),
            Row::good(Area::Host, "rp_filter", "1 (strict)").about("eth0"),
            Row::bad(Area::Host, "bpffs", "/tmp/x", "mount it"),
            Row::warning(Area::Agent, "agent", "none runs", "start it"),
        ]
    }

    #[test]
    fn people_read_a_table_and_then_what_to_do() {
        insta::assert_snapshot!(Page(&rows()).to_string(), @r"
              check           found
        ok    version         Linux 6.18.1
        note  ip_forward      0
        ok    rp_filter eth0  1 (strict)
        BAD   bpffs           /tmp/x
        WARN  agent           none runs

        What to do:
        BAD   bpffs: mount it
        WARN  agent: start it
        note  ip_forward: nothing
        ");
    }

    #[test]
    fn the_worst_row_decides() {
        let mut rows = rows();
        for (verdict, exit) in [
            (Verdict::Bad, Exit::Failed),
            (Verdict::Warning, Exit::Degraded),
            (Verdict::Note, Exit::Done),
            (Verdict::Good, Exit::Done),
        ] {
            let diagnosis = Diagnosis::of(rows.clone());
            assert_eq!((diagnosis.verdict, diagnosis.exit()), (verdict, exit));
            rows.retain(|row| row.verdict < verdict);
        }
    }

    #[test]
    fn json_is_a_promise() {
        let diagnosis = Diagnosis::of(rows());
        let mut out = Vec::new();
        write(&diagnosis, Output::Json, &mut out).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&json["version"], &json["verdict"]), (&1.into(), &"bad".into()));
        let row = serde_json::json!({"area": "host", "check": "rp_filter", "subject": "eth0", "verdict": "good",
            "found": "1 (strict)", "next": null});
        assert_eq!(json["rows"][2], row);
    }
}
