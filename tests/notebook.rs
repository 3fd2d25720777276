//! `slurm/notebook.sh` and `examples/models.ipynb`: a Jupyter server in a Slurm job, and a notebook
//! that says of two runs what their reports say. Real Slurm, real Jupyter, real Keras.
//!
//! `HPC_TRAINER_TEST_PYTHON` names a Python with Jupyter; `run_tests` makes one. Where it is
//! missing, that is said, and nothing is tested but the script's own words.
#![cfg(feature = "trainer")]

use crate::support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::local::Page;
use support::program::{Program, expect, run_trainer};
use support::services::{Services, repository};
use support::{SECONDS, is_installed, wait_for, write_script};

/// The Python with Jupyter.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("HPC_TRAINER_TEST_PYTHON").map(PathBuf::from)?;
    let mut import = Command::new(&python);
    import.args(["-c", "import jupyter_server, nbclient, ipykernel, PIL"]).stderr(Stdio::null());
    let is_there = import.status().is_ok_and(|status| status.success());
    if !is_there {
        assert!(!is_installed("notebook"), "Jupyter is installed and can't be imported");
        eprintln!("SKIPPED: there is no Python with Jupyter; ./run_tests makes one");
    }
    is_there.then_some(python)
}

fn notebook(home: &Path) -> Program {
    Program::new(repository().join("slurm/notebook.sh"))
        .env("HOME", home)
        .env("LC_ALL", "C")
        .limit(SECONDS(300))
}

/// What a server answers: its status line and its body.
fn get(port: u16, path: &str, token: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(SECONDS(30))).unwrap();
    let request = format!(
        "GET {path} HTTP/1.0\r\nHost: localhost:{port}\r\nAuthorization: token {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.lines().next()?.to_owned(), body.to_owned()))
}

/// The number after these words.
fn number(text: &str, words: &str) -> Option<u16> {
    let (_, rest) = text.split_once(words)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A server that runs: only with the token it shows the folder, and no command line has the token.
fn is_sound(port: u16, home: &Path) {
    let file = home.join(".hpc-trainer/notebook/token");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = fs::read_to_string(&file).unwrap();
    assert!(token.len() == 48 && token.chars().all(|c| c.is_ascii_hexdigit()), "{token:?}");
    let (status, _) = get(port, "/api/contents", "wrong").unwrap();
    assert!(status.contains("403"), "{status}");
    let (status, body) = get(port, "/api/contents", &token).unwrap();
    assert!(status.contains("200") && body.contains("models.ipynb"), "{status}\n{body}");
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(!line.contains(&token), "{line}");
    }
}

#[test]
fn a_server_runs_in_a_job_of_its_own_and_ends_with_it() {
    let Some(python) = python() else { return };
    let services = Services::shared();
    let cluster = services.cluster();
    let home = tempfile::Builder::new().prefix("site.").tempdir_in("/tmp").unwrap();
    let pages = home.path().join("pages");
    fs::create_dir(&pages).unwrap();
    let finished = notebook(home.path())
        .env("SLURM_CONF", cluster.conf())
        .env("PYTHON", &python)
        .args(["--with", "server", "--time", "0-00:10", "--cpus", "1", "--mem", "500"])
        .arg(&pages)
        .args(["--", "--comment=pages"])
        .run()
        .success();
    let said = &finished.stdout;
    let port = number(said, "at port ").unwrap_or_else(|| panic!("{finished}"));
    let tunnel = format!("ssh -N -L 8888:localhost:{port} -J ");
    assert!(said.contains(&tunnel), "{finished}");
    let job = number(said, "scancel ").unwrap().to_string();
    let shown = cluster.job(&job).unwrap();
    assert_eq!((shown["JobName"].as_str(), shown["Comment"].trim()), ("hpc-notebook", "pages"));
    is_sound(port, home.path());
    let folder = home.path().join(".hpc-trainer/notebook");
    let log = fs::read_to_string(folder.join(format!("{job}.log"))).unwrap();
    let token = fs::read_to_string(folder.join("token")).unwrap();
    assert!(!log.contains(&token) && !said.contains(&token), "{log}");

    cluster.cancel(&job);
    assert_eq!(cluster.wait_for_end(&job, SECONDS(60))["JobState"], "CANCELLED");
    wait_for("the server to end", SECONDS(60), || {
        TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
    });

    // On this machine, with the token that is there.
    let mut running = notebook(home.path())
        .env("PYTHON", &python)
        .args(["--here", "--with", "server"])
        .arg(&pages)
        .start();
    let port = wait_for("the server on this machine", SECONDS(240), || {
        assert!(running.is_running());
        let told = fs::read_to_string(folder.join(format!("here-{}.place", running.id()))).ok()?;
        told.split_whitespace().nth(1)?.parse().ok()
    });
    is_sound(port, home.path());
    assert_eq!(fs::read_to_string(folder.join("token")).unwrap(), token);
    running.signal("INT");
    let finished = running.wait();
    assert!(finished.stdout.contains(&format!("http://127.0.0.1:{port}/")), "{finished}");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "{finished}");
    // The token that others can read is not used.
    fs::set_permissions(folder.join("token"), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = notebook(home.path()).env("PYTHON", &python).arg("--here").arg(&pages).run();
    expect(&refused, 1, &["others can read"]);
}

