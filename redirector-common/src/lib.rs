//! What both sides of the kernel boundary share: map keys and values, outcomes, and every pure decision on a
//! packet. No input, no output, no allocation: all of it is tested as ordinary Rust and runs in the kernel
//! unchanged.
//!
//! | module | concern |
//! |---|---|
//! | [`addr`] | addresses, ports and tuples as maps hold them |
//! | [`packet`] | parsing a frame, and the small trait through which hooks read and write it |
//! | [`whole`] | what parsing at a glance leaves out: fragments, IPv6 extension headers |
//! | [`icmp`] | ICMP errors that quote a segment, and their translation |
//! | [`checksum`] | one's complement arithmetic (RFC 1071, RFC 1624) |
//! | [`decision`] | the 64-bit word that says where new flows go |
//! | [`flow`] | the state of one TCP connection, staleness, and what a segment means for it |
//! | [`signal`] | what programs observe of members, and how they tell the agent |
//! | [`sample`] | measuring round trips |
//! | [`rate`] | the cap on new connections |
//! | [`reset`] | the numbers of a correct RST (RFC 9293), and its header |
//! | [`inject`] | how the agent asks for a flow to be reset |
//! | [`build`] | the other headers of packets that programs make |
//! | [`outcome`] | what became of a packet |
//! | [`layout`] | the remaining map values, map names and sizes |
#![no_std]
#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths and offsets of headers are bounded by the packet formats"
)]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod build;
pub mod checksum;
pub mod decision;
pub mod flow;
pub mod icmp;
pub mod inject;
pub mod layout;
pub mod outcome;
pub mod packet;
pub mod rate;
pub mod reset;
pub mod sample;
pub mod signal;
pub mod whole;
