//! The part of `check` that asks the members: every check once, many at the same time.

use std::{collections::HashMap, net::SocketAddr, panic, time::Duration};

use serde::Serialize;
use tokio::task::{JoinError, JoinSet};

use super::load::{Detection, milliseconds};
use crate::{
    config::Resolved,
    decide::detection::{self, Prompt, Trouble},
    model::{Check, Config, MemberId, ProbeOutcome, Service, ServiceId, Verdict},
    probe::{
        self,
        heartbeat::{self, Heartbeat},
    },
};

/// So many probes at the same time: what does not answer holds up the others no longer than it must, and the latencies
/// of those that do are still those of the members, not of this process.
const PROBES: usize = 64;

/// One check of one member.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) service: String,
    pub(super) member: String,
    pub(super) address: String,
    pub(super) check: String,
    pub(super) passed: bool,
    pub(super) result: String,
    /// From a crash of the server until the check fails, at the latest, in milliseconds; `null`: it does not see that.
    pub(super) detects_crash_ms: Option<u64>,
    /// From the moment that nothing comes back any more until the check fails, likewise.
    pub(super) detects_silence_ms: Option<u64>,
    /// From the moment that the server does not answer any more until the check fails, likewise.
    pub(super) detects_stall_ms: Option<u64>,
}

/// What every check finds, and how soon trouble of each member is seen, in the order of the file.
pub(super) async fn all(config: &Config, resolved: &Resolved) -> (Vec<Finding>, Vec<Detection>) {
    let mut probes = Vec::new();
    for (at, service) in config.services.iter().enumerate() {
        for (number, member) in service.members.iter().enumerate() {
            for address in resolved.addresses(ServiceId(at), MemberId(number)).iter() {
                probes.extend(
                    member.checks.iter().map(|check| (check.clone(), address, member.access.clone())),
                );
            }
        }
    }
    let probes = probes
        .into_iter()
        .map(|(check, address, access)| async move { probe::once(&check, address, &access).await });
    let heartbeats = config.services.iter().enumerate();
    let heartbeats = heartbeats.map(|(at, service)| beats(service, ServiceId(at), resolved));
    let (outcomes, beats) = tokio::join!(at_once(PROBES, probes), at_once(PROBES, heartbeats));

    let mut outcomes = outcomes.into_iter();
    let (mut checks, mut detection) = (Vec::new(), Vec::new());
    for (at, service) in config.services.iter().enumerate() {
        for (number, member) in service.members.iter().enumerate() {
            let addresses = resolved.addresses(ServiceId(at), MemberId(number));
            let mut latencies = vec![Duration::ZERO; member.checks.len()];
            for address in addresses.iter() {
                for ((check, slowest), probed) in member.checks.iter().zip(&mut latencies).zip(&mut outcomes)
                {
                    // A heartbeat is one for all members, and no probe of one of them finds out anything.
                    let outcome = beats[at].get(&check.name).map_or(probed, |of_all| of_all[number].clone());
                    if let ProbeOutcome::Passed { latency } = outcome {
                        *slowest = latency.max(*slowest);
                    }
                    checks.push(finding(&service.name, &member.name, address, check, &outcome));
                }
            }
            detection.push(Detection::of(service, member, &latencies, addresses.iter().count()));
        }
    }
    (checks, detection)
}

/// What every heartbeat of a service finds, by the name of the check: of each member.
fn beats(
    service: &Service,
    id: ServiceId,
    resolved: &Resolved,
) -> impl Future<Output = HashMap<String, Vec<ProbeOutcome>>> + use<> {
    let heartbeats: Vec<_> =
        service.checks.iter().filter_map(|check| Heartbeat::of(service, check)).collect();
    for (_, senders) in &heartbeats {
        for (number, sender) in senders.iter().enumerate() {
            sender.send_replace(resolved.addresses(id, MemberId(number)).iter().collect());
        }
    }
    async move {
        let mut beats = HashMap::new();
        for (heartbeat, _senders) in heartbeats {
            let check = &heartbeat.check;
            let limit = heartbeat.settings.tolerance + check.timeout + check.fast_interval;
            beats.insert(check.name.clone(), heartbeat::once(&heartbeat, limit).await);
        }
        beats
    }
}

