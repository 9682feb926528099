//! `redirector check`: what a configuration means on this host, before it is run. Changes nothing there; at the members its
//! probes do what those of an agent do.

use std::{
    io::{self, Write},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use anyhow::Result;
use serde::Serialize;

use self::{
    load::{Detection, in_milliseconds},
    probes::Finding,
    ready::Ready,
};
use super::{
    CheckArgs, Exit, Output, run,
    table::{Align, Table},
};
use crate::{
    config::Answers,
    control::status::VERSION,
    datapath::{self, programs::HalfOpen},
    model::Config,
    telemetry,
};

mod load;
mod probes;
mod ready;

/// The whole answer.
#[derive(Debug, Serialize)]
struct Findings {
    version: u32,
    /// What the exit code says: every check passed for every member, and nothing is sure to break applications at any.
    passed: bool,
    /// The first half of it.
    checks_passed: bool,
    /// What the maps take in the kernel with the configured size, in bytes.
    flow_table_bytes: u64,
    /// How many flows that are not established yet one source may have with one service, and all sources together.
    half_open_per_source: u32,
    half_open_per_service: u32,
    /// How many flows any member address can carry from this host.
    flows_per_member_address: u64,
    /// What this host does not have yet, in words.
    warnings: Vec<String>,
    addresses: Vec<Address>,
    checks: Vec<Finding>,
    /// How soon trouble of each member is seen, and what that costs it.
    detection: Vec<Detection>,
    /// What applications would meet at each member.
    readiness: Vec<Ready>,
}

/// How this host reaches one address of a member.
#[derive(Debug, Serialize)]
struct Address {
    service: String,
    member: String,
    address: String,
    /// In words; `null`: there is no route.
    way: Option<String>,
    /// Largest packet, in bytes.
    mtu: Option<u32>,
    /// The source addresses of flows to it.
    sources: Vec<IpAddr>,
    /// How many flows it can carry from this host: source ports of the member side, for each source address.
    flows: u64,
}

/// Validates, runs every check once, prints what was found.
pub async fn run(args: &CheckArgs, out: &mut impl Write) -> Exit {
    run::log_to_standard_error("warn");
    let fitting = match run::read(&args.config, &Arc::default(), |_| Answers::default()).await {
        Ok(read) => read,
        Err(exit) => return exit,
    };
    if let Err(error) = foresee(&fitting.config).await {
        return run::failed(&error);
    }
    let memory = match datapath::kernel_memory(fitting.config.datapath.max_flows) {
        Ok(memory) => memory,
        Err(error) => return run::failed(&error),
    };
    let (checks, detection) = probes::all(&fitting.config, &fitting.resolved).await;
    let readiness = ready::look(&fitting.config, &fitting.resolved).await;
    let checks_passed = checks.iter().all(|finding| finding.passed);
    let passed = checks_passed && readiness.iter().all(Ready::is_sound);
    let findings =
        Findings { passed, checks_passed, checks, detection, readiness, ..findings(fitting, memory) };
    let written = write(&findings, &args.config, args.output, out);
    let exit = if passed { Exit::Done } else { Exit::Failed };
    super::conclude("findings", written, exit, &mut io::stderr())
}

/// What a start would refuse, and the file is not to blame for.
async fn foresee(config: &Config) -> Result<()> {
    datapath::foresee(&config.datapath).await?;
    config.agent.metrics_listen.map_or(Ok(()), telemetry::server::refuse_foreign_address)
}

/// But for what the probes find.
fn findings(fitting: run::Fitting, memory: u64) -> Findings {
    let run::Fitting { config, paths, warnings, .. } = fitting;
    let half_open = HalfOpen::new(&config.datapath);
    let address = |path: &datapath::Path| {
        let service = &config.services[path.service.0];
        Address {
            service: service.name.clone(),
            member: service.members[path.member.0].name.clone(),
            address: path.address.to_string(),
            way: (!path.way.is_empty()).then(|| path.way.clone()),
            mtu: path.mtu,
            sources: path.sources.clone(),
            flows: path.flows,
        }
    };
    Findings {
        version: VERSION,
        passed: false,
        checks_passed: false,
        flow_table_bytes: memory,
        half_open_per_source: half_open.per_source,
        half_open_per_service: half_open.per_service,
        flows_per_member_address: paths.iter().map(|path| path.flows).min().unwrap_or(0),
        warnings,
        addresses: paths.iter().map(address).collect(),
        checks: Vec::new(),
        detection: Vec::new(),
        readiness: Vec::new(),
    }
}

fn write(findings: &Findings, config: &Path, output: Output, out: &mut impl Write) -> io::Result<()> {
    if output == Output::Json {
        serde_json::to_writer_pretty(&mut *out, findings)?;
        writeln!(out)?;
        return Ok(());
    }
    let mut table = Table::new([
        ("service", Align::Left),
        ("member", Align::Left),
        ("address", Align::Left),
        ("check", Align::Left),
        ("crash seen in", Align::Right),
        ("silence seen in", Align::Right),
        ("stall seen in", Align::Right),
        ("result", Align::Left),
    ]);
    for finding in &findings.checks {
        table.row([
            finding.service.clone(),
            finding.member.clone(),
            finding.address.clone(),
            finding.check.clone(),
            in_milliseconds(finding.detects_crash_ms),
            in_milliseconds(finding.detects_silence_ms),
            in_milliseconds(finding.detects_stall_ms),
            finding.result.clone(),
        ]);
    }
    writeln!(out, "{} is valid.\n", config.display())?;
    writeln!(out, "{table}")?;
    load::write(&findings.detection, out)?;
    ready::write(&findings.readiness, out)?;
    write_addresses(&findings.addresses, out)?;
    writeln!(
        out,
        "\nMaps: {} MiB of kernel memory. A member's address carries as many flows from this host as there are ports in \
         `port_range` for each of its sources; a wider range, or more `source_addresses`, carry more.\nNot established yet: at \
         most {} flows of one source with one service, {} of all sources; sockets of this host itself are not counted.",
        findings.flow_table_bytes.div_ceil(1 << 20),
        findings.half_open_per_source,
        findings.half_open_per_service
    )?;
    for warning in &findings.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    let failed = findings.checks.iter().filter(|finding| !finding.passed).count();
    if failed > 0 {
        writeln!(out, "\n{failed} of {} checks did not pass.", findings.checks.len())?;
    }
    Ok(())
}

fn write_addresses(addresses: &[Address], out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new([
        ("service", Align::Left),
        ("member", Align::Left),
        ("address", Align::Left),
        ("flows at most", Align::Right),
        ("MTU", Align::Right),
        ("reached", Align::Left),
    ]);
    for address in addresses {
        table.row([
            address.service.clone(),
            address.member.clone(),
            address.address.clone(),
            address.flows.to_string(),
            address.mtu.map_or_else(String::new, |mtu| mtu.to_string()),
            address.way.clone().unwrap_or_else(|| "by no route".into()),
        ]);
    }
    write!(out, "{table}")?;
    Ok(())
}
