//! The word that says where new flows of a service go.
//!
//! Active member and epoch stand in one aligned 64-bit word, so that a switch is one store and no program ever
//! sees half of one.

/// Active member and epoch of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The member that new flows go to; `None` holds the service: new connections are refused.
    pub active: Option<u16>,
    /// Grows by one with each switch.
    pub epoch: u32,
}

impl Decision {
    /// Reads a word. A word of zeros, as in a new map, holds the service.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        let member = word as u32;
        Self {
            active: if member == 0 { None } else { Some((member - 1) as u16) },
            epoch: (word >> 32) as u32,
        }
    }

    /// The word.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        let member = match self.active {
            None => 0,
            Some(member) => member as u64 + 1,
        };
        (self.epoch as u64) << 32 | member
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_map_holds_every_service() {
        assert_eq!(Decision::from_word(0), Decision { active: None, epoch: 0 });
    }

    #[test]
    fn a_word_keeps_member_and_epoch_apart() {
        for active in [None, Some(0), Some(u16::MAX)] {
            for epoch in [0, 7, u32::MAX] {
                let decision = Decision { active, epoch };
                assert_eq!(Decision::from_word(decision.word()), decision);
            }
        }
    }
}
