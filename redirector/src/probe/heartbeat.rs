//! `heartbeat`: what is published through one member arrives at the others.
//!
//! Members of an Active-Active database replicate what is published, by the same streams as what is written. So a message
//! through each member, at each beat, shows which way between which members carries and how late it is, and a member that
//! does not even hear itself is told from one whose replication is broken. `docs/checks/heartbeat.md` says what that
//! proves.
//!
//! One task for each such check of a service ([`run`]), with two connections to each member ([`line`]) and the judgement
//! over all of them ([`links`]); and for each address of a member one that reports what was said of that member
//! ([`relay`]), in the place of a prober.

use std::{
    collections::{HashMap, HashSet},
    future::pending,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant as StdInstant},
};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::{
    line::{Line, News, What},
    links::{Links, is_too_early},
};
use super::{
    Report, Target, Told,
    nonce::nonce,
    slots::{Slots, spread_tags},
};
use crate::model::{Access, Check, CheckKind, Heartbeat as Settings, ProbeOutcome, Service};

mod line;
mod links;

/// News that may wait.
const QUEUE: usize = 256;

/// What one heartbeat needs to know.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// The check. That of the service: what a member overrides does not concern the pairs.
    pub check: Check,
    /// What it is told.
    pub settings: Settings,
    /// Every member of the service.
    pub members: Vec<Member>,
}

/// A member as a heartbeat sees it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Unique within the service.
    pub name: String,
    /// How to reach and enter it.
    pub access: Access,
    /// Its own addresses. They may change.
    pub addresses: watch::Receiver<Vec<SocketAddr>>,
}

/// Tells a heartbeat of a member's addresses.
pub type Addresses = watch::Sender<Vec<SocketAddr>>;

impl Heartbeat {
    /// That of a check of `service`, and what tells it of each member's addresses, which are empty until then. `None`: the
    /// check is none.
    #[must_use]
    pub fn of(service: &Service, check: &Check) -> Option<(Self, Vec<Addresses>)> {
        let CheckKind::Heartbeat(settings) = &check.kind else { return None };
        let (members, senders) = service
            .members
            .iter()
            .map(|member| {
                let (sender, addresses) = watch::channel(Vec::new());
                (Member { name: member.name.clone(), access: member.access.clone(), addresses }, sender)
            })
            .unzip();
        Some((Self { check: check.clone(), settings: settings.clone(), members }, senders))
    }
}

/// What was found at one beat, by the names of the members. Nothing of those that it is too early for, until their first
/// verdict: that nothing is known of them is to be seen.
pub type Said = Arc<HashMap<String, ProbeOutcome>>;

/// Beats until it is dropped. At each beat it says what is known by then of each member, and publishes anew.
///
/// A beat follows the one before after the check's interval; after the fast interval while a member has yet to hear its
/// first message from another one. A beat that comes late because this host was busy says nothing: the messages may
/// well be here, and not read yet.
pub async fn run(heartbeat: Heartbeat, said: Arc<watch::Sender<Said>>) {
    let late = heartbeat.settings.tolerance / 4;
    let mut heart = Heart::start(&heartbeat);
    let mut judged = HashSet::new();
    loop {
        let due = heart.next;
        heart.listen_until_due().await;
        if due.elapsed() < late {
            let mut outcomes = HashMap::new();
            for (number, member) in heartbeat.members.iter().enumerate() {
                let outcome = heart.links.outcome(number, heart.now());
                if !is_too_early(&outcome) {
                    judged.insert(number);
                }
                if judged.contains(&number) {
                    outcomes.insert(member.name.clone(), outcome);
                }
            }
            said.send_replace(Arc::new(outcomes));
        }
        heart.beat(&heartbeat.check);
    }
}

/// Reports at each beat what was said of `member`, as a prober of `target` does; and the newest once more when a
/// round is asked for. Ends when nobody receives its reports.
pub async fn relay(
    target: Target,
    member: String,
    mut said: watch::Receiver<Said>,
    mut told: watch::Receiver<Told>,
    reports: mpsc::Sender<Report>,
) {
    let Target { prober, service, member: member_id, check_id, address, .. } = target;
    let mut asked = told.borrow_and_update().asked;
    loop {
        tokio::select! {
            // A heartbeat that has ended is followed by the next one, or takes its relays with it: not by this one's end.
            Ok(()) = said.changed() => {}
            Ok(()) = told.changed() => {
                let now = told.borrow_and_update().asked;
                if std::mem::replace(&mut asked, now) == now {
                    continue;
                }
            }
            else => pending().await,
        }
        let Some(outcome) = said.borrow_and_update().get(&member).cloned() else { continue };
        let at = StdInstant::now();
        let report =
            Report { prober, service, member: member_id, address, check: check_id, outcome, started: at, at };
        if reports.send(report).await.is_err() {
            return;
        }
    }
}

