//! What is in a file that should hold certificates or a key, for a sentence about the wrong file.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// The content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Nothing, or blanks.
    Empty,
    /// Certificates, as PEM.
    Certificates,
    /// A private key that can be used, as PEM.
    Key,
    /// A private key with a passphrase.
    LockedKey,
    /// A certificate with OpenSSL's own settings of trust.
    TrustedCertificate,
    /// A request for a certificate.
    Request,
    /// A list of revoked certificates.
    RevocationList,
    /// A public key.
    PublicKey,
    /// A certificate, in bytes.
    DerCertificate,
    /// A private key, in bytes.
    DerKey,
    /// A container with a passphrase: `.p12`, `.pfx`.
    Pkcs12,
    /// A container of certificates: `.p7b`.
    Pkcs7,
    /// A PEM block that is cut off, or is no base64.
    BrokenPem,
    /// Anything else.
    Unknown,
}

/// The object identifier of PKCS #7's signed data, 1.2.840.113549.1.7.2, as it stands in DER.
const SIGNED_DATA: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

impl Contents {
    /// Looks at the bytes of a file.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.trim_ascii().is_empty() {
            return Self::Empty;
        }
        let has = |words: &str| bytes.windows(words.len()).any(|window| window == words.as_bytes());
        // The first that fits: files with a certificate and its key are common.
        let labels = [
            ("-----BEGIN CERTIFICATE-----", Self::Certificates),
            ("-----BEGIN TRUSTED CERTIFICATE-----", Self::TrustedCertificate),
            ("-----BEGIN X509 CERTIFICATE-----", Self::TrustedCertificate),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----", Self::LockedKey),
            ("Proc-Type: 4,ENCRYPTED", Self::LockedKey),
            ("PRIVATE KEY-----", Self::Key),
            ("CERTIFICATE REQUEST-----", Self::Request),
            ("-----BEGIN X509 CRL-----", Self::RevocationList),
            ("PUBLIC KEY-----", Self::PublicKey),
            ("-----BEGIN PKCS7-----", Self::Pkcs7),
            ("-----BEGIN CMS-----", Self::Pkcs7),
        ];
        if let Some((_, contents)) = labels.into_iter().find(|(label, _)| has(label)) {
            let whole = match contents {
                Self::Certificates => is_whole(bytes),
                Self::Key => PrivateKeyDer::from_pem_slice(bytes).is_ok(),
                _ => true,
            };
            return if whole { contents } else { Self::BrokenPem };
        }
        if Certificate::from_der(bytes).is_ok() {
            return Self::DerCertificate;
        }
        match sequence(bytes) {
            Some(body) if body.starts_with(&SIGNED_DATA) => Self::Pkcs7,
            // A container's version is 3; that of keys is 0 or 1.
            Some([0x02, 0x01, 0x03, ..]) => Self::Pkcs12,
            Some(_) if PrivateKeyDer::try_from(bytes).is_ok() => Self::DerKey,
            _ => Self::Unknown,
        }
    }

    /// What the file is: completes the sentence "FILE ...".
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Empty => "is empty",
            Self::Certificates => "holds certificates",
            Self::Key => "holds a private key",
            Self::LockedKey => "holds a private key with a passphrase",
            Self::TrustedCertificate => "holds a certificate with OpenSSL's own settings of trust",
            Self::Request => "holds a request for a certificate",
            Self::RevocationList => "holds a list of revoked certificates",
            Self::PublicKey => "holds a public key",
            Self::DerCertificate => "holds a certificate in bytes (DER)",
            Self::DerKey => "holds a private key in bytes (DER)",
            Self::Pkcs12 => "is a container with a passphrase (PKCS #12)",
            Self::Pkcs7 => "is a container of certificates (PKCS #7)",
            Self::BrokenPem => "is cut off, or damaged",
            Self::Unknown => "holds neither certificates nor a key",
        }
    }

    /// How to get certificates as PEM out of such a file.
    pub fn to_certificates(self) -> &'static str {
        match self {
            Self::DerCertificate => "convert it: openssl x509 -inform der -in FILE -out NEW.pem",
            Self::TrustedCertificate => "convert it: openssl x509 -in FILE -out NEW.pem",
            Self::Pkcs7 => {
                "convert it: openssl pkcs7 -print_certs -in FILE -out NEW.pem (-inform der for bytes)"
            }
            Self::Pkcs12 => "convert it: openssl pkcs12 -nokeys -in FILE -out NEW.pem",
            Self::Request => "name the certificate that was made from it",
            _ => "name a file with certificates as PEM (-----BEGIN CERTIFICATE-----)",
        }
    }

    /// How to get a key as PEM out of such a file.
    pub fn to_key(self) -> &'static str {
        match self {
            Self::DerKey => "convert it: openssl pkey -inform der -in FILE -out NEW.key",
            Self::LockedKey => "take the passphrase away: openssl pkey -in FILE -out NEW.key",
            Self::Pkcs12 => "convert it: openssl pkcs12 -nocerts -nodes -in FILE -out NEW.key",
            _ => "name a file with the key as PEM (-----BEGIN PRIVATE KEY-----)",
        }
    }
}

