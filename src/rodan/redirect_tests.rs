//! A server that redirects for ever.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use reqwest::redirect::Policy;

use super::{Client, DownloadError, Downloader, LoginError, log_in};
use crate::config::RodanConfig;
use base::address::RodanAddress;
use base::secret::Secret;

/// As [`Client::new`], but past any proxy of whoever runs the tests.
fn client() -> Client {
    let tls = base::tls::client_config(None).unwrap();
    let builder = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy();
    Client(builder.redirect(Policy::none()).build().unwrap())
}

/// Answers each request with a redirect to itself.
fn circle() -> RodanAddress {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut request = BufReader::new(&stream);
            let mut length = 0;
            loop {
                let mut line = String::new();
                request.read_line(&mut line).unwrap();
                if line.trim().is_empty() {
                    break;
                }
                let line = line.to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            request.read_exact(&mut vec![0; length]).unwrap();
            let answer = "HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\
                Connection: close\r\n\r\n";
            (&stream).write_all(answer.as_bytes()).unwrap();
        }
    });
    RodanAddress::parse(&address).unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn a_download_that_is_redirected_again_and_again_names_the_host() {
    let downloader = Downloader {
        client: client(),
        rodan: circle(),
        token: Secret::new("t"),
        limit: 100,
        deadline: Duration::from_secs(60),
        retry: Downloader::RETRY,
    };
    let folder = tempfile::tempdir().unwrap();
    let fetched = downloader.fetch_to("/uploads/page.png", &folder.path().join("page")).await;
    let error = fetched.unwrap_err();
    assert!(matches!(error, DownloadError::Transfer { .. }), "{error}");
    let said = "from 127.0.0.1: it was redirected more than 5 times";
    assert!(error.to_string().ends_with(said), "{error}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_login_that_is_redirected_again_and_again_is_not_called_a_circle() {
    let config = RodanConfig {
        address: circle(),
        user: "u".into(),
        password: Secret::new("p"),
        identity: None,
    };
    let error = log_in(&client(), &config).await.unwrap_err();
    assert!(matches!(error, LoginError::NotRodan { .. }), "{error}");
    assert!(error.to_string().contains("was redirected more than 5 times"), "{error}");
}
