//! The tokens of a gateway are searched for in everything that it leaves, shows and answers: its
//! files, its log, its pages, and the processes of its trainings.
#![cfg(feature = "gateway")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::local::Page;
use crate::secrets::Search;
use crate::support::gateway::{Answer, Gateway, QUICK, Site, form, id_of, page, program, tiny};
use crate::support::{DEAD_PORT, write_script};

/// Planted in the file of the variables.
const PASSWORD: &str = "planted-password-of-mlflow";
const KEY: &str = "planted-key-of-s3";

/// All files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// A gateway that logs all it has to say into a file.
fn start(site: &Site, log: &Path) -> (Gateway, String) {
    let mut command = Command::new(program());
    command.arg("--data").arg(site.data()).args(["-vv", "--listen", "127.0.0.1:0", "--trainer"]);
    // MLflow is away, which the log tells again and again.
    let variables = format!(
        "MLFLOW_TRACKING_URI=http://127.0.0.1:{DEAD_PORT}\nMLFLOW_TRACKING_USERNAME=me\n\
         MLFLOW_TRACKING_PASSWORD={PASSWORD}\n"
    );
    command.env("HPC_TRAINER_ENV_FILE", site.env_file(&variables));
    command.arg(&site.trainer).stdout(Stdio::piped()).stderr(File::create(log).unwrap());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let link = fs::read_to_string(site.data().join("link")).unwrap();
    let (address, token) = link.trim().split_once("/?token=").unwrap();
    let address = address.strip_prefix("http://").unwrap().parse().unwrap();
    let (link_token, token) = (token.to_owned(), site.admin.clone());
    (Gateway { child, address, link_token, token }, line)
}

