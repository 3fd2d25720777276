//! The client certificates: two files each, which the configuration names.

use std::fs;

use super::file::read_private;
use super::load::{ConfigError, Problem, Reader};
use base::address::RodanAddress;
use base::tls::{Identity, IdentityError};

impl Reader {
    /// What is shown to a Rodan that asks for a client certificate.
    pub(super) fn rodan_identity(&mut self, address: Option<&RodanAddress>) -> Option<Identity> {
        let tls = address.is_some_and(|address| address.url().scheme() == "https");
        self.identity("RODAN_CLIENT_CERT", "RODAN_CLIENT_KEY", tls)
    }

    /// The certificate and the key that these two variables name; `tls` is whether the server is reached by TLS at all.
    pub(super) fn identity(
        &mut self,
        certificate: &'static str,
        key: &'static str,
        tls: bool,
    ) -> Option<Identity> {
        let path = |name| self.get(name).map(|path| self.home.join(path));
        let (certificate_file, key_file) = match (path(certificate), path(key)) {
            (None, None) => return None,
            (Some(certificate), Some(key)) => (certificate, key),
            (there, _) => {
                let (there, missing) = if there.is_some() { (certificate, key) } else { (key, certificate) };
                self.is_wrong(missing, format!("is not set, but {there} is"));
                return None;
            }
        };
        if !tls {
            self.is_wrong(
                certificate,
                "is set, but the server is not reached by TLS (see its address)".to_owned(),
            );
            return None;
        }
        let certificates = fs::read_to_string(&certificate_file).map_err(|error| {
            self.is_wrong(certificate, format!("can't be read: {}: {error}", certificate_file.display()));
        });
        let text = read_private(&key_file).map_err(|error| {
            let what = match error {
                ConfigError::Read { path, source } => {
                    format!("can't be read: {}: {source}", path.display())
                }
                error => format!("can't be used: {error}"),
            };
            self.is_wrong(key, what);
        });
        match Identity::new(certificates.ok()?, text.ok()?) {
            Ok(identity) => Some(identity),
            Err(error) => {
                let (name, file) = match error {
                    IdentityError::Certificate => (certificate, certificate_file),
                    IdentityError::Key | IdentityError::Mismatch => (key, key_file),
                };
                self.is_wrong(name, format!("can't be used: {} {error}", file.display()));
                None
            }
        }
    }

    fn is_wrong(&mut self, name: &'static str, what: String) {
        self.problems.push(Problem { name, what: Some(what) });
    }
}
