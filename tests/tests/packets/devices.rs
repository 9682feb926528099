//! The devices and sockets around the programs: what they send, and what they look up.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder, packet_route::address::AddressHeaderFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// On the way to the members.
const GATEWAYS: [&str; 2] = ["10.1.0.1", "fd00:1::1"];

/// A device and a gateway towards the members, so that the routing table has an answer, and knows the gateway's link-layer address.
/// Returns its index.
pub async fn uplink() -> u32 {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle.link().add(LinkVeth::new("up0", "up1").build()).execute().await.unwrap();
    for name in ["up0", "up1"] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0").unwrap();
        handle.link().set(LinkUnspec::new_with_name(name).up().build()).execute().await.unwrap();
    }
    let mut links = Box::pin(handle.link().get().match_name("up0").execute());
    let index = tokio_stream::StreamExt::try_next(&mut links).await.unwrap().unwrap().header.index;
    handle.address().add(index, "10.1.0.2".parse().unwrap(), 24).execute().await.unwrap();
    handle.address().add(index, "fd00:1::2".parse().unwrap(), 64).execute().await.unwrap();
    let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
        .destination_prefix("10.2.0.0".parse().unwrap(), 16)
        .gateway("10.1.0.1".parse().unwrap())
        .build();
    handle.route().add(v4).execute().await.unwrap();
    let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
        .destination_prefix("fd00:2::".parse().unwrap(), 32)
        .gateway("fd00:1::1".parse().unwrap())
        .build();
    handle.route().add(v6).execute().await.unwrap();
    for gateway in GATEWAYS {
        let known =
            handle.neighbours().add(index, gateway.parse().unwrap()).link_layer_address(&[2, 0, 0, 0, 0, 1]);
        known.execute().await.unwrap();
    }
    index
}

/// The gateways' link-layer addresses are not known any more.
pub async fn forget_gateways(uplink: u32) {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let mut all = Box::pin(handle.neighbours().get().execute());
    while let Some(neighbour) = tokio_stream::StreamExt::try_next(&mut all).await.unwrap() {
        if neighbour.header.ifindex == uplink {
            handle.neighbours().del(neighbour).execute().await.unwrap();
        }
    }
}

/// A client's socket in this thread's network namespace, which waits for the answer to its SYN. Nobody answers.
pub fn client_socket(client: SocketAddr, vip: SocketAddr) -> OwnedFd {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        handle.link().set(LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
        let whole = if client.is_ipv4() { 32 } else { 128 };
        let mut address = handle.address().add(1, client.ip(), whole);
        // Usable at once: nobody waits for what RFC 4862 tries first.
        address.message_mut().header.flags = AddressHeaderFlags::Nodad;
        address.execute().await.unwrap();
        let route = match vip.ip() {
            IpAddr::V4(vip) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(vip, 32).output_interface(1).build()
            }
            IpAddr::V6(vip) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(vip, 128)
                .output_interface(1)
                .build(),
        };
        handle.route().add(route).execute().await.unwrap();
    });
    let family = if client.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).unwrap();
    rustix::net::bind(&socket, &client).unwrap();
    assert_eq!(rustix::net::connect(&socket, &vip), Err(rustix::io::Errno::INPROGRESS));
    socket
}

/// As [`client_socket`], in a network namespace that a link of this one leads into. It ends with the socket.
pub async fn socket_beside(client: SocketAddr, vip: SocketAddr) -> OwnedFd {
    let there = std::thread::spawn(move || {
        // SAFETY: no other thread shares what is unshared.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET).unwrap() };
        (client_socket(client, vip), fs::File::open("/proc/thread-self/ns/net").unwrap())
    });
    let (socket, namespace) = there.join().unwrap();
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle.link().add(LinkVeth::new("c0", "c1").build()).execute().await.unwrap();
    let away = LinkUnspec::new_with_name("c1").setns_by_fd(namespace.as_raw_fd()).build();
    handle.link().set(away).execute().await.unwrap();
    socket
}

/// A packet socket that hears what enters through a device.
pub fn tap(device: u32) -> OwnedFd {
    let every_protocol = rustix::net::Protocol::from_raw(
        std::num::NonZero::new(u32::from((libc::ETH_P_ALL as u16).to_be())).unwrap(),
    );
    let socket = rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(every_protocol),
    )
    .unwrap();
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: device as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as u32;
    // SAFETY: the address is a whole `sockaddr_ll`, as its family says.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    socket
}
