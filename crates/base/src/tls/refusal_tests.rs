use std::sync::Arc;

use rustls::OtherError;
use rustls::pki_types::ServerName;

use super::*;

/// The refusal of a certificate, by way of the errors that the connections' libraries wrap around
/// it.
fn of_certificate(error: C) -> Refusal {
    let wrapped = std::io::Error::other(rustls::Error::InvalidCertificate(error));
    explain(&wrapped).unwrap()
}

fn of_webpki(error: W) -> Refusal {
    of_certificate(C::Other(OtherError(Arc::new(error))))
}

/// Everything that webpki can refuse a chain for, in this version of it; lists of revoked
/// certificates are not used.
#[test]
fn each_error_of_webpki_has_a_sentence_of_its_own() {
    let all = [
        (W::BadDer, "can't be read"),
        (W::BadDerTime, "can't be read"),
        (W::CaUsedAsEndEntity, "that of an authority (CA:TRUE), as openssl req -x509 makes it"),
        (W::CertDistrusted, "known to be unsafe"),
        (W::EmptyEkuExtension, "without a use"),
        (W::EndEntityUsedAsCa, "no authority's (CA:FALSE)"),
        (W::ExtensionValueInvalid, "can't be read"),
        (W::InvalidCertValidity, "ends before it begins"),
        (W::InvalidNetworkMaskConstraint, "can't be read"),
        (W::InvalidSerialNumber, "serial number"),
        (W::MalformedDnsIdentifier, "can't be read"),
        (W::MalformedExtensions, "can't be read"),
        (W::MalformedNameConstraint, "can't be read"),
        (W::MaximumNameConstraintComparisonsExceeded, "too long, or too tangled"),
        (W::MaximumPathBuildCallsExceeded, "too long, or too tangled"),
        (W::MaximumPathDepthExceeded, "too long, or too tangled"),
        (W::MaximumSignatureChecksExceeded, "too long, or too tangled"),
        (W::NameConstraintViolation, "may not sign for this host"),
        (W::PathLenConstraintViolated, "longer than its authority allows"),
        (W::SignatureAlgorithmMismatch, "two different ways of signing"),
        (W::UnsupportedCertVersion, "of version 1"),
        (W::UnsupportedCriticalExtension, "critical extension"),
        (W::UnsupportedNameType, "a name of this kind"),
    ];
    for (error, words) in all {
        let refusal = of_webpki(error.clone());
        assert!(refusal.what.contains(words), "{error:?}: {refusal}");
        assert!(!refusal.to_string().contains(&format!("{error:?}")), "{error:?} is shown: {refusal}");
        assert_ne!(refusal.advice, SERVERS_LOG, "{error:?}");
    }
    // What can't happen is shown as the library names it.
    let refusal = of_webpki(W::UnsupportedDeltaCrl);
    assert!(refusal.what.contains("UnsupportedDeltaCrl"), "{refusal}");
}