#[test]
fn the_address_that_is_told_is_the_one_that_is_listened_at() {
    let home = tempfile::tempdir().unwrap();
    let pages = home.path().join("pages");
    fs::create_dir(&pages).unwrap();
    // In the place of a Python with Jupyter: it notes the options of the server.
    let text = "[ \"$1\" = -m ] || exit 0\necho \"$*\" >\"$HOME/options\"\n\
        echo '{\"port\": 23456}' >\"$JUPYTER_RUNTIME_DIR/jpserver-1.json\"\nexec sleep 300";
    let python = home.path().join("python");
    write_script(&python, text);
    let node = base::host_name();
    for (listen, host, end) in
        [("localhost", "127.0.0.1", "localhost"), ("node", node.as_str(), node.as_str())]
    {
        let running = notebook(home.path())
            .env("PYTHON", &python)
            .args(["--here", "--with", "server", "--listen", listen])
            .arg(&pages)
            .start();
        let place = home.path().join(".hpc-trainer/notebook");
        let place = place.join(format!("here-{}.place", running.id()));
        wait_for("the server", SECONDS(60), || place.exists().then_some(()));
        running.signal("INT");
        let finished = running.wait();
        for part in [format!("open http://{host}:23456/\n"), format!("-L 8888:{end}:23456 ")] {
            assert!(finished.stdout.contains(&part), "{part:?} is not in\n{finished}");
        }
        let options = fs::read_to_string(home.path().join("options")).unwrap();
        assert!(options.contains(&format!("--ServerApp.ip={host} ")), "{options}");
    }
}

#[test]
fn the_notebooks_script_says_what_it_wants() {
    let home = tempfile::tempdir().unwrap();
    let help = notebook(home.path()).arg("--help").run().success();
    for word in ["--here", "--listen", "SBATCH_ACCOUNT", "never stands in a command line"] {
        assert!(help.stdout.contains(word), "{word}\n{help}");
    }
    for (arguments, part) in [
        (&["/nowhere-at-all"][..], "there is no folder"),
        (&[], "which DIR?"),
        (&["--listen", "world", "/tmp"], "localhost or node"),
        (&["--with", "emacs", "/tmp"], "lab, notebook or server"),
        (&["--cpus", "two", "/tmp"], "take a number"),
        (&["--time"], "wants a value"),
        (&["--frobnicate", "/tmp"], "what is"),
        (&["/tmp", "/tmp"], "one DIR only"),
    ] {
        expect(&notebook(home.path()).args(arguments).run(), 2, &[part]);
    }
    let pages = home.path().join("pages");
    fs::create_dir(&pages).unwrap();
    let none = notebook(home.path()).env("PYTHON", "no-python").arg("--here").arg(&pages).run();
    expect(&none, 3, &["there is no no-python"]);
}

