//! Whom `ca_file` believes: servers with a certificate of its authorities, and servers that show a certificate of the file
//! itself.
//!
//! Clusters that issue their own certificate often mark it as that of an authority (`openssl req -x509` does, unless it is told
//! otherwise), and webpki believes no authority as a server. Who names this very certificate as trusted means it, so it is believed when
//! it comes byte for byte, whoever issued it; for the names that it has, the time that it is valid and the purpose that it is for.
//!
//! Only an authority issues for others. webpki takes every certificate that it is told to trust for one: whoever has the key of
//! one server could be any other. A certificate of a server is therefore believed as that server and no more, as OpenSSL has it.

use std::{sync::Arc, time::Duration};

use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, Error, ExtendedKeyPurpose, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::{certificate::X509Certificate, parse_x509_certificate, time::ASN1Time, x509::X509Version};

use super::fault::date;
use crate::quote::quote;

/// Believes what the authorities among these certificates issued, and the certificates themselves.
#[derive(Debug)]
pub(super) struct Verifier {
    /// `None`: there is no authority among them.
    issued: Option<Arc<WebPkiServerVerifier>>,
    pinned: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// # Errors
    /// One of the certificates is none.
    pub(super) fn new(
        pinned: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let none = |error: Error| format!("one of its certificates: {error}");
        let algorithms = provider.signature_verification_algorithms;
        let mut roots = RootCertStore::empty();
        for certificate in &pinned {
            if is_authority(&parse(certificate).map_err(|error| none(error.into()))?) {
                roots.add(certificate.clone()).map_err(none)?;
            } else {
                ParsedCertificate::try_from(certificate).map_err(none)?;
            }
        }
        let issued = (!roots.is_empty())
            .then(|| WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build());
        Ok(Self { issued: issued.transpose().map_err(|error| error.to_string())?, pinned, algorithms })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pinned.contains(end_entity) {
            let parsed = parse(end_entity)?;
            is_valid(&parsed, now)?;
            is_for_servers(&parsed)?;
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        match &self.issued {
            Some(webpki) => {
                webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// webpki's word for the certificate of an authority that a server shows as its own; it looked at nothing else then.
pub(super) fn is_of_an_authority(error: &CertificateError) -> bool {
    format!("{error:?}").contains("CaUsedAsEndEntity")
}

/// The certificates of a `ca_file` that are over at `now`, in words. rustls does not look at the time of an authority,
/// OpenSSL and Go do: applications may be cut off where a check passes.
pub(crate) fn expired(certificates: &[CertificateDer<'_>], now: UnixTime) -> Vec<String> {
    let over = |certificate: &CertificateDer<'_>| {
        let parsed = parse(certificate).ok()?;
        let at = not_after(&parsed);
        let of = quote(&parsed.subject().to_string());
        (now.as_secs() > at.as_secs()).then(|| format!("the certificate of \"{of}\" expired at {}", date(at)))
    };
    certificates.iter().filter_map(over).collect()
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    parse_x509_certificate(certificate).map(|(_, parsed)| parsed).map_err(|_| CertificateError::BadEncoding)
}

/// Whether it may have issued others: it says so (RFC 5280, sections 4.2.1.3 and 4.2.1.9), or is from before it could and
/// nobody's but its own, as OpenSSL has it.
fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    if certificate.version() != X509Version::V3 {
        return certificate.subject() == certificate.issuer();
    }
    // An extension that is there twice, or cannot be read, says nothing.
    let usage = certificate.key_usage().ok().flatten().map(|usage| usage.value.key_cert_sign());
    match certificate.basic_constraints().ok().flatten() {
        Some(constraints) => constraints.value.ca && usage.unwrap_or(true),
        None => usage.unwrap_or(false),
    }
}

/// A certificate that does not say what it is for is for everything (RFC 5280, section 4.2.1.12).
fn is_for_servers(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    let purposes = certificate.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    if purposes.is_none_or(|purposes| purposes.value.server_auth || purposes.value.any) {
        return Ok(());
    }
    Err(CertificateError::InvalidPurposeContext {
        required: ExtendedKeyPurpose::ServerAuth,
        presented: Vec::new(),
    })
}

fn is_valid(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (not_before, not_after) = (time(certificate.validity().not_before), not_after(certificate));
    if now.as_secs() < not_before.as_secs() {
        return Err(CertificateError::NotValidYetContext { time: now, not_before });
    }
    if now.as_secs() > not_after.as_secs() {
        return Err(CertificateError::ExpiredContext { time: now, not_after });
    }
    Ok(())
}

fn not_after(certificate: &X509Certificate<'_>) -> UnixTime {
    time(certificate.validity().not_after)
}

/// A time before 1970 is as long ago as that.
fn time(time: ASN1Time) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        KeyUsagePurpose, date_time_ymd,
    };
    use tokio_rustls::rustls::crypto::ring;

    use super::*;

    const NAME: &str = "orders.example.com";
    const CA: IsCa = IsCa::Ca(BasicConstraints::Unconstrained);

    fn params(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::new(vec![NAME.to_owned(), "192.0.2.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "whoever");
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
        change(&mut params);
        params
    }

    /// A certificate that issued itself, and what it may issue.
    fn own(
        change: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let (params, key) = (params(change), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap().der().clone();
        (certificate, Issuer::new(params, key))
    }

    fn issued(by: &Issuer<'_, KeyPair>) -> CertificateDer<'static> {
        let other = CertificateParams::new(vec!["other.example.com".to_owned()]).unwrap();
        other.signed_by(&KeyPair::generate().unwrap(), by).unwrap().der().clone()
    }

    fn verifier(pinned: &[&CertificateDer<'static>]) -> Verifier {
        let pinned = pinned.iter().map(|der| (*der).clone()).collect();
        Verifier::new(pinned, Arc::new(ring::default_provider())).unwrap()
    }

    fn at(year: i32) -> UnixTime {
        let time = date_time_ymd(year, 6, 1).unix_timestamp();
        UnixTime::since_unix_epoch(Duration::from_secs(time.try_into().unwrap()))
    }

    fn judge(
        verifier: &Verifier,
        shown: &CertificateDer<'_>,
        name: &str,
        now: UnixTime,
    ) -> Result<(), String> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let judged = verifier.verify_server_cert(shown, &[], &name, &[], now);
        judged.map(|_| ()).map_err(|error| format!("{error:?}"))
    }

    #[track_caller]
    fn refused(judged: Result<(), String>, why: &str) {
        let error = judged.expect_err(why);
        assert!(error.contains(why), "{error}");
    }

    /// Whatever it is marked as, whoever issued it.
    #[test]
    fn a_certificate_of_the_file_is_believed_for_its_names_and_its_time() {
        let (authority, issuer) = own(|params| params.is_ca = CA);
        let of_another =
            params(|_| {}).signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone();
        for shown in
            [&authority, &own(|_| {}).0, &own(|params| params.is_ca = IsCa::ExplicitNoCa).0, &of_another]
        {
            let verifier = verifier(&[shown]);
            for name in [NAME, "192.0.2.1"] {
                assert_eq!(judge(&verifier, shown, name, at(2026)), Ok(()));
            }
            for name in ["other.example.com", "whoever", "192.0.2.2"] {
                refused(judge(&verifier, shown, name, at(2026)), "NotValidForNameContext");
            }
            refused(judge(&verifier, shown, NAME, at(2019)), "NotValidYetContext");
            refused(judge(&verifier, shown, NAME, at(2031)), "ExpiredContext");
            // The same words in another certificate.
            let again = own(|_| {}).0;
            assert!(judge(&verifier, &again, NAME, at(2026)).is_err());
        }
    }

    #[test]
    fn a_certificate_for_clients_is_no_servers() {
        let purposes = |purposes: &[ExtendedKeyUsagePurpose]| {
            let shown = own(|params| params.extended_key_usages = purposes.to_vec()).0;
            judge(&verifier(&[&shown]), &shown, NAME, at(2026))
        };
        refused(purposes(&[ExtendedKeyUsagePurpose::ClientAuth]), "InvalidPurpose");
        let both = [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        assert_eq!(purposes(&both), Ok(()));
    }

    /// The key of one server must not make anybody another one.
    #[test]
    fn only_an_authority_issues_for_others() {
        let other = "other.example.com";
        for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
            let (server, issuer) = own(|params| params.is_ca = is_ca);
            refused(judge(&verifier(&[&server]), &issued(&issuer), other, at(2026)), "UnknownIssuer");
            // Nor beside an authority.
            let both = verifier(&[&own(|params| params.is_ca = CA).0, &server]);
            assert!(judge(&both, &issued(&issuer), other, at(2026)).is_err());
        }
        let says_so = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        for (authority, issuer) in [own(|params| params.is_ca = CA), own(says_so)] {
            assert_eq!(judge(&verifier(&[&authority]), &issued(&issuer), other, at(2026)), Ok(()));
        }
    }

    #[test]
    fn authorities_whose_time_is_over_are_named() {
        let (authority, issuer) = own(|params| params.is_ca = CA);
        assert!(expired(std::slice::from_ref(&authority), at(2026)).is_empty());
        // rustls does not mind.
        assert_eq!(judge(&verifier(&[&authority]), &issued(&issuer), "other.example.com", at(2031)), Ok(()));
        let said = expired(&[authority], at(2031));
        assert_eq!(said, ["the certificate of \"CN=whoever\" expired at 2030-01-01T00:00:00Z"]);
    }
}