fn finding(
    service: &str,
    member: &str,
    address: SocketAddr,
    check: &Check,
    outcome: &ProbeOutcome,
) -> Finding {
    let latency = match outcome {
        ProbeOutcome::Passed { latency } => *latency,
        _ => Duration::ZERO,
    };
    let [crash, silence, stall] = Trouble::ALL
        .map(|trouble| detection::of_check(check, trouble, latency, Prompt::Interval).map(milliseconds));
    Finding {
        service: service.into(),
        member: member.into(),
        address: address.to_string(),
        check: check.name.clone(),
        passed: outcome.verdict() == Verdict::Pass,
        result: outcome.to_string(),
        detects_crash_ms: crash,
        detects_silence_ms: silence,
        detects_stall_ms: stall,
    }
}

/// Does all of these, so many at the same time. What comes of them is in their order.
pub(super) async fn at_once<F>(limit: usize, jobs: impl Iterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let (mut running, mut done) = (JoinSet::new(), Vec::new());
    for (number, job) in jobs.enumerate() {
        if running.len() == limit {
            done.extend(running.join_next().await.map(ended));
        }
        running.spawn(async move { (number, job.await) });
    }
    while let Some(next) = running.join_next().await {
        done.push(ended(next));
    }
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, output)| output).collect()
}

/// Nobody cancels them, so all that a task can do instead of ending is to panic.
fn ended<T>(joined: Result<T, JoinError>) -> T {
    joined.unwrap_or_else(|error| panic::resume_unwind(error.into_panic()))
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        path::Path,
        sync::{Arc, Mutex},
        time::Instant,
    };

    use super::*;
    use crate::config::{self, Answers};

    /// Found in use: members that nobody reaches were waited for one after the other, in silence.
    #[tokio::test]
    async fn members_that_do_not_answer_are_waited_for_at_the_same_time() {
        const MEMBERS: usize = 40;
        // The kernel accepts, and nobody answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = silent.local_addr().unwrap();
        let member =
            |number| format!("[[service.member]]\nname = \"m{number}\"\nendpoint = \"{endpoint}\"\n");
        let text = format!(
            "[[service]]\nname = \"orders\"\nvips = [\"10.255.0.1:6379\"]\n\
             [[service.check]]\nkind = \"ping\"\ntimeout = \"400ms\"\n{}",
            (0..MEMBERS).map(member).collect::<String>()
        );
        let loaded = config::parse(Path::new("redirector.toml"), &text).unwrap();
        let resolved = config::resolve(&loaded, &Arc::default(), &Answers::default()).await.unwrap();
        let begin = Instant::now();
        let (checks, detection) = all(&loaded.config, &resolved).await;
        assert!(begin.elapsed() < Duration::from_secs(8), "one after the other: {:?}", begin.elapsed());
        assert!(checks.iter().all(|check| !check.passed), "{checks:?}");
        let names: Vec<_> = checks.iter().map(|check| check.member.clone()).collect();
        assert_eq!(names, (0..MEMBERS).map(|number| format!("m{number}")).collect::<Vec<_>>());
        assert_eq!(detection.len(), MEMBERS);
    }

    #[tokio::test]
    async fn no_more_than_the_limit_run_at_the_same_time_and_the_order_stays() {
        let running = Arc::new(Mutex::new((0, 0)));
        let job = |number: u64| {
            let running = Arc::clone(&running);
            async move {
                {
                    let (now, most) = &mut *running.lock().unwrap();
                    *now += 1;
                    *most = (*now).max(*most);
                }
                // The first ones end last.
                tokio::time::sleep(Duration::from_millis(20 - number)).await;
                running.lock().unwrap().0 -= 1;
                number
            }
        };
        assert_eq!(at_once(4, (0..20).map(job)).await, (0..20).collect::<Vec<_>>());
        assert_eq!(running.lock().unwrap().1, 4);
    }
}
