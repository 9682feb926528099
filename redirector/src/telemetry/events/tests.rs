//! The ring, its file, and the stream.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering as Order},
};

use super::*;

/// A state directory, removed on drop.
struct State(PathBuf);

impl State {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("redirector-events-{}-{}", std::process::id(), COUNT.fetch_add(1, Order::Relaxed));
        let path = std::env::temp_dir().join(name);
        // Not made: the first line does that.
        Self(path)
    }

    fn open(&self) -> Events {
        Events::open(&self.0, Metrics::default())
    }

    fn file(&self) -> PathBuf {
        self.0.join(FILE)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn drained(service: &str, epoch: u32) -> Event {
    Event::DrainEnded { service: service.into(), member: None, epoch, reason: None }
}

fn all() -> Selection {
    Selection::default()
}

fn following() -> Selection {
    Selection { follow: true, ..Selection::default() }
}

fn record(line: &Line) -> Record {
    serde_json::from_str(line.text()).unwrap()
}

/// The epochs of all recent events.
fn epochs(events: &Events, selection: Selection) -> Vec<u32> {
    let recent = events.subscribe(selection).take_recent();
    let epoch = |line: &Arc<Line>| match record(line).event {
        Event::DrainEnded { epoch, .. } => epoch,
        other => panic!("{other:?}"),
    };
    recent.iter().map(epoch).collect()
}

#[test]
fn events_stay_in_order_and_over_restarts() {
    let state = State::new();
    for run in 0..3 {
        let events = state.open();
        assert_eq!(epochs(&events, all()), (0..run * 10).collect::<Vec<_>>());
        (run * 10..(run + 1) * 10).for_each(|epoch| events.emit(drained("orders", epoch)));
        let recent = events.subscribe(all()).take_recent();
        let sequences: Vec<_> = recent.iter().map(|line| line.sequence()).collect();
        assert_eq!(sequences, (1..=u64::from(run + 1) * 10).collect::<Vec<_>>());
    }
}

#[test]
fn the_ring_and_its_file_are_bounded() {
    let state = State::new();
    let events = state.open();
    let number = u32::try_from(RECENT).unwrap() * 2 + 100;
    for epoch in 0..number {
        events.emit(drained("orders", epoch));
        if epoch % 1000 == 0 {
            // The writer keeps up with an agent, not with a loop.
            std::thread::sleep(Duration::from_millis(30));
        }
    }
    let kept: Vec<_> = (number - u32::try_from(RECENT).unwrap()..number).collect();
    assert_eq!(epochs(&events, all()), kept);
    assert_eq!(events.lost(), [("follower", 0), ("disk", 0)]);
    drop(events);
    let lines = fs::read_to_string(state.file()).unwrap().lines().count();
    assert_eq!(lines, RECENT + 100, "the file was made anew once");
    let events = state.open();
    assert_eq!(epochs(&events, all()), kept);
    events.emit(drained("orders", 7));
    let newest = events.subscribe(all()).take_recent().back().unwrap().sequence();
    assert_eq!(newest, u64::from(number) + 1);
}

/// An agent was killed while it wrote, or the disk was full: the rest is read, and what comes next is not glued to it.
#[test]
fn broken_lines_are_passed_over() {
    let state = State::new();
    let events = state.open();
    (0..3).for_each(|epoch| events.emit(drained("orders", epoch)));
    drop(events);
    let mut text = fs::read(state.file()).unwrap();
    text.extend(b"\xff\xfe\nnull\n{\"sequence\": 9}\n{\"version\":1,\"sequence\":4,\"at\":\"20");
    fs::write(state.file(), text).unwrap();

    let events = state.open();
    assert_eq!(epochs(&events, all()), [0, 1, 2]);
    events.emit(drained("orders", 3));
    drop(events);
    let events = state.open();
    assert_eq!(epochs(&events, all()), [0, 1, 2, 3]);
    assert_eq!(events.subscribe(all()).take_recent().back().unwrap().sequence(), 4);
}

#[test]
fn a_directory_that_cannot_be_written_loses_nothing_but_the_file() {
    let state = State::new();
    fs::write(&state.0, "a file, no directory").unwrap();
    let events = state.open();
    (0..3).for_each(|epoch| events.emit(drained("orders", epoch)));
    assert_eq!(epochs(&events, all()), [0, 1, 2]);
    for _ in 0..200 {
        if events.lost()[1].1 == 3 {
            fs::remove_file(&state.0).unwrap();
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{:?}", events.lost());
}

#[test]
fn events_are_chosen_by_time_and_service() {
    let state = State::new();
    let events = state.open();
    events.emit(drained("orders", 1));
    std::thread::sleep(Duration::from_millis(60));
    let moment = SystemTime::now();
    events.emit(drained("carts", 2));
    events.emit(drained("orders", 3));
    let since = |since| Selection { since: Some(since), ..all() };
    assert_eq!(epochs(&events, since(Since::At(moment))), [2, 3]);
    assert_eq!(epochs(&events, since(Since::Ago(Duration::from_millis(50)))), [2, 3]);
    assert_eq!(epochs(&events, since(Since::Ago(Duration::from_secs(60)))), [1, 2, 3]);
    assert_eq!(epochs(&events, Selection { service: Some("orders".into()), ..all() }), [1, 3]);
    // Who follows wants what comes, unless it says since when.
    assert_eq!(epochs(&events, following()), [0_u32; 0]);
    assert_eq!(epochs(&events, Selection { follow: true, ..since(Since::At(moment)) }), [2, 3]);
    assert!(events.know("carts") && !events.know("cart"));
}

#[tokio::test]
async fn a_follower_gets_what_was_and_then_what_comes_without_a_gap() {
    let state = State::new();
    let events = state.open();
    events.emit(drained("orders", 0));
    let since = Some(Since::Ago(Duration::from_secs(60)));
    let mut subscription = events.subscribe(Selection { since, ..following() });
    events.emit(drained("carts", 1));
    let mut of_orders = events.subscribe(Selection { service: Some("orders".into()), ..following() });
    events.emit(drained("orders", 2));
    for sequence in 1..=3 {
        assert_eq!(subscription.next().await.unwrap().sequence(), sequence);
    }
    assert_eq!(of_orders.next().await.unwrap().sequence(), 3);
}

/// A follower that does not read holds nobody up, and is told what it did not get.
#[tokio::test]
async fn a_slow_follower_is_told_what_it_lost() {
    let state = State::new();
    let events = state.open();
    let mut slow = events.subscribe(Selection { service: Some("carts".into()), ..following() });
    let number = BEHIND as u64 + 100;
    for _ in 0..number {
        events.emit(drained("carts", 7));
    }
    let first = record(&slow.next().await.unwrap());
    let Event::Lost { events: lost } = first.event else { panic!("{first:?}") };
    // A power of two is what the channel makes of its bound.
    assert_eq!(lost, number - BEHIND as u64);
    assert_eq!(first.sequence, lost, "the newest that was lost");
    for sequence in lost + 1..=number {
        assert_eq!(slow.next().await.unwrap().sequence(), sequence);
    }
    assert_eq!(events.lost()[0], ("follower", lost));
    drop(events);
    assert!(slow.next().await.is_none(), "the agent has stopped");
}
