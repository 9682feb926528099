//! The newest switch of each service, on disk: what a restarted agent cannot read from the maps.
//!
//! Losing the file loses the reason and the time of the last switch, and with them a drain or a hold-down that was
//! running. It decides nothing else: active member and epoch are in the maps.

use std::{collections::BTreeMap, fs, path::Path, sync::mpsc, thread, time::SystemTime};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{
    decide::{ResumedSwitch, Switch},
    model::{Epoch, MemberId, Service, SwitchKind},
};

/// A switch as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    epoch: u32,
    from: Option<String>,
    kind: SwitchKind,
    reason: String,
    /// RFC 3339.
    at: String,
}

/// The newest switch of each service, by its name.
#[derive(Debug)]
pub(super) struct History {
    records: BTreeMap<String, Record>,
    /// To the thread that writes; `None` while dropping.
    writer: Option<mpsc::Sender<BTreeMap<String, Record>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl History {
    /// Reads what an earlier agent kept. A file that cannot be read is as good as none.
    pub(super) fn read(state_dir: &Path) -> Self {
        let file = state_dir.join("switches.json");
        let records = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!("{} is not readable, going on without it: {error}", file.display());
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        let (writer, snapshots) = mpsc::channel();
        let thread =
            thread::Builder::new().name("history".into()).spawn(move || write_all(&file, &snapshots));
        if let Err(error) = &thread {
            tracing::warn!("switches are not kept over a restart: {error}");
        }
        Self { records, writer: Some(writer), thread: thread.ok() }
    }

    /// The switch to `epoch`, if that is the one on record.
    pub(super) fn resume(&self, service: &Service, epoch: Epoch) -> Option<ResumedSwitch> {
        let record = self.records.get(&service.name).filter(|record| record.epoch == epoch.0)?;
        let at = humantime::parse_rfc3339(&record.at).ok()?;
        let member = |name: &String| service.members.iter().position(|member| member.name == *name);
        Some(ResumedSwitch {
            from: record.from.as_ref().and_then(member).map(MemberId),
            kind: record.kind,
            reason: record.reason.clone(),
            // A clock that was set back makes the switch a new one.
            age: SystemTime::now().duration_since(at).unwrap_or_default(),
        })
    }

    /// Keeps a switch. A thread writes it: a slow disk delays no decision.
    pub(super) fn record(&mut self, service: &Service, switch: &Switch, at: SystemTime) {
        let record = Record {
            epoch: switch.epoch.0,
            from: switch.from.map(|member| service.members[member.0].name.clone()),
            kind: switch.kind,
            reason: switch.reason.clone(),
            at: humantime::format_rfc3339_millis(at).to_string(),
        };
        self.records.insert(service.name.clone(), record);
        if let Some(writer) = &self.writer {
            // Without a thread there was a warning already.
            let _unwritten = writer.send(self.records.clone());
        }
    }
}

impl Drop for History {
    /// Waits until everything is on disk.
    fn drop(&mut self) {
        drop(self.writer.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _panicked = thread.join();
        }
    }
}

/// Writes what comes, and of several snapshots that wait only the newest.
fn write_all(file: &Path, snapshots: &mpsc::Receiver<BTreeMap<String, Record>>) {
    while let Ok(next) = snapshots.recv() {
        let newest = snapshots.try_iter().last().unwrap_or(next);
        if let Err(error) = write(file, &newest) {
            tracing::warn!("the last switch is not kept over a restart: {error:#}");
        }
    }
}

/// Replaces the file in one step.
fn write(file: &Path, records: &BTreeMap<String, Record>) -> Result<()> {
    let directory = file.parent().context("a file without a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let new = file.with_extension("new");
    fs::write(&new, serde_json::to_vec_pretty(records)?)
        .with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, file).with_context(|| format!("cannot replace {}", file.display()))
}
