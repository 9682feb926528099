//! Wrong input on the real host: the binary says what is wrong, where, and what to do next, exits after the contract,
//! and leaves nothing in the kernel.
//!
//! Which message belongs to which line of a file is the snapshot tests' matter (`redirector/src/config/tests`); here
//! it is what an operator sees.

#[path = "wrong_input/attempt.rs"]
mod attempt;
#[path = "wrong_input/beside.rs"]
mod beside;
#[path = "wrong_input/devices.rs"]
mod devices;
#[path = "wrong_input/file.rs"]
mod file;
#[path = "wrong_input/host.rs"]
mod host;
#[path = "wrong_input/verbs.rs"]
mod verbs;
