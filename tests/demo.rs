//! `./demo`: a whole site on one machine, from nothing to models and a picture, and back to
//! nothing.

use crate::support;

use std::fs;
#[cfg(feature = "gateway")]
use std::io::{Read as _, Write as _};
#[cfg(feature = "gateway")]
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

#[cfg(feature = "gateway")]
use serde_json::json;

use support::SECONDS;
#[cfg(feature = "gateway")]
use support::desk::page as part_of;
use support::program::{self, Program, expect};
use support::services::repository;
#[cfg(feature = "gateway")]
use support::wait_for;

/// A demonstration in a directory of its own, which ends with the test.
struct Demo {
    directory: tempfile::TempDir,
    binaries: PathBuf,
}

impl Demo {
    fn new() -> Self {
        // A short name, as Slurm needs it.
        let directory = tempfile::Builder::new().prefix("demo.").tempdir_in("/tmp").unwrap();
        Self { directory, binaries: program::check().parent().unwrap().to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("d")
    }

    /// `./demo COMMAND … DIR`
    fn run(&self, arguments: &[&str]) -> program::Finished {
        self.program(arguments).run()
    }

    fn program(&self, arguments: &[&str]) -> Program {
        let cargo_home = std::env::var_os("CARGO_HOME").unwrap_or_default();
        Program::new(repository().join("demo"))
            .args(arguments)
            .arg(self.path())
            .env("HOME", std::env::var_os("HOME").unwrap_or_default())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CARGO_HOME", cargo_home)
            .current_dir("/")
            .limit(SECONDS(240))
    }

    fn up(&self) -> program::Finished {
        self.run(&["up", "--every", "1", "--binaries", self.binaries.to_str().unwrap()])
    }

    /// A part of the example page, with settings that the test chooses.
    #[cfg(feature = "gateway")]
    fn page(&self, settings: &serde_json::Value) -> PathBuf {
        let page = self.directory.path().join("page");
        fs::create_dir_all(&page).unwrap();
        for name in ["image.png", "background.png", "regions.png", "layer_0.png", "layer_2.png"] {
            fs::write(page.join(name), part_of(name)).unwrap();
        }
        fs::write(page.join("settings.json"), settings.to_string()).unwrap();
        page
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let ended = Command::new(repository().join("demo")).arg("down").arg(self.path()).output();
        assert!(ended.is_ok_and(|output| output.status.success()) || std::thread::panicking());
    }
}

/// Command lines of the processes that were started for a directory: it is in their arguments or in
/// their environment.
#[cfg(feature = "gateway")]
fn processes_of(directory: &Path) -> Vec<String> {
    let sought = directory.to_str().unwrap().as_bytes();
    let holds = |bytes: &[u8]| bytes.windows(sought.len()).any(|part| part == sought);
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        if path.ends_with(std::process::id().to_string()) {
            continue;
        }
        let (command, environment) =
            (fs::read(path.join("cmdline")), fs::read(path.join("environ")));
        let command = command.unwrap_or_default();
        if holds(&command) || environment.is_ok_and(|bytes| holds(&bytes)) {
            found.push(String::from_utf8_lossy(&command).replace('\0', " "));
        }
    }
    found
}

