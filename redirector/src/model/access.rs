//! How checks reach and enter a member: login, TLS, and the name that it goes by.

use std::{fmt, sync::Arc};

/// What a connection to a member's Redis port takes besides its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Who logs in.
    pub login: Login,
    /// `None`: in clear.
    pub tls: Option<Tls>,
    /// The host of the member's endpoint as written: what its certificate must be for, unless [`Tls::server_name`]
    /// says otherwise.
    pub host: String,
}

/// `[service.redis]`, overridden by `[service.member.redis]`: how checks log in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// ACL user; `None`: the default user.
    pub username: Option<String>,
    /// `None`: no AUTH.
    pub password: Option<Secret>,
}

/// `tls = { … }`: TLS 1.2 or 1.3, and always with verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Name that the certificate must have, and that is sent as SNI; `None`: the host of the member's endpoint.
    pub server_name: Option<String>,
    /// Shared by all members that do not override it.
    pub trust: Arc<Trust>,
}

/// Whom to believe, and who one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Who may have issued the member's certificate.
    pub authorities: Authorities,
    /// Client certificate; `None`: none is shown.
    pub identity: Option<Identity>,
}

impl Trust {
    /// In whom this host trusts; no client certificate.
    #[must_use]
    pub fn system() -> Self {
        Self { authorities: Authorities::System, identity: None }
    }
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// Those that this host trusts.
    System,
    /// Those in this PEM text, which was `ca_file`.
    Pem(String),
}

/// A client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PEM text with the certificate and what leads to its authority.
    pub certificate: String,
    /// PEM text with the private key.
    pub key: Secret,
}

/// Text that must appear in no log, event, status or error (invariant 12).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps what was read from a file.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}
