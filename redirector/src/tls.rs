//! TLS to members: whom to believe, and the handshake.
//!
//! One provider (ring), TLS 1.2 and 1.3, and no way to switch verification off. Sessions are never resumed: a resumed
//! one does not show its certificate again, and an expired one would go unnoticed.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        client::Resumption,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    },
};

use crate::{
    model::{Authorities, Identity, Secret, Tls, Trust},
    quote::quote,
};

mod asked;
mod fault;
mod pinned;

pub use fault::fault;

use asked::Asked;
use pinned::Verifier;

/// An encrypted connection to a member.
pub type TlsStream = tokio_rustls::client::TlsStream<TcpStream>;

/// What was built for each [`Trust`] that somebody still holds. The certificates of a system take some 150 KiB: every
/// prober of every member with a copy of its own would be most of the agent's memory.
static BUILT: Mutex<Vec<(Weak<Trust>, Arc<ClientConfig>)>> = Mutex::new(Vec::new());

/// Makes connections to members as one [`Tls`] says.
pub struct Connector {
    config: Arc<ClientConfig>,
    has_identity: bool,
    server_name: Option<String>,
}

impl Connector {
    /// Ready to connect. Cheap while the same [`Trust`] is in use already.
    ///
    /// # Errors
    ///
    /// The certificates or the key are none, do not belong together, or this host trusts no authority. Nothing of a key
    /// is quoted.
    pub fn new(tls: &Tls) -> Result<Self, String> {
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        built.retain(|(trust, _)| trust.strong_count() > 0);
        let known = |(trust, config): &(Weak<Trust>, Arc<ClientConfig>)| {
            let trust = trust.upgrade()?;
            (Arc::ptr_eq(&trust, &tls.trust) || trust == tls.trust).then(|| Arc::clone(config))
        };
        let config = if let Some(config) = built.iter().find_map(known) {
            config
        } else {
            let config = Arc::new(client(&tls.trust)?);
            built.push((Arc::downgrade(&tls.trust), Arc::clone(&config)));
            config
        };
        let has_identity = tls.trust.identity.is_some();
        Ok(Self { config, has_identity, server_name: tls.server_name.clone() })
    }

    /// Shakes hands over `stream` with a member that goes by `host`, a name or an address, unless the configuration says
    /// what name its certificate has.
    ///
    /// # Errors
    ///
    /// Those of the stream, [`io::ErrorKind::InvalidInput`] for a name that no certificate can have, and those that
    /// [`fault`] words.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream> {
        let name = server_name(self.server_name.as_deref().unwrap_or(host))
            .map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        if self.has_identity {
            return TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await;
        }
        let asked = Arc::new(Asked::default());
        let connector = TlsConnector::from(Arc::new(asked.watch(&self.config)));
        connector.connect(name, stream).await.map_err(|error| asked.explain(error))
    }
}

/// The name as a certificate can have it.
///
/// # Errors
///
/// Neither a DNS name nor an address.
pub fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned())
        .map_err(|_| format!("no certificate can be for \"{}\"; set `server_name`", quote(text)))
}

fn client(trust: &Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &trust.authorities {
        Authorities::System => builder.with_root_certificates(roots_of_host()?),
        Authorities::Pem(text) => {
            let verifier = Verifier::new(certificates(text)?, provider)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    let mut config = match &trust.identity {
        None => builder.with_no_client_auth(),
        Some(Identity { certificate, key }) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| format!("certificate and key cannot be used ({error})"))?,
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn roots_of_host() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // A system may have one that cannot be read among a hundred that can.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err("this host trusts no authority".to_owned()) } else { Ok(roots) }
}

/// What there is to warn of in the certificates of a `ca_file`, now.
pub(crate) fn warnings(text: &str) -> Vec<String> {
    certificates(text).map(|certificates| pinned::expired(&certificates, UnixTime::now())).unwrap_or_default()
}

/// The certificates in a PEM text, at least one.
///
/// # Errors
///
/// There is none, or it is not PEM.
pub(crate) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err("it has no certificate in PEM form".to_owned()),
        // The error itself quotes lines of the file, which may be a key by mistake.
        Err(_) => Err("it is not valid PEM".to_owned()),
    }
}

/// The private key in a PEM text.
///
/// # Errors
///
/// There is none.
pub(crate) fn private_key(text: &Secret) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text.expose().as_bytes())
        .map_err(|_| "there is no private key in PEM form (one with a passphrase cannot be used)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(pem: &str) -> Tls {
        let trust = Trust { authorities: Authorities::Pem(pem.to_owned()), identity: None };
        Tls { server_name: None, trust: Arc::new(trust) }
    }

    fn certificate() -> String {
        rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap().cert.pem()
    }

    #[test]
    fn what_is_built_is_shared_as_long_as_somebody_holds_it() {
        let (pem, other) = (certificate(), tls(&certificate()));
        let (first, second) = (tls(&pem), tls(&pem));
        let built = |tls: &Tls| Connector::new(tls).unwrap().config;
        let config = built(&first);
        assert!(Arc::ptr_eq(&config, &built(&first)) && Arc::ptr_eq(&config, &built(&second)));
        assert!(!Arc::ptr_eq(&config, &built(&other)));
        drop((first, second));
        assert!(!Arc::ptr_eq(&config, &built(&tls(&pem))), "it was forgotten with its last holder");
    }

    #[test]
    fn nothing_of_a_key_is_quoted() {
        let key = "-----BEGIN PRIVATE KEY-----\nc2VzYW1l!\n-----END PRIVATE KEY-----\n";
        for why in [
            certificates(key).map(|_| ()).unwrap_err(),
            private_key(&Secret::new(key.to_owned())).map(|_| ()).unwrap_err(),
            private_key(&Secret::new("-----BEGIN sesame".to_owned())).map(|_| ()).unwrap_err(),
        ] {
            assert!(!why.contains("c2Vz") && !why.contains("sesame"), "{why}");
        }
    }
}
