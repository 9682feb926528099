//! The pinned tables of flows, opened as the agent does it.

use std::{os::fd::AsRawFd as _, path::Path};

use anyhow::{Context, Result};
use aya::{
    Pod,
    maps::{HashMap, Map, MapData},
};
use redirector_common::{
    addr::Tuple,
    flow::{Flow, Stub},
};

pub struct Tables {
    pub flows: HashMap<MapData, Tuple, Flow>,
    pub replies: HashMap<MapData, Tuple, Stub>,
}

impl Tables {
    pub fn open(pin_dir: &Path) -> Result<Self> {
        Ok(Self { flows: table(pin_dir, "flows_v4")?, replies: table(pin_dir, "replies_v4")? })
    }

    pub fn stubs(&self) -> usize {
        self.replies.keys().count()
    }
}

fn table<K: Pod, V: Pod>(pin_dir: &Path, name: &str) -> Result<HashMap<MapData, K, V>> {
    let data = MapData::from_pin(pin_dir.join("maps").join(name)).with_context(|| name.to_owned())?;
    Ok(Map::from_map_data(data)?.try_into()?)
}

/// What the kernel says that a pinned map takes, in bytes.
pub fn memory(pin: &Path) -> Result<u64> {
    let data = MapData::from_pin(pin)?;
    let info = format!("/proc/self/fdinfo/{}", std::os::fd::AsFd::as_fd(data.fd()).as_raw_fd());
    let text = std::fs::read_to_string(info)?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:")).context("no memlock")?;
    Ok(line.trim().parse()?)
}
