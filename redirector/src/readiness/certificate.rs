//! When the certificates of a handshake are over.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls::pki_types::CertificateDer;

use super::Finding;
use crate::quote::quote;

/// This long before, somebody should know.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The first certificate of a chain to expire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expiry {
    of: String,
    pub(super) at: SystemTime,
}

impl Expiry {
    /// `None`: there is no certificate that can be read.
    ///
    /// The whole chain, because an authority in between that expires breaks it just as well.
    pub(super) fn of(chain: &[CertificateDer<'static>]) -> Option<Self> {
        chain.iter().filter_map(|der| Self::of_one(der)).min_by_key(|expiry| expiry.at)
    }

    fn of_one(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        let subject = certificate.subject().to_string();
        let of = if subject.is_empty() { "the member".to_owned() } else { format!("{:?}", quote(&subject)) };
        Some(Self { of, at: UNIX_EPOCH.checked_add(Duration::from_secs(seconds))? })
    }

    /// If it is near at `now`.
    pub(super) fn finding(&self, now: SystemTime) -> Option<Finding> {
        let left = self.at.duration_since(now).unwrap_or(Duration::ZERO);
        (left < SOON).then(|| Finding::CertificateExpires { of: self.of.clone(), at: self.at, left })
    }
}