/// One answer for each member, as soon as nothing is waited for any more, or after `limit`.
pub async fn once(heartbeat: &Heartbeat, limit: Duration) -> Vec<ProbeOutcome> {
    let mut heart = Heart::start(heartbeat);
    let last = heart.origin + limit;
    loop {
        heart.listen_until_due().await;
        let now = heart.now();
        if (heart.has_beaten && !heart.links.is_waiting(now)) || Instant::now() >= last {
            return (0..heartbeat.members.len()).map(|member| heart.links.outcome(member, now)).collect();
        }
        heart.beat(&heartbeat.check);
        heart.next = heart.next.min(last);
    }
}

/// A running heartbeat. Its tasks end with it.
struct Heart {
    links: Links,
    /// What messages count their time from.
    origin: Instant,
    /// When the next beat is due.
    next: Instant,
    has_beaten: bool,
    beats: watch::Sender<Duration>,
    news: mpsc::Receiver<News>,
    /// By member: asks for a new subscription, and when that was last done.
    anew: Vec<(Arc<Notify>, Instant)>,
    tasks: JoinSet<()>,
}

impl Heart {
    fn start(heartbeat: &Heartbeat) -> Self {
        let Heartbeat { check, settings, members } = heartbeat;
        let origin = Instant::now();
        let (names, slots) = channels(settings);
        let (beats, beat) = watch::channel(Duration::ZERO);
        let (sender, news) = mpsc::channel(QUEUE);
        let (mut tasks, mut anew) = (JoinSet::new(), Vec::new());
        for (number, member) in members.iter().enumerate() {
            let line = || Line {
                member: number,
                access: member.access.clone(),
                addresses: member.addresses.clone(),
                channels: Arc::clone(&names),
                limit: check.timeout,
                pause: check.interval,
                news: sender.clone(),
                turn: 0,
            };
            let notify = Arc::new(Notify::new());
            tasks.spawn(line().speak(beat.clone()));
            tasks.spawn(line().listen(Arc::clone(&notify)));
            anew.push((notify, origin));
        }
        let names_of_members = members.iter().map(|member| member.name.clone());
        let links = Links::new(names_of_members, slots, settings.tolerance, check.counted_errors.clone());
        Self { links, origin, next: origin, has_beaten: false, beats, news, anew, tasks }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Takes in what happens until the next beat is due. News come first: a beat judges by all that is here.
    async fn listen_until_due(&mut self) {
        loop {
            tokio::select! {
                biased;
                Some(news) = self.news.recv() => self.on_news(news),
                Some(ended) = self.tasks.join_next() => {
                    // They end with this task only, so it was by a panic, which is to be seen.
                    if let Err(error) = ended {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
                () = sleep_until(self.next) => return,
            }
        }
    }

    fn on_news(&mut self, News { member, at, what }: News) {
        let at = at.saturating_duration_since(self.origin);
        match what {
            What::Accepted(sent) => self.links.on_accepted(member, sent),
            What::NotAccepted(failure) => self.links.on_not_accepted(member, failure),
            What::Subscribed => self.links.on_subscribed(member, at),
            What::NotSubscribed(failure) => self.links.on_not_subscribed(member, failure),
            What::Heard { from, channel, sent } => self.links.on_heard(member, from, channel, sent, at),
        }
    }

    /// Publishes, and asks for new subscriptions where the old ones seem dead.
    fn beat(&mut self, check: &Check) {
        let now = self.now();
        for (member, (anew, last)) in self.anew.iter_mut().enumerate() {
            if self.links.is_deaf(member, now) && last.elapsed() > self.links.tolerance() {
                *last = Instant::now();
                anew.notify_one();
            }
        }
        self.beats.send_replace(now);
        self.has_beaten = true;
        let pause = if self.links.is_waiting(now) { check.fast_interval } else { check.interval };
        self.next = Instant::now() + pause;
    }
}

/// Names of the channels, and the slots that each stands for. They are this heartbeat's own: with channels in common every
/// host would hear the messages of all.
fn channels(settings: &Settings) -> (Arc<[String]>, Vec<Option<Slots>>) {
    let (channel, nonce) = (&settings.channel, nonce());
    match settings.tags {
        None => (Arc::new([format!("{channel}:{nonce}")]), vec![None]),
        Some(tags) => {
            let (slots, names): (Vec<_>, Vec<_>) = spread_tags(tags)
                .into_iter()
                .map(|(slots, tag)| (Some(slots), format!("{channel}:{nonce}{{{tag}}}")))
                .unzip();
            (names.into(), slots)
        }
    }
}
