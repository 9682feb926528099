//! What is pinned, and whether it still belongs to something.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};

use super::super::{network::Network, programs::links_dir};

/// The pins in a pin directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// Links whose device is there.
    pub links: usize,
    /// Names of those whose device is gone.
    pub stale: Vec<String>,
    /// Why an agent would not take them over.
    pub refused: Option<String>,
}

impl Pins {
    /// Looks at a pin directory; one that is not there holds nothing.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn look(pin_dir: &Path) -> Result<Self> {
        let dir = links_dir(pin_dir);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
        };
        let network = Network::connect()?;
        let mut found = Self::default();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // `egress_7`: the device's index.
            let index = name.rsplit_once('_').and_then(|(_, index)| index.parse().ok());
            match index {
                Some(index) if network.name_of(index).await?.is_some() => found.links += 1,
                _ => found.stale.push(name),
            }
        }
        found.stale.sort_unstable();
        Ok(found)
    }
}
