//! Every metric: its name, its labels, and what it says. `docs/telemetry.md` lists the same; a test compares them.
//!
//! Names follow the rules of Prometheus: the prefix `redirector_`, base units (seconds, bytes), `_total` for what only grows.

use prometheus_client::metrics::MetricType;

/// In front of every name.
pub const PREFIX: &str = "redirector";

/// Metrics of one name.
#[derive(Debug)]
pub struct Family {
    /// Without [`PREFIX`], and without the `_total` of counters.
    pub name: &'static str,
    /// Whether it only grows, goes up and down, or is a distribution.
    pub kind: MetricType,
    /// What it says, in a sentence.
    pub help: &'static str,
    /// Its labels, but for `le`.
    pub labels: &'static [&'static str],
}

impl Family {
    /// The name that a query uses: of a histogram without `_bucket`, `_sum` and `_count`.
    #[must_use]
    pub fn full_name(&self) -> String {
        let suffix = if matches!(self.kind, MetricType::Counter) { "_total" } else { "" };
        format!("{PREFIX}_{}{suffix}", self.name)
    }
}

macro_rules! families {
    ($($family:ident = $kind:ident $name:literal [$($label:literal)*] $help:literal;)+) => {
        $(
            #[doc = $help]
            pub(super) static $family: Family = Family {
                name: $name,
                kind: MetricType::$kind,
                help: $help,
                labels: &[$($label),*],
            };
        )+

        /// All of them.
        pub static ALL: &[&Family] = &[$(&$family),+];
    };
}

families! {
    BUILD_INFO = Gauge "build_info" ["version"] "1, with the release of the agent.";
    SERVICE_STATE = Gauge "service_state" ["service" "state"] "1 for the state that the service is in, 0 for the others.";
    SERVICE_EPOCH = Gauge "service_epoch" ["service"] "Grows by one with each switch.";
    SERVICE_PAUSED = Gauge "service_paused" ["service"] "1 while an operator has stopped automatic switches.";
    SERVICE_PINNED = Gauge "service_pinned" ["service"] "1 while an operator has pinned a member.";
    MEMBER_ACTIVE = Gauge "member_active" ["service" "member"] "1 for the member that new connections go to, 0 for the others.";
    MEMBER_STATE = Gauge "member_state" ["service" "member" "state"] "1 for the state that the member is in, 0 for the others.";
    MEMBER_WEIGHT = Gauge "member_weight" ["service" "member"] "The eligible member with the highest weight is to be active.";
    MEMBER_ELIGIBLE = Gauge "member_eligible" ["service" "member"] "1 if the member could become active now, or is active and up.";
    MEMBER_FLOWS = Gauge "member_flows" ["service" "member"] "Flows that the member carries.";
    MEMBER_READY = Gauge "member_ready" ["service" "member"] "0 if applications are sure to fail at the member, 1 if nothing of that kind was seen; no series while nobody knows.";
    MEMBER_CERTIFICATE_EXPIRY = Gauge "member_certificate_expiry_timestamp_seconds" ["service" "member"] "When the first certificate that the member showed expires, since 1970.";
    MEMBER_RTT = Gauge "member_rtt_seconds" ["service" "member"] "Smoothed round-trip time of the traffic with the member, from data to its acknowledgement; no series before the first one.";
    MEMBER_RTT_MIN = Gauge "member_rtt_min_seconds" ["service" "member"] "The shortest round-trip time that was seen.";
    MEMBER_CONNECT = Gauge "member_connect_seconds" ["service" "member"] "Smoothed time from a SYN to the member's answer; no series before the first one.";
    MEMBER_SIGNALS = Counter "member_signals" ["service" "member" "signal"] "How often the kernel programs saw this in the traffic with the member, since the maps were made.";
    MEMBER_ERROR_REPLIES = Counter "member_error_replies" ["service" "member" "error"] "Replies that begin with an error that means trouble, as far as replies were looked at, since the maps were made.";
    MEMBER_BREAKER_STATE = Gauge "member_breaker_state" ["service" "member" "state"] "1 for the state that the member's breaker is in, 0 for the others; no series without a breaker.";
    MEMBER_BREAKER_ATTEMPTS = Gauge "member_breaker_attempts" ["service" "member"] "Attempts of clients within the window of the member's breaker.";
    MEMBER_BREAKER_FAILURES = Gauge "member_breaker_failures" ["service" "member"] "How many of these attempts failed.";
    MEMBER_BREAKER_FAILURE_RATIO = Gauge "member_breaker_failure_ratio" ["service" "member"] "The part of these attempts that failed, 0 to 1; no series while there are none.";
    CHECK_STATE = Gauge "check_state" ["service" "member" "check" "state"] "How many addresses of the member the check says this of: unknown, passing, failing.";
    PROBES = Counter "probes" ["service" "member" "check" "verdict" "outcome" "phase"] "Probes that have ended, by what they found and how far they came.";
    PROBE_SECONDS = Histogram "probe_seconds" ["service" "member"] "Duration of the probes that passed.";
    CHECK_LAST_SECONDS = Gauge "check_last_probe_seconds" ["service" "member" "check"] "Duration of the newest probe, passed or not.";
    CHECK_LAST_AT = Gauge "check_last_probe_timestamp_seconds" ["service" "member" "check"] "When the newest probe ended, since 1970.";
    CHECK_FAILURES = Gauge "check_failed_in_a_row" ["service" "member" "check"] "Failed probes up to now without one that passed, of the address that was probed last.";
    SWITCHES = Counter "switches" ["service" "kind"] "Switches since the agent started.";
    DETECTION_SECONDS = Histogram "detection_seconds" [] "From the start of the first failed probe of the run that made the active member down to the switch away from it.";
    SWITCH_STORE_SECONDS = Histogram "switch_store_seconds" [] "From the report or deadline that decided a switch until new connections went to the new member.";
    SWITCH_RESET_SECONDS = Histogram "switch_reset_seconds" [] "From that moment until the sockets of this host with flows of the member that was left were destroyed.";
    FLOWS_RESET = Counter "flows_reset" ["service"] "Flows of sockets on this host that were reset because their member was left or their address taken out.";
    PACKETS = Counter "packets" ["outcome"] "Packets by what became of them, since the maps were made; a large segment before segmentation is one.";
    PACKET_BYTES = Counter "packet_bytes" ["outcome"] "Bytes of these packets with all headers.";
    FLOWS = Gauge "flows" [] "Entries of the flow table.";
    FLOWS_MAX = Gauge "flows_max" [] "Entries that the flow table has room for.";
    FLOWS_COLLECTED = Counter "flows_collected" ["reason"] "Flows that were forgotten because nobody used them any more, by the reason.";
    FLOW_COUNT_SECONDS = Gauge "flow_count_seconds" [] "How long reading the flow table took for these figures.";
    EVENTS = Counter "events" ["event"] "Events since the agent started.";
    EVENTS_LOST = Counter "events_lost" ["at"] "Events that followers were too slow for, and that are not kept because the disk was.";
    LOOP_LATE_SECONDS = Histogram "loop_late_seconds" [] "From the end of a probe until the agent's loop had its report.";
    CPU_SECONDS = Counter "process_cpu_seconds" [] "Processor time of the agent, user and system.";
    MEMORY = Gauge "process_resident_memory_bytes" [] "Resident memory of the agent; the maps are not in it.";
    OPEN_FDS = Gauge "process_open_fds" [] "Open file descriptors of the agent.";
    START_TIME = Gauge "process_start_time_seconds" [] "When the agent started, since 1970.";
}
