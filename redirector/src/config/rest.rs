//! `[service.member.rest]`: the REST API of the Redis Software cluster that a member is in.

use std::sync::Arc;

use super::{
    error::Complaint,
    login,
    read::{Section, Written},
    tls as tls_keys, url,
};
use crate::{
    model::{Authorities, Login, Rest, Tls, Trust, Url},
    tls,
};

/// `None`: it is not there, or wrong.
pub(super) fn read(member: &Section<'_>) -> Option<Rest> {
    if !member.has("rest") {
        return None;
    }
    let section = member.sub("rest");
    let url = section.required("url", base)?;
    Some(Rest {
        login: login(&section, &url),
        tls: tls(&section, &url),
        uid: section.number("uid", 1..=u32::MAX),
        url: url.value,
    })
}

/// With the port: that of HTTPS is none on which a cluster answers.
fn base(text: &str) -> Result<Url, Complaint> {
    let url = url::url("url", text)?;
    if url.path != "/" {
        let cause = format!("`url` {text:?} goes on after the port");
        return Err(Complaint::new(cause, "leave out what follows; the paths of the API are known"));
    }
    if !text.trim_end_matches('/').ends_with(&format!(":{}", url.port)) {
        let next = "add it; Redis Software's REST API listens on 9443";
        return Err(Complaint::new(format!("`url` {text:?} has no port"), next));
    }
    Ok(url)
}

fn login(section: &Section<'_>, url: &Written<Url>) -> Login {
    let username = section.required("username", |text| {
        // RFC 7617, section 2: the colon ends it.
        if text.is_empty() || text.contains(|c: char| c == ':' || c.is_control()) {
            let next = "give the name of a user of the cluster; the role `db_viewer` is enough";
            return Err(Complaint::new("`username` is empty, or has a colon or a control character", next));
        }
        Ok(text.to_owned())
    });
    let (password, has_password) = login::password(section);
    if !has_password {
        section.missing("password_file");
    }
    if !url.value.is_https && has_password {
        tracing::warn!("{}: `url` is not https: user and password can be read on the way", section.subject());
    }
    Login { username: username.map(|username| username.value), password }
}

pub(super) fn tls(section: &Section<'_>, url: &Written<Url>) -> Option<Tls> {
    let authorities = tls_keys::authorities(section);
    let server_name = tls_keys::server_name(section);
    if !url.value.is_https {
        for key in ["ca_file", "server_name"] {
            if let Some(at) = section.place_of(key) {
                let cause = format!("`{key}` means nothing with a `url` that is not https");
                section.fault(at, Complaint::new(cause, "remove it, or write https"));
            }
        }
        return None;
    }
    if server_name.is_none() && !section.has("server_name") && tls::server_name(&url.value.host).is_err() {
        let cause = format!("no certificate can be for {:?}, the host of `url`", url.value.host);
        section.fault(url.at, Complaint::new(cause, "add `server_name` with the name in the certificate"));
    }
    let authorities = authorities.map_or(Authorities::System, Authorities::Pem);
    let tls = Tls { server_name, trust: Arc::new(Trust { authorities, identity: None }) };
    if let Err(why) = tls::Connector::new(&tls) {
        let next = "name the authorities in `ca_file`, or install ca-certificates";
        section.fault(section.at(), Complaint::new(format!("TLS cannot be used: {why}"), next));
    }
    Some(tls)
}
