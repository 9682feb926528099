//! What Cargo alone cannot do.

fn main() {}
