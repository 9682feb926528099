//! What is made of an answer: each IP version counts by itself, and a failure takes nothing away.

use std::{net::IpAddr, time::Duration};

/// What was said of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of its IPv4 addresses.
    pub v4: Said,
    /// Of its IPv6 addresses.
    pub v6: Said,
    /// How long it holds (the smallest TTL); 0 when there is no address.
    pub holds: Duration,
}

/// What was said of the addresses of one IP version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// These, at least one.
    Addresses(Vec<IpAddr>),
    /// There are none.
    Nothing,
    /// Nobody knows.
    Failed(String),
}

impl Answer {
    /// Neither version could be asked for.
    pub(super) fn failed(why: &str) -> Self {
        let failed = Said::Failed(why.to_owned());
        Self { v4: failed.clone(), v6: failed, holds: Duration::ZERO }
    }

    /// The addresses that hold from now on, when `last` did before. A version that nobody answers for keeps those of the
    /// last answer.
    ///
    /// # Errors
    /// When neither version has an address: a name that loses all of them at once is more likely a mistake than a wish.
    pub fn after(&self, last: &[IpAddr]) -> Result<Vec<IpAddr>, String> {
        if !matches!((&self.v4, &self.v6), (Said::Addresses(_), _) | (_, Said::Addresses(_))) {
            return Err(self.failure().unwrap_or_else(|| "the name has no address".to_owned()));
        }
        let mut all = Vec::new();
        for (said, v6) in [(&self.v4, false), (&self.v6, true)] {
            match said {
                Said::Addresses(found) => all.extend(found),
                Said::Nothing => {}
                Said::Failed(_) => all.extend(last.iter().filter(|address| address.is_ipv6() == v6)),
            }
        }
        Ok(all)
    }

    /// Why a version was not answered for; `None`: both were.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        match (&self.v4, &self.v6) {
            (Said::Failed(why), Said::Failed(_)) => Some(why.clone()),
            (Said::Failed(why), _) => Some(format!("IPv4: {why}")),
            (_, Said::Failed(why)) => Some(format!("IPv6: {why}")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn answer(v4: Said, v6: Said) -> Answer {
        Answer { v4, v6, holds: Duration::from_secs(1) }
    }

    fn found(texts: &[&str]) -> Said {
        Said::Addresses(ips(texts))
    }

    fn failed() -> Said {
        Said::Failed("SERVFAIL".to_owned())
    }

    const LAST: [&str; 2] = ["10.0.0.1", "fd00::1"];

    #[test]
    fn an_answer_replaces_the_last_one() {
        let both = answer(found(&["10.0.0.2"]), found(&["fd00::2"]));
        assert_eq!(both.after(&ips(&LAST)), Ok(ips(&["10.0.0.2", "fd00::2"])));
        let v4 = answer(found(&["10.0.0.2", "10.0.0.3"]), Said::Nothing);
        assert_eq!(v4.after(&ips(&LAST)), Ok(ips(&["10.0.0.2", "10.0.0.3"])));
    }

    /// A server that answers for A and is too slow for AAAA must not cost a member its IPv6 addresses.
    #[test]
    fn a_version_that_fails_keeps_its_addresses() {
        assert_eq!(
            answer(found(&["10.0.0.2"]), failed()).after(&ips(&LAST)),
            Ok(ips(&["10.0.0.2", "fd00::1"]))
        );
        assert_eq!(
            answer(failed(), found(&["fd00::2"])).after(&ips(&LAST)),
            Ok(ips(&["10.0.0.1", "fd00::2"]))
        );
        assert_eq!(answer(failed(), found(&["fd00::2"])).after(&[]), Ok(ips(&["fd00::2"])));
    }

    #[test]
    fn no_address_at_all_is_a_failure() {
        assert_eq!(answer(failed(), failed()).after(&ips(&LAST)), Err("SERVFAIL".to_owned()));
        assert_eq!(answer(failed(), Said::Nothing).after(&ips(&LAST)), Err("IPv4: SERVFAIL".to_owned()));
        let nothing = answer(Said::Nothing, Said::Nothing).after(&ips(&LAST));
        assert_eq!(nothing, Err("the name has no address".to_owned()));
    }
}
