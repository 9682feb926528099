//! Who hears whom, in virtual time.

use super::super::super::slots::parts;
use super::*;
use crate::model::Verdict;

const TOLERANCE: Duration = Duration::from_secs(5);
const BEAT: Duration = Duration::from_secs(1);

/// Members with a heartbeat each second, a way for the messages of each pair, and a clock.
struct World {
    links: Links,
    now: Duration,
    members: usize,
    channels: usize,
    /// By publisher and subscriber: how long a message takes; `None`: it is lost.
    ways: Vec<Vec<Option<Duration>>>,
    /// Whether a member accepts messages.
    accepts: Vec<bool>,
    /// Channels that are cut between the members.
    cut: Vec<usize>,
}

impl World {
    fn new(members: usize, channels: usize) -> Self {
        let names = ["paris", "dublin", "oslo"].into_iter().map(str::to_owned).take(members);
        let slots = match channels {
            1 => vec![None],
            count => parts(u16::try_from(count).unwrap()).map(Some).collect(),
        };
        let mut links = Links::new(names, slots, TOLERANCE, RedisErrorKind::counted_by_default());
        (0..members).for_each(|member| links.on_subscribed(member, Duration::ZERO));
        let ways = vec![vec![Some(Duration::from_millis(20)); members]; members];
        let accepts = vec![true; members];
        Self { links, now: Duration::ZERO, members, channels, ways, accepts, cut: Vec::new() }
    }

    /// So many beats. Judged is after the last one's messages are there, like the agent does it.
    fn beat(&mut self, beats: u32) {
        for _ in 0..beats {
            for from in 0..self.members {
                if !self.accepts[from] {
                    self.links.on_not_accepted(from, refused());
                    continue;
                }
                self.links.on_accepted(from, self.now);
                for (at, channel) in
                    (0..self.members).flat_map(|at| (0..self.channels).map(move |channel| (at, channel)))
                {
                    let is_cut = at != from && self.cut.contains(&channel);
                    if let (Some(took), false) = (self.ways[from][at], is_cut) {
                        // What takes longer than a beat is of an earlier one.
                        let age = (took.as_secs_f64() / BEAT.as_secs_f64()).floor();
                        let sent = self.now.checked_sub(BEAT.mul_f64(age));
                        let arrives = self.now + took.saturating_sub(BEAT.mul_f64(age));
                        sent.into_iter()
                            .for_each(|sent| self.links.on_heard(at, from, channel, sent, arrives));
                    }
                }
            }
            self.now += BEAT;
        }
    }

    fn outcome(&self, member: usize) -> ProbeOutcome {
        self.links.outcome(member, self.now)
    }

    fn text(&self, member: usize) -> String {
        self.outcome(member).to_string()
    }

    fn verdicts(&self) -> Vec<Verdict> {
        (0..self.members).map(|member| self.outcome(member).verdict()).collect()
    }

    fn fault(&self, member: usize) -> Option<HeartbeatFault> {
        match self.outcome(member) {
            ProbeOutcome::Failed(Failure { cause: Cause::Heartbeat(fault, _), .. }) => Some(fault),
            _ => None,
        }
    }
}

fn refused() -> Failure {
    Failure { phase: Phase::Connect, cause: Cause::Refused }
}

fn not_permitted() -> Failure {
    let cause = Cause::Redis(RedisErrorKind::NoPerm, "NOPERM no permission to run 'publish'".to_owned());
    Failure { phase: Phase::Command, cause }
}

#[test]
fn all_hear_all() {
    let mut world = World::new(3, 1);
    world.ways[0][2] = Some(Duration::from_millis(300));
    world.beat(1);
    assert_eq!(world.verdicts(), [Verdict::Pass; 3]);
    assert_eq!(world.text(2), "ok in 300.0 ms");
    world.beat(600);
    assert_eq!(world.verdicts(), [Verdict::Pass; 3]);
    assert!(world.links.members.iter().all(|end| end.accepted.len() <= 2 * REMEMBERED as usize + 1));
}

/// The one that does not receive is stale. The one that is not received is not.
#[test]
fn a_direction_that_breaks_fails_the_member_that_does_not_receive() {
    let mut world = World::new(2, 1);
    world.beat(10);
    world.ways[0][1] = None;
    world.beat(5);
    assert_eq!(world.verdicts(), [Verdict::Pass; 2], "within the tolerance");
    world.beat(1);
    assert_eq!(world.fault(1), Some(HeartbeatFault::Replication));
    assert_eq!(world.outcome(0).verdict(), Verdict::Pass);
    assert_eq!(
        world.text(1),
        "no message from paris for 7.0 s (tolerance 5s), messages the other way arrive; own messages arrive: replication \
         from paris is broken"
    );
    world.ways[0][1] = Some(Duration::from_millis(1));
    world.beat(1);
    assert_eq!(world.verdicts(), [Verdict::Pass; 2]);
}

#[test]
fn both_directions_break() {
    let mut world = World::new(2, 1);
    world.beat(3);
    (world.ways[0][1], world.ways[1][0]) = (None, None);
    world.beat(7);
    assert_eq!(world.verdicts(), [Verdict::Fail; 2]);
    assert!(world.text(0).contains("no message from dublin for"), "{}", world.text(0));
    assert!(world.text(0).contains("nor do messages the other way arrive"), "{}", world.text(0));
}

