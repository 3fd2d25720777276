//! Runs are logged in MLflow, too: in a real server, which is away at first, and each run once.
//!
//! `HPC_TRAINER_TEST_SERVERS` names the folder of programs of an environment with MLflow;
//! `run_tests` makes one. Where it is missing, that is said, and nothing is tested.
#![cfg(feature = "gateway")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, QUICK, Site, id_of, page, tiny};
use crate::support::{SECONDS, is_installed, wait_for, write_script};

/// A program of the environment with other people's servers.
pub(crate) fn server_program(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("HPC_TRAINER_TEST_SERVERS")?);
    let program = folder.join(name);
    let is_there = program.exists();
    assert!(is_there || !is_installed("servers"), "{} is not there", program.display());
    is_there.then_some(program)
}

/// MLflow's server; it ends with this.
struct Server {
    child: Child,
}

impl Server {
    /// Begins to start, which takes seconds.
    fn begin(folder: &Path) -> Option<Self> {
        let python = server_program("python")?;
        let mut import = Command::new(&python);
        let find = "import importlib.util as u, sys; sys.exit(u.find_spec('mlflow') is None)";
        if !import.args(["-c", find]).status().is_ok_and(|status| status.success()) {
            assert!(!is_installed("servers"), "MLflow is installed and is not found");
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/mlflow_server.py");
        let mut command = Command::new(python);
        command.arg("-B").arg(script).arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        Some(Self { child: command.stderr(Stdio::null()).spawn().unwrap() })
    }

    /// Where it is, once it is there.
    fn address(&mut self) -> SocketAddr {
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        SocketAddr::from(([127, 0, 0, 1], line.trim().parse().expect("MLflow's port")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port behind which the server is at times.
pub(crate) struct Relay {
    address: SocketAddr,
    now: Arc<Mutex<Now>>,
}

/// Where a relay leads now, and the connections that go through it.
#[derive(Default)]
struct Now {
    to: Option<SocketAddr>,
    open: Vec<TcpStream>,
}

impl Relay {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self { address: listener.local_addr().unwrap(), now: Arc::default() };
        let now = Arc::clone(&relay.now);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut now = now.lock().unwrap();
                let Some(server) = now.to.and_then(|to| TcpStream::connect(to).ok()) else {
                    continue;
                };
                let again = |stream: &TcpStream| stream.try_clone().unwrap();
                now.open.extend([again(&client), again(&server)]);
                for (mut from, mut to) in [(again(&client), again(&server)), (server, client)] {
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        relay
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Has the server be there, or away: then connections end, too.
    pub(crate) fn lead(&self, to: Option<SocketAddr>) {
        let mut now = self.now.lock().unwrap();
        now.to = to;
        for stream in now.open.drain(..).filter(|_| to.is_none()) {
            // It may have ended before.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Asks MLflow itself.
fn ask(server: SocketAddr, method: &str, path: &str, body: &Value) -> Value {
    let mut stream = TcpStream::connect(server).unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "{method} /api/2.0/{path} HTTP/1.0\r\nHost: {server}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{path}: {answer}");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {answer}"))
}

/// All runs that MLflow has, the first one first.
fn runs(server: SocketAddr) -> Vec<Value> {
    let asked = json!({"experiment_ids": ["1"], "order_by": ["attributes.start_time ASC"]});
    let found = ask(server, "POST", "mlflow/runs/search", &asked);
    found["runs"].as_array().cloned().unwrap_or_default()
}

/// A parameter, a tag or a metric of a run.
fn value<'a>(run: &'a Value, kind: &str, name: &str) -> &'a Value {
    let found = run["data"][kind].as_array().into_iter().flatten();
    found
        .filter(|pair| pair["key"] == name)
        .map(|pair| &pair["value"])
        .next()
        .unwrap_or(&Value::Null)
}

/// Waits until MLflow has so many runs that are over.
fn wait_for_runs(server: SocketAddr, count: usize) -> Vec<Value> {
    wait_for("the runs in MLflow", SECONDS(60), || {
        let found = runs(server);
        let over = found.iter().filter(|run| run["info"]["status"] != "RUNNING").count();
        (over == count).then_some(found)
    })
}

/// How often each epoch of a metric is there.
fn epochs(server: SocketAddr, run: &Value, metric: &str) -> Vec<u64> {
    let id = run["info"]["run_id"].as_str().unwrap();
    let path = format!("mlflow/metrics/get-history?run_id={id}&metric_key={metric}");
    let found = ask(server, "GET", &path, &Value::Null);
    let metrics = found["metrics"].as_array().unwrap().iter();
    let mut steps: Vec<u64> = metrics.map(|metric| metric["step"].as_u64().unwrap_or(0)).collect();
    steps.sort_unstable();
    steps
}

const THREE_EPOCHS: &str = r#"
for epoch in 1 2 3; do
    printf '{"event":"epoch","model":"Model 0","report":{"epoch":%d,"training_loss":0.5,' $epoch
    printf '"validation":{"loss":0.4,"accuracy":0.9,"precision":0.8,"recall":0.7,"f1":0.75},'
    echo '"best":true,"seconds":1.0}}'
done >>"$told"
if grep -q '"Seed":13' pages/1/settings.json; then
    echo 'run_trainer: the page is odd' >&2; exit 11
fi"#;

#[test]
fn each_run_is_logged_once_whether_the_server_is_there_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut mlflow) = Server::begin(folder.path()) else {
        eprintln!("SKIPPED: there is no MLflow; ./run_tests makes an environment with it");
        return;
    };
    let trainer = folder.path().join("trainer");
    write_script(&trainer, &format!("{QUICK}{THREE_EPOCHS}"));
    let site = Site::with_trainer(&trainer);
    let relay = Relay::new();
    let mut environment = vec![
        ("MLFLOW_TRACKING_URI", relay.url()),
        ("MLFLOW_EXPERIMENT_NAME", "Salzinnes".to_owned()),
        ("MLFLOW_TRACKING_TOKEN", "planted-token".to_owned()),
    ];
    // From a file first, then from the environment.
    let lines: Vec<String> =
        environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    let file = site.env_file(&lines.concat());
    let gateway = site.try_start(&[], &["--env-file", &file]).unwrap();
    let page = id_of(&gateway.upload(&page()).unwrap().expect(201));
    let place = |gateway: &Gateway, seed: u64| {
        let mut asked = tiny(&page, 3);
        asked["settings"]["Seed"] = seed.into();
        asked["labels"] = json!({"hand": "A"});
        gateway.post("/v1/runs", &asked).expect(202).json()["id"].as_i64().unwrap()
    };

    // The server is away: that delays nothing, and is caught up with.
    let first = place(&gateway, 7);
    assert_eq!(gateway.finish(first)["state"], "succeeded");
    let server = mlflow.address();
    relay.lead(Some(server));
    let logged = wait_for_runs(server, 1).remove(0);
    assert_eq!(logged["info"]["status"], "FINISHED");
    assert_eq!(logged["info"]["run_name"], "tiny");
    for (kind, name, expected) in [
        ("params", "Patch height", json!("32")),
        ("params", "Seed", json!("7")),
        ("tags", "label.hand", json!("A")),
        ("tags", "mlflow.user", json!("boss")),
        ("metrics", "Model 0/validation_f1", json!(0.75)),
        ("metrics", "Model 0/f1", json!(0.5)),
    ] {
        assert_eq!(value(&logged, kind, name), &expected, "{name}: {logged}");
    }
    assert_eq!(epochs(server, &logged, "Model%200/training_loss"), [1, 2, 3]);
    let place_of_files = logged["info"]["artifact_uri"].as_str().unwrap();
    let place_of_files = place_of_files.strip_prefix("mlflow-artifacts:/").unwrap();
    let files = folder.path().join("artifacts").join(place_of_files);
    for (name, content) in [("models/Model 0.hdf5", "model\n"), ("report.html", "report\n")] {
        assert_eq!(fs::read_to_string(files.join(name)).unwrap(), content);
    }
    assert!(files.join("training.json").exists() && files.join("log.txt").exists());
    // Both ways from here to there.
    let link = gateway.get("/v1/runs/1").json()["links"]["mlflow"].clone();
    let id = logged["info"]["run_id"].as_str().unwrap();
    assert_eq!(link, format!("{}/#/experiments/1/runs/{id}", relay.url()));

    // It goes away in between, a training fails, and the gateway is killed before it is back.
    relay.lead(None);
    let second = place(&gateway, 13);
    assert_eq!(gateway.finish(second)["state"], "failed");
    drop(gateway);
    relay.lead(Some(server));
    let gateway = site.start_with(&environment);
    let logged = wait_for_runs(server, 2).remove(1);
    assert_eq!(logged["info"]["status"], "FAILED");
    assert_eq!(value(&logged, "tags", "mlflow.note.content"), "The page is odd.");

    // Killed between MLflow and its own store, again and again.
    relay.lead(None);
    let third = place(&gateway, 8);
    assert_eq!(gateway.finish(third)["state"], "succeeded");
    gateway.terminate();
    relay.lead(Some(server));
    // The first two points are those of the store that is opened.
    for (at, name) in [
        (3, "after making a run in MLflow"),
        (4, "after logging epochs in MLflow"),
        (4, "after sending the files of a run to MLflow"),
    ] {
        let log = folder.path().join(name);
        let mut dying = environment.clone();
        dying.push(("HPC_TRAINER_DIE_AT", at.to_string()));
        dying.push(("HPC_TRAINER_DIE_LOG", log.display().to_string()));
        let mut gateway = site.try_start(&dying, &[]).unwrap();
        wait_for(name, SECONDS(30), || gateway.child.try_wait().unwrap());
        assert_eq!(crate::crash::points(&log).last().unwrap(), name);
    }
    let gateway = site.start_with(&environment);
    let all = wait_for_runs(server, 3);
    assert_eq!(all.len(), 3, "{all:?}");
    for run in &all {
        assert_eq!(epochs(server, run, "Model%200/training_loss"), [1, 2, 3], "{run}");
    }
    // What is not asked for is not logged: a gateway without the variable, and one that has it
    // then.
    gateway.terminate();
    environment.clear();
    let gateway = site.start();
    let fourth = place(&gateway, 9);
    assert_eq!(gateway.finish(fourth)["state"], "succeeded");
    assert!(gateway.get("/v1/runs/4").json()["links"].get("mlflow").is_none());
    gateway.terminate();
    assert_eq!(runs(server).len(), 3);
    site.assert_tidy("MLflow");
}
