//! By which names this gateway is reached. A page of another site can make a browser ask here under
//! that site's name, by changing the address that the name stands for; such names are refused.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::problem::Problem;

/// The names that the gateway goes by besides `localhost` and its addresses; `None`: any, for a
/// proxy before it decides.
#[derive(Debug)]
pub(crate) struct Hosts(Option<Vec<String>>);

impl Hosts {
    pub(crate) fn new(names: Option<Vec<String>>) -> Self {
        Self(names)
    }

    /// Whether a request for this host is one for this gateway. Nobody can change what an address
    /// stands for.
    fn is_ours(&self, host: &str) -> bool {
        let Some(names) = &self.0 else { return true };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host.ends_with(".localhost")
            || address.parse::<Ipv4Addr>().is_ok()
            || address.parse::<Ipv6Addr>().is_ok()
            || names.iter().any(|name| name.eq_ignore_ascii_case(&host))
    }

    /// The first host of a request that is not this gateway's.
    fn foreign(&self, request: &Request) -> Option<String> {
        let mut hosts: Vec<String> = request.uri().host().map(str::to_owned).into_iter().collect();
        for value in request.headers().get_all(header::HOST) {
            let text = value.to_str().unwrap_or_default();
            hosts.push(
                text.parse::<Authority>()
                    .map_or_else(|_| text.to_owned(), |authority| authority.host().to_owned()),
            );
        }
        if hosts.is_empty() {
            hosts.push(String::new());
        }
        hosts.into_iter().find(|host| !self.is_ours(host))
    }
}

/// Refuses what is meant for another host.
pub(crate) async fn check(
    State(hosts): State<Arc<Hosts>>,
    request: Request,
    next: Next,
) -> Response {
    match hosts.foreign(&request) {
        None => next.run(request).await,
        Some(host) => {
            let host = base::text::printable(&host, 80);
            let what = format!(
                "this gateway is not called \"{host}\"; use the address that it printed, or start \
                 it with --host and this name"
            );
            Problem::new(StatusCode::MISDIRECTED_REQUEST, what).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn foreign_names_are_told_from_own_ones() {
        let own = Hosts::new(Some(vec!["train.example.org".to_owned()]));
        for host in [
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "127.0.0.1",
            "10.1.2.3",
            "[::1]",
            "train.example.org",
            "Train.Example.Org.",
        ] {
            assert!(own.is_ours(host), "{host}");
        }
        for host in [
            "",
            "attacker.example",
            "localhost.attacker.example",
            "127.0.0.1.attacker.example",
            "notlocalhost",
            "example.org",
            "train.example.org.attacker.example",
            "0x7f000001",
        ] {
            assert!(!own.is_ours(host), "{host}");
            assert!(Hosts::new(None).is_ours(host), "{host}");
        }
    }

    #[test]
    fn every_name_that_a_request_has_counts() {
        let hosts = Hosts::new(Some(Vec::new()));
        let foreign = |uri: &str, headers: &[&str]| {
            let mut request = Request::builder().uri(uri);
            for host in headers {
                request = request.header("host", *host);
            }
            hosts.foreign(&request.body(Body::empty()).unwrap())
        };
        assert_eq!(foreign("/", &["127.0.0.1:9090"]), None);
        assert_eq!(foreign("/", &["[::1]:9090"]), None);
        assert_eq!(foreign("http://127.0.0.1:9090/", &[]), None);
        for (uri, headers, host) in [
            ("/", &[][..], ""),
            ("/", &["attacker.example:9090"], "attacker.example"),
            ("/", &["localhost", "attacker.example"], "attacker.example"),
            ("/", &["not a host"], "not a host"),
            ("http://attacker.example/", &["localhost"], "attacker.example"),
        ] {
            assert_eq!(foreign(uri, headers).as_deref(), Some(host), "{uri} {headers:?}");
        }
    }
}
