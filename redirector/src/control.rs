//! The control socket: HTTP and JSON on a Unix socket. Server, client, and the types that both share.

pub mod status;
