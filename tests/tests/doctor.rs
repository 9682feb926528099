//! `redirector doctor` on hosts of the lab: a healthy one, and one for each thing that can be wrong.

#[path = "doctor/healthy.rs"]
mod healthy;
#[path = "doctor/programs.rs"]
mod programs;
#[path = "doctor/settings.rs"]
mod settings;

use std::{fs, io, os::unix::process::CommandExt as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use redirector_tests::{Lab, Offloads, Scenario, binary};
use serde_json::Value as Json;

/// Exit codes of the contract.
const DONE: i32 = 0;
const FAILED: i32 = 1;
const DEGRADED: i32 = 4;

/// An agent starts, and a member is chosen, within this.
const START: Duration = Duration::from_secs(10);

fn scenario() -> Scenario {
    Scenario::new(Offloads::On)
}

/// What the process does between fork and exec: system calls and nothing else.
type Before = fn() -> io::Result<()>;

/// A visit to `app`, with the lab's configuration unless it is changed.
struct Visit<'a> {
    lab: &'a Lab,
    text: String,
    before: Option<Before>,
}

impl<'a> Visit<'a> {
    fn new(lab: &'a Lab) -> Self {
        Self { lab, text: lab.config().to_string(), before: None }
    }

    /// Writes something else in the place of what is there, which must be there.
    fn replace(mut self, old: &str, new: &str) -> Self {
        assert!(self.text.contains(old), "{old:?} is not in {}", self.text);
        self.text = self.text.replace(old, new);
        self
    }

    fn before(mut self, before: Before) -> Self {
        self.before = Some(before);
        self
    }

    fn file(&self) -> Result<PathBuf> {
        let socket = self.lab.config().control_socket();
        let file = socket.parent().context("it is a file in the lab's directory")?.join("doctor.toml");
        fs::write(&file, &self.text)?;
        Ok(file)
    }

    /// Runs a verb on the configuration: exit code, standard output, standard error.
    fn verb(&self, verb: &[&str]) -> Result<(i32, String, String)> {
        let mut command = self.lab.app().command(binary()?);
        command.args(verb).arg("--config").arg(self.file()?);
        if let Some(before) = self.before {
            // SAFETY: the functions handed in make system calls, take no lock and allocate nothing.
            unsafe { command.pre_exec(before) };
        }
        let output = self.lab.app().output(command)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().context("ended by a signal")?;
        Ok((code, text(&output.stdout), text(&output.stderr)))
    }

    fn diagnose(&self) -> Result<Diagnosis> {
        let (code, out, err) = self.verb(&["doctor", "-o", "json"])?;
        let json: Json =
            serde_json::from_str(&out).with_context(|| format!("exit code {code}: {out}{err}"))?;
        ensure!(json["version"] == 1, "{json:#}");
        Ok(Diagnosis { code, json })
    }
}

/// What `doctor -o json` said.
#[derive(Debug)]
struct Diagnosis {
    code: i32,
    json: Json,
}

impl Diagnosis {
    fn rows(&self) -> impl Iterator<Item = &Json> {
        self.json["rows"].as_array().into_iter().flatten()
    }

    /// The one row with this check, about this subject if there is one.
    fn row(&self, check: &str, subject: Option<&str>) -> Result<&Json> {
        let mut rows = self
            .rows()
            .filter(|row| row["check"] == check && subject.is_none_or(|subject| row["subject"] == subject));
        let row = rows.next().with_context(|| format!("no row {check} {subject:?}: {self:#?}"))?;
        ensure!(rows.next().is_none(), "several rows {check} {subject:?}: {self:#?}");
        Ok(row)
    }

    /// The row says this; its words, found and next, have `fragments`.
    fn says(&self, check: &str, subject: Option<&str>, verdict: &str, fragments: &[&str]) -> Result<()> {
        let row = self.row(check, subject)?;
        let words = format!("{}\n{}", row["found"], row["next"]);
        ensure!(row["verdict"] == verdict, "not {verdict}: {row:#}");
        for fragment in fragments {
            ensure!(words.contains(fragment), "no {fragment:?}: {row:#}");
        }
        Ok(())
    }

    fn exits(&self, code: i32) -> Result<()> {
        ensure!(self.code == code, "exit code {}, not {code}: {self:#?}", self.code);
        Ok(())
    }
}
