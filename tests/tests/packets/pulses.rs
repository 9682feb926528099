//! What the programs observe of members: pulses, signals, reports, and the cap on new connections.

use std::time::{Duration, Instant};

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use redirector_common::{
    addr::Tuple,
    signal::{ErrorReply, Pulse, Report, Signal},
};

use super::{
    bench::{Bench, MEMBER, OTHER},
    frame::build,
};

/// As long as a client waits at least before it sends a SYN again: less is a copy that the network made.
const A_TIMEOUT: Duration = Duration::from_millis(200);

/// How often each signal was seen.
pub type Signals = [u32; Signal::ALL.len()];

/// Longer than a tick of any kernel, and than the time in which a signal is reported once.
const A_WHILE: Duration = Duration::from_millis(25);

impl Bench {
    pub fn pulse(&self, member: u16) -> Pulse {
        let pulses: Array<&MapData, Pulse> = self.programs.map("pulses_v4").unwrap().try_into().unwrap();
        pulses.get(&u32::from(member), 0).unwrap()
    }

    /// Of both members.
    pub fn signals(&self) -> Signals {
        let [one, other] = [MEMBER, OTHER].map(|member| self.pulse(member).counts);
        std::array::from_fn(|at| one[at] + other[at])
    }

    /// The names of those that were seen since.
    pub fn signals_since(&self, before: &Signals) -> Vec<&'static str> {
        let now = self.signals();
        let seen = |signal: &&Signal| now[**signal as usize] != before[**signal as usize];
        Signal::ALL.iter().filter(seen).map(|signal| signal.name()).collect()
    }

    /// Some ticks go by.
    pub fn wait(&mut self) {
        std::thread::sleep(A_WHILE);
    }

    /// Replies that were looked at for an error.
    fn answers(&self) -> u64 {
        let counts: PerCpuArray<&MapData, u64> = self.programs.map("answers_v4").unwrap().try_into().unwrap();
        counts.get(&u32::from(MEMBER), 0).unwrap().iter().sum()
    }

    /// What was reported since this was asked last.
    fn reports(&mut self) -> Vec<Report> {
        let mut ring = RingBuf::try_from(self.programs.map_mut("signals_v4").unwrap()).unwrap();
        let mut reports = Vec::new();
        while let Some(bytes) = ring.next() {
            assert_eq!(bytes.len(), size_of::<Report>());
            // SAFETY: of that size, and made of integers only.
            reports.push(unsafe { bytes.as_ptr().cast::<Report>().read_unaligned() });
        }
        reports
    }

    /// A flow whose client and member have heard each other.
    fn establish(&mut self) {
        self.sent("client > vip SYN seq=100");
        self.came("member > port SYN ACK seq=500 ack=101");
        self.sent("client > vip ACK seq=101 ack=501");
    }
}

/// Runs a test for both IP versions, each in a namespace of its own.
fn both(test: fn(&mut Bench)) {
    for v6 in [false, true] {
        std::thread::spawn(move || test(&mut Bench::new(v6, 64, false))).join().unwrap();
    }
}

/// What waits for an answer is told from what was answered, and an acknowledgement from an answer.
#[test]
fn a_pulse_says_since_when_something_waits() {
    both(|bench| {
        bench.establish();
        let pulse = bench.pulse(MEMBER);
        assert!(!pulse.is_unheard() && !pulse.is_unanswered(), "{pulse:?}");

        bench.wait();
        bench.sent("client > vip PSH ACK seq=101 ack=501 len=30");
        let asked = bench.pulse(MEMBER);
        assert!(asked.is_unheard() && asked.is_unanswered(), "{asked:?}");
        bench.wait();
        bench.sent("client > vip PSH ACK seq=131 ack=501 len=30");
        assert_eq!(bench.pulse(MEMBER).sent, asked.sent, "the first that waits");
        assert_eq!(bench.pulse(MEMBER).asked, asked.asked);

        bench.came("member > port ACK seq=501 ack=161");
        let acknowledged = bench.pulse(MEMBER);
        assert!(!acknowledged.is_unheard() && acknowledged.is_unanswered(), "{acknowledged:?}");
        bench.came("member > port PSH ACK seq=501 ack=161 len=7");
        assert!(!bench.pulse(MEMBER).is_unanswered());

        bench.wait();
        bench.sent("client > vip ACK seq=161 ack=508");
        assert!(!bench.pulse(MEMBER).is_unheard(), "nothing answers an acknowledgement");
        assert_eq!(bench.pulse(OTHER), Pulse::default());
    });
}

