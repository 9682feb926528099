//! Whether a member asked for a client certificate, where there is none to show.
//!
//! TLS 1.3 has an alert for a certificate that is missing. OpenSSL's servers end a handshake of TLS 1.2 with
//! `handshake_failure` then, which also means that no cipher fits: the one is the check's own trouble, the other may be
//! the member's.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio_rustls::rustls::{
    AlertDescription, ClientConfig, Error, SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey,
};

/// Shows no certificate, and remembers that one was asked for. One for each connection.
#[derive(Debug, Default)]
pub(super) struct Asked(AtomicBool);

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

impl Asked {
    /// `config`, which has no client certificate, for one connection.
    pub(super) fn watch(self: &Arc<Self>, config: &ClientConfig) -> ClientConfig {
        let mut config = config.clone();
        config.client_auth_cert_resolver = Arc::<Self>::clone(self);
        config
    }

    /// The error of that connection, in the words of TLS 1.3.
    pub(super) fn explain(&self, error: io::Error) -> io::Error {
        let alert = error.get_ref().and_then(|error| error.downcast_ref());
        let is_vague = alert == Some(&Error::AlertReceived(AlertDescription::HandshakeFailure));
        if is_vague && self.0.load(Ordering::Relaxed) {
            let clear = Error::AlertReceived(AlertDescription::CertificateRequired);
            return io::Error::new(error.kind(), clear);
        }
        error
    }
}
