//! Where a request may go, and the token with it.

use url::Url;

use super::assert_shown;
use crate::rodan::Target;
use base::address::{BrokerAddress, RodanAddress};

/// The first line is Rodan's address, the second a location from a message, each further one where
/// a server redirects to.
pub(super) fn join(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let address = lines.next().unwrap_or_default();
    broker(address);
    let rodan = match RodanAddress::parse(address) {
        Ok(rodan) => rodan,
        Err(error) => return assert_shown(&error.to_string()),
    };
    let base = rodan.url();
    assert!(matches!(base.scheme(), "http" | "https") && base.username().is_empty());
    let Some(location) = lines.next() else { return };
    let mut target = match Target::new(&rodan, location) {
        Ok(target) => target,
        Err(error) => return assert_shown(&error.to_string()),
    };
    check(&target, base);
    let lower = location.trim().to_ascii_lowercase();
    if !lower.starts_with("http://") && !lower.starts_with("https://") {
        assert_eq!(target.url().origin(), base.origin(), "a path has moved the host");
        assert!(target.may_have_secrets());
    }
    for location in lines.take(5) {
        let Ok(next) = target.redirected(location) else { return };
        assert!(target.url().scheme() != "https" || next.url().scheme() == "https", "a downgrade");
        check(&next, base);
        target = next;
    }
}

/// The host and port that a request for `url` would go to, read from its text alone: everything
/// between the first `//` and the next character that ends it.
fn authority(url: &Url) -> (String, String) {
    let text = url.as_str();
    let (scheme, rest) = text.split_once("://").expect("a scheme");
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    assert!(!authority.contains('@'), "{text}");
    (scheme.to_owned(), authority.to_owned())
}

fn check(target: &Target, base: &Url) {
    let url = target.url();
    assert!(matches!(url.scheme(), "http" | "https"), "{url}");
    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    assert_eq!(
        Url::parse(url.as_str()).as_ref(),
        Ok(url),
        "it is read otherwise by the next who reads it"
    );
    let ((scheme, host), (base_scheme, base_host)) = (authority(url), authority(base));
    if !target.may_have_secrets() {
        return;
    }
    if scheme == base_scheme {
        assert_eq!(host, base_host, "the token leaves Rodan");
        return;
    }
    assert_eq!((base_scheme.as_str(), scheme.as_str()), ("http", "https"), "the token loses TLS");
    let name = |url: &Url| url.host_str().unwrap_or_default().to_owned();
    assert_eq!(name(url), name(base), "the token leaves Rodan");
    assert!(
        url.port().is_none() || base.port().is_some(),
        "another port than those of http and https"
    );
}

fn broker(text: &str) {
    let Ok(address) = BrokerAddress::parse(text) else { return };
    assert!(!address.host.is_empty() && !address.vhost.is_empty());
    assert!(!address.host.contains(['@', '/', '?', '#', ' ']), "{address:?}");
    assert_eq!(address.clone().require_tls().is_ok(), address.tls);
    let secure = BrokerAddress::parse(&address.with_tls()).expect("what is proposed can be used");
    assert_eq!((&secure.host, secure.tls), (&address.host, true));
}