/// Trains a page quickly.
fn train(page: &Page, out: &str, epochs: u32, seed: u32) -> Value {
    let mut program = Program::new(run_trainer().unwrap())
        .arg("--local")
        .arg(page.path("page"))
        .arg("--out")
        .arg(page.path(out))
        .env("HPC_TRAINER_DEVICE", "cpu")
        .limit(SECONDS(240));
    for (name, value) in [
        ("Patch height", 32),
        ("Patch width", 32),
        ("Batch Size", 4),
        ("Maximum number of samples per label", 40),
        ("Maximum number of training epochs", epochs),
        ("Seed", seed),
    ] {
        program = program.args(["--set", &format!("{name}={value}")]);
    }
    program.run().success();
    serde_json::from_slice(&fs::read(page.path(out).join("training.json")).unwrap()).unwrap()
}

#[test]
fn the_notebook_finds_the_figures_of_two_runs_with_keras() {
    let Some(python) = python() else { return };
    let page = Page::cut(150, 150);
    let folder = page.path("page");
    fs::create_dir(&folder).unwrap();
    for name in ["image.png", "background.png", "layer_0.png", "regions.png"] {
        fs::rename(page.path(name), folder.join(name)).unwrap();
    }
    for name in ["layer_1.png", "layer_2.png"] {
        fs::remove_file(page.path(name)).unwrap();
    }
    let runs = [train(&page, "first", 8, 7), train(&page, "second", 1, 8)];
    fs::copy(repository().join("examples/models.ipynb"), page.path("models.ipynb")).unwrap();
    let executed = Program::new(&python)
        .args(["-m", "jupyter", "execute", "models.ipynb", "--output", "executed.ipynb"])
        .current_dir(page.path(""))
        .env("HOME", page.path("home"))
        .limit(SECONDS(300))
        .run();
    assert!(executed.status.success(), "{executed}");
    let text = fs::read_to_string(page.path("executed.ipynb")).unwrap();
    let notebook: Value = serde_json::from_str(&text).unwrap();
    let outputs: Vec<&Value> = notebook["cells"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|cell| cell["outputs"].as_array())
        .flatten()
        .collect();
    let words = |value: &Value| match value {
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect::<String>(),
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    let said: String = outputs.iter().map(|output| words(&output["text"])).collect();
    let shown: String = outputs.iter().map(|output| words(&output["data"]["text/html"])).collect();
    for part in ["the page: page", "the runs: first, second", "Keras 2.15", "1429733 numbers"] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    let pictures = outputs.iter().filter(|output| output["data"].get("image/png").is_some());
    assert_eq!(pictures.count(), 4, "the page, two runs, the difference:\n{said}");
    // Keras's windows and our own find the same.
    for (at, name) in ["Background Model", "Model 0"].into_iter().enumerate() {
        let row = shown.split("F1 on this page").nth(1).unwrap();
        let row = row.split(&format!("<td>{name}</td>")).nth(1).unwrap();
        for (run, cell) in runs.iter().zip(row.split("<td>").skip(1)) {
            let found: f64 = cell.split('<').next().unwrap().parse().unwrap();
            let layer = &run["layers"][at];
            assert_eq!(layer["model"], name);
            let expected = layer["f1"].as_f64().unwrap();
            assert!((found - expected).abs() < 0.005, "{name}: {found}, not {expected}\n{shown}");
        }
    }
    assert!(runs[0]["layers"][1]["f1"].as_f64().unwrap() > 0.1, "the first run has learned");
    for part in ["<td>seed</td><td>7</td><td>8</td>", "polyline"] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    let share = said.split(" of 22500 pixels differ").next().unwrap();
    let differ: u32 = share.rsplit('\n').next().unwrap().trim().parse().unwrap();
    assert!(differ > 0, "{said}");
}

#[test]
fn the_notebook_is_kept_without_outputs() {
    let text = fs::read_to_string(repository().join("examples/models.ipynb")).unwrap();
    let notebook: Value = serde_json::from_str(&text).unwrap();
    for cell in notebook["cells"].as_array().unwrap() {
        let code = cell["cell_type"] == "code";
        assert!(!code || cell["outputs"].as_array().is_some_and(Vec::is_empty), "{cell}");
        assert!(!code || cell["execution_count"].is_null(), "{cell}");
    }
}
