//! Members that left their service while their flows go on, and when these are to end.

use std::time::{Duration, Instant};

use anyhow::{Error, Result};

use super::registry::Gone;

/// When the kernel refused to end a member's flows, it is asked again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// A member that left its service, and when its flows end; `None`: when they like.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    gone: Gone,
    until: Option<Instant>,
    /// The kernel refused once, and that was said.
    refused: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct LeavingMembers(Vec<Leaving>);

impl LeavingMembers {
    pub(super) fn insert(&mut self, gone: Gone, until: Option<Instant>) {
        self.0.push(Leaving { gone, until, refused: false });
    }

    pub(super) fn remove(&mut self, gone: Gone) {
        self.0.retain(|leaving| leaving.gone != gone);
    }

    pub(super) fn retain(&mut self, is_leaving: impl Fn(Gone) -> bool) {
        self.0.retain(|leaving| is_leaving(leaving.gone));
    }

    /// When the first one's time is over; `None`: no member's flows are to end.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().filter_map(|leaving| leaving.until).min()
    }

    /// Those whose time is over.
    pub(super) fn due(&self, now: Instant) -> Vec<Gone> {
        let is_due = |leaving: &&Leaving| leaving.until.is_some_and(|until| until <= now);
        self.0.iter().filter(is_due).map(|leaving| leaving.gone).collect()
    }

    /// Has `dismiss` been called for each of `due`: those that it fails for stay, and are due again in a while.
    ///
    /// # Errors
    /// The first failure that was not said before.
    pub(super) fn dismissed(
        &mut self,
        now: Instant,
        results: impl IntoIterator<Item = (Gone, Result<()>)>,
    ) -> Result<()> {
        let mut unsaid: Option<Error> = None;
        for (gone, result) in results {
            let Err(error) = result else {
                self.remove(gone);
                continue;
            };
            let Some(leaving) = self.0.iter_mut().find(|leaving| leaving.gone == gone) else { continue };
            leaving.until = Some(now + AGAIN);
            if !std::mem::replace(&mut leaving.refused, true) {
                unsaid.get_or_insert(error);
            }
        }
        unsaid.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    const PARIS: Gone = Gone { service: 1, member: 3 };
    const DUBLIN: Gone = Gone { service: 1, member: 4 };

    #[test]
    fn a_dismissal_that_fails_is_said_once_and_tried_again_in_a_while() {
        let (mut leaving, start) = (LeavingMembers::default(), Instant::now());
        leaving.insert(Gone { service: 2, member: 5 }, None);
        assert_eq!(leaving.next(), None);
        leaving.insert(PARIS, Some(start));
        leaving.insert(DUBLIN, Some(start));
        assert_eq!(leaving.due(start), [PARIS, DUBLIN]);

        // One that fails keeps no other one.
        let said = leaving.dismissed(start, [(PARIS, Err(anyhow!("refused"))), (DUBLIN, Ok(()))]);
        assert_eq!(said.unwrap_err().to_string(), "refused");
        assert_eq!((leaving.due(start), leaving.next()), (vec![], Some(start + AGAIN)));

        let mut now = start;
        for _ in 0..3 {
            now += AGAIN;
            assert_eq!(leaving.due(now), [PARIS]);
            leaving.dismissed(now, [(PARIS, Err(anyhow!("refused")))]).expect("it was said");
            assert_eq!(leaving.next(), Some(now + AGAIN));
        }
        leaving.dismissed(now, [(PARIS, Ok(()))]).unwrap();
        assert_eq!(leaving.next(), None);
    }
}
