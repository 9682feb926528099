//! The 16384 hash slots of a Redis Cluster: which slot a key has, a key for a chosen slot, and slots in words.
//!
//! Where a key has text in braces, only that text (its *hash tag*) is hashed, so `anything{tag}` is in the slot of `tag`
//! (Redis Cluster specification, "Hash tags"; the hash is CRC-16 as XMODEM uses it, appendix A). Redis Software keeps to
//! the same rule with its default hashing policy, also without the Cluster API.

use std::{fmt, sync::OnceLock};

/// How many there are.
pub(super) const SLOTS: u16 = 16384;

/// How many ranges are named before the rest is only counted.
const NAMED: usize = 4;

/// A set of slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    /// First and last, in order, neither overlapping nor touching.
    ranges: Vec<(u16, u16)>,
}

impl Slots {
    pub(super) fn range(first: u16, last: u16) -> Self {
        Self { ranges: vec![(first, last)] }
    }

    /// Takes further slots in, in any order.
    pub(super) fn add(&mut self, first: u16, last: u16) {
        let (mut first, mut last) = (first.min(last), last);
        self.ranges.retain(|&(from, to)| {
            let apart = to.saturating_add(1) < first || from > last.saturating_add(1);
            if !apart {
                (first, last) = (first.min(from), last.max(to));
            }
            apart
        });
        let at = self.ranges.partition_point(|range| range.0 < first);
        self.ranges.insert(at, (first, last));
    }

    /// Takes another set in.
    pub(super) fn join(&mut self, other: &Self) {
        other.ranges.iter().for_each(|&(first, last)| self.add(first, last));
    }

    pub(super) fn first(&self) -> Option<u16> {
        self.ranges.first().map(|range| range.0)
    }

    pub(super) fn count(&self) -> usize {
        self.ranges.iter().map(|(first, last)| usize::from(last - first) + 1).sum()
    }

    /// Those that are not in it.
    pub(super) fn missing(&self) -> Self {
        let mut missing = Self::default();
        let mut next = 0;
        for &(first, last) in &self.ranges {
            if first > next {
                missing.ranges.push((next, first - 1));
            }
            next = last + 1;
        }
        if next < SLOTS {
            missing.ranges.push((next, SLOTS - 1));
        }
        missing
    }
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.count() == 1 { "slot " } else { "slots " })?;
        for (number, (first, last)) in self.ranges.iter().take(NAMED).enumerate() {
            let comma = if number == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        match self.ranges.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more ranges"),
        }
    }
}

/// All slots cut into `count` parts of nearly the same size.
pub(super) fn parts(count: u16) -> impl Iterator<Item = Slots> {
    let bound = move |part: u32| u32::from(SLOTS) * part / u32::from(count);
    let slot = |number| u16::try_from(number).unwrap_or(SLOTS - 1);
    (0..u32::from(count)).map(move |part| Slots::range(slot(bound(part)), slot(bound(part + 1) - 1)))
}

/// A hash tag for each of [`parts`], in the middle of the part: with at least as many parts as there are shards of the same
/// size, every shard has one of them, wherever its borders are.
pub(super) fn spread_tags(count: u16) -> Vec<(Slots, String)> {
    let with_tag = |part: Slots| {
        let middle = part.first().unwrap_or(0) + u16::try_from(part.count() / 2).unwrap_or(0);
        let tag = tag_of(middle);
        (part, tag)
    };
    parts(count).map(with_tag).collect()
}

/// A hash tag in `slot`: the smallest number that is there, in decimal.
pub(super) fn tag_of(slot: u16) -> String {
    static SMALLEST: OnceLock<Vec<u32>> = OnceLock::new();
    SMALLEST.get_or_init(smallest_numbers)[usize::from(slot % SLOTS)].to_string()
}

/// The smallest number of every slot. Some 160 000 numbers are tried, once for the whole agent.
fn smallest_numbers() -> Vec<u32> {
    let mut smallest = vec![None; usize::from(SLOTS)];
    let mut without = smallest.len();
    for number in 0_u32.. {
        let found = &mut smallest[usize::from(slot_of(number.to_string().as_bytes()))];
        if found.is_none() {
            *found = Some(number);
            without -= 1;
        }
        if without == 0 {
            break;
        }
    }
    smallest.into_iter().flatten().collect()
}

/// The slot of a key without braces.
fn slot_of(key: &[u8]) -> u16 {
    crc16(key) % SLOTS
}

/// CRC-16/XMODEM: polynomial 0x1021, starting from 0, not reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's own example, and slots that a real server named (`CLUSTER KEYSLOT`).
    #[test]
    fn keys_have_the_slots_that_redis_gives_them() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"bar"), 5061);
        assert_eq!(slot_of(b""), 0);
    }

    #[test]
    fn every_slot_has_a_tag() {
        for slot in 0..SLOTS {
            assert_eq!(slot_of(tag_of(slot).as_bytes()), slot);
        }
    }

    #[test]
    fn parts_cover_every_slot_once() {
        for count in [1, 2, 3, 5, 16, 1000, SLOTS] {
            let mut next = 0;
            for part in parts(count) {
                assert_eq!(part.first(), Some(next));
                next += u16::try_from(part.count()).unwrap();
            }
            assert_eq!(next, SLOTS, "{count} parts");
        }
    }

    /// What the documentation promises to those who choose a number of tags.
    #[test]
    fn with_as_many_tags_as_shards_every_shard_has_one() {
        for tags in [1, 3, 4, 5, 7, 16, 100] {
            let slots: Vec<_> = spread_tags(tags).iter().map(|(_, tag)| slot_of(tag.as_bytes())).collect();
            for shards in 1..=tags {
                for shard in parts(shards) {
                    let (first, last) = shard.ranges[0];
                    assert!(
                        slots.iter().any(|slot| (first..=last).contains(slot)),
                        "{tags} {shards} {shard}"
                    );
                }
            }
        }
    }

    #[test]
    fn sets_grow_together() {
        let mut slots = Slots::default();
        for (first, last) in [(10, 20), (30, 40), (22, 28), (50, 50)] {
            slots.add(first, last);
        }
        assert_eq!(slots.to_string(), "slots 10-20,22-28,30-40,50");
        slots.add(21, 21);
        slots.add(29, 35);
        assert_eq!(slots.to_string(), "slots 10-40,50");
        assert_eq!(slots.missing().to_string(), "slots 0-9,41-49,51-16383");
        slots.join(&slots.missing());
        assert_eq!((slots.to_string().as_str(), slots.count()), ("slots 0-16383", 16384));
        assert_eq!(slots.missing(), Slots::default());
    }

    #[test]
    fn many_ranges_are_counted_and_not_named() {
        let mut slots = Slots::range(1, 1);
        assert_eq!(slots.to_string(), "slot 1");
        (2..9).for_each(|number| slots.add(number * 2, number * 2));
        assert_eq!(slots.to_string(), "slots 1,4,6,8 and 4 more ranges");
    }
}
