//! TLS to members: whom to believe, the handshake, and its faults in words that name the next step.
//!
//! One provider (ring), TLS 1.2 and 1.3, and no way to switch verification off. Sessions are never resumed: a resumed
//! one does not show its certificate again, and an expired one would go unnoticed.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, UNIX_EPOCH},
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        AlertDescription, CertificateError, ClientConfig, Error, InvalidMessage, RootCertStore,
        client::Resumption,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    },
};

use crate::{
    model::{Authorities, Identity, Secret, Tls, TlsFault, Trust},
    quote::quote,
};

/// An encrypted connection to a member.
pub type TlsStream = tokio_rustls::client::TlsStream<TcpStream>;

/// What was built for each [`Trust`] that somebody still holds. The certificates of a system take some 150 KiB: every
/// prober of every member with a copy of its own would be most of the agent's memory.
static BUILT: Mutex<Vec<(Weak<Trust>, Arc<ClientConfig>)>> = Mutex::new(Vec::new());

/// Makes connections to members as one [`Tls`] says.
pub struct Connector {
    config: Arc<ClientConfig>,
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
        Ok(Self { config, server_name: tls.server_name.clone() })
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
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
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
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(&trust.authorities)?);
    let mut config = match &trust.identity {
        None => builder.with_no_client_auth(),
        Some(Identity { certificate, key }) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| format!("certificate and key cannot be used ({error})"))?,
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn roots(authorities: &Authorities) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Authorities::Pem(text) => {
            for certificate in certificates(text)? {
                roots.add(certificate).map_err(|error| format!("one of its certificates: {error}"))?;
            }
        }
        Authorities::System => {
            // A system may have one that cannot be read among a hundred that can.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this host trusts no authority".to_owned());
            }
        }
    }
    Ok(roots)
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

/// What TLS found, if `error` came from it, and what to do about it.
#[must_use]
pub fn fault(error: &io::Error) -> Option<(TlsFault, String)> {
    let error: &Error = error.get_ref()?.downcast_ref()?;
    Some(match error {
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            let text = "what answers does not speak TLS; remove `tls`, or give the port that does";
            (TlsFault::NotTls, text.to_owned())
        }
        Error::PeerIncompatible(what) => {
            let text = format!("no common version or cipher ({what:?}); allow TLS 1.2 or 1.3 on the member");
            (TlsFault::Handshake, text)
        }
        error => {
            let text = format!("{}; look into the member's log", quote(&error.to_string()));
            (TlsFault::Handshake, text)
        }
    })
}

fn of_certificate(error: &CertificateError) -> (TlsFault, String) {
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            let text = format!("the member's certificate expired at {}; renew it", date(*not_after));
            (TlsFault::Expired, text)
        }
        CertificateError::Expired => {
            (TlsFault::Expired, "the member's certificate has expired; renew it".to_owned())
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            let text = format!(
                "the member's certificate is not valid before {}; compare the clocks of this host and the member",
                date(*not_before)
            );
            (TlsFault::NotYetValid, text)
        }
        CertificateError::NotValidYet => {
            let text =
                "the member's certificate is not valid yet; compare the clocks of this host and the member";
            (TlsFault::NotYetValid, text.to_owned())
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            let has = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            let text = format!(
                "the member's certificate is not for {:?}, it has {}; set `server_name` to a name that it has, or renew it with this one",
                expected.to_str(),
                quote(&has)
            );
            (TlsFault::WrongName, text)
        }
        CertificateError::NotValidForName => {
            let text =
                "the member's certificate is for another name; set `server_name` to a name that it has";
            (TlsFault::WrongName, text.to_owned())
        }
        CertificateError::UnknownIssuer => {
            let text = "the member's certificate comes from an authority that is not trusted; put that authority's certificate into `ca_file`";
            (TlsFault::UnknownIssuer, text.to_owned())
        }
        // webpki's word for `openssl req -x509` without further options, which makes an authority.
        error if format!("{error:?}").contains("CaUsedAsEndEntity") => {
            let text = "the member shows the certificate of an authority as its own; issue one for the server (CA:FALSE)";
            (TlsFault::Handshake, text.to_owned())
        }
        error => {
            let text =
                format!("the member's certificate is refused: {}; renew it", quote(&error.to_string()));
            (TlsFault::Handshake, text)
        }
    }
}

/// A name out of rustls's way to print it, `DnsName("example.com")` or `IpAddress(192.0.2.1)`.
fn bare(presented: &str) -> &str {
    let inner = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(presented).trim_matches('"')
}

/// An alert is the other side's refusal.
fn of_alert(alert: AlertDescription) -> (TlsFault, String) {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => {
            let text = "the member asks for a client certificate; set `certificate_file` and `key_file`";
            (TlsFault::Refused, text.to_owned())
        }
        A::NoCertificate
        | A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateExpired
        | A::CertificateUnknown
        | A::UnknownCA
        | A::AccessDenied => {
            let text = format!(
                "the member refuses the client certificate ({alert:?}); renew `certificate_file`, or let the member trust its authority"
            );
            (TlsFault::Refused, text)
        }
        A::UnrecognisedName => {
            let text = "the member does not know the name that was asked for; set `server_name` to one that it knows";
            (TlsFault::WrongName, text.to_owned())
        }
        // OpenSSL says the first of them in TLS 1.2 also when a client certificate is missing.
        alert => {
            let text = format!(
                "the member breaks the handshake off ({alert:?}); compare versions and ciphers, and whether it asks for a client certificate"
            );
            (TlsFault::Handshake, text)
        }
    }
}

fn date(time: UnixTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}