#[test]
fn the_tokens_of_a_gateway_are_found_nowhere_but_where_they_belong() {
    let folder = tempfile::tempdir().unwrap();
    let (trainer, log) = (folder.path().join("trainer"), folder.path().join("log"));
    let drawn = Page::cut(150, 150);
    let look_around = "env; tr '\\0' ' ' </proc/$PPID/environ; tr '\\0' ' ' </proc/$PPID/cmdline";
    let script = format!("({look_around}) >&2; drawn='{}'{QUICK}", drawn.path("").display());
    write_script(&trainer, &script);
    let site = Site::with_trainer(&trainer);
    let (gateway, said) = start(&site, &log);
    let secrets = [
        ("token of an account", &*site.admin),
        ("token of the link", &*gateway.link_token),
        ("password of MLflow", PASSWORD),
        ("key of S3", KEY),
    ];
    let mut search = Search::new(&secrets);
    search.look("output", "", said.as_bytes());
    // The one file where it may be: it shows that the search would find it.
    let link = site.data().join("link");
    let mut control = Search::new(&secrets);
    control.look("file", "link", &fs::read(&link).unwrap());
    assert_eq!(control.hits, ["token of the link in file link"]);
    assert_eq!(fs::metadata(&link).unwrap().mode() & 0o777, 0o600);

    let answered = |search: &mut Search, what: &str, answer: &Answer| {
        search.look("answer", what, answer.head.as_bytes());
        search.look("answer", what, &answer.body);
    };
    // A run from its page to its files, by a program.
    let uploaded = gateway.upload(&page()).unwrap().expect(201);
    let id = id_of(&uploaded);
    answered(&mut search, "upload", &uploaded);
    answered(&mut search, "run", &gateway.post("/v1/runs", &tiny(&id, 1)).expect(202));
    gateway.finish(1);
    search.look_at_processes();
    for path in [
        "/v1/runs",
        "/v1/runs/1",
        "/v1/runs/1/events",
        "/v1/runs/1/log",
        "/v1/runs/1/report",
        "/v1/pages",
        "/status",
        "/metrics",
        "/openapi.json",
        "/v1/runs/99",
        "/nowhere",
    ] {
        answered(&mut search, path, &gateway.get(path));
    }
    // By a browser: what it gets with the link is its cookie, and no page repeats that.
    let entered = format!("/?token={}", gateway.link_token);
    let entered = gateway.send("GET", &entered, &[], b"").expect(303);
    let cookie = entered.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let without = entered.head.replace(&cookie, "");
    search.look("answer", "the link", without.as_bytes());
    for path in ["/", "/new", "/runs/1", "/compare?run=1", "/compare.csv?run=1", "/runs/99"] {
        let shown = gateway.send("GET", path, &[("Cookie", &cookie)], b"");
        answered(&mut search, path, &shown);
    }
    // Tokens in places where they don't belong.
    let token = &site.admin;
    let wrong = format!("/login?token={token}");
    answered(&mut search, "login", &gateway.send("GET", &wrong, &[], b""));
    let basic = format!("Basic {token}");
    let basic = [("Authorization", &*basic)];
    answered(&mut search, "basic", &gateway.send("GET", "/v1/runs", &basic, b"").expect(401));
    let long = format!("Bearer {token}{token}{token}{token}");
    let long = [("Authorization", &*long)];
    answered(&mut search, "long", &gateway.send("GET", "/v1/runs", &long, b"").expect(401));
    answered(&mut search, "run", &gateway.get(&format!("/v1/runs/{token}")).expect(404));
    let broken = form(&[("image.png".to_owned(), b"GIF".to_vec())]);
    answered(&mut search, "form", &gateway.send_form("/v1/pages", &broken).expect(422));
    answered(&mut search, "wrong", &gateway.post("/v1/runs", &json!({"pages": 1})).expect(422));

    // Variables that can't be used, of which each is a secret where it does not belong.
    let s3 =
        format!("GATEWAY_OBJECTS=s3://pages/x\nAWS_ENDPOINT_URL=http://127.0.0.1:{DEAD_PORT}\n");
    let keys = format!("AWS_ACCESS_KEY_ID={KEY}\nAWS_SECRET_ACCESS_KEY={KEY}\n");
    for (lines, code) in [
        (format!("{s3}{keys}AWS_SESSION_TOKEN={KEY}\n"), 7),
        (format!("{s3}AWS_ACCESS_KEY_ID={KEY}\n"), 3),
        (format!("GATEWAY_OBJECTS={KEY}\n{keys}"), 3),
        (format!("GATEWAY_OBJECTS=s3://pages\nAWS_ENDPOINT_URL=http://me:{KEY}@host\n{keys}"), 3),
        (format!("MLFLOW_TRACKING_URI=http://me:{PASSWORD}@host\n"), 3),
        (format!("MLFLOW_TRACKING_URI=http://host/\nMLFLOW_TRACKING_PASSWORD={PASSWORD}\n"), 3),
        (format!("MLFLOW_TRACKING_URI=http://host/\n{PASSWORD}\n"), 3),
    ] {
        let other = Site::with_trainer(&trainer);
        let file = other.env_file(&lines);
        let refused = other.command(&["-vv", "--listen", "127.0.0.1:0", "--env-file", &file]).run();
        assert_eq!(refused.code(), Some(code), "{refused}");
        search.look("output", "refused variables", refused.to_string().as_bytes());
    }

    let copy = folder.path().join("copy.sqlite");
    let copied = site.command(&["backup", copy.to_str().unwrap()]).run().success();
    search.look("output", "backup", copied.to_string().as_bytes());
    let listed = site.command(&["account", "list"]).run().success();
    search.look("output", "account list", listed.to_string().as_bytes());
    for path in files_below(&site.data()).iter().chain([&log, &copy]).filter(|path| **path != link)
    {
        search.look("file", &path.display().to_string(), &fs::read(path).unwrap());
    }
    gateway.terminate();
    search.look("file", "the log", &fs::read(&log).unwrap());
    assert!(!link.exists());
    for (kind, count) in &search.seen {
        eprintln!("{count:>7}  {kind}");
    }
    assert!(fs::read_to_string(&log).unwrap().contains("run 1 is succeeded"), "nothing was logged");
    assert!(search.hits.is_empty(), "{:#?}", search.hits);
}
