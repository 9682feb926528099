//! Looks again and again.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::SocketAddr,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::{Board, Target, look};

/// The first looks at all members are spread over this time.
const FIRST: Duration = Duration::from_secs(10);

/// Looks at one address of a member after the other, every [`Application::every`](crate::model::Application::every), until it
/// is dropped, and puts up what it sees. The login of the applications is used as far as they let the agent.
pub async fn run(target: Target, addresses: Vec<SocketAddr>, board: Board) {
    let target = Target { application: target.application.of_the_agent(), ..target };
    let every = target.application.every();
    let mut next = Instant::now() + FIRST.min(every).mul_f64(chance());
    loop {
        sleep_until(next).await;
        // Up to a tenth less: members that began together drift apart.
        next = Instant::now() + every.mul_f64(1.0 - chance() / 10.0);
        for address in &addresses {
            let look = look(&target, *address).await;
            board.put(&target.service, &target.member, *address, look);
        }
    }
}

/// At least 0, at most 1. The standard library seeds its hash maps from the kernel; no other randomness is needed here.
fn chance() -> f64 {
    let number = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(number).unwrap_or_default()) / f64::from(u32::MAX)
}
