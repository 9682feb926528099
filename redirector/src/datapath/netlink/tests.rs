//! Against this kernel; as root, for a network namespace to change in.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, Ordering},
};

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressMessage, AddressScope},
        link::{LinkAttribute, LinkMessage},
        route::RouteMessage,
    },
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;

fn on_runtime<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// The loopback device has it, which is number 1 of every network namespace.
fn address(number: u16, scope: AddressScope) -> AddressMessage {
    let [high, low] = number.to_be_bytes();
    let own = IpAddr::from(Ipv4Addr::new(10, if scope == AddressScope::Host { 1 } else { 2 }, high, low));
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    (message.header.prefix_len, message.header.scope, message.header.index) = (32, scope, 1);
    message.attributes = vec![AddressAttribute::Local(own), AddressAttribute::Address(own)];
    message
}

fn own(message: &AddressMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(own) => Some(*own),
        _ => None,
    })
}

fn all_addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

fn address_of(answer: RouteNetlinkMessage) -> Option<IpAddr> {
    match answer {
        RouteNetlinkMessage::NewAddress(message) => own(&message),
        _ => None,
    }
}

/// It read as if there was nothing.
#[test]
fn a_list_that_the_kernel_refuses_is_an_error() {
    on_runtime(async {
        let mut routes = RouteMessage::default();
        routes.header.address_family = AddressFamily::Inet;
        let strict = connect(true).unwrap();
        let ask = |routes| list(&strict, RouteNetlinkMessage::GetRoute(routes), Some);
        ask(routes.clone()).await.expect("a question that it takes");
        // It does not filter by that, and says so to whoever wants to know.
        routes.header.destination_prefix_length = 24;
        assert_eq!(ask(routes).await.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    });
    let mut links = LinkMessage::default();
    let ask =
        |links: &LinkMessage| Socket::open().unwrap().list(&RouteNetlinkMessage::GetLink(links.clone()));
    assert!(!ask(&links).unwrap().is_empty());
    // Those of a network namespace that this one knows under no such number.
    links.attributes.push(LinkAttribute::IfNetnsId(123_456));
    assert_eq!(ask(&links).unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn an_answer_without_an_end_is_an_error() {
    on_runtime(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        let driven = tokio::spawn(connection);
        driven.abort();
        driven.await.unwrap_err();
        list(&handle, all_addresses(), address_of).await.unwrap_err();
    });
    on_runtime(async {
        // It takes the end away: the list might be cut short.
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let error = list(&handle, all_addresses(), address_of).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    });
}

/// Addresses that stay were left out, and others told twice: the kernel counts them, and others come and go before them.
#[test]
fn a_list_that_changes_meanwhile_is_whole() {
    const STAY: u16 = 3000;

    let test = || {
        // SAFETY: only the network namespace of this short-lived thread is unshared, not its descriptors.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        let socket = Socket::open().unwrap();
        let add = |message| {
            socket.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL).unwrap();
        };
        let stays: HashSet<_> = (0..STAY)
            .map(|number| {
                let message = address(number, AddressScope::Universe);
                let own = own(&message).unwrap();
                add(message);
                own
            })
            .collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // A thread begins in the network namespace of the one that started it.
            scope.spawn(|| come_and_go(&stop));
            let ended = std::panic::catch_unwind(|| on_runtime(all_stay(&stays)));
            stop.store(true, Ordering::Relaxed);
            ended.unwrap();
        });
    };
    std::thread::spawn(test).join().unwrap();
}

/// Addresses of a smaller scope come first.
fn come_and_go(stop: &AtomicBool) {
    let socket = Socket::open().unwrap();
    while !stop.load(Ordering::Relaxed) {
        for number in 0..20 {
            let message = RouteNetlinkMessage::NewAddress(address(number, AddressScope::Host));
            socket.change(message, NLM_F_CREATE | NLM_F_EXCL).unwrap();
        }
        for number in 0..20 {
            let message = RouteNetlinkMessage::DelAddress(address(number, AddressScope::Host));
            socket.change(message, 0).unwrap();
        }
        std::thread::sleep(2 * PAUSE);
    }
}

async fn all_stay(stays: &HashSet<IpAddr>) {
    let handle = connect(false).unwrap();
    let (mut marked, mut lists) = (0, 0);
    while marked < 5 || lists < 20 {
        marked += usize::from(is_marked(&handle).await);
        let one = list(&handle, all_addresses(), address_of).await;
        let other = Socket::open().unwrap().list(&all_addresses());
        let other = other.map(|all| all.into_iter().flatten().filter_map(address_of).collect());
        for listed in [one, other] {
            match listed {
                Ok(all) => {
                    let of_those = all.iter().filter(|own| stays.contains(own)).count();
                    assert_eq!(of_those, stays.len(), "after {lists} lists, {marked} marked");
                    lists += 1;
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}"),
            }
        }
    }
}

/// Whether something changes while a list is told, as it stands in the messages.
async fn is_marked(handle: &Handle) -> bool {
    let mut question = NetlinkMessage::from(all_addresses());
    question.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let answer: Vec<_> = handle.clone().request(question).unwrap().collect().await;
    answer.iter().any(|message| message.header.flags & NLM_F_DUMP_INTR != 0)
}
