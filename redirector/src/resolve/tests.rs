//! The resolver and a server that does not answer everything.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Instant,
};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use tokio::{net::UdpSocket, task::JoinHandle};

use super::*;

/// A name server at a loopback port, which ends with this value.
pub(crate) struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// One that answers for a name, as DNS writes it but without the last dot, and an IP version (whether it is 6) as `said`
    /// says. [`Said::Failed`]: it does not.
    pub(crate) async fn start(said: impl Fn(&str, bool) -> Said + Send + 'static) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                if let Some(answer) = answer(&question[..length], &said) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Self { address, task }
    }

    /// A resolver that asks this server alone, with this search list.
    pub(crate) fn resolver(&self, search: &[&str]) -> Arc<Resolver> {
        let mut connection = ConnectionConfig::udp();
        connection.port = self.address.port();
        let server = NameServerConfig::new(self.address.ip(), true, vec![connection]);
        let search = search.iter().map(|name| Name::from_utf8(name).unwrap()).collect();
        let config = ResolverConfig::from_parts(None, search, vec![server]);
        let mut builder = Dns::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().cache_size = 0;
        let dns = builder.build().map_err(|error| error.to_string());
        let sources = Sources { stamps: [HOSTS, SERVERS].map(stamp), hosts: Hosts::default(), dns };
        Arc::new(Resolver { sources: Mutex::new(Some(Arc::new(sources))) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// RFC 1035, section 4.1; a question has one name.
fn answer(message: &[u8], said: impl Fn(&str, bool) -> Said) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let (mut labels, mut at) = (Vec::new(), HEADER);
    while let length @ 1.. = usize::from(*message.get(at)?) {
        labels.push(String::from_utf8_lossy(message.get(at + 1..=at + length)?).to_ascii_lowercase());
        at += length + 1;
    }
    let end = at + 5;
    let is_v6 = message.get(at + 2)? == &28;
    let found = match said(&labels.join("."), is_v6) {
        Said::Addresses(found) => found,
        Said::Nothing => Vec::new(),
        Said::Failed(_) => return None,
    };
    let mut answer = message.get(..end)?.to_vec();
    // An answer, and recursion is available; one question, so many answers, nothing else.
    answer[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::try_from(found.len()).ok()?, 0, 0, 0, 0]);
    for address in found {
        let data = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        // The name of the question, its type and class, a TTL of 5 s.
        answer.extend([0xc0, 12]);
        answer.extend(&message[end - 4..end]);
        answer.extend([0, 0, 0, 5, 0, u8::try_from(data.len()).ok()?]);
        answer.extend(data);
    }
    Some(answer)
}

pub(crate) fn found(text: &str) -> Said {
    Said::Addresses(vec![text.parse().unwrap()])
}

pub(crate) fn dropped() -> Said {
    Said::Failed("dropped".to_owned())
}

/// Firewalls do that, and servers of load balancers.
#[tokio::test]
async fn a_question_that_is_dropped_does_not_hold_up_the_other_answer() {
    for drops_v6 in [true, false] {
        let server = Server::start(move |_, is_v6| match (is_v6 == drops_v6, is_v6) {
            (true, _) => dropped(),
            (false, true) => found("fd00::1"),
            (false, false) => found("10.0.0.1"),
        })
        .await;
        let started = Instant::now();
        let answer = server.resolver(&[]).look_up_soon("redis_1.example.com").await;
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        let expected = if drops_v6 { "10.0.0.1" } else { "fd00::1" };
        assert_eq!(answer.after(&[]), Ok(vec![expected.parse().unwrap()]), "{answer:?}");
        assert!(answer.failure().is_some(), "{answer:?}");
    }
}

/// Of two hosts that have the same short name, one is meant.
#[tokio::test]
async fn a_search_list_never_mixes_two_hosts() {
    let server = Server::start(|name, is_v6| match (name, is_v6) {
        ("db.one.example", false) => found("10.0.0.1"),
        ("db.two.example", true) => found("fd00::2"),
        ("db.three.example", _) => dropped(),
        _ => Said::Nothing,
    })
    .await;
    let resolver = server.resolver(&["one.example", "two.example"]);
    let expected = Answer { v4: found("10.0.0.1"), v6: Said::Nothing, holds: Duration::from_secs(5) };
    assert_eq!(resolver.look_up("db").await, expected);
    assert_eq!(resolver.look_up_soon("db").await, expected);
    let only_v6 = server.resolver(&["two.example"]).look_up("db").await;
    assert_eq!(only_v6.v6, found("fd00::2"));
}
