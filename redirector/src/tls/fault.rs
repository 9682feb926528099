//! What TLS found fault with, in words that name the next step.

use std::{
    io,
    time::{Duration, UNIX_EPOCH},
};

use tokio_rustls::rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage,
    pki_types::{ServerName, UnixTime},
};

use super::pinned::is_of_an_authority;
use crate::{model::TlsFault, quote::quote};

/// The fault and its words, if `error` came from TLS.
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
    use CertificateError as E;
    let (fault, what, next) = match error {
        E::ExpiredContext { not_after, .. } => {
            (TlsFault::Expired, format!("expired at {}", date(*not_after)), "renew it")
        }
        E::Expired => (TlsFault::Expired, "has expired".to_owned(), "renew it"),
        E::NotValidYetContext { not_before, .. } => {
            let what = format!("is not valid before {}", date(*not_before));
            (TlsFault::NotYetValid, what, "compare the clocks of this host and the member")
        }
        E::NotValidYet => {
            let next = "compare the clocks of this host and the member";
            (TlsFault::NotYetValid, "is not valid yet".to_owned(), next)
        }
        E::NotValidForNameContext { expected, presented } => {
            let next = "set `server_name` to a name that it has, or renew it with this one";
            (TlsFault::WrongName, not_for(expected, presented), next)
        }
        E::NotValidForName => {
            let next = "set `server_name` to a name that it has";
            (TlsFault::WrongName, "is for another name".to_owned(), next)
        }
        E::UnknownIssuer => {
            let next = "put that authority's certificate into `ca_file`";
            (TlsFault::UnknownIssuer, "comes from an authority that is not trusted".to_owned(), next)
        }
        // What `openssl req -x509` makes without further options.
        error if is_of_an_authority(error) => {
            let next = "put it into `ca_file` itself, or issue one for the server (CA:FALSE)";
            (TlsFault::Handshake, "is that of an authority".to_owned(), next)
        }
        error => (TlsFault::Handshake, format!("is refused ({})", quote(&error.to_string())), "renew it"),
    };
    (fault, format!("the member's certificate {what}; {next}"))
}

fn not_for(expected: &ServerName<'_>, presented: &[String]) -> String {
    let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
    let has = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
    format!("is not for {:?}, it has {}", expected.to_str(), quote(&has))
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
            let what = format!("the member refuses the client certificate ({alert:?})");
            let next = "renew `certificate_file`, or let the member trust its authority";
            (TlsFault::Refused, format!("{what}; {next}"))
        }
        A::UnrecognisedName => {
            let next = "set `server_name` to one that it knows";
            (TlsFault::WrongName, format!("the member does not know the name that was asked for; {next}"))
        }
        alert => {
            let what = format!("the member breaks the handshake off ({alert:?})");
            let next = "compare the versions and ciphers that it allows with those of rustls";
            (TlsFault::Handshake, format!("{what}; {next}"))
        }
    }
}

/// To the second, which is what certificates count in.
pub(super) fn date(time: UnixTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::bare;

    #[test]
    fn names_are_printed_bare() {
        assert_eq!(bare("DnsName(\"*.example.com\")"), "*.example.com");
        assert_eq!(bare("IpAddress(192.0.2.1)"), "192.0.2.1");
        assert_eq!(bare("something else"), "something else");
    }
}