#[test]
fn each_error_of_a_certificate_has_a_sentence_of_its_own() {
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_000_000_000));
    let name = || ServerName::try_from("rabbit.example.org").unwrap();
    let other = |presented: &[&str]| C::NotValidForNameContext {
        expected: name(),
        presented: presented.iter().map(|name| (*name).to_owned()).collect(),
    };
    let signed = |id: &[u8]| C::UnsupportedSignatureAlgorithmContext {
        signature_algorithm_id: id.to_vec(),
        supported_algorithms: Vec::new(),
    };
    // The object identifier in DER: md5WithRSAEncryption and so on.
    let pkcs1 =
        |last| [&[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last][..], &[5, 0]].concat();
    let all = [
        (C::BadEncoding, "can't be read"),
        (C::ExpiredContext { time, not_after: time }, "has expired, on 2001-09-09"),
        (C::Expired, "its certificate has expired"),
        (C::NotValidYetContext { time, not_before: time }, "not valid yet, but from 2001-09-09"),
        (C::NotValidYet, "its certificate is not valid yet"),
        (C::Revoked, "is revoked"),
        (C::UnhandledCriticalExtension, "critical extension"),
        (C::UnknownIssuer, "an authority that this machine does not know"),
        (C::BadSignature, "not that of the authority known by this name"),
        (signed(&pkcs1(4)), "signed with MD5"),
        (signed(&pkcs1(5)), "signed with SHA-1"),
        (signed(&[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01]), "signed with SHA-1"),
        (signed(&pkcs1(10)), "RSA-PSS"),
        (signed(&[]), "in a way that is not taken here"),
        (
            C::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: Vec::new(),
                public_key_algorithm_id: Vec::new(),
            },
            "a key of a kind that is not taken here",
        ),
        (
            other(&["DnsName(\"a.example\")", "10.0.0.1"]),
            "another name (a.example, 10.0.0.1) than rabbit.example.org",
        ),
        (other(&["a", "b", "c", "d"]), "(a, b, c, …)"),
        (other(&[]), "names no host in subjectAltName, and CN does not count"),
        (C::NotValidForName, "for another name"),
        (C::InvalidPurpose, "lacks serverAuth"),
    ];
    for (error, words) in all {
        let refusal = of_certificate(error.clone());
        assert!(refusal.what.contains(words), "{error:?}: {refusal}");
        assert_ne!(refusal.advice, SERVERS_LOG, "{error:?}");
    }
    let advice = of_certificate(other(&[])).advice;
    assert!(advice.contains("subjectAltName=DNS:rabbit.example.org"), "{advice}");
    assert!(own_certificate("10.0.0.1").contains("subjectAltName=IP:10.0.0.1"));
    let shown = of_certificate(other(&["\u{1b}[31m"])).to_string();
    assert!(!shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn each_alert_of_a_server_has_a_sentence() {
    use Alert as A;
    for (alert, words) in [
        (A::ProtocolVersion, "no TLS 1.2"),
        (A::InappropriateFallback, "no TLS 1.2"),
        (A::HandshakeFailure, "no cipher in common with this program, or asks for a client certificate"),
        (A::InsufficientSecurity, "no cipher"),
        (A::ExportRestriction, "no cipher"),
        (A::CertificateRequired, "asks for a client certificate"),
        (A::NoCertificate, "asks for a client certificate"),
        (A::BadCertificate, "does not accept the client certificate"),
        (A::UnsupportedCertificate, "of a kind"),
        (A::CertificateRevoked, "revoked"),
        (A::CertificateExpired, "expired"),
        (A::CertificateUnknown, "does not accept the client certificate"),
        (A::CertificateUnobtainable, "does not accept the client certificate"),
        (A::BadCertificateHashValue, "does not accept the client certificate"),
        (A::AccessDenied, "does not accept the client certificate"),
        (A::UnknownCA, "does not know its authority"),
        (A::UnrecognisedName, "for the name that it was asked by"),
        (A::DecryptError, "a signature or a key wrong"),
        (A::InternalError, "(alert InternalError)"),
        (A::UserCanceled, "(alert UserCanceled)"),
        (A::Unknown(200), "(alert Unknown(200))"),
    ] {
        let refusal = explain(&rustls::Error::AlertReceived(alert)).unwrap();
        assert!(refusal.what.contains(words), "{alert:?}: {refusal}");
    }
}

#[test]
fn each_error_of_the_handshake_has_a_sentence() {
    use rustls::{Error as E, InvalidMessage, PeerMisbehaved};
    for (error, words) in [
        (E::PeerIncompatible(Incompatible::ServerDoesNotSupportTls12Or13), "no TLS 1.2"),
        (E::PeerIncompatible(Incompatible::ServerTlsVersionIsDisabledByOurConfig), "no TLS 1.2"),
        (E::PeerIncompatible(Incompatible::NoCipherSuitesInCommon), "no cipher"),
        (E::PeerIncompatible(Incompatible::NoKxGroupsInCommon), "no cipher"),
        (E::PeerIncompatible(Incompatible::NoSignatureSchemesInCommon), "no cipher"),
        (E::PeerIncompatible(Incompatible::ExtendedMasterSecretExtensionRequired), "lacks what is needed"),
        (E::InvalidMessage(InvalidMessage::InvalidContentType), "does not speak TLS at this port"),
        (E::PeerSentOversizedRecord, "does not speak TLS at this port"),
        (E::NoCertificatesPresented, "shows no certificate"),
        (E::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare), "breaks the rules of TLS"),
        (E::DecryptError, "breaks the rules of TLS"),
        (E::FailedToGetRandomBytes, "this machine"),
        (E::UnsupportedNameType, "a name of this kind"),
        (E::General("it has gone".into()), "TLS fails"),
    ] {
        let refusal = explain(&error).unwrap();
        assert!(refusal.what.contains(words), "{error:?}: {refusal}");
    }
    assert_eq!(explain(&std::io::Error::from(std::io::ErrorKind::ConnectionReset)), None);
}