#[test]
#[cfg(feature = "gateway")]
fn a_newcomer_sees_a_page_become_models_and_a_picture_and_nothing_is_left() {
    let demo = Demo::new();
    let finished = demo.up().success();
    assert!(finished.stdout.contains("Next: ./demo job"), "{finished}");
    assert!(!processes_of(&demo.path()).is_empty(), "this test can't see the demo's processes");
    let again = demo.up().success();
    assert!(again.stdout.contains("already up"), "{again}");

    let page = demo.page(&json!({"Maximum number of training epochs": 1, "Seed": 3,
        "Maximum number of samples per label": 100, "Patch height": 32, "Patch width": 32}));
    let finished = demo.run(&["job", "--page", page.to_str().unwrap()]).success();
    for part in ["calls it run 1", "running", "succeeded", "the models are back"] {
        assert!(finished.stdout.contains(part), "{part:?} is not in\n{finished}");
    }
    let results: Vec<_> = fs::read_dir(demo.path().join("results")).unwrap().flatten().collect();
    assert_eq!(results.len(), 1, "{finished}");
    let models = results[0].path();
    for name in ["Background Model", "Model 0", "Model 2"] {
        let bytes = fs::read(models.join(name).with_extension("hdf5")).unwrap();
        assert!(bytes.starts_with(b"\x89HDF\r\n\x1a\n"), "{name} is no HDF5 file");
    }
    let picture = models.join("layers/overlay.png");
    assert!(finished.stdout.contains(picture.to_str().unwrap()), "{finished}");
    let picture = png::Decoder::new(std::io::BufReader::new(fs::File::open(picture).unwrap()));
    let picture = picture.read_info().unwrap();
    assert_eq!((picture.info().width, picture.info().height), (136, 136));
    assert!(finished.stdout.contains("report.html"), "{finished}");

    wait_for("the schedule to see that the job is over", SECONDS(60), || {
        let status = demo.run(&["status"]).success();
        (status.stdout.contains("answered") && status.stdout.contains("every 1 s")).then_some(())
    });

    let page = demo.page(&json!({"Patch height": 30}));
    let refused = demo.run(&["job", "--page", page.to_str().unwrap()]);
    expect(&refused, 9, &[]);
    assert!(
        refused.stdout.contains("the gateway's user reads: ")
            && refused.stdout.contains("Patch height")
    );

    let finished = demo.run(&["down"]).success();
    assert!(finished.stdout.contains("stays in"), "{finished}");
    assert_eq!(processes_of(&demo.path()), Vec::<String>::new());
    let mut left: Vec<_> =
        fs::read_dir(demo.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["demo", "gateway", "results"]);
}

#[test]
#[cfg(feature = "gateway")]
fn the_gateway_alone_is_there_for_a_browser() {
    let demo = Demo::new();
    let binaries = demo.binaries.to_str().unwrap();
    let finished = demo.run(&["gateway", "--binaries", binaries]).success();
    let link = fs::read_to_string(demo.path().join("gateway/link")).unwrap();
    let (address, token) = link.trim().split_once("/?token=").unwrap();
    assert!(finished.stdout.contains(address) && !finished.stdout.contains(token), "{finished}");
    let host = address.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    write!(stream, "GET /healthz HTTP/1.0\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
    let again = demo.run(&["gateway", "--binaries", binaries]).success();
    assert!(again.stdout.contains(address), "{again}");
    assert!(demo.run(&["status"]).success().stdout.contains(address));
    let finished = demo.run(&["down"]).success();
    assert!(finished.stdout.contains("gateway"), "{finished}");
    assert_eq!(processes_of(&demo.path()), Vec::<String>::new());
    let mut left: Vec<_> =
        fs::read_dir(demo.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["demo", "gateway"]);
}

#[test]
fn a_link_is_not_followed_to_where_it_leads() {
    use std::os::unix::fs::symlink;

    let demo = Demo::new();
    let elsewhere = demo.directory.path().join("elsewhere");
    let thesis = elsewhere.join("thesis.tex");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, demo.path()).unwrap();
    for command in ["up", "gateway", "job", "status", "down"] {
        expect(&demo.run(&[command]), 1, &["is a link, or somebody else's"]);
    }
    fs::remove_file(demo.path()).unwrap();
    fs::create_dir(demo.path()).unwrap();
    fs::write(&thesis, "months of work").unwrap();
    symlink(&thesis, demo.path().join("demo")).unwrap();
    expect(&demo.run(&["gateway"]), 1, &["is a link, or somebody else's"]);
    assert_eq!(fs::read_to_string(&thesis).unwrap(), "months of work");
    fs::remove_dir_all(demo.path()).unwrap();
}

#[test]
fn without_a_demo_each_command_says_what_to_do() {
    let demo = Demo::new();
    let finished = demo.run(&["job"]);
    expect(&finished, 1, &["nothing is up", "./demo up"]);
    expect(&demo.run(&["status"]), 1, &["nothing is up"]);
    assert!(demo.run(&["down"]).success().stdout.contains("nothing is up"));
    expect(&demo.run(&["job", "--every", "5"]), 2, &["what is «--every»?", "usage:"]);
    expect(&demo.run(&["up", "--every", "soon"]), 2, &["a number of seconds"]);
    expect(&demo.run(&["sideways"]), 2, &["one of up, job, gateway, status and down"]);

    fs::create_dir(demo.path()).unwrap();
    fs::write(demo.path().join("thesis.tex"), "months of work").unwrap();
    expect(&demo.up(), 1, &["has files in it and is not ours"]);
    assert!(demo.run(&["down"]).success().stdout.contains("nothing is up"));
    assert!(demo.path().join("thesis.tex").exists());
}
