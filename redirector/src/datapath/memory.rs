//! What the maps take in the kernel. All of it is allocated when they are made, and none later.
//!
//! The figures are those that the kernel itself gives for a map (`memlock` in `/proc/PID/fdinfo/FD`, Linux 6.3), worked
//! out after `htab_map_mem_usage`, `array_map_mem_usage` and `ringbuf_map_mem_usage` in `kernel/bpf/`.

use anyhow::{Context as _, Result};
use aya_obj::{Map, Object, generated::bpf_map_type as Kind};

use super::programs::{OBJECT, SIZED};

/// Bytes of kernel memory that all maps take together with this size of the flow table.
pub fn kernel_memory(max_flows: u32) -> Result<u64> {
    Ok(map_sizes(max_flows)?.into_iter().map(|(_, bytes)| bytes).sum())
}

/// Bytes that each map takes. Those that only hold constants of the programs have a name with a dot.
pub fn map_sizes(max_flows: u32) -> Result<Vec<(String, u64)>> {
    let object = Object::parse(OBJECT).context("the kernel programs cannot be read")?;
    let processors = aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
    let size = |(name, map): (&String, &Map)| {
        let entries = if SIZED.contains(&name.as_str()) { max_flows } else { map.max_entries() };
        (name.clone(), bytes(map, u64::from(entries), processors as u64))
    };
    Ok(object.maps.iter().map(size).collect())
}

fn bytes(map: &Map, entries: u64, processors: u64) -> u64 {
    /// `struct bpf_htab`, and what takes turns on its buckets; of 6.18.
    const HASH: u64 = 912;
    /// `struct bpf_array`, of 6.18.
    const ARRAY: u64 = 312;
    const BPF_F_MMAPABLE: u32 = 1 << 10;
    const PAGE: u64 = 4096;
    /// `struct bpf_ringbuf_map`, of 6.18, and pages for its own use, for who reads, and for who writes.
    const RING: u64 = 264;
    const RING_PAGES: u64 = 3;
    /// `struct htab_elem`, in front of key and value.
    const ELEMENT: u64 = 48;
    const BUCKET: u64 = 16;

    let word = |size: u32| u64::from(size).next_multiple_of(8);
    let (key, value) = (word(map.key_size()), word(map.value_size()));
    let of = |kind: Kind| map.map_type() == kind as u32;
    if of(Kind::BPF_MAP_TYPE_HASH) {
        // One element more for each processor: what replaces another one is there before the other one goes.
        HASH + BUCKET * entries.next_power_of_two() + (ELEMENT + key + value) * (entries + processors)
    } else if of(Kind::BPF_MAP_TYPE_LRU_HASH) {
        HASH + BUCKET * entries.next_power_of_two() + (ELEMENT + key + value) * entries
    } else if of(Kind::BPF_MAP_TYPE_PERCPU_ARRAY) {
        // And a pointer.
        ARRAY + entries * (8 + value * processors)
    } else if of(Kind::BPF_MAP_TYPE_RINGBUF) {
        // Its size in bytes is given as entries. Each page of data is mapped twice, one behind the other.
        let pages = entries / PAGE;
        RING + (pages + RING_PAGES) * PAGE + (2 * pages + RING_PAGES) * 8
    } else if map.map_flags() & BPF_F_MMAPABLE != 0 {
        PAGE + (entries * value).next_multiple_of(PAGE)
    } else {
        ARRAY + entries * value
    }
}
