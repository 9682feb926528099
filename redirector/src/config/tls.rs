//! `tls = { … }`: certificates and keys, and the name that a member goes by.

use std::sync::Arc;

use super::{
    error::Complaint,
    files::{self, Holds},
    read::{Section, Written},
};
use crate::{
    model::{Authorities, Endpoint, Identity, Secret, Tls, Trust},
    tls,
};

/// What one `tls` table says. The keys that a member gives override those of its service one by one.
#[derive(Clone)]
pub(super) struct TlsKeys {
    at: usize,
    ca_file: Option<String>,
    server_name: Option<String>,
    certificate: Half<String>,
    key: Half<Secret>,
    /// What these keys come to by themselves; shared by the members that change none of them.
    trust: Arc<Trust>,
}

/// Certificate or key: one is of no use without the other.
#[derive(Clone)]
struct Half<T> {
    value: Option<T>,
    /// Also when it could not be used, which is reported already.
    is_written: bool,
}

impl<T: Clone> Half<T> {
    fn or(self, other: &Self) -> Self {
        if self.is_written { self } else { other.clone() }
    }
}

/// The table `tls` of a section; `None`: it is not there.
pub(super) fn read(section: &Section<'_>) -> Option<TlsKeys> {
    if !section.has("tls") {
        return None;
    }
    let table = section.sub("tls");
    let certificate = pem(&table, "certificate_file", |text| tls::certificates(text).map(|_| ()));
    let key = key(&table);
    let keys = TlsKeys {
        at: table.at(),
        ca_file: authorities(&table),
        server_name: server_name(&table),
        certificate: Half { value: certificate, is_written: table.has("certificate_file") },
        key: Half { value: key, is_written: table.has("key_file") },
        trust: Arc::new(Trust { authorities: Authorities::System, identity: None }),
    };
    let trust = keys.trust();
    Some(TlsKeys { trust: Arc::new(trust), ..keys })
}

/// `server_name`: what a server's certificate is for.
pub(super) fn server_name(table: &Section<'_>) -> Option<String> {
    let name = table.text("server_name", |name| {
        let next = "give a DNS name or an address, without a port";
        tls::server_name(name).map_err(|_| {
            Complaint::new(format!("`server_name` {name:?} is neither a DNS name nor an address"), next)
        })?;
        Ok(name.to_owned())
    });
    name.map(|name| name.value)
}

/// `ca_file`: who may have issued the certificate of a server.
pub(super) fn authorities(table: &Section<'_>) -> Option<String> {
    pem(table, "ca_file", |text| {
        let trust = Trust { authorities: Authorities::Pem(text.to_owned()), identity: None };
        let tls = Tls { server_name: None, trust: Arc::new(trust) };
        tls::Connector::new(&tls).map(|_| ())?;
        for warning in tls::warnings(text) {
            tracing::warn!(
                "`ca_file` of {}: {warning}; renew it: most clients of applications refuse it, and what it issued",
                table.document().path().display()
            );
        }
        Ok(())
    })
}

/// A file with certificates in PEM form that are of use.
fn pem(table: &Section<'_>, key: &str, is_usable: impl FnOnce(&str) -> Result<(), String>) -> Option<String> {
    let config = table.document().path();
    let read = table.text(key, |file| {
        let path = config.with_file_name(file);
        let text = files::read(&path, Holds::Certificates)?;
        is_usable(&text).map_err(|why| {
            let cause = format!("certificate file {} cannot be used: {why}", path.display());
            Complaint::new(cause, "name a file with certificates in PEM form")
        })?;
        Ok(text)
    });
    read.map(|read| read.value)
}

fn key(table: &Section<'_>) -> Option<Secret> {
    let config = table.document().path();
    let read = table.text("key_file", |file| {
        let path = config.with_file_name(file);
        let key = Secret::new(files::read(&path, Holds::Key)?);
        tls::private_key(&key).map_err(|why| {
            let cause = format!("key file {} cannot be used: {why}", path.display());
            Complaint::new(cause, "name a file with the certificate's private key in PEM form")
        })?;
        Ok(key)
    });
    read.map(|read| read.value)
}

impl TlsKeys {
    fn trust(&self) -> Trust {
        let identity = self.certificate.value.clone().zip(self.key.value.clone());
        Trust {
            authorities: self.ca_file.clone().map_or(Authorities::System, Authorities::Pem),
            identity: identity.map(|(certificate, key)| Identity { certificate, key }),
        }
    }

    fn overrides_nothing_but_the_name(&self) -> bool {
        self.ca_file.is_none() && !self.certificate.is_written && !self.key.is_written
    }

    /// With what `service` says where this says nothing.
    fn over(self, service: &Self) -> Self {
        let server_name = self.server_name.clone().or_else(|| service.server_name.clone());
        if self.overrides_nothing_but_the_name() {
            return Self { server_name, ..service.clone() };
        }
        let merged = Self {
            at: self.at,
            server_name,
            ca_file: self.ca_file.or_else(|| service.ca_file.clone()),
            certificate: self.certificate.or(&service.certificate),
            key: self.key.or(&service.key),
            trust: self.trust,
        };
        let trust = merged.trust();
        Self { trust: Arc::new(trust), ..merged }
    }
}

/// The TLS of a member whose own section says `own`, in a service that says `service`.
pub(super) fn within(
    own: Option<TlsKeys>,
    service: Option<&TlsKeys>,
    member: &Section<'_>,
    endpoint: Option<&Written<Endpoint>>,
) -> Option<Tls> {
    let keys = match (own, service) {
        (Some(own), Some(service)) => own.over(service),
        (own, service) => own.or_else(|| service.cloned())?,
    };
    let tls = Tls { server_name: keys.server_name.clone(), trust: Arc::clone(&keys.trust) };
    if let Some(complaint) = complaint(&keys, &tls) {
        member.fault(keys.at, complaint);
    }
    let host = endpoint.map(|endpoint| &endpoint.value.host).filter(|_| tls.server_name.is_none());
    if let Some(host) = host.filter(|host| tls::server_name(host).is_err()) {
        let cause = format!("no certificate can be for {host:?}, the host of the endpoint");
        member.fault(keys.at, Complaint::new(cause, "add `server_name` with the name in the certificate"));
    }
    Some(tls)
}

/// What is wrong with the keys together.
fn complaint(keys: &TlsKeys, tls: &Tls) -> Option<Complaint> {
    match (keys.certificate.is_written, keys.key.is_written) {
        (true, false) => {
            let next = "add `key_file` with its private key, or remove `certificate_file`";
            return Some(Complaint::new("`certificate_file` without `key_file`", next));
        }
        (false, true) => {
            let next = "add `certificate_file` with its certificate, or remove `key_file`";
            return Some(Complaint::new("`key_file` without `certificate_file`", next));
        }
        _ => {}
    }
    let why = tls::Connector::new(tls).err()?;
    let next = match &tls.trust.identity {
        Some(_) => "give the certificate and the private key that belong together",
        None => "name the authorities in `ca_file`, or install ca-certificates",
    };
    Some(Complaint::new(format!("TLS cannot be used: {why}"), next))
}