#[test]
fn one_of_three_is_cut_off() {
    let mut world = World::new(3, 1);
    world.beat(3);
    (world.ways[0][2], world.ways[1][2]) = (None, None);
    world.beat(7);
    assert_eq!(world.verdicts(), [Verdict::Pass, Verdict::Pass, Verdict::Fail]);
    assert!(world.text(2).ends_with("replication from paris and dublin is broken"), "{}", world.text(2));
}

/// Data that is behind by more than the tolerance is stale, however regularly it comes.
#[test]
fn messages_that_come_late_are_told_from_those_that_do_not_come() {
    let mut world = World::new(2, 1);
    world.ways[0][1] = Some(Duration::from_millis(8200));
    world.beat(5);
    assert_eq!(world.outcome(1).verdict(), Verdict::Inconclusive);
    world.beat(20);
    assert_eq!(world.fault(1), Some(HeartbeatFault::Replication));
    assert!(
        world.text(1).starts_with("messages from paris arrive 8.2 s late (tolerance 5s)"),
        "{}",
        world.text(1)
    );
}

#[test]
fn a_member_that_does_not_hear_itself_has_a_fault_of_its_own() {
    let mut world = World::new(2, 1);
    world.beat(3);
    (world.ways[0][0], world.ways[1][0], world.ways[0][1]) = (None, None, None);
    world.beat(7);
    assert_eq!(world.fault(0), Some(HeartbeatFault::Local));
    assert!(world.links.is_deaf(0, world.now) && !world.links.is_deaf(1, world.now));
    // Whether paris sends on what it does not even deliver at home says nothing about replication.
    assert_eq!(world.outcome(1).verdict(), Verdict::Inconclusive);
    // A new subscription does not make the silence good, a message does.
    world.links.on_subscribed(0, world.now);
    assert_eq!(world.fault(0), Some(HeartbeatFault::Local));
    world.ways[0][0] = Some(BEAT / 2);
    world.ways[1][0] = Some(BEAT / 2);
    world.beat(1);
    assert_eq!(world.outcome(0).verdict(), Verdict::Pass);
}

/// The last member that lives must not be barred for want of others.
#[test]
fn whoever_is_down_is_heard_by_nobody_and_that_is_no_fault_of_the_others() {
    let mut world = World::new(2, 1);
    world.beat(3);
    world.accepts[0] = false;
    (world.ways[0][1], world.ways[0][0]) = (None, None);
    world.links.on_not_subscribed(0, refused());
    world.beat(60);
    assert_eq!(world.text(0), "connection refused");
    assert_eq!(world.outcome(1).verdict(), Verdict::Pass);

    // It comes back, and its first message takes its time.
    world.accepts[0] = true;
    world.links.on_subscribed(0, world.now);
    world.ways[0][0] = Some(BEAT / 2);
    world.beat(1);
    assert_eq!(
        world.verdicts(),
        [Verdict::Pass, Verdict::Pass],
        "what it was sent before it failed is not waited for"
    );
    world.beat(7);
    assert_eq!(world.verdicts(), [Verdict::Pass, Verdict::Fail]);
}

#[test]
fn what_may_not_be_asked_is_not_known() {
    let mut world = World::new(2, 1);
    world.links.on_not_accepted(0, not_permitted());
    world.accepts[1] = true;
    world.links.on_accepted(1, world.now);
    world.links.on_heard(1, 1, 0, world.now, world.now);
    assert_eq!(world.verdicts(), [Verdict::Inconclusive; 2]);
    assert_eq!(world.text(0), "Redis error: NOPERM no permission to run 'publish' (not counted)");
    assert!(world.text(1).starts_with("nothing can be published through paris"), "{}", world.text(1));
}

#[test]
fn a_single_member_is_asked_whether_it_hears_itself() {
    let mut world = World::new(1, 1);
    assert_eq!(world.outcome(0).verdict(), Verdict::Inconclusive);
    assert!(world.links.is_waiting(world.now));
    world.beat(1);
    assert_eq!(world.outcome(0).verdict(), Verdict::Pass);
    assert!(!world.links.is_waiting(world.now));
}

/// A shard that does not replicate is named by its slots.
#[test]
fn a_channel_that_is_silent_is_named() {
    let mut world = World::new(2, 4);
    world.beat(3);
    world.cut = vec![1, 2];
    world.beat(7);
    assert_eq!(world.verdicts(), [Verdict::Fail; 2]);
    assert!(world.text(1).starts_with("no message from paris in slots 4096-12287 for"), "{}", world.text(1));
}

/// Another process on the same channel, or an older one of the same agent.
#[test]
fn messages_of_strangers_change_nothing() {
    let mut world = World::new(2, 1);
    world.beat(3);
    for (at, from, channel) in [(9, 0, 0), (0, 9, 0), (0, 0, 9)] {
        world.links.on_heard(at, from, channel, world.now, world.now);
    }
    assert_eq!(world.verdicts(), [Verdict::Pass; 2]);
}

/// A short interval is no reason to remember more.
#[test]
fn what_is_remembered_is_bounded() {
    let mut world = World::new(1, 1);
    for beat in 0..100_000_u32 {
        world.links.on_accepted(0, Duration::from_millis(1) * beat);
    }
    assert!(world.links.members[0].accepted.len() <= 2 * REMEMBERED as usize + 1);
    // And a silence is still seen.
    assert!(world.links.is_deaf(0, Duration::from_secs(100)));
}
