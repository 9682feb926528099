//! Servers with TLS.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

/// A certificate that a server issued itself, as a cluster of Redis Software does.
pub(crate) struct Certificate {
    /// For `ca_file`.
    pub(crate) pem: String,
    pub(crate) acceptor: TlsAcceptor,
}

/// For these names.
pub(crate) fn issued(names: &[&str]) -> Certificate {
    build(names, |_| {})
}

/// The same, marked as that of an authority, as `openssl req -x509` does.
pub(crate) fn of_an_authority(names: &[&str]) -> Certificate {
    build(names, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))
}

/// The same, until some years ago.
pub(crate) fn expired_of_an_authority(names: &[&str]) -> Certificate {
    build(names, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        run_out(params);
    })
}

/// For these names, until some years ago.
pub(crate) fn expired(names: &[&str]) -> Certificate {
    build(names, run_out)
}

fn run_out(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(2020, 1, 1);
}

fn build(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Certificate {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names that a certificate can have");
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the versions that ring has")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .expect("key and certificate belong together");
    Certificate { pem: certificate.pem(), acceptor: TlsAcceptor::from(Arc::new(config)) }
}
