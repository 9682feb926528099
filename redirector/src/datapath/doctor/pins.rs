//! What is pinned, and whether an agent could take it over.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::super::{
    links,
    pins::{Holds, paths_in},
    programs::links_dir,
};

/// The pins in a pin directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// Links that packets meet.
    pub links: usize,
    /// Names of those that none meets: their device is gone.
    pub stale: Vec<String>,
    /// What a starting agent would do with them.
    pub state: State,
}

/// What a starting agent does with pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There are none.
    Empty,
    /// It takes them over.
    Usable,
    /// Nothing runs on them, for this reason: it removes them.
    Dead(String),
    /// Something runs, but this is missing: it begins anew, and flows end.
    Broken(String),
    /// It does not start, and says this.
    Refused(String),
}

impl Pins {
    /// A pin directory with nothing in it.
    #[must_use]
    pub fn none() -> Self {
        Self { links: 0, stale: Vec::new(), state: State::Empty }
    }

    /// Looks at a pin directory; one that is not there holds nothing.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn look(pin_dir: &Path) -> Result<Self> {
        let holds = Holds::look(pin_dir)?;
        let state = match (&holds, holds.may_be_used(pin_dir)) {
            (_, Err(error)) => State::Refused(format!("{error:#}")),
            (Holds::Nothing, _) => State::Empty,
            (Holds::Dead(why), _) => State::Dead(why.to_string()),
            (Holds::Broken(what), _) => State::Broken(what.clone()),
            (Holds::Ours | Holds::OtherLayout(_) | Holds::Foreign(_), _) => State::Usable,
        };
        let (links, stale) = look_at_links(&links_dir(pin_dir))?;
        Ok(Self { links, stale, state })
    }
}

/// How many are attached, and the names of the others.
fn look_at_links(dir: &Path) -> Result<(usize, Vec<String>)> {
    let (mut attached, mut stale) = (0, Vec::new());
    for pin in paths_in(dir)? {
        match links::look(&pin).with_context(|| format!("cannot look at the link {}", pin.display()))? {
            Some(link) if link.is_attached() => attached += 1,
            _ => stale.extend(pin.file_name().map(|name| name.to_string_lossy().into_owned())),
        }
    }
    stale.sort_unstable();
    Ok((attached, stale))
}
