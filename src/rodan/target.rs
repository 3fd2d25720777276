//! From the location in a message to a URL, and whether the token may go there.

use thiserror::Error;
use url::Url;

use base::address::RodanAddress;

/// A URL to fetch, and whether it belongs to Rodan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    url: Url,
    base: Url,
    /// Rodan itself led here by a redirect.
    by_rodan: bool,
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
    /// A path is only ever used as a path: whatever it contains, the host stays Rodan's.
    ///
    /// # Errors
    ///
    /// When it is neither, or holds credentials.
    pub fn new(rodan: &RodanAddress, location: &str) -> Result<Self, TargetError> {
        let base = rodan.url().clone();
        let location = location.trim();
        let lower = location.to_ascii_lowercase();
        let url = if lower.starts_with("http://") || lower.starts_with("https://") {
            Url::parse(location).map_err(|_| TargetError::Invalid)?
        } else {
            let path = location.trim_start_matches('/');
            let scheme =
                path.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':'));
            if path.is_empty()
                || path.contains('\\')
                || path.chars().any(char::is_control)
                || scheme
            {
                return Err(TargetError::Invalid);
            }
            let mut url = base.clone();
            url.set_path(&format!("/{path}"));
            url
        };
        Self { url: base.clone(), base, by_rodan: false }.checked(url)
    }

    fn checked(&self, url: Url) -> Result<Self, TargetError> {
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(TargetError::Invalid);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(TargetError::UserInfo);
        }
        Ok(Self { url, base: self.base.clone(), by_rodan: false })
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
        Ok(Self { by_rodan: self.may_have_secrets(), ..self.checked(url)? })
    }

    /// The URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// True when the token, or the password of the log-in, may be sent there: the same scheme, host
    /// and port as Rodan's, or the same host by https where Rodan's address says http (servers
    /// redirect to https). Another port than https's own counts as Rodan's only if Rodan's address
    /// names a port too and Rodan itself redirects there: a message can't choose it.
    ///
    /// Asked by `download.rs` before each request, and by `login.rs` after each redirect. Nobody
    /// else sends a secret to Rodan.
    pub fn may_have_secrets(&self) -> bool {
        if self.url.origin() == self.base.origin() {
            return true;
        }
        let upgraded = self.base.scheme() == "http" && self.url.scheme() == "https";
        upgraded
            && self.url.host() == self.base.host()
            && (self.url.port().is_none() || (self.by_rodan && self.base.port().is_some()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(base: &str, location: &str) -> Result<(String, bool), TargetError> {
        let target = Target::new(&RodanAddress::parse(base).unwrap(), location)?;
        Ok((target.url().to_string(), target.may_have_secrets()))
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
            assert_eq!(
                target("https://rodan.example", location),
                Ok((url.to_owned(), rodan)),
                "{location}"
            );
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
    fn other_spellings_of_rodans_origin_and_what_only_looks_like_it() {
        let cases = [
            // The same origin, spelled in other ways.
            ("https://rodan.example", "https://RoDaN.eXaMpLe/x", true),
            ("https://rodan.example:443", "https://rodan.example/x", true),
            ("https://rodan.example", "HTTPS://rodan.example:0443/x", true),
            ("https://rodan.example", "https://rodan.exam%70le/x", true),
            ("https://rodan.example", "https://rodan\u{3002}example/x", true),
            ("https://rodan.example", "https://rodan.ex\tample/x", true),
            ("https://[::1]:8443", "https://[0:0:0:0:0:0:0:1]:8443/x", true),
            ("https://127.0.0.1", "https://0x7f.1/x", true),
            ("https://b\u{fc}cher.example", "https://xn--bcher-kva.example/x", true),
            ("https://rodan.example", "https://rodan.example\\@evil.example/x", true),
            // Other origins.
            ("https://rodan.example", "https://rodan.example./x", false),
            ("https://rodan.example", "https://rodan.example:444/x", false),
            ("https://rodan.example", "https://xrodan.example/x", false),
            ("https://rodan.example", "https://rodan.example%2eevil.example/x", false),
            ("https://rodan.example", "https://r\u{43e}dan.example/x", false),
            ("https://rodan.example", "https://evil.example/#https://rodan.example/", false),
            ("https://rodan.example", "https://evil.example\\.rodan.example/", false),
            ("https://[::1]", "https://[::2]/x", false),
            ("https://[::1]", "https://127.0.0.1/x", false),
            ("https://127.0.0.1", "https://127.0.0.2/x", false),
            ("http://rodan.example", "http://rodan.example:81/x", false),
            // A message may name https in place of http, but no port.
            ("http://rodan.example", "https://rodan.example/x", true),
            ("http://rodan.example:8000", "https://rodan.example:8443/x", false),
            ("http://rodan.example", "https://rodan.example:8443/x", false),
        ];
        for (base, location, rodan) in cases {
            assert_eq!(target(base, location).map(|(_, is)| is), Ok(rodan), "{base} {location}");
        }
    }

    #[test]
    fn encoded_signs_stay_part_of_the_path() {
        for path in [
            "/%2F%2Fevil.example/x",
            "%2f%2fevil.example/x",
            "/%5Cevil.example/x",
            "/%5c%5cevil.example",
            "/%40evil.example",
            "/..//evil.example/x",
            "/./@evil.example",
            "/.//evil.example",
            "/x%0d%0aHost/%3a%20evil.example",
            "/%09//evil.example",
            "/x;//evil.example",
            "?//evil.example",
            "#@evil.example",
        ] {
            let target =
                Target::new(&RodanAddress::parse("https://rodan.example").unwrap(), path).unwrap();
            let url = target.url();
            assert_eq!(
                (url.host_str(), url.port(), url.username()),
                (Some("rodan.example"), None, ""),
                "{path}"
            );
            assert!(
                (url.query(), url.fragment()) == (None, None) && target.may_have_secrets(),
                "{path}: {url}"
            );
        }
        for path in [
            "/\t//evil.example",
            "//\n/evil.example",
            "ht\ttps://evil.example/",
            "https:evil.example",
            "https:/evil.example",
        ] {
            assert_eq!(
                target("https://rodan.example", path),
                Err(TargetError::Invalid),
                "{path:?}"
            );
        }
    }

    #[test]
    fn an_upgrade_to_https_on_the_same_host_keeps_the_token() {
        let may_have_secrets = |base: &str, to: &str| {
            let start = Target::new(&RodanAddress::parse(base).unwrap(), "/x").unwrap();
            start.redirected(to).map(|t| t.may_have_secrets())
        };
        assert_eq!(may_have_secrets("rodan", "https://rodan/x"), Ok(true));
        assert_eq!(may_have_secrets("rodan", "https://rodan:4443/x"), Ok(false));
        assert_eq!(may_have_secrets("rodan:8000", "https://rodan:4443/x"), Ok(true));
        assert_eq!(may_have_secrets("rodan", "https://evil.example/x"), Ok(false));
        assert_eq!(may_have_secrets("rodan", "//evil.example/x"), Ok(false));
        assert_eq!(may_have_secrets("https://rodan", "/y"), Ok(true));
        assert_eq!(
            may_have_secrets("https://rodan", "http://rodan/x"),
            Err(TargetError::Downgrade)
        );
    }

    /// Locations made from the pieces that such tricks use.
    fn tricky() -> impl Strategy<Value = String> {
        let pieces = [
            "/",
            "//",
            "\\",
            "@",
            ":",
            "?",
            "#",
            "%2F",
            "%2f",
            "%5c",
            "%40",
            "%00",
            "..",
            ".",
            " ",
            "\t",
            "\n",
            "https:",
            "http:",
            "HTTPS://",
            "https://",
            "rodan.example",
            "RODAN.example",
            "evil.example",
            ":443",
            ":80",
            "[::1]",
            "x",
            "\u{3002}",
            "\u{ff0f}",
            "user:pass@",
        ];
        proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 1..9)
            .prop_map(|p| p.concat())
    }

    fn is_rodans_origin(url: &Url) -> bool {
        url.scheme() == "https"
            && url.host_str() == Some("rodan.example")
            && url.port_or_known_default() == Some(443)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn the_token_goes_to_one_origin_whatever_the_location(location in tricky()) {
            let rodan = RodanAddress::parse("https://rodan.example").unwrap();
            if let Ok(target) = Target::new(&rodan, &location) {
                let url = target.url();
                prop_assert_eq!(target.may_have_secrets(), is_rodans_origin(url), "{}", url);
                prop_assert!(url.username().is_empty() && url.password().is_none());
            }
        }

        #[test]
        fn nor_along_a_redirect(location in tricky(), to in tricky(), again in tricky()) {
            let rodan = RodanAddress::parse("https://rodan.example").unwrap();
            let mut target = Target::new(&rodan, &location);
            for to in [to, again] {
                target = target.and_then(|t| t.redirected(&to));
                if let Ok(target) = &target {
                    let url = target.url();
                    prop_assert_eq!(target.may_have_secrets(), is_rodans_origin(url), "{}", url);
                    prop_assert!(url.username().is_empty() && url.password().is_none());
                }
            }
        }

        #[test]
        fn a_path_never_moves_the_host(path in "[^hH].{0,40}") {
            let rodan = RodanAddress::parse("https://rodan.example").unwrap();
            if let Ok(target) = Target::new(&rodan, &path) {
                prop_assert_eq!(target.url().host_str(), Some("rodan.example"));
            }
        }
    }
}
