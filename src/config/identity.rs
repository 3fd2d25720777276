//! The client certificates: two files each, which the configuration names.

use std::fs;

use super::env::{Place, var};
use super::error::ConfigError;
use super::file::read_private;
use super::load::Reader;
use base::address::RodanAddress;
use base::tls::{Identity, IdentityError};

impl Reader {
    /// The certificate for a Rodan that asks for one.
    pub(super) fn rodan_identity(&mut self, address: Option<&RodanAddress>) -> Option<Identity> {
        let tls = address.is_some_and(|address| address.url().scheme() == "https");
        self.identity(&var::RODAN_CLIENT_CERT, &var::RODAN_CLIENT_KEY, tls)
    }

    /// The certificate and the key that these two variables name; `tls` is whether the server is
    /// reached by TLS at all.
    pub(super) fn identity(&mut self, certificate: &Place, key: &Place, tls: bool) -> Option<Identity> {
        let (certificate_file, key_file) = match (self.path(certificate), self.path(key)) {
            (None, None) => return None,
            (Some(certificate), Some(key)) => (certificate, key),
            (there, _) => {
                let (there, missing) = if there.is_some() { (certificate, key) } else { (key, certificate) };
                self.is_wrong(&missing.0, format!("is not set, but {} is", there.0.name));
                return None;
            }
        };
        if !tls {
            self.is_wrong(&certificate.0, "is set, but the server is not reached by TLS (see its address)");
            return None;
        }
        let certificates = fs::read(&certificate_file).map_err(|error| {
            self.is_wrong(&certificate.0, format!("can't be read: {}: {error}", certificate_file.display()));
        });
        let text = read_private(&key_file).map_err(|error| {
            let what = match error {
                ConfigError::Read { path, source } => {
                    format!("can't be read: {}: {source}", path.display())
                }
                error => format!("can't be used: {error}"),
            };
            self.is_wrong(&key.0, what);
        });
        match Identity::new(&certificates.ok()?, &text.ok()?) {
            Ok(identity) => Some(identity),
            Err(error) => {
                let (name, file) = match error {
                    IdentityError::Certificate(_) | IdentityError::Unreadable => {
                        (certificate, certificate_file)
                    }
                    IdentityError::Key(_) | IdentityError::Unusable | IdentityError::Mismatch => {
                        (key, key_file)
                    }
                };
                self.is_wrong(&name.0, format!("can't be used: {} {error}", file.display()));
                None
            }
        }
    }
}
