//! Text that nobody else says.

use std::hash::{BuildHasher as _, RandomState};

/// 128 bits in hexadecimal digits, another one each time and in each process.
///
/// It tells this probe's answer from any other; it is no secret. `RandomState` is keyed by the system's random source,
/// which is all that this takes.
pub(super) fn nonce() -> String {
    let [high, low] = [(); 2].map(|()| RandomState::new().hash_one(()));
    format!("{high:016x}{low:016x}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::nonce;

    #[test]
    fn no_two_are_alike() {
        let many: HashSet<_> = (0..10_000).map(|_| nonce()).collect();
        assert_eq!(many.len(), 10_000);
        assert!(many.iter().all(|nonce| nonce.len() == 32));
    }
}
