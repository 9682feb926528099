//! The kernel programs. One file per hook, thin: parse, decide, apply. One file per concern.
//!
//! A packet's way: [`tc`] takes it from the kernel, as a [`skb`], and hands it to [`from_client`] (towards a member) or to
//! [`from_member`] (back); [`open`] makes a flow, [`reset`] ends one, also when the agent asks for it ([`inject`]),
//! [`fragment`] carries what has no ports, [`icmp`] translates errors, [`stray`] answers what else is no TCP. [`pulse`] and
//! [`signal`] say what its traffic shows of a member. What a packet *means* is decided by the pure functions of
//! `redirector-common`. All calls into the kernel stand in [`kernel`].
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)] // For a few instructions in `kernel`.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers take narrower types than lengths and offsets have"
)]

mod fragment;
mod from_client;
mod from_member;
mod half_open;
mod hook;
mod icmp;
mod inject;
mod kernel;
mod log;
mod maps;
mod open;
mod pulse;
mod rate;
mod reset;
mod settings;
mod signal;
mod skb;
mod stray;
mod tc;

/// Helpers like `bpf_fib_lookup` are open to programs under a licence compatible with the GPL only. This crate and
/// `redirector-common` are given under such licences too, as their manifests say.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that nothing gets here: a program that could panic does not load.
    loop {}
}
