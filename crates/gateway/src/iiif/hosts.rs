//! Which servers images may be fetched from: decided without asking anybody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;
use url::{Host, Url};

/// The servers that an administrator allows (`ALLOWED_IIIF_HOSTS`); none unless they are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IiifHosts(Vec<Allowed>);

/// A server that is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Allowed {
    /// Its name, or its address.
    host: Host<String>,
    /// Its port; without it the usual one of the scheme.
    port: Option<u16>,
    /// The address that its name must lead to, which may be a private one.
    address: Option<IpAddr>,
}

/// An entry that can't be understood.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "ALLOWED_IIIF_HOSTS: \"{0}\" must be HOST, HOST:PORT, an address, or HOST=ADDRESS for a host \
     of a private network"
)]
pub struct IiifHostsError(String);

/// Why an address is not asked.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum NotAsked {
    #[error("must begin with https:// or http://")]
    Scheme,
    #[error("must not hold a user name or a password")]
    UserInfo,
    #[error(
        "names a server that this gateway does not ask; whoever runs it can allow its host \
         (ALLOWED_IIIF_HOSTS)"
    )]
    Host,
}

impl IiifHosts {
    /// From names and addresses with commas or blanks between them.
    ///
    /// # Errors
    /// When one of them is neither.
    pub fn parse(text: &str) -> Result<Self, IiifHostsError> {
        let entries = text.split([',', ' ', '\t', '\n']).filter(|entry| !entry.is_empty());
        let entry = |entry: &str| {
            let wrong = || IiifHostsError(base::text::printable(entry, 100));
            Allowed::parse(entry).ok_or_else(wrong)
        };
        Ok(Self(entries.map(entry).collect::<Result<_, _>>()?))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this address may be asked, as far as it tells itself: where its name leads is
    /// looked at by [`Self::may_lead_to`].
    pub(super) fn check(&self, address: &Url) -> Result<(), NotAsked> {
        if !matches!(address.scheme(), "http" | "https") {
            return Err(NotAsked::Scheme);
        }
        if !address.username().is_empty() || address.password().is_some() {
            return Err(NotAsked::UserInfo);
        }
        let allowed = self.0.iter().any(|allowed| {
            address.host().is_some_and(|host| host.to_owned() == allowed.host)
                // An address says its port only where that is not the usual one.
                && match allowed.port {
                    None => address.port().is_none(),
                    Some(port) => address.port_or_known_default() == Some(port),
                }
        });
        if allowed { Ok(()) } else { Err(NotAsked::Host) }
    }

    /// Whether the host of this name may have this address.
    pub(super) fn may_lead_to(&self, name: &str, address: IpAddr) -> bool {
        let named =
            |allowed: &&Allowed| matches!(&allowed.host, Host::Domain(host) if host == name);
        self.0.iter().filter(named).any(|allowed| match allowed.address {
            Some(own) => own == address.to_canonical(),
            None => is_public(address),
        })
    }
}

impl Allowed {
    fn parse(entry: &str) -> Option<Self> {
        let (host, address) = match entry.split_once('=') {
            Some((host, address)) => (host, Some(address.parse::<IpAddr>().ok()?.to_canonical())),
            None => (entry, None),
        };
        let (host, port) = match host.rsplit_once(':') {
            // An address of IPv6 has brackets, and its own colons within them.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().ok()?)),
            _ => (host, None),
        };
        let host = match Host::parse(host).ok()? {
            Host::Ipv6(address) => match address.to_ipv4_mapped() {
                Some(address) => Host::Ipv4(address),
                None => Host::Ipv6(address),
            },
            host => host,
        };
        let is_name = match &host {
            Host::Domain(name) => {
                let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
                if !name.chars().all(fits) {
                    return None;
                }
                true
            }
            Host::Ipv4(_) | Host::Ipv6(_) => false,
        };
        (is_name || address.is_none()).then_some(Self { host, port, address })
    }
}

/// Whether an address is one of the public internet: not of this machine, of its network, of a
/// cloud's own services, or of anything else that has a meaning of its own.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        // Of providers; of benchmarks; of protocols.
        || (a == 100 && (64..128).contains(&b))
        || (a == 198 && (18..20).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99);
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // Only what is given out as public, without documentation and what leads to addresses of IPv4.
    (a & 0xe000) == 0x2000
        && !(a == 0x2001 && (b == 0xdb8 || b < 0x200))
        && a != 0x2002
        && !(a == 0x3fff && b < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(text: &str) -> IiifHosts {
        IiifHosts::parse(text).unwrap()
    }

    #[test]
    fn only_what_is_named_is_asked() {
        let hosts = hosts("iiif.example.org, images.example.org:8443 127.0.0.1:8182,[::1]");
        for (address, found) in [
            ("https://iiif.example.org/a/info.json", Ok(())),
            ("http://IIIF.example.org./a", Err(NotAsked::Host)),
            ("https://IIIF.Example.ORG:443/a", Ok(())),
            ("https://iiif.example.org:8443/a", Err(NotAsked::Host)),
            ("https://iiif.example.org.evil.example/a", Err(NotAsked::Host)),
            ("https://evil.example/iiif.example.org", Err(NotAsked::Host)),
            ("https://images.example.org:8443/a", Ok(())),
            ("https://images.example.org/a", Err(NotAsked::Host)),
            ("http://127.0.0.1:8182/a", Ok(())),
            // The same address in other words.
            ("http://2130706433:8182/a", Ok(())),
            ("http://0x7f.1:8182/a", Ok(())),
            ("http://127.0.0.1/a", Err(NotAsked::Host)),
            ("http://[::1]/a", Ok(())),
            ("http://[::ffff:7f00:1]:8182/a", Err(NotAsked::Host)),
            ("http://169.254.169.254/latest/meta-data", Err(NotAsked::Host)),
            ("https://iiif.example.org@evil.example/a", Err(NotAsked::UserInfo)),
            ("https://me:secret@iiif.example.org/a", Err(NotAsked::UserInfo)),
            ("https://evil.example\\@iiif.example.org/a", Err(NotAsked::Host)),
            ("ftp://iiif.example.org/a", Err(NotAsked::Scheme)),
            ("file:///etc/passwd", Err(NotAsked::Scheme)),
            ("data:image/png;base64,AA", Err(NotAsked::Scheme)),
        ] {
            assert_eq!(hosts.check(&Url::parse(address).unwrap()), found, "{address}");
        }
        let none = IiifHosts::default();
        let address = Url::parse("https://iiif.example.org/a").unwrap();
        assert!(none.is_empty() && none.check(&address) == Err(NotAsked::Host));
    }

    #[test]
    fn a_name_leads_to_the_public_internet_or_to_the_address_that_is_named_with_it() {
        let hosts = hosts("iiif.example.org,inside.example.org=10.1.2.3");
        let may = |name: &str, address: &str| hosts.may_lead_to(name, address.parse().unwrap());
        for public in ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8"] {
            assert!(may("iiif.example.org", public), "{public}");
            assert!(!may("other.example.org", public), "{public}");
            assert!(!may("inside.example.org", public), "{public}");
        }
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "198.18.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001::1",
            "2001:db8::1",
        ] {
            assert!(!may("iiif.example.org", private), "{private}");
        }
        assert!(may("inside.example.org", "10.1.2.3"));
        assert!(may("inside.example.org", "::ffff:10.1.2.3"));
        assert!(!may("inside.example.org", "10.1.2.4"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        assert!(hosts("").is_empty() && hosts(" , ").is_empty());
        for text in [
            "https://a.example",
            "a.example/path",
            "a.example:x",
            "a.example:99999",
            "a=b",
            "10.0.0.1=10.0.0.2",
            "me@a.example",
            "*",
        ] {
            let said = IiifHosts::parse(text).unwrap_err().to_string();
            assert!(said.contains(text) && said.starts_with("ALLOWED_IIIF_HOSTS"), "{said}");
        }
    }
}
