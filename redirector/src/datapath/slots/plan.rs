//! Which slot of a member holds which address: pure table logic.
//!
//! An address keeps its slot as long as it is the member's, also over a restart of the agent, because flows remember
//! slots. One that is gone keeps its slot too, without being offered, until its flows have been reset or the slot is
//! needed for another one.

use std::net::SocketAddr;

use crate::model::{MAX_ADDRESSES, Offer};

/// What stands in a slot now; `None`: it is empty.
pub(super) type Held = Option<Offer>;

/// A step from what is to what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The address of a slot is offered to new flows, or is not any more.
    Offer { slot: usize, offered: bool },
    /// A slot gets an address. If it has another one, the flows to that one become stale.
    Put { slot: usize, offer: Offer },
}

/// The steps that make `wanted` the addresses of a member, in an order that never leaves new flows without an address
/// which both have.
///
/// `flows` counts the flows of each slot. It is asked only when addresses that are gone take the room of new ones: then
/// those go whose flows have ended, or else those with the fewest.
///
/// # Errors
/// Those of `flows`.
pub(super) fn plan<E>(
    held: &[Held; MAX_ADDRESSES],
    wanted: &[Offer],
    flows: impl FnOnce() -> Result<[u64; MAX_ADDRESSES], E>,
) -> Result<Vec<Step>, E> {
    let slot_of =
        |address: SocketAddr| held.iter().position(|held| held.is_some_and(|held| held.address == address));
    let is_wanted = |held: &Offer| wanted.iter().any(|offer| offer.address == held.address);
    let new: Vec<_> = wanted.iter().filter(|offer| slot_of(offer.address).is_none()).collect();

    let mut free: Vec<_> = (0..held.len()).filter(|slot| held[*slot].is_none()).collect();
    let mut leaving: Vec<_> =
        (0..held.len()).filter(|slot| held[*slot].is_some_and(|held| !is_wanted(&held))).collect();
    if free.len() < new.len() {
        let flows = flows()?;
        leaving.sort_by_key(|slot| flows[*slot]);
        free.extend(leaving.drain(..(new.len() - free.len()).min(leaving.len())));
    }
    let puts = new.into_iter().zip(free).map(|(offer, slot)| Step::Put { slot, offer: *offer });

    let stays = wanted.iter().filter_map(|offer| Some((slot_of(offer.address)?, offer.offered)));
    let leaves = leaving.into_iter().map(|slot| (slot, false));
    let mut offers: Vec<_> = stays
        .chain(leaves)
        .filter(|(slot, offered)| held[*slot].is_some_and(|held| held.offered != *offered))
        .map(|(slot, offered)| Step::Offer { slot, offered })
        .collect();
    offers.sort_by_key(|step| matches!(step, Step::Offer { offered: false, .. }));
    Ok(puts.chain(offers).collect())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::{collection::vec, prelude::*, sample::subsequence};

    use super::*;

    fn address(number: u8) -> SocketAddr {
        ([192, 0, 2, number], 6379).into()
    }

    fn offer(number: u8, offered: bool) -> Offer {
        Offer { address: address(number), offered }
    }

    fn table(first: &[Offer]) -> [Held; MAX_ADDRESSES] {
        std::array::from_fn(|slot| first.get(slot).copied())
    }

    fn planned(held: &[Held; MAX_ADDRESSES], wanted: &[Offer], flows: [u64; MAX_ADDRESSES]) -> Vec<Step> {
        plan(held, wanted, || Ok::<_, Infallible>(flows)).unwrap_or_else(|never| match never {})
    }

    fn never_asked(held: &[Held; MAX_ADDRESSES], wanted: &[Offer]) -> Vec<Step> {
        plan(held, wanted, || Err("flows were counted")).unwrap()
    }

    fn apply(held: &mut [Held; MAX_ADDRESSES], steps: &[Step]) {
        for step in steps {
            match *step {
                Step::Put { slot, offer } => held[slot] = Some(offer),
                Step::Offer { slot, offered } => held[slot].as_mut().unwrap().offered = offered,
            }
        }
    }

    #[test]
    fn an_address_keeps_its_slot_and_a_new_one_takes_a_free_one() {
        let held = table(&[offer(1, true), offer(2, true)]);
        assert_eq!(never_asked(&held, &[offer(2, true), offer(1, true)]), []);
        let steps = never_asked(&held, &[offer(3, false), offer(2, true), offer(1, true)]);
        assert_eq!(steps, [Step::Put { slot: 2, offer: offer(3, false) }]);
    }

    /// Programs read the table while it changes: there is always an address to offer.
    #[test]
    fn what_is_gone_is_taken_out_after_what_replaces_it_is_there() {
        let held = table(&[offer(1, true), offer(2, false)]);
        let steps = never_asked(&held, &[offer(2, true), offer(3, true)]);
        let expected = [
            Step::Put { slot: 2, offer: offer(3, true) },
            Step::Offer { slot: 1, offered: true },
            Step::Offer { slot: 0, offered: false },
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn what_is_offered_comes_before_what_is_left_out() {
        let held = table(&[offer(1, true), offer(2, false)]);
        let steps = never_asked(&held, &[offer(1, false), offer(2, true)]);
        let expected = [Step::Offer { slot: 1, offered: true }, Step::Offer { slot: 0, offered: false }];
        assert_eq!(steps, expected);
    }

    #[test]
    fn when_room_is_needed_the_slot_with_the_fewest_flows_goes() {
        let all: Vec<_> = (0..16).map(|number| offer(number, true)).collect();
        let held = table(&all);
        let mut wanted = all[2..].to_vec();
        wanted.push(offer(100, true));
        let mut flows = [7; MAX_ADDRESSES];
        flows[1] = 0;
        let steps = planned(&held, &wanted, flows);
        let expected =
            [Step::Put { slot: 1, offer: offer(100, true) }, Step::Offer { slot: 0, offered: false }];
        assert_eq!(steps, expected);
    }

    fn offers() -> impl Strategy<Value = Vec<Offer>> {
        let numbers: Vec<u8> = (0..24).collect();
        (subsequence(numbers, 1..=MAX_ADDRESSES), vec(any::<bool>(), MAX_ADDRESSES)).prop_map(
            |(numbers, offered)| {
                numbers.into_iter().zip(offered).map(|(number, offered)| offer(number, offered)).collect()
            },
        )
    }

    proptest! {
        #[test]
        fn every_history_ends_with_what_is_wanted(history in vec(offers(), 1..8), flows in any::<[u64; MAX_ADDRESSES]>()) {
            let mut held = table(&[]);
            for wanted in history {
                let before = held;
                let steps = planned(&held, &wanted, flows);
                apply(&mut held, &steps);
                prop_assert_eq!(planned(&held, &wanted, flows), []);
                for offer in &wanted {
                    let slots: Vec<_> = held.iter().flatten().filter(|held| held.address == offer.address).collect();
                    prop_assert_eq!(slots, [offer], "each address has one slot");
                }
                for (before, after) in before.iter().zip(&held) {
                    let (Some(before), Some(after)) = (before, after) else { continue };
                    let wanted = wanted.iter().any(|offer| offer.address == before.address);
                    prop_assert!(before.address == after.address || !wanted, "an address changed its slot");
                    prop_assert!(wanted || before.address != after.address || !after.offered, "gone and offered");
                }
            }
        }
    }
}