/// Else every client that closes would look like one that waits, and hide those that do.
#[test]
fn the_end_of_a_stream_asks_nothing() {
    both(|bench| {
        bench.establish();
        bench.wait();
        let before = bench.pulse(MEMBER);
        bench.sent("client > vip FIN ACK seq=101 ack=501");
        let after = bench.pulse(MEMBER);
        assert_eq!(after.asked, before.asked);
        assert!(after.is_unheard(), "it is sent, and its acknowledgement waited for");
    });
}

#[test]
fn round_trips_and_connections_are_measured() {
    both(|bench| {
        bench.sent("client > vip SYN seq=100");
        bench.wait();
        bench.came("member > port SYN ACK seq=500 ack=101");
        bench.sent("client > vip ACK seq=101 ack=501");
        let opened = bench.pulse(MEMBER);
        assert_eq!((opened.connected, opened.failed, opened.samples), (1, 0, 0));
        assert!((25_000..2_000_000).contains(&opened.connect_us), "{opened:?}");

        // Another stretch of time than the connection's.
        std::thread::sleep(Duration::from_millis(300));
        bench.sent("client > vip PSH ACK seq=101 ack=501 len=30");
        bench.wait();
        bench.came("member > port ACK seq=501 ack=131");
        let measured = bench.pulse(MEMBER);
        assert_eq!((measured.samples, measured.rtt_us), (1, measured.rtt_min_us));
        assert!((25_000..2_000_000).contains(&measured.rtt_us), "{measured:?}");

        std::thread::sleep(Duration::from_millis(300));
        bench.sent("client > vip PSH ACK seq=131 ack=501 len=30");
        bench.sent("client > vip PSH ACK seq=131 ack=501 len=30");
        bench.came("member > port ACK seq=501 ack=161");
        assert_eq!(bench.pulse(MEMBER).samples, 1, "which of the two is acknowledged, nobody can tell");
    });
}

/// A breaker counts connections: a SYN that is sent three times is one that fails, and one that is accepted ends the row.
#[test]
fn connections_that_fail_are_counted_once() {
    both(|bench| {
        bench.sent("client > vip SYN seq=100");
        for _ in 0..2 {
            std::thread::sleep(A_TIMEOUT);
            bench.sent("client > vip SYN seq=100");
        }
        bench.came("member > port RST ACK seq=0 ack=101");
        let pulse = bench.pulse(MEMBER);
        assert_eq!((pulse.failed, pulse.failed_in_a_row), (1, 1), "{pulse:?}");
        assert_eq!(pulse.counts[Signal::Unanswered as usize], 2);
        assert_eq!(pulse.counts[Signal::Refused as usize], 1);

        bench.sent("client:2 > vip SYN seq=100");
        bench.came("member > port RST ACK seq=0 ack=101");
        let pulse = bench.pulse(MEMBER);
        assert_eq!((pulse.failed, pulse.failed_in_a_row, pulse.connected), (2, 2, 0));

        bench.establish();
        let pulse = bench.pulse(MEMBER);
        assert_eq!((pulse.failed, pulse.failed_in_a_row, pulse.connected), (2, 0, 1));
        bench.came("member > port SYN ACK seq=500 ack=101");
        assert_eq!(bench.pulse(MEMBER).connected, 1, "an answer that is sent again");
    });
}

