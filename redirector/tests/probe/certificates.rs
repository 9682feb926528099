//! Authorities and certificates, good and bad, made for each test.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use redirector::model::{Access, Authorities, Identity, Login, Secret, Tls, Trust};

/// Somebody who issues certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its private key, as PEM.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("random bytes");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).expect("a key that signs").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for these names and addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> Certificate {
        self.issue_with(names, |_| {})
    }

    /// One that ran out.
    pub(crate) fn issue_expired(&self, names: &[&str]) -> Certificate {
        self.issue_with(names, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 2, 3);
        })
    }

    /// One that runs out so long from now; certificates count in seconds.
    pub(crate) fn issue_for(&self, names: &[&str], time: Duration) -> Certificate {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
        self.issue_with(names, |params| params.not_after = date_time_ymd(1970, 1, 1) + now + time)
    }

    /// One whose time has not come.
    pub(crate) fn issue_early(&self, names: &[&str]) -> Certificate {
        self.issue_with(names, |params| {
            params.not_before = date_time_ymd(2124, 5, 6);
            params.not_after = date_time_ymd(2125, 1, 1);
        })
    }

    /// One of an authority, which is no server's.
    pub(crate) fn issue_authority(&self, names: &[&str]) -> Certificate {
        self.issue_with(names, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))
    }

    fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let key = KeyPair::generate().expect("random bytes");
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names and addresses");
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a key that signs").pem();
        Certificate { certificate, key: key.serialize_pem() }
    }

    /// How somebody who believes this authority enters a member called `host`.
    pub(crate) fn access(&self, host: &str) -> Access {
        let trust = Trust { authorities: Authorities::Pem(self.pem.clone()), identity: None };
        Access {
            login: Login::default(),
            tls: Some(Tls { server_name: None, trust: Arc::new(trust) }),
            host: host.to_owned(),
        }
    }

    /// The same with a client certificate.
    pub(crate) fn access_as(&self, host: &str, client: &Certificate) -> Access {
        let mut access = self.access(host);
        let identity =
            Identity { certificate: client.certificate.clone(), key: Secret::new(client.key.clone()) };
        let tls = access.tls.as_mut().expect("it has TLS");
        Arc::make_mut(&mut tls.trust).identity = Some(identity);
        access
    }

    /// The authority's own certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }
}
