//! The tables of `docs/clients.md`, compared with what was seen.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use redirector_tests::slowness;

use super::{
    program::{CLIENTS, USES},
    seen::Seen,
};

/// How the member fails.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Its process dies.
    Crash,
    /// Nothing comes back from its host.
    BlackHole,
}

/// What becomes of the calls under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calls {
    /// `—`
    Succeed,
    /// `may fail`: it depends on the moment.
    MayFail,
    /// `fail`
    Fail,
}

/// A row of the first table.
#[derive(Debug)]
struct Row {
    /// By [`Fault`].
    expected: [(Calls, Duration); 2],
}

/// Something that a library says, of the second table.
#[derive(Debug)]
struct Text {
    client: String,
    text: String,
    /// By a call that fails.
    call: bool,
    /// By an event.
    event: bool,
}

/// Both.
#[derive(Debug)]
pub struct Table {
    rows: BTreeMap<(String, String), Row>,
    texts: Vec<Text>,
}

impl Table {
    /// Reads the page.
    ///
    /// # Errors
    /// When a row cannot be read, or one is missing.
    pub fn read() -> Result<Self> {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/clients.md");
        let page = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
        let mut table = Self { rows: BTreeMap::new(), texts: Vec::new() };
        let mut section = "";
        for line in page.lines() {
            section = line.strip_prefix("## ").unwrap_or(section);
            let columns: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            if columns.first().is_some_and(|client| CLIENTS.contains(client)) {
                table.read_row(section, &columns).with_context(|| format!("docs/clients.md: {line}"))?;
            }
        }
        for (client, name) in CLIENTS.iter().flat_map(|client| USES.map(|name| (client, name))) {
            let row = ((*client).to_owned(), name.to_owned());
            ensure!(table.rows.contains_key(&row), "docs/clients.md has no row for {client} {name}");
        }
        Ok(table)
    }

    fn read_row(&mut self, section: &str, columns: &[&str]) -> Result<()> {
        match (section, columns) {
            (
                "What an application sees",
                [client, name, crash, crash_within, black_hole, black_hole_within, _],
            ) => {
                let one = |calls, within| -> Result<_> {
                    Ok((Calls::read(calls)?, humantime::parse_duration(within)?))
                };
                let expected = [one(crash, crash_within)?, one(black_hole, black_hole_within)?];
                self.rows.insert(((*client).to_owned(), (*name).to_owned()), Row { expected });
            }
            ("What they say", [client, text, by, _]) => {
                let (call, event) = (by.contains("call"), by.contains("event"));
                ensure!(call || event, "who says so?");
                // What stands between backticks.
                for text in text.split('`').skip(1).step_by(2) {
                    let (client, text) = ((*client).to_owned(), text.to_owned());
                    self.texts.push(Text { client, text, call, event });
                }
            }
            ("What an application sees" | "What they say", _) => {
                bail!("not as many columns as there should be")
            }
            _ => {}
        }
        Ok(())
    }

    /// Calls fail where the table says so, and with texts that it has; everybody was back in time.
    ///
    /// # Errors
    /// Naming every row that is not so.
    pub fn says(&self, fault: Fault, seen: &[(&str, &str, Seen, Duration)]) -> Result<()> {
        let mut wrong = Vec::new();
        for (client, name, seen, back) in seen {
            let mut say = |what: String| wrong.push(format!("{client} {name}, {fault:?}: {what}"));
            for text in
                seen.errors().into_iter().filter(|text| !self.has(client, |t| t.call && t.text == *text))
            {
                say(format!("a call failed with `{text}`"));
            }
            for text in
                seen.events().into_iter().filter(|text| !self.has(client, |t| t.event && t.text == *text))
            {
                say(format!("an event told `{text}`"));
            }
            let row =
                self.rows.get(&((*client).to_owned(), (*name).to_owned())).context("every row is there")?;
            let (calls, within) = row.expected[fault as usize];
            match (calls, seen.errors().is_empty()) {
                (Calls::Succeed, false) => say("calls failed".into()),
                (Calls::Fail, true) => say("no call failed".into()),
                _ => {}
            }
            if *back > within * slowness() {
                say(format!("back after {back:?}, not within {within:?}"));
            }
        }
        ensure!(wrong.is_empty(), "docs/clients.md says otherwise:\n{}", wrong.join("\n"));
        Ok(())
    }

    fn has(&self, client: &str, is_it: impl Fn(&Text) -> bool) -> bool {
        self.texts.iter().any(|text| text.client == client && is_it(text))
    }
}

impl Calls {
    fn read(cell: &str) -> Result<Self> {
        Ok(match cell {
            "—" => Self::Succeed,
            "may fail" => Self::MayFail,
            "fail" => Self::Fail,
            other => bail!("{other:?} is none of —, may fail, fail"),
        })
    }
}