/// A network that carries packets twice used to open breakers: every connection had failed, although each was accepted.
#[test]
fn a_copy_of_a_syn_is_no_failure() {
    both(|bench| {
        // Within the time of a copy: it is tried again if the machine was busy elsewhere.
        let is_quick = (0..20).any(|_| {
            bench.renew();
            let start = Instant::now();
            (0..3).for_each(|_| drop(bench.sent("client > vip SYN seq=100")));
            start.elapsed() < Duration::from_millis(80)
        });
        assert!(is_quick, "it takes a few milliseconds");
        bench.came("member > port SYN ACK seq=500 ack=101");
        let pulse = bench.pulse(MEMBER);
        assert_eq!((pulse.failed, pulse.failed_in_a_row, pulse.connected), (0, 0, 1), "{pulse:?}");
        assert_eq!(pulse.counts[Signal::Unanswered as usize], 0);
    });
}

/// One report of a member and signal in 10 ms; the next one says how many there were.
#[test]
fn reports_are_bounded_in_rate_and_lose_no_count() {
    const AGAIN: u32 = 500;
    both(|bench| {
        bench.establish();
        bench.wait();
        bench.sent("client > vip PSH ACK seq=101 ack=501 len=30");
        let sent = bench.pulse(MEMBER).sent;
        bench.reports();
        let start = Instant::now();
        bench.send_quickly("client > vip PSH ACK seq=101 ack=501 len=30", AGAIN);
        let most = start.elapsed().as_millis() / 8 + 1;
        let reports = bench.reports();
        assert!(reports.len() as u128 <= most, "{} of {most}", reports.len());
        let first = reports[0];
        assert_eq!(first.kind(), Some(Signal::Silent));
        assert_eq!((first.member, first.service, first.slot, first.count), (MEMBER, 0, 3, 1));
        assert_eq!(first.client_side, Tuple::between(bench.names["client"], bench.names["vip"]));
        assert_eq!(first.since, sent);
        let reported: u32 = reports.iter().map(|report| report.count).sum();
        let pulse = bench.pulse(MEMBER);
        assert_eq!(pulse.counts[Signal::Silent as usize], AGAIN);
        assert_eq!(reported + pulse.unreported[Signal::Silent as usize], AGAIN);

        bench.wait();
        bench.sent("client > vip PSH ACK seq=101 ack=501 len=30");
        let [last] = bench.reports()[..] else { panic!("not one report") };
        assert_eq!(reported + last.count, AGAIN + 1);
    });
}

/// Silence is told from a segment that was lost: nothing at all was heard since it was sent.
#[test]
fn silence_began_when_the_first_segment_that_waits_was_sent() {
    both(|bench| {
        bench.establish();
        bench.wait();
        bench.sent("client > vip PSH ACK seq=101 ack=501 len=30");
        let sent = bench.pulse(MEMBER).sent;
        bench.wait();
        bench.reports();
        bench.sent("client > vip PSH ACK seq=101 ack=501 len=30");
        let [report] = bench.reports()[..] else { panic!("not one report") };
        assert_eq!((report.kind(), report.since), (Some(Signal::Silent), sent));
        assert!(report.at.wrapping_sub(report.since) >= 2, "{report:?}");

        bench.came("member > port ACK seq=501 ack=101");
        bench.wait();
        bench.sent("client > vip PSH ACK seq=101 ack=501 len=30");
        let [report] = bench.reports()[..] else { panic!("not one report") };
        assert_eq!((report.kind(), report.since), (Some(Signal::Retransmitted), report.at));
    });
}

