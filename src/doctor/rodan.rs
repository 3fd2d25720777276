//! Rodan: the connection, its clock, the login, a download.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::link::{Server, address, reach};
use super::row::{Row, Rows, within};
use super::typical::Typical;
use crate::config::RodanConfig;
use crate::rodan::{Client, DownloadError, Downloader, LoginError, log_in, server_time};
use base::retry::Policy;
use base::secret::Secret;
use base::text::{file_size, span};

/// Logging in takes up to three attempts.
const LOGIN_DEADLINE: Duration = Duration::from_secs(100);
const CLOCK_DEADLINE: Duration = Duration::from_secs(20);
const DOWNLOAD_DEADLINE: Duration = Duration::from_secs(120);
/// Clocks that differ by more than this make ages and deadlines wrong.
const SKEW: Duration = Duration::from_secs(60);

/// What to download.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    /// Nothing.
    Nothing,
    /// The page of the last job, where one is known.
    LastPage(&'a Typical),
    /// This path or URL.
    This(&'a str),
}

fn server(config: &RodanConfig) -> Server {
    let (address, url) = (&config.address, config.address.url());
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    Server {
        variable: "RODAN_HOST",
        host: host.to_owned(),
        port: url.port_or_known_default().unwrap_or(80),
        tls: url.scheme() == "https",
        is_exposed: address.is_exposed(),
        with_tls: address.with_tls(),
        amqp: false,
        identity: config.identity.clone(),
    }
}

/// The variable of the environment that sends requests through a proxy. Whether the proxy leaves
/// this host out is not looked into.
fn proxy(tls: bool) -> Option<&'static str> {
    let names = if tls { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
    let all = names.into_iter().chain(["ALL_PROXY", "all_proxy"]);
    all.into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Everything about Rodan; on a compute node, which has the token already, only whether it can be
/// reached.
pub(super) async fn rows(
    group: &str,
    config: Option<&RodanConfig>,
    wanted: Option<Wanted<'_>>,
    max_download: u64,
) -> Vec<Row> {
    let mut rows = Rows::new(group);
    let Some(config) = config else {
        rows.skip("address", "RODAN_HOST can't be used, see above");
        return rows.done();
    };
    let server = server(config);
    if wanted.is_some() {
        address(&mut rows, &server);
    }
    match proxy(server.tls) {
        Some(name) => {
            rows.skip_all(
                &["DNS", "TCP", "TLS"],
                &format!("{name} is set: the way leads through the proxy"),
            );
        }
        None if !reach(&mut rows, &server).await.is_open => {
            let names =
                if wanted.is_some() { &["clock", "login", "download"][..] } else { &["answer"] };
            rows.skip_all(names, "Rodan can't be reached");
            return rows.done();
        }
        None => {}
    }
    let client = match Client::new(config.identity.as_ref()) {
        Ok(client) => client,
        Err(error) => {
            rows.fail_with("client", &error, "install ca-certificates");
            return rows.done();
        }
    };
    let Some(wanted) = wanted else {
        match within(CLOCK_DEADLINE, server_time(&client, &config.address)).await {
            Some(Ok(_)) => rows.pass("answer", "it answers a request"),
            Some(Err(error)) => rows.fail(
                "answer",
                error,
                "check RODAN_HOST, and the firewall of the compute nodes",
            ),
            None => rows.fail("answer", "none in time", "look at Rodan's log"),
        }
        return rows.done();
    };
    clock(&mut rows, config, &client).await;
    let Some(token) = login(&mut rows, config, &client).await else {
        rows.skip("download", "without a token there is nothing to fetch");
        return rows.done();
    };
    download(&mut rows, config, client, token, wanted, max_download).await;
    rows.done()
}

async fn clock(rows: &mut Rows, config: &RodanConfig, client: &Client) {
    let answer = within(CLOCK_DEADLINE, server_time(client, &config.address)).await;
    let now = Timestamp::now();
    match answer {
        Some(Ok(Some(theirs))) => {
            let skew = now.duration_since(theirs).unsigned_abs();
            if skew > SKEW {
                let side = if now > theirs { "ahead of" } else { "behind" };
                rows.warn(
                    "clock",
                    format!("this machine is {} {side} Rodan", span(skew)),
                    "have both machines keep their time by NTP: timedatectl status",
                );
            } else {
                rows.pass("clock", "this machine's and Rodan's agree");
            }
        }
        Some(Ok(None)) => rows.skip("clock", "Rodan's answers carry no date"),
        Some(Err(error)) => rows.skip("clock", format!("no answer to read a date from: {error}")),
        None => rows.skip("clock", "no answer in time to read a date from"),
    }
}

async fn login(rows: &mut Rows, config: &RodanConfig, client: &Client) -> Option<Secret> {
    if config.user.is_empty() || config.password.expose().is_empty() {
        rows.skip("login", "RODAN_USER or RODAN_PASSWORD is not set");
        return None;
    }
    match within(LOGIN_DEADLINE, log_in(client, config)).await {
        None => rows.fail("login", "no answer in time", "look at Rodan's log"),
        Some(Ok(token)) => {
            rows.pass(
                "login",
                format!("as {}, by user name and e-mail address; a token came back", config.user),
            );
            return Some(token);
        }
        Some(Err(LoginError::Refused { status: 403, detail, .. })) => rows.fail(
            "login",
            format!("Rodan refuses it (status 403: {detail})"),
            "have the account activated by Rodan's administrator",
        ),
        Some(Err(LoginError::Refused { status, detail, .. })) => rows.fail(
            "login",
            format!("Rodan refuses it (status {status}: {detail})"),
            "check RODAN_USER (old Rodan: user name, current: e-mail address) and RODAN_PASSWORD",
        ),
        Some(Err(LoginError::NotRodan { detail, .. })) => rows.fail(
            "login",
            format!("what answers is not Rodan ({detail})"),
            "check RODAN_HOST: host and port of Rodan itself, without a path",
        ),
        Some(Err(LoginError::Unavailable { detail, .. })) => {
            rows.fail("login", detail, "look at Rodan's log, and at the web server before it");
        }
    }
    None
}

async fn download(
    rows: &mut Rows,
    config: &RodanConfig,
    client: Client,
    token: Secret,
    wanted: Wanted<'_>,
    limit: u64,
) {
    let (location, asked_for) = match wanted {
        Wanted::Nothing => return rows.skip("download", "--no-download"),
        Wanted::This(location) => (location.to_owned(), true),
        Wanted::LastPage(typical) => match &typical.page {
            Some(page) => (page.clone(), false),
            None => {
                return rows.skip(
                    "download",
                    "no job has come yet; --download PATH names a file to fetch",
                );
            }
        },
    };
    let directory = match tempfile::tempdir() {
        Ok(directory) => directory,
        Err(error) => {
            return rows.skip("download", format!("no place for a temporary file: {error}"));
        }
    };
    let once = Policy { attempts: 1, ..Downloader::RETRY };
    let (rodan, deadline) = (config.address.clone(), DOWNLOAD_DEADLINE);
    let downloader = Downloader { client, rodan, token, limit, deadline, retry: once };
    let path = directory.path().join("page");
    match within(DOWNLOAD_DEADLINE, downloader.fetch_to(&location, &path)).await {
        Some(Ok(())) => {
            rows.pass("download", format!("{} came through with the token", bytes(&path)))
        }
        Some(Err(DownloadError::Status { status, .. }))
            if !asked_for && matches!(status, 404 | 410) =>
        {
            rows.skip(
                "download",
                "the page of the last job is no longer there; --download PATH names another",
            );
        }
        Some(Err(error)) => {
            let advice = "the account needs access to the resources of those who start workflows";
            rows.fail("download", error.to_string(), advice);
        }
        None => {
            rows.fail("download", "it takes too long", "look at Rodan's log, and at the network")
        }
    }
}

fn bytes(path: &Path) -> String {
    std::fs::metadata(path)
        .map_or_else(|_| "the file".to_owned(), |metadata| file_size(metadata.len()))
}
