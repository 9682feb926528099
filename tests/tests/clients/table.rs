//! The table of `docs/clients.md`, compared with what was seen.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};

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

/// A row: `| client | use | crash: calls | black hole: calls | events | back within | application |`.
#[derive(Debug)]
struct Row {
    errors: [Vec<String>; 2],
    events: Vec<String>,
    back_within: [Duration; 2],
}

/// All rows, by client and use.
#[derive(Debug)]
pub struct Table(BTreeMap<(String, String), Row>);

impl Table {
    /// Reads the page.
    ///
    /// # Errors
    /// When a row cannot be read, or one is missing.
    pub fn read() -> Result<Self> {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/clients.md");
        let page = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
        let mut rows = BTreeMap::new();
        for line in page.lines().filter(|line| line.starts_with('|')) {
            let columns: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [client, name, crash, black_hole, events, back, _] = columns[..] else { continue };
            if !CLIENTS.contains(&client) {
                continue;
            }
            let times: Vec<_> = back.split('/').map(|time| humantime::parse_duration(time.trim())).collect();
            let [Ok(crash_within), Ok(black_hole_within)] = times[..] else {
                bail!("docs/clients.md: {client} {name}: {back:?} is not two times");
            };
            let row = Row {
                errors: [quoted(crash), quoted(black_hole)],
                events: quoted(events),
                back_within: [crash_within, black_hole_within],
            };
            rows.insert((client.to_owned(), name.to_owned()), row);
        }
        for (client, name) in CLIENTS.iter().flat_map(|client| USES.map(|name| (client, name))) {
            ensure!(
                rows.contains_key(&((*client).to_owned(), name.to_owned())),
                "docs/clients.md has no row for {client} {name}"
            );
        }
        Ok(Self(rows))
    }

    /// Everything that was seen stands in the table; where the table says that calls fail, one did; everybody was back in
    /// time.
    ///
    /// # Errors
    /// Naming every row that is not so.
    pub fn says(&self, fault: Fault, since: f64, seen: &BTreeMap<(&str, &str), Vec<Seen>>) -> Result<()> {
        let mut wrong = Vec::new();
        for ((client, name), row) in &self.0 {
            let all = seen.get(&(client.as_str(), name.as_str())).context("every use was seen")?;
            let errors = &row.errors[fault as usize];
            let mut say = |what: String| wrong.push(format!("{client} {name}, {fault:?}: {what}"));
            for one in all {
                let unknown =
                    one.errors().into_iter().filter(|text| !errors.iter().any(|known| known == text));
                unknown.for_each(|text| say(format!("a call failed with `{text}`")));
                let unknown =
                    one.events().into_iter().filter(|text| !row.events.iter().any(|known| known == text));
                unknown.for_each(|text| say(format!("an event told `{text}`")));
                let back = one.back_after(since)?;
                let bound = row.back_within[fault as usize] * redirector_tests::slowness();
                if back > bound {
                    say(format!("back after {back:?}, not within {bound:?}"));
                }
            }
            if !errors.is_empty() && all.iter().all(|one| one.errors().is_empty()) {
                say("no call failed".into());
            }
        }
        ensure!(wrong.is_empty(), "docs/clients.md says otherwise:\n{}", wrong.join("\n"));
        Ok(())
    }
}

/// The code spans of a cell.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