/// An error is looked for in the first reply of a tick: of a flow that asks one after the other, in all of them.
#[test]
fn errors_that_mean_trouble_are_counted_by_kind() {
    both(|bench| {
        bench.establish();
        bench.reports();
        let (mut asked, mut next) = (101, 501);
        for (text, error) in [
            ("-LOADING_Redis_is_loading_the_dataset_in_memory", Some(ErrorReply::Loading)),
            ("-BUSY_Redis_is_busy_running_a_script.", Some(ErrorReply::Busy)),
            ("-BUSYKEY_Target_key_name_already_exists.", None),
            ("-ERR_max_number_of_clients_reached", Some(ErrorReply::MaxClients)),
            ("-ERR_syntax_error", None),
            ("+OK", None),
            ("-", None),
        ] {
            for options in [0, 12] {
                bench.wait();
                bench.sent(&format!("client > vip PSH ACK seq={asked} ack={next} len=9"));
                asked += 9;
                let (before, answers) = (bench.pulse(MEMBER), bench.answers());
                let seen = bench.came(&format!(
                    "member > port PSH ACK seq={next} ack={asked} tcpopt={options} says={text}"
                ));
                assert_eq!(seen.outcome, "replied");
                next += text.len() + 2;
                let (after, reports) = (bench.pulse(MEMBER), bench.reports());
                assert_eq!(bench.answers(), answers + 1);
                assert_eq!(reports.first().and_then(Report::error_reply), error, "{text}");
                for kind in ErrorReply::ALL {
                    let more = after.errors[kind as usize] - before.errors[kind as usize];
                    assert_eq!(more, u32::from(Some(kind) == error), "{text}");
                }
            }
        }
    });
}

/// What a client has stored may look like an error where a segment of a long reply begins.
#[test]
fn the_middle_of_a_reply_is_no_error() {
    both(|bench| {
        bench.establish();
        bench.sent("client > vip PSH ACK seq=101 ack=501 len=30");
        bench.came("member > port ACK seq=501 ack=131 says=$1000000");
        let (before, answers) = (bench.pulse(MEMBER), bench.answers());
        for segment in 0..3 {
            bench.wait();
            let seq = 511 + segment * 6;
            assert_eq!(
                bench.came(&format!("member > port ACK seq={seq} ack=131 says=-OOM_x")).outcome,
                "replied"
            );
        }
        assert_eq!((bench.pulse(MEMBER).errors, bench.answers()), (before.errors, answers));
        bench.wait();
        bench.sent("client > vip PSH ACK seq=131 ack=529 len=30");
        bench.came("member > port PSH ACK seq=529 ack=161 says=-OOM_command");
        assert_eq!(bench.answers(), answers + 1);
        let out_of_memory = ErrorReply::OutOfMemory as usize;
        assert_eq!(bench.pulse(MEMBER).errors[out_of_memory], before.errors[out_of_memory] + 1);
    });
}

/// A primary that was demoted refuses writes, and a moment later loads its data set: both are news.
#[test]
fn each_error_is_reported_for_itself() {
    both(|bench| {
        for client in ["client", "client:2", "neighbour"] {
            bench.sent(&format!("{client} > vip SYN seq=100"));
            bench.came("member > port SYN ACK seq=500 ack=101");
            bench.sent(&format!("{client} > vip ACK seq=101 ack=501"));
        }
        bench.reports();
        let replies = [
            ("client", "-READONLY_You_cannot_write_against_a_replica."),
            ("client:2", "-LOADING_Redis_is_loading_the_dataset_in_memory"),
            ("neighbour", "-READONLY_You_cannot_write_against_a_replica."),
        ];
        let frames = replies.map(|(client, text)| {
            bench.sent(&format!("{client} > vip ACK seq=101 ack=501"));
            build(&format!("member > port PSH ACK seq=501 ack=101 says={text}"), &bench.names)
        });
        // Within the time of one report: it is tried again if the machine was busy elsewhere.
        let told = (101..121).find_map(|asked| {
            bench.wait();
            for (client, _) in replies {
                bench.sent(&format!("{client} > vip PSH ACK seq={asked} ack=501 len=1"));
            }
            bench.reports();
            let start = Instant::now();
            bench.come_quickly(&frames);
            (start.elapsed() < Duration::from_millis(5)).then(|| bench.reports())
        });
        let told: Vec<_> =
            told.expect("it takes a millisecond at most").iter().map(Report::error_reply).collect();
        assert_eq!(told, [Some(ErrorReply::ReadOnly), Some(ErrorReply::Loading)]);
    });
}

