//! What browsers and programs send to the gateway.

use gateway::fuzzing::{Read, multipart as read_multipart, run_request as read_request};

use super::assert_shown;

/// Most runs of a grid, and most pages of a run.
const MOST_RUNS: u64 = 200;
const MOST_PAGES: usize = 50;

/// Most bytes of files that a form may bring here.
const MOST_BYTES: u64 = 100_000;

/// The body of a request for a run or a grid.
pub(super) fn run_request(data: &[u8]) {
    if let Some(read) = read_request(data) {
        check(&read);
    }
}

/// The form in which a browser asks for them.
pub(super) fn settings_form(data: &[u8]) {
    if let Some(read) = wait(gateway::fuzzing::settings_form(data)) {
        check(&read);
    }
}

/// The form in which a cluster's bridge logs in: short texts, or none.
pub(super) fn login_form(data: &[u8]) {
    if let Some((name, password)) = gateway::fuzzing::login_form(data) {
        for text in [&name, &password] {
            assert!((1..=200).contains(&text.len()), "a text of {} bytes", text.len());
        }
        // What is read is read again, when it is sent as a browser would.
        let pairs = [("username", &name), ("password", &password)];
        let sent =
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        assert_eq!(gateway::fuzzing::login_form(sent.as_bytes()), Some((name, password)));
    }
}

fn check(read: &Read) {
    match read {
        Ok(asked) => {
            assert!((1..=MOST_RUNS).contains(&asked.count), "{}", asked.count);
            assert_eq!(asked.runs.len() as u64, asked.count);
            assert!((1..=MOST_PAGES).contains(&asked.pages.len()));
            for settings in &asked.runs {
                domain::TrainingSettings::from_local(settings).unwrap();
            }
        }
        Err(wrong) => {
            assert!(!wrong.is_empty());
            for (pointer, detail) in wrong {
                assert!(pointer.is_empty() || pointer.starts_with('/'), "{pointer:?}");
                assert_shown(detail);
            }
        }
    }
}

/// A form with files. Nothing of it is left, and no more is written than may come.
pub(super) fn multipart(data: &[u8]) {
    let incoming = tempfile::tempdir().unwrap();
    match wait(read_multipart(data, incoming.path(), MOST_BYTES)) {
        Ok(texts) => {
            for (name, text) in texts {
                assert!(["name", "page"].contains(&name.as_str()), "{name:?}");
                // What is no UTF-8 takes three bytes for each.
                assert!(text.len() <= 3_000);
            }
        }
        Err((status, detail)) => {
            assert!((400..500).contains(&status), "{status} {detail}");
            assert_shown(&detail);
        }
    }
    assert_eq!(std::fs::read_dir(incoming.path()).unwrap().count(), 0);
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}
