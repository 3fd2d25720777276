//! From the location in a message to a URL, and whether the token may go there.

use thiserror::Error;
use url::Url;

use crate::config::RodanAddress;

/// A URL to fetch, and whether it belongs to Rodan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    url: Url,
    base: Url,
}

/// A location that can't be fetched.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    /// Neither a path nor an http(s) URL.
    #[error("its location is neither a path on Rodan nor an http:// or https:// URL")]
    Invalid,
    /// Credentials in the URL.
    #[error("its URL holds a user name or a password")]
    UserInfo,
    /// A redirect from https to http.
    #[error("the server redirects from https to http")]
    Downgrade,
}

impl Target {
    /// Takes a path relative to Rodan, or an absolute URL.
    ///
    /// A path is only ever used as a path: whatever stands in it, the host stays Rodan's.
    ///
    /// # Errors
    /// When it is neither, or holds credentials.
    pub fn new(rodan: &RodanAddress, location: &str) -> Result<Self, TargetError> {
        let base = rodan.url().clone();
        let location = location.trim();
        let lower = location.to_ascii_lowercase();
        let url = if lower.starts_with("http://") || lower.starts_with("https://") {
            Url::parse(location).map_err(|_| TargetError::Invalid)?
        } else {
            let path = location.trim_start_matches('/');
            let scheme = path.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':'));
            if path.is_empty() || path.contains('\\') || path.chars().any(char::is_control) || scheme {
                return Err(TargetError::Invalid);
            }
            let mut url = base.clone();
            url.set_path(&format!("/{path}"));
            url
        };
        Self { url: base.clone(), base }.checked(url)
    }

    fn checked(&self, url: Url) -> Result<Self, TargetError> {
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(TargetError::Invalid);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(TargetError::UserInfo);
        }
        Ok(Self { url, base: self.base.clone() })
    }

    /// Where a redirect to `location` leads.
    ///
    /// # Errors
    /// When it leads to something that can't be fetched, or from https to http.
    pub fn redirected(&self, location: &str) -> Result<Self, TargetError> {
        let url = self.url.join(location).map_err(|_| TargetError::Invalid)?;
        if self.url.scheme() == "https" && url.scheme() == "http" {
            return Err(TargetError::Downgrade);
        }
        self.checked(url)
    }

    /// The URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// True when the token may be sent: the same scheme, host and port as Rodan's, or the same host by https where
    /// Rodan's address says http (servers redirect to https). A port other than the schemes' own is taken for
    /// Rodan's https port only where Rodan's address names a port too.
    pub fn is_rodan(&self) -> bool {
        if self.url.origin() == self.base.origin() {
            return true;
        }
        let upgraded = self.base.scheme() == "http" && self.url.scheme() == "https";
        upgraded
            && self.url.host() == self.base.host()
            && (self.url.port().is_none() || self.base.port().is_some())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(base: &str, location: &str) -> Result<(String, bool), TargetError> {
        let target = Target::new(&RodanAddress::parse(base).unwrap(), location)?;
        Ok((target.url().to_string(), target.is_rodan()))
    }

    #[test]
    fn paths_stay_with_rodan_and_urls_go_where_they_say() {
        let cases = [
            ("/uploads/a b.png", "https://rodan.example/uploads/a%20b.png", true),
            ("uploads/a.png?x#y", "https://rodan.example/uploads/a.png%3Fx%23y", true),
            ("//evil.example/x", "https://rodan.example/evil.example/x", true),
            ("@evil.example/x", "https://rodan.example/@evil.example/x", true),
            ("/@evil.example/x", "https://rodan.example/@evil.example/x", true),
            ("/uploads/../../etc", "https://rodan.example/etc", true),
            ("https://RODAN.example:443/x", "https://rodan.example/x", true),
            ("https://evil.example/x", "https://evil.example/x", false),
            ("https://rodan.example.evil.example/x", "https://rodan.example.evil.example/x", false),
            ("http://rodan.example/x", "http://rodan.example/x", false),
            ("https://rodan.example:8443/x", "https://rodan.example:8443/x", false),
        ];
        for (location, url, rodan) in cases {
            assert_eq!(target("https://rodan.example", location), Ok((url.to_owned(), rodan)), "{location}");
        }
    }

    #[test]
    fn what_could_move_the_host_is_refused() {
        use TargetError::{Invalid, UserInfo};
        for (location, error) in [
            ("", Invalid),
            ("/", Invalid),
            ("\\\\evil.example\\x", Invalid),
            ("/\\evil.example/x", Invalid),
            ("file:///etc/passwd", Invalid),
            ("ftp://evil.example/", Invalid),
            ("javascript:1", Invalid),
            ("/a\r\nHost: evil.example", Invalid),
            ("https://rodan.example@evil.example/", UserInfo),
            ("https://u:p@rodan.example/", UserInfo),
            ("https://", Invalid),
        ] {
            assert_eq!(target("https://rodan.example", location), Err(error), "{location}");
        }
    }

    #[test]
    fn an_upgrade_to_https_on_the_same_host_keeps_the_token() {
        let is_rodan = |base: &str, to: &str| {
            let start = Target::new(&RodanAddress::parse(base).unwrap(), "/x").unwrap();
            start.redirected(to).map(|t| t.is_rodan())
        };
        assert_eq!(is_rodan("rodan", "https://rodan/x"), Ok(true));
        assert_eq!(is_rodan("rodan", "https://rodan:4443/x"), Ok(false));
        assert_eq!(is_rodan("rodan:8000", "https://rodan:4443/x"), Ok(true));
        assert_eq!(is_rodan("rodan", "https://evil.example/x"), Ok(false));
        assert_eq!(is_rodan("rodan", "//evil.example/x"), Ok(false));
        assert_eq!(is_rodan("https://rodan", "/y"), Ok(true));
        assert_eq!(is_rodan("https://rodan", "http://rodan/x"), Err(TargetError::Downgrade));
    }

    proptest! {
        #[test]
        fn a_path_never_moves_the_host(path in "[^hH].{0,40}") {
            if let Ok(target) = Target::new(&RodanAddress::parse("https://rodan.example").unwrap(), &path) {
                prop_assert_eq!(target.url().host_str(), Some("rodan.example"));
            }
        }
    }
}