/// Those of an error that were not reported are told with the next of that error: they used to be told with the next of any.
#[test]
fn each_error_is_counted_for_itself() {
    both(|bench| {
        let clients = ["client", "client:2", "neighbour"];
        for client in clients {
            bench.sent(&format!("{client} > vip SYN seq=100"));
            bench.came("member > port SYN ACK seq=500 ack=101");
            bench.sent(&format!("{client} > vip ACK seq=101 ack=501"));
        }
        let read_only = "-READONLY_You_cannot_write_against_a_replica.";
        let loading = "-LOADING_Redis_is_loading_the_dataset_in_memory";
        let frames = clients.map(|client| {
            bench.sent(&format!("{client} > vip ACK seq=101 ack=501"));
            build(&format!("member > port PSH ACK seq=501 ack=101 says={read_only}"), &bench.names)
        });
        // Within the time of one report: it is tried again if the machine was busy elsewhere.
        let untold = |bench: &Bench| bench.pulse(MEMBER).errors_unreported;
        let mut asked = 101;
        let told_once = (0..20).any(|_| {
            bench.wait();
            for client in clients {
                bench.sent(&format!("{client} > vip PSH ACK seq={asked} ack=501 len=1"));
            }
            asked += 1;
            bench.reports();
            bench.come_quickly(&frames);
            bench.reports().len() == 1 && untold(bench)[ErrorReply::ReadOnly as usize] == 2
        });
        assert!(told_once, "{:?}", untold(bench));
        let mut next = 501 + read_only.len() + 2;
        for (text, error, count) in [
            (loading, ErrorReply::Loading, 1),
            (read_only, ErrorReply::ReadOnly, 3),
            (loading, ErrorReply::Loading, 1),
        ] {
            bench.wait();
            bench.sent(&format!("neighbour > vip PSH ACK seq={asked} ack={next} len=1"));
            asked += 1;
            bench.came(&format!("member > port PSH ACK seq={next} ack={asked} says={text}"));
            next += text.len() + 2;
            let [report] = bench.reports()[..] else { panic!("not one report of {text}") };
            assert_eq!((report.error_reply(), report.count), (Some(error), count));
        }
        assert_eq!(untold(bench), [0; ErrorReply::ALL.len()]);
    });
}

/// A member that is full or loading says so at once: in the tick of its answer to the SYN, on a short way.
#[test]
fn the_first_reply_of_a_flow_is_looked_at() {
    both(|bench| {
        bench.establish();
        let before = bench.answers();
        bench.came("member > port PSH ACK seq=501 ack=101 says=-LOADING_Redis_is_loading");
        assert_eq!(bench.answers(), before + 1);
        assert_eq!(bench.pulse(MEMBER).errors[ErrorReply::Loading as usize], 1);
    });
}

#[test]
fn a_cap_admits_a_burst_and_then_its_rate() {
    both(|bench| {
        bench.cap(2, 3);
        let mut outcomes = (50_000..50_005).map(|port| {
            let client = std::net::SocketAddr::new(bench.names["client"].ip(), port);
            bench.names.insert("client", client);
            bench.sent("client > vip SYN seq=7").outcome
        });
        assert!(outcomes.by_ref().take(3).all(|outcome| outcome == "opened"));
        assert!(outcomes.all(|outcome| outcome == "refused_rate"));
        std::thread::sleep(Duration::from_millis(510));
        assert_eq!(bench.sent("client > vip SYN seq=7").outcome, "opened");
        assert_eq!(
            bench.sent("client > vip SYN seq=7").outcome,
            "carried",
            "a SYN that is sent again is no other one"
        );
    });
}