/// Whether there is a certificate, and none of them is broken.
fn is_whole(bytes: &[u8]) -> bool {
    let mut certificates = CertificateDer::pem_slice_iter(bytes).peekable();
    certificates.peek().is_some() && certificates.all(|certificate| certificate.is_ok())
}

/// What stands in a DER sequence.
fn sequence(bytes: &[u8]) -> Option<&[u8]> {
    let [0x30, length, rest @ ..] = bytes else { return None };
    // A length from 128 on has its own length in its lower bits.
    let more = if *length < 0x80 { 0 } else { usize::from(length & 0x7f) };
    rest.get(more..)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What `openssl` writes into a file of this name; it works in `directory`.
    fn made(directory: &std::path::Path, name: &str, arguments: &str) -> Vec<u8> {
        let output =
            Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(directory.join(name)).unwrap()
    }

    #[test]
    fn every_kind_of_file_that_openssl_makes_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str, arguments: &str| Contents::of(&made(directory.path(), name, arguments));
        for (name, arguments, contents) in [
            ("key.pem", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem", Contents::Key),
            ("rsa.pem", "rsa -traditional -in key.pem -out rsa.pem", Contents::Key),
            ("ec.pem", "ecparam -name prime256v1 -genkey -noout -out ec.pem", Contents::Key),
            ("key.der", "pkey -in key.pem -outform der -out key.der", Contents::DerKey),
            ("rsa.der", "rsa -traditional -in key.pem -outform der -out rsa.der", Contents::DerKey),
            ("ec.der", "ec -in ec.pem -outform der -out ec.der", Contents::DerKey),
            ("locked.pem", "pkey -in key.pem -aes128 -passout pass:x -out locked.pem", Contents::LockedKey),
            (
                "old.pem",
                "rsa -traditional -in key.pem -aes128 -passout pass:x -out old.pem",
                Contents::LockedKey,
            ),
            ("public.pem", "pkey -in key.pem -pubout -out public.pem", Contents::PublicKey),
            ("request.pem", "req -new -key key.pem -subj /CN=x -out request.pem", Contents::Request),
            ("cert.pem", "req -x509 -key key.pem -subj /CN=x -out cert.pem", Contents::Certificates),
            ("cert.der", "x509 -in cert.pem -outform der -out cert.der", Contents::DerCertificate),
            (
                "trusted.pem",
                "x509 -in cert.pem -trustout -setalias x -out trusted.pem",
                Contents::TrustedCertificate,
            ),
            ("all.p7b", "crl2pkcs7 -nocrl -certfile cert.pem -out all.p7b", Contents::Pkcs7),
            ("all.p7c", "crl2pkcs7 -nocrl -certfile cert.pem -outform der -out all.p7c", Contents::Pkcs7),
            (
                "all.p12",
                "pkcs12 -export -inkey key.pem -in cert.pem -passout pass:x -out all.p12",
                Contents::Pkcs12,
            ),
        ] {
            assert_eq!(make(name, arguments), contents, "{name}");
        }
        // A certificate with its key beside it serves as certificate.
        let read = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
        assert_eq!(Contents::of(&[read("key.pem"), read("cert.pem")].concat()), Contents::Certificates);
        let certificate = read("cert.pem");
        assert_eq!(Contents::of(&certificate[..certificate.len() / 2]), Contents::BrokenPem);
        assert_eq!(Contents::of(&read("key.pem")[..200]), Contents::BrokenPem);
    }

    #[test]
    fn what_is_neither_is_said_to_be_neither() {
        for (bytes, contents) in [
            (&b""[..], Contents::Empty),
            (b" \n\t\n", Contents::Empty),
            (b"-----BEGIN X509 CRL-----\n", Contents::RevocationList),
            (b"-----BEGIN CERTIFICATE-----\nhello\n-----END CERTIFICATE-----\n", Contents::BrokenPem),
            (b"hello", Contents::Unknown),
            (b"0", Contents::Unknown),
            (b"\x30\xff", Contents::Unknown),
            (b"\x30\x03\x01\x01\x00", Contents::Unknown),
            (b"\x7fELF", Contents::Unknown),
        ] {
            assert_eq!(Contents::of(bytes), contents, "{bytes:?}");
        }
    }
}
