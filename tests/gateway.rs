//! The gateway: a page goes in, models come out, whatever happens to the gateway meanwhile; and
//! what is wrong is answered by a problem document.
#![cfg(feature = "gateway")]
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use domain::hex_sha256;
use serde_json::{Value, json};

use crate::local::Page;
use crate::support::program::{Program, gateway, run_trainer};
use crate::support::{SECONDS, wait_for, write_script};

const PARTS: [&str; 6] =
    ["image.png", "background.png", "regions.png", "layer_0.png", "layer_1.png", "layer_2.png"];

fn program() -> &'static Path {
    gateway().unwrap()
}

/// A folder with its accounts, in which gateways are started and killed.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    trainer: PathBuf,
    /// Token of an administrator.
    admin: String,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with_trainer(run_trainer().unwrap())
    }

    pub(crate) fn with_trainer(trainer: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut site = Self { folder, trainer: trainer.to_owned(), admin: String::new() };
        site.admin = site.account("boss", "admin");
        site
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, arguments: &[&str]) -> Program {
        Program::new(program()).arg("--data").arg(self.data()).args(arguments)
    }

    /// Makes an account; its token.
    fn account(&self, name: &str, role: &str) -> String {
        let added = self.command(&["account", "add", name, "--role", role]).run().success();
        added.stdout.trim().to_owned()
    }

    pub(crate) fn start(&self) -> Gateway {
        self.start_with(&[])
    }

    fn start_with(&self, environment: &[(&str, String)]) -> Gateway {
        self.try_start(environment, &[]).expect("the gateway says where it is")
    }

    /// A gateway; `None` when it ends before it says where it is.
    pub(crate) fn try_start(
        &self,
        environment: &[(&str, String)],
        more: &[&str],
    ) -> Option<Gateway> {
        let mut command = Command::new(program());
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .envs(environment.iter().map(|(name, value)| (*name, value)))
            .arg("--data")
            .arg(self.data())
            .args(["--quiet", "--listen", "127.0.0.1:0", "--trainer"])
            .arg(&self.trainer)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(link) = line.trim().strip_prefix("open http://") else {
            child.wait().unwrap();
            return None;
        };
        let (address, token) = link.split_once("/?token=").unwrap();
        Some(Gateway {
            child,
            address: address.parse().unwrap(),
            link_token: token.to_owned(),
            token: self.admin.clone(),
        })
    }

    /// The names of all objects on the disk.
    fn objects(&self) -> BTreeSet<String> {
        let shelves = fs::read_dir(self.data().join("objects")).unwrap();
        let files = shelves.flat_map(|shelf| fs::read_dir(shelf.unwrap().path()).unwrap());
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Asserts that nothing unfinished is left, and that each object is what its name says.
    pub(crate) fn assert_tidy(&self, what: &str) {
        for name in ["incoming", "runs"] {
            let left: Vec<_> = fs::read_dir(self.data().join(name)).unwrap().collect();
            assert!(left.is_empty(), "{what}: {left:?}");
        }
        for object in self.objects() {
            let path = self.data().join("objects").join(&object[..2]).join(&object);
            assert_eq!(hex_sha256(&fs::read(path).unwrap()), object, "{what}");
        }
    }
}

/// A gateway that runs; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) link_token: String,
    pub(crate) token: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let wanted = |line: &&str| {
            line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
        };
        self.head.lines().find(wanted)?.split_once(':').map(|(_, value)| value.trim())
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.text());
        self
    }
}

impl Gateway {
    /// Sends bytes and reads what comes; `None` when the gateway dies meanwhile.
    fn raw(&self, bytes: &[u8]) -> Option<Answer> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(SECONDS(120))).unwrap();
        // What is refused early is not read to its end.
        let _ = stream.write_all(bytes);
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let end = all.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let body = all[end + 4..].to_vec();
        let answer = Answer { status, head, body };
        let chunked = answer.header("transfer-encoding") == Some("chunked");
        Some(if chunked { Answer { body: unchunked(&answer.body), ..answer } } else { answer })
    }

    fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Answer> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("Content-Length: {}\r\n\r\n", body.len());
        self.raw(&[request.as_bytes(), body].concat())
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_send(method, path, headers, body).expect("an answer")
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[("Authorization", &self.bearer())], b"")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = [("Authorization", &*self.bearer()), ("Content-Type", "application/json")];
        self.send("POST", path, &headers, body.to_string().as_bytes())
    }

    /// Sends a form.
    fn send_form(&self, path: &str, form: &[u8]) -> Answer {
        let headers = [
            ("Authorization", &*self.bearer()),
            ("Content-Type", "multipart/form-data; boundary=edge"),
        ];
        self.send("POST", path, &headers, form)
    }

    /// Uploads these files; `None` when the gateway dies meanwhile.
    pub(crate) fn upload(&self, files: &[(String, Vec<u8>)]) -> Option<Answer> {
        let headers = [
            ("Authorization", &*self.bearer()),
            ("Content-Type", "multipart/form-data; boundary=edge"),
        ];
        self.try_send("POST", "/v1/pages", &headers, &form(files))
    }

    /// Waits for the end of a run.
    pub(crate) fn finish(&self, run: i64) -> Value {
        wait_for("the run's end", SECONDS(120), || {
            let run = self.get(&format!("/v1/runs/{run}?wait=20s")).expect(200).json();
            let state = run["state"].as_str().unwrap();
            ["succeeded", "failed", "cancelled"].contains(&state).then_some(run)
        })
    }

    /// Ends it as a person would.
    pub(crate) fn terminate(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let ended = wait_for("the gateway's end", SECONDS(40), || self.child.try_wait().unwrap());
        assert_eq!(ended.code(), Some(0));
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let Some(piece) = rest.get(end + 2..end + 2 + size) else { break };
        body.extend_from_slice(piece);
        if size == 0 {
            break;
        }
        rest = &rest[end + 4 + size..];
    }
    body
}

/// A form with these files.
fn form(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, bytes) in files {
        let head = format!(
            "--edge\r\nContent-Disposition: form-data; name=\"files\"; filename=\"{name}\"\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--edge--\r\n");
    body
}

/// The files of a small page.
pub(crate) fn page() -> Vec<(String, Vec<u8>)> {
    let page = Page::cut(150, 150);
    let file = |name: &str| (name.to_owned(), fs::read(page.path(name)).unwrap());
    PARTS.into_iter().map(file).collect()
}

fn tiny(page: &str, epochs: u32) -> Value {
    json!({"name": "tiny", "pages": [page], "settings": {
        "Patch height": 32, "Patch width": 32, "Seed": 7,
        "Maximum number of training epochs": epochs, "Patience": epochs,
        "Maximum number of samples per label": 20,
    }})
}

pub(crate) fn id_of(page: &Answer) -> String {
    page.json()["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_page_becomes_models() {
    let site = Site::new();
    let gateway = site.start();
    let uploaded = gateway.upload(&page()).unwrap().expect(201);
    let id = id_of(&uploaded);
    assert_eq!(uploaded.header("location"), Some(&*format!("/v1/pages/{id}")));
    let layers = uploaded.json()["layers"].as_array().unwrap().len();
    assert_eq!(layers, 4);
    // The same page is there once.
    assert_eq!(id_of(&gateway.upload(&page()).unwrap().expect(200)), id);
    assert_eq!(gateway.get("/v1/pages").json()["pages"].as_array().unwrap().len(), 1);
    let thumbnail = gateway.get(&format!("/v1/pages/{id}/thumbnail")).expect(200);
    assert_eq!(
        (thumbnail.header("content-type"), &thumbnail.body[..2]),
        (Some("image/jpeg"), &[0xff, 0xd8][..])
    );

    let mut request = tiny(&id, 2);
    request["name"] = "<script>alert(1)</script>".into();
    request["dry_run"] = true.into();
    assert_eq!(gateway.post("/v1/runs", &request).expect(200).json()["runs"], 1);
    request["dry_run"] = false.into();
    let placed = gateway.post("/v1/runs", &request).expect(202);
    assert_eq!(placed.header("location"), Some("/v1/runs/1"));
    // The stream ends with the run.
    let events = gateway.get("/v1/runs/1/events").expect(200).text();
    let states = ["queued", "launch", "running", "succeeded"];
    let found: Vec<usize> = states
        .iter()
        .map(|state| events.find(&format!("\"state\":\"{state}\"")).expect(state))
        .collect();
    assert!(found.is_sorted(), "{events}");
    assert!(events.matches("event: epoch").count() >= 4, "{events}");
    let later = [("Authorization", &*gateway.bearer()), ("Last-Event-ID", "2")];
    let later = gateway.send("GET", "/v1/runs/1/events", &later, b"").text();
    assert!(!later.contains("\nid: 2\n") && later.contains("\nid: 3\n"), "{later}");

    let run = gateway.get("/v1/runs/1").expect(200).json();
    assert_eq!((&run["state"], &run["progress"]["percent"]), (&json!("succeeded"), &json!(100)));
    assert_eq!(run["figures"]["layers"].as_array().unwrap().len(), 4);
    let files = run["files"].as_array().unwrap();
    let model = files.iter().find(|file| file["name"] == "Model 0.hdf5").unwrap();
    let whole = gateway.get(model["href"].as_str().unwrap()).expect(200);
    assert_eq!(hex_sha256(&whole.body), model["sha256"].as_str().unwrap());
    assert_eq!(&whole.body[..4], b"\x89HDF");
    let tag = whole.header("etag").unwrap();
    let with = |name: &str, value: &str| {
        let headers = [("Authorization", &*gateway.bearer()), (name, value)];
        gateway.send("GET", "/v1/runs/1/models/Model%200.hdf5", &headers, b"")
    };
    assert!(with("If-None-Match", tag).expect(304).body.is_empty());
    assert_eq!(with("Range", "bytes=4-9").expect(206).body, whole.body[4..10]);
    with("Range", "bytes=99999999-").expect(416);
    let zip = gateway.get("/v1/runs/1/models.zip").expect(200);
    assert_eq!(zip.header("content-type"), Some("application/zip"));
    assert_eq!(
        names_in(&zip),
        ["Background Model.hdf5", "Model 0.hdf5", "Model 1.hdf5", "Model 2.hdf5"]
    );
    assert!(taken_from(&zip, "Model 0.hdf5") == whole.body, "the model in the zip is another one");
    let tagged =
        [("Authorization", &*gateway.bearer()), ("If-None-Match", zip.header("etag").unwrap())];
    gateway.send("GET", "/v1/runs/1/models.zip", &tagged, b"").expect(304);
    assert!(gateway.get("/v1/runs/1/report").expect(200).text().contains("<title>Training of 4"));
    assert!(gateway.get("/v1/runs/1/log").expect(200).text().contains("patches 32x32"));
    // What a foreign program writes as a name is text on every page.
    for path in ["/", "/runs/1", "/compare?run=1", "/new"] {
        let shown = gateway.get(path).expect(200).text();
        assert!(!shown.contains("<script>alert"), "{path}: {shown}");
        assert!(path == "/new" || shown.contains("&lt;script&gt;alert"), "{path}: {shown}");
    }
    let csv = gateway.get("/compare.csv?run=1").expect(200).text();
    assert!(csv.starts_with("run,name,state,"), "{csv}");

    // Going on from these models, with other settings.
    let retried = json!({"models_from": 1, "settings": {"Maximum number of training epochs": 1}});
    let retried = gateway.post("/v1/runs/1/retry", &retried).expect(202).json();
    assert_eq!(retried["settings"]["Maximum number of training epochs"], 1);
    let retried = gateway.finish(2);
    assert_eq!(retried["state"], "succeeded", "{retried}");
    let log = gateway.get("/v1/runs/2/log").text();
    assert!(log.contains("goes on from the model that was given"), "{log}");

    // The models look for their layers on another page, which comes as an image alone.
    let form = form(&page()[..1]);
    let sent = gateway.send_form("/v1/runs/1/apply", &form).expect(202).json();
    assert_eq!((&sent["task"], &sent["models_from"]), (&json!("apply"), &json!(1)));
    let applied = gateway.finish(3);
    assert_eq!(applied["state"], "succeeded", "{applied}");
    let layers = gateway.get("/v1/runs/3/layers.zip").expect(200);
    assert_eq!(
        names_in(&layers),
        ["background.png", "layer_0.png", "layer_1.png", "layer_2.png", "image.png"]
    );
    let layer = image::load_from_memory(&taken_from(&layers, "layer_0.png")).unwrap();
    assert_eq!((layer.width(), layer.height()), (150, 150));
    assert!(gateway.get("/v1/runs/3/files/overlay.png").expect(200).body.starts_with(b"\x89PNG"));
    gateway.terminate();
    site.assert_tidy("three runs");
}

#[test]
fn layers_that_models_have_found_are_a_page_to_be_corrected_and_trained_with() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = folder.path().join("trainer");
    let drawn = Page::cut(150, 150);
    let drawn_at = drawn.path("");
    write_script(&trainer, &format!("drawn='{}'{QUICK}", drawn_at.display()));
    let site = Site::with_trainer(&trainer);
    let gateway = site.start();
    assert!(upload_and_train(&gateway));
    let id = gateway.get("/v1/pages").json()["pages"][0]["id"].as_str().unwrap().to_owned();
    let applied = gateway.post("/v1/runs/1/apply", &json!({"page": id})).expect(202).json();
    assert_eq!((&applied["id"], &applied["pages"]), (&json!(2), &json!([id])));
    let applied = gateway.finish(2);
    assert_eq!(applied["state"], "succeeded", "{applied}");
    // The stand-in finds two of the three layers: what was drawn.
    let made = applied["made_page"].as_str().unwrap_or_else(|| panic!("{applied}"));
    let made = gateway.get(&format!("/v1/pages/{made}")).expect(200).json();
    let layers = made["layers"].as_array().unwrap();
    let names: Vec<_> = layers.iter().map(|layer| layer["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["background", "layer_0"]);
    let files: Vec<_> = page().into_iter().filter(|(name, _)| name == "layer_0.png").collect();
    let found = gateway.get("/v1/runs/2/files/layer_0.png").expect(200);
    assert!(found.body == files[0].1);
    gateway.post("/v1/runs", &tiny(made["id"].as_str().unwrap(), 1)).expect(202);
    assert_eq!(gateway.finish(3)["state"], "succeeded");
    // The page says so, and offers it; a run of this kind can't be applied or tried again.
    let shown = gateway.get("/runs/2").expect(200).text();
    let offer = format!("/new?page={}", made["id"].as_str().unwrap());
    assert!(shown.contains(&offer) && shown.contains("/v1/runs/2/layers.zip"), "{shown}");
    let form_there = gateway.get("/runs/1").expect(200).text();
    assert!(form_there.contains("action=\"/runs/1/apply\""), "{form_there}");
    gateway.post("/v1/runs/2/retry", &json!({})).expect(422);
    for (path, body, status) in [
        ("/v1/runs/2/apply", json!({"page": id}), 409),
        ("/v1/runs/99/apply", json!({"page": id}), 404),
        ("/v1/runs/1/apply", json!({"page": "none"}), 422),
        ("/v1/runs/1/apply", json!({}), 422),
    ] {
        gateway.post(path, &body).expect(status);
    }
    for parts in [&page()[..2], &page()[1..2], &[("image.png".to_owned(), b"GIF89a".to_vec())]] {
        gateway.send_form("/v1/runs/1/apply", &form(parts)).expect(422);
    }
    gateway.get("/v1/runs/2/models.zip").expect(404);
    gateway.get("/v1/runs/1/layers.zip").expect(404);
    gateway.terminate();
    site.assert_tidy("an application");
}

#[test]
fn a_grid_is_a_group_of_runs_beside_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = folder.path().join("trainer");
    write_script(&trainer, QUICK);
    let site = Site::with_trainer(&trainer);
    let other = site.account("other", "submitter");
    let mut gateway = site.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    let mut grid = tiny(&id, 1);
    grid["settings"]["Seed"] = json!([1, 2]);
    grid["settings"].as_object_mut().unwrap().remove("Patch width");
    grid["grid"] = json!({"Patch width": [32, 64]});
    grid["dry_run"] = true.into();
    let counted = gateway.post("/v1/runs", &grid).expect(200).json();
    assert_eq!((&counted["runs"], counted["settings"].as_array().unwrap().len()), (&json!(4), 4));
    assert_eq!(gateway.get("/v1/runs").json()["runs"], json!([]));
    let mut large = grid.clone();
    large["grid"]["Seed"] = (0..200).collect();
    large["settings"].as_object_mut().unwrap().remove("Seed");
    let refused = gateway.post("/v1/runs", &large).expect(422).json();
    assert!(refused["detail"].as_str().unwrap().contains("makes 400 runs"), "{refused}");

    // At the address of other training services; the same key is the same group.
    grid["dry_run"] = false.into();
    grid["settings"].as_object_mut().unwrap().remove("Maximum number of training epochs");
    (grid["max_epochs"], grid["_run_group_type"]) = (1.into(), "grid".into());
    let headers = [
        ("Authorization", &*gateway.bearer()),
        ("Content-Type", "application/json"),
        ("Idempotency-Key", "grid"),
    ];
    let ask = || gateway.send("POST", "/request", &headers, grid.to_string().as_bytes());
    let asked = ask().expect(202);
    assert_eq!(asked.header("location"), Some("/v1/groups/1"));
    assert_eq!(ask().expect(202).json()["id"], asked.json()["id"]);
    assert_eq!(asked.json()["runs"].as_array().unwrap().len(), 4);
    for run in 1..=4 {
        assert_eq!(gateway.finish(run)["group"], 1);
    }
    let group = gateway.get("/v1/groups/1").expect(200).json();
    let compared = group["comparison"].as_array().unwrap();
    let pairs: BTreeSet<String> = compared
        .iter()
        .map(|row| format!("{} {}", row["settings"]["Patch width"], row["settings"]["Seed"]))
        .collect();
    assert_eq!(pairs.len(), 4, "{group}");
    assert!(compared.iter().all(|row| row["mean_f1"] == 0.5), "{group}");
    let csv = gateway.get("/compare.csv?group=1").expect(200).text();
    assert!(
        csv.starts_with("run,name,state,Patch width,Seed,F1 Model 0,mean F1,seconds\r\n"),
        "{csv}"
    );
    assert_eq!(csv.lines().count(), 5);
    let listed = gateway.get("/v1/runs?group=1&page_size=3").expect(200).json();
    assert_eq!(listed["runs"].as_array().unwrap().len(), 3);
    assert!(gateway.get("/compare?group=1").expect(200).text().contains("group=1&amp;sort="));

    // A whole group ends at once.
    write_script(&trainer, "exec cat >/dev/null");
    gateway.post("/", &grid).expect(202);
    gateway.post("/v1/groups/2/cancel", &json!({})).expect(202);
    for run in 5..=8 {
        assert_eq!(gateway.finish(run)["state"], "cancelled");
    }
    gateway.token = other;
    gateway.get("/v1/groups/1").expect(404);
    gateway.post("/v1/groups/1/cancel", &json!({})).expect(404);
    gateway.terminate();
    site.assert_tidy("grids");
}

/// A request that is refused: method, path, headers, body, the status and a part of the answer.
type Refused<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, &'a [u8], u16, &'a str);

#[test]
fn what_is_wrong_is_a_problem_document() {
    let site = Site::new();
    let (one, other, viewer) = (
        site.account("one", "submitter"),
        site.account("other", "submitter"),
        site.account("eye", "viewer"),
    );
    let mut gateway = site.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    gateway.token = one;
    // A stranger's page is none, until one has it, too.
    gateway.get(&format!("/v1/pages/{id}")).expect(404);
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(422);
    gateway.upload(&page()).unwrap().expect(200);
    gateway.get(&format!("/v1/pages/{id}")).expect(200);
    let run = gateway.post("/v1/runs", &tiny(&id, 5000)).expect(202).json()["id"].clone();
    gateway.token = other;
    for path in ["", "/events", "/log", "/models/Model%200.hdf5"] {
        gateway.get(&format!("/v1/runs/{run}{path}")).expect(404);
    }
    gateway.post(&format!("/v1/runs/{run}/cancel"), &json!({})).expect(404);
    gateway.token = viewer;
    gateway.get(&format!("/v1/runs/{run}")).expect(200);
    gateway.post(&format!("/v1/runs/{run}/cancel"), &json!({})).expect(403);
    gateway.upload(&page()).unwrap().expect(403);
    gateway.token = site.admin.clone();

    let bearer = gateway.bearer();
    let send = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        let mut all = vec![("Authorization", &*bearer)];
        all.extend(headers);
        gateway.send(method, path, &all, body)
    };
    let json = ("Content-Type", "application/json");
    let parts = ("Content-Type", "multipart/form-data; boundary=edge");
    let spoiled = |name: &str, bytes: &[u8]| {
        let files: Vec<_> = page()
            .into_iter()
            .map(|(file, kept)| if file == name { (file, bytes.to_vec()) } else { (file, kept) })
            .collect();
        form(&files)
    };
    let without =
        |name: &str| form(&page().into_iter().filter(|(file, _)| file != name).collect::<Vec<_>>());
    let small = {
        let page = Page::cut(100, 100);
        fs::read(page.path("layer_1.png")).unwrap()
    };
    let stranger = form(&[("notes.txt".to_owned(), b"x".to_vec())]);
    let broken = &form(&page())[..2000];
    let long = vec![b' '; 300 << 10];
    let cases: Vec<Refused> = vec![
        ("GET", "/v1/runs/999", vec![], b"", 404, "There is no such run."),
        ("GET", "/v1/runs/x", vec![], b"", 404, "There is no such run."),
        ("GET", "/v1/nothing", vec![], b"", 404, "openapi.json"),
        ("DELETE", "/v1/runs", vec![], b"", 405, "no such method"),
        ("GET", "/v1/runs?state=odd", vec![], b"", 400, "queued, launch"),
        ("GET", "/v1/runs?order=x", vec![], b"", 400, "no parameter order"),
        ("GET", "/v1/runs/1?wait=soon", vec![], b"", 400, "such as 30s"),
        ("GET", "/v1/runs/1/files/nothing", vec![], b"", 404, "no such file"),
        ("POST", "/v1/runs", vec![json], b"{", 400, "no JSON"),
        ("POST", "/v1/runs", vec![("Content-Type", "text/plain")], b"{}", 415, "send JSON"),
        ("POST", "/v1/runs", vec![json], b"{}", 422, "/pages: is missing"),
        ("POST", "/request", vec![json], b"{\"pages\": [\"x\"]}", 422, "no such page"),
        ("POST", "/v1/runs", vec![json], &long, 413, "can't be read"),
        (
            "POST",
            "/v1/runs",
            vec![json, ("Idempotency-Key", "")],
            b"{\"pages\":[\"x\"]}",
            400,
            "Idempotency-Key",
        ),
        ("POST", "/v1/pages", vec![json], b"{}", 415, "multipart/form-data"),
        ("POST", "/v1/pages", vec![parts], b"nothing", 400, "ended early"),
        ("POST", "/v1/pages", vec![parts], broken, 400, "ended early"),
        ("POST", "/v1/pages", vec![parts], &stranger, 422, "notes.txt is no part"),
    ];
    for (method, path, headers, body, status, part) in cases {
        let answer = send(method, path, &headers, body).expect(status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}");
        let problem = answer.json();
        assert_eq!(problem["status"], status, "{path}");
        let detail = problem["detail"].as_str().unwrap().to_lowercase();
        assert!(detail.contains(&part.to_lowercase()), "{method} {path}: {detail}");
    }
    for (body, pointer, part) in [
        (without("image.png"), Some("/image"), "send the page"),
        (without("background.png"), Some("/background"), "RGBA"),
        (spoiled("layer_1.png", &small), None, "is 100x100 pixels, but the page is 150x150"),
        (spoiled("image.png", b"GIF89a"), None, "neither a PNG nor a JPEG"),
    ] {
        let problem = send("POST", "/v1/pages", &[parts], &body).expect(422).json();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(part), "{detail}");
        // Where it lay on the server is nobody's business.
        assert!(!detail.contains("incoming"), "{detail}");
        assert_eq!(problem["errors"][0]["pointer"].as_str(), pointer, "{problem}");
    }

    // A key is one request.
    let keyed = |body: &Value| {
        send("POST", "/v1/runs", &[json, ("Idempotency-Key", "k")], body.to_string().as_bytes())
    };
    let first = keyed(&tiny(&id, 1)).expect(202).json();
    assert_eq!(keyed(&tiny(&id, 1)).expect(202).json()["id"], first["id"]);
    let problem = keyed(&tiny(&id, 2)).expect(422).json();
    assert!(problem["detail"].as_str().unwrap().contains("another request"), "{problem}");

    // One waits and is cancelled at once; one is trained and ends in a moment.
    let waiting = gateway.get(&format!("/v1/runs/{}", first["id"])).json();
    assert_eq!((&waiting["state"], &waiting["queue_position"]), (&json!("queued"), &json!(1)));
    let cancelled = gateway.post(&format!("/v1/runs/{}/cancel", first["id"]), &json!({}));
    assert_eq!(cancelled.expect(202).json()["state"], "cancelled");
    let run = run.as_i64().unwrap();
    wait_for("the training", SECONDS(60), || {
        (gateway.get(&format!("/v1/runs/{run}")).json()["state"] == "running").then_some(())
    });
    gateway.post(&format!("/v1/runs/{run}/cancel"), &json!({})).expect(202);
    assert_eq!(gateway.finish(run)["state"], "cancelled");
    gateway.post(&format!("/v1/runs/{run}/cancel"), &json!({})).expect(409);
    let page_of = |size: u32, token: &str| {
        gateway.get(&format!("/v1/runs?page_size={size}{token}")).expect(200).json()
    };
    let newest = page_of(1, "");
    let token = newest["next_page_token"].as_str().unwrap();
    let oldest = page_of(1, &format!("&page_token={token}"));
    assert_eq!((&newest["runs"][0]["id"], &oldest["runs"][0]["id"]), (&json!(2), &json!(1)));
    assert_eq!(oldest["next_page_token"], Value::Null);
    gateway.terminate();
    site.assert_tidy("refusals");
}

#[test]
fn nobody_gets_in_without_a_token() {
    let site = Site::new();
    let gateway = site.start();
    let post = [("Content-Type", "application/json")];
    for path in ["/v1/runs", "/v1/pages", "/status", "/metrics", "/v1/runs/1/events"] {
        let answer = gateway.send("GET", path, &[], b"").expect(401);
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"), "{path}");
        gateway.send("GET", path, &[("Authorization", "Bearer wrong")], b"").expect(401);
    }
    gateway.send("POST", "/v1/runs", &post, b"{}").expect(401);
    for path in ["/healthz", "/readyz", "/openapi.json", "/login", "/static/live.js"] {
        gateway.send("GET", path, &[], b"").expect(200);
    }
    assert_eq!(gateway.send("GET", "/", &[], b"").expect(303).header("location"), Some("/login"));
    gateway.send("GET", "/?token=wrong", &[], b"").expect(401);

    // The printed link gives the browser a cookie, which no script and no other site gets.
    let path = format!("/?token={}", gateway.link_token);
    let entered = gateway.send("GET", &path, &[], b"").expect(303);
    let cookie = entered.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let new = gateway.send("GET", "/new", &[("Cookie", cookie)], b"").expect(200);
    let policy = new.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    // A cookie alone changes nothing.
    let with = [("Cookie", cookie), ("Content-Type", "application/json")];
    for path in ["/v1/runs", "/request", "/", "/v1/runs/1/cancel"] {
        gateway.send("POST", path, &with, b"{}").expect(403);
    }
    let with = [("Cookie", cookie), ("Content-Type", "application/x-www-form-urlencoded")];
    gateway.send("POST", "/new", &with, b"pages=x").expect(403);
    let shown = new.text();
    let (_, key) = shown.split_once("name=\"form_key\" value=\"").unwrap();
    let key = key.split('"').next().unwrap();
    // With the page's own key the form is read, and shown again with what is wrong.
    let form = format!("form_key={key}&pages=x&set%3APatch+height=65");
    let again = gateway.send("POST", "/new", &with, form.as_bytes()).expect(422).text();
    assert!(again.contains("multiple of 4"), "{again}");

    let refused = site.command(&["--listen", "0.0.0.0:0"]).run();
    assert_eq!(refused.code(), Some(2), "{refused}");
    assert!(refused.stderr.contains("--behind-proxy"), "{refused}");
    let second = site.command(&["--listen", "127.0.0.1:0"]).run();
    assert_eq!(second.code(), Some(7), "{second}");
    assert!(second.stderr.contains("another gateway"), "{second}");
    // Tokens are nowhere on the disk.
    gateway.terminate();
    let database = fs::read(site.data().join("gateway.sqlite")).unwrap();
    let holds = |text: &str| database.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(holds("boss") && !holds(&site.admin));
}

#[test]
fn an_account_that_asks_too_often_waits_and_no_other_does() {
    let site = Site::new();
    let other = site.account("other", "submitter");
    let mut gateway = site.try_start(&[], &["--max-requests", "1", "--max-upload", "1"]).unwrap();
    let refused = (0..20).map(|_| gateway.get("/status")).find(|answer| answer.status != 200);
    let refused = refused.expect("twenty requests at once are too many").expect(429);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.json()["detail"].as_str().unwrap().contains("1 requests a second"));
    // Strangers use up nobody's but their own.
    let wrong = [("Authorization", "Bearer wrong")];
    let strangers = (0..20).map(|_| gateway.send("GET", "/status", &wrong, b"").status);
    assert!(strangers.collect::<BTreeSet<_>>().contains(&429));
    gateway.token = other;
    gateway.get("/status").expect(200);
    let large = form(&[("image.png".to_owned(), vec![0; 1_000_001])]);
    let refused = gateway.send_form("/v1/pages", &large).expect(413).json();
    assert!(refused["detail"].as_str().unwrap().contains("larger"), "{refused}");
    gateway.terminate();
    site.assert_tidy("too much");
}

#[test]
fn a_run_goes_on_after_the_gateway_was_killed_and_after_it_was_stopped() {
    let site = Site::new();
    let gateway = site.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    gateway.post("/v1/runs", &tiny(&id, 12)).expect(202);
    let trained = |gateway: &Gateway, attempt: u64| {
        wait_for("an epoch", SECONDS(60), || {
            let run = gateway.get("/v1/runs/1").json();
            let (layer, epoch) = (&run["progress"]["layer"], &run["progress"]["epoch"]);
            let goes_on = run["attempts"] == attempt && run["state"] == "running";
            (goes_on && layer.as_u64() >= Some(2) && epoch.as_u64() >= Some(1)).then_some(())
        });
    };
    trained(&gateway, 1);
    drop(gateway); // kill -9
    let gateway = site.start();
    trained(&gateway, 2);
    gateway.terminate();
    let gateway = site.start();
    let run = gateway.finish(1);
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["attempts"], 3);
    // Its first layer was not learned again: the log of all attempts has the whole story.
    let log = gateway.get("/v1/runs/1/log").text();
    let done = log.matches("Background Model: done after").count();
    assert_eq!(done, 1, "{log}");
    assert_eq!(gateway.get("/v1/runs").json()["runs"].as_array().unwrap().len(), 1);
    gateway.terminate();
    site.assert_tidy("a kill and a stop");

    // The same as without any of that.
    let undisturbed = Site::new();
    let gateway = undisturbed.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    gateway.post("/v1/runs", &tiny(&id, 12)).expect(202);
    let models = |run: &Value| -> Vec<Value> {
        let files = run["files"].as_array().unwrap().iter();
        files.filter(|file| file["kind"] == "model").map(|file| file["sha256"].clone()).collect()
    };
    let other = gateway.finish(1);
    assert_eq!(models(&other).len(), 4);
    assert_eq!(models(&other), models(&run));
}

#[test]
fn a_training_that_fails_says_why_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = folder.path().join("trainer");
    write_script(&trainer, "kill -KILL $$");
    let site = Site::with_trainer(&trainer);
    let gateway = site.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    let error = gateway.finish(1)["error"].clone();
    assert!(error.as_str().unwrap().contains("too little memory"), "{error}");
    write_script(&trainer, "echo \"run_trainer: $PWD/pages/1/layer_0.png: is odd\" >&2; exit 11");
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    let run = gateway.finish(2);
    assert_eq!(
        (&run["state"], &run["error"]),
        (&json!("failed"), &json!("Page 1/layer_0.png: is odd."))
    );
    fs::remove_file(&trainer).unwrap();
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    let error = gateway.finish(3)["error"].clone();
    assert!(error.as_str().unwrap().contains("can't be started"), "{error}");
    gateway.terminate();
    site.assert_tidy("failures");
}

/// What a trainer leaves, in no time: the crashes here are the gateway's. The real one is killed in
/// the stories above.
pub(crate) const QUICK: &str = r#"
while [ $# -gt 0 ]; do
    case $1 in --out) out=$2 ;; --progress) told=$2 ;; --predict) image=$2 ;; esac; shift
done
if [ -n "$image" ]; then
    cp "$drawn/background.png" "$out/Background.png"; cp "$drawn/layer_0.png" "$out/Layer 0.png"
    cp "$image" "$out/overlay.png"; exit
fi
printf '{"event":"layer","model":"Model 0","number":1,"layers":1,' >"$told"
echo '"train":8,"validation":2,"epochs":1}' >>"$told"
echo model >"$out/Model 0.hdf5"; echo report >"$out/report.html"
echo '{"layers": [{"model": "Model 0", "f1": 0.5}]}' >"$out/training.json""#;

/// The names in a zip.
fn names_in(zip: &Answer) -> Vec<String> {
    let zip = zip::ZipArchive::new(std::io::Cursor::new(&zip.body)).unwrap();
    (0..zip.len()).map(|index| zip.name_for_index(index).unwrap().unwrap().into_owned()).collect()
}

/// A file of a zip.
fn taken_from(zip: &Answer, name: &str) -> Vec<u8> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(&zip.body)).unwrap();
    let mut bytes = Vec::new();
    zip.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Uploads a page and trains it, as a client that tries again; false when the gateway died.
fn upload_and_train(gateway: &Gateway) -> bool {
    visit(gateway, false)
}

/// The same, and applies the models to the page where that is wanted, too.
fn visit(gateway: &Gateway, apply: bool) -> bool {
    let Some(uploaded) = gateway.upload(&page()) else { return false };
    assert!(matches!(uploaded.status, 200 | 201), "{uploaded:?}");
    let id = id_of(&uploaded);
    asked_once(gateway, "/v1/runs", "train", &tiny(&id, 1))
        && (!apply || asked_once(gateway, "/v1/runs/1/apply", "apply", &json!({"page": id})))
}

/// Asks for a run, as often as is needed, and waits for its end; false when the gateway died.
fn asked_once(gateway: &Gateway, path: &str, key: &str, body: &Value) -> bool {
    let bearer = gateway.bearer();
    let headers = [
        ("Authorization", &*bearer),
        ("Content-Type", "application/json"),
        ("Idempotency-Key", key),
    ];
    let body = body.to_string();
    let Some(placed) = gateway.try_send("POST", path, &headers, body.as_bytes()) else {
        return false;
    };
    let id = placed.expect(202).json()["id"].clone();
    let path = format!("/v1/runs/{id}?wait=20s");
    match gateway.try_send("GET", &path, &headers[..1], b"") {
        Some(run) => run.expect(200).json()["state"] == "succeeded",
        None => false,
    }
}

#[test]
fn killed_at_every_point_it_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = folder.path().join("trainer");
    let drawn = Page::cut(150, 150);
    write_script(&trainer, &format!("drawn='{}'{QUICK}", drawn.path("").display()));
    // What happens without a crash: the points, and the objects that are left.
    let undisturbed = |apply: bool| {
        let log = folder.path().join(format!("points-{apply}.txt"));
        let site = Site::with_trainer(&trainer);
        let gateway = site.start_with(&[("HPC_TRAINER_DIE_LOG", log.display().to_string())]);
        assert!(visit(&gateway, apply));
        gateway.terminate();
        site.assert_tidy("no crash");
        (crate::crash::points(&log), site.objects())
    };
    let (short, trained) = undisturbed(false);
    let (points, applied) = undisturbed(true);
    assert!(short.len() > 25 && points.len() > short.len() + 10, "{points:?}");
    for (number, name) in (1..).zip(&points) {
        let what = format!("a crash at point {number}, {name}");
        // What comes early needs no application.
        let apply = number > short.len();
        let runs = if apply { 2 } else { 1 };
        let site = Site::with_trainer(&trainer);
        let die = [("HPC_TRAINER_DIE_AT", number.to_string())];
        if let Some(mut dying) = site.try_start(&die, &[]) {
            // Near the end the answer may come first.
            visit(&dying, apply);
            wait_for(&what, SECONDS(20), || dying.child.try_wait().unwrap());
        }
        let gateway = site.start();
        assert!(visit(&gateway, apply), "{what}");
        let listed = gateway.get("/v1/runs").json();
        let ids: Vec<_> = listed["runs"].as_array().unwrap().iter().map(|run| &run["id"]).collect();
        assert_eq!(ids, if runs == 1 { vec![1] } else { vec![2, 1] }, "{what}");
        // The page that was uploaded, and the one that was made.
        assert_eq!(gateway.get("/v1/pages").json()["pages"].as_array().unwrap().len(), runs);
        wait_for("the run's folder to go", SECONDS(5), || {
            fs::read_dir(site.data().join("runs")).unwrap().next().is_none().then_some(())
        });
        gateway.terminate();
        site.assert_tidy(&what);
        assert_eq!(&site.objects(), if apply { &applied } else { &trained }, "{what}");
    }
    eprintln!("{} points, 0 lost, 0 doubled: {points:?}", points.len());
}

/// As on a full disk, but that a test can bring about: somebody else holds the store.
#[test]
fn a_training_goes_on_while_the_store_can_not_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let (trainer, go) = (folder.path().join("trainer"), folder.path().join("go"));
    let waits = format!("while [ ! -e '{}' ]; do sleep 0.05; done", go.display());
    write_script(&trainer, &format!("{waits}{QUICK}"));
    let site = Site::with_trainer(&trainer);
    let gateway = site.start();
    let page = id_of(&gateway.upload(&page()).unwrap().expect(201));
    gateway.post("/v1/runs", &tiny(&page, 1)).expect(202);
    wait_for("the training", SECONDS(20), || {
        let run = gateway.get("/v1/runs/1").json();
        (run["state"] == "launch").then_some(())
    });
    // Longer than the gateway waits for its turn.
    let hold = "import sqlite3, sys, time\n\
                store = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                store.execute('BEGIN EXCLUSIVE'); print('held', flush=True); time.sleep(8)";
    let mut holder = Command::new("python3")
        .args(["-c", hold])
        .arg(site.data().join("gateway.sqlite"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    fs::write(&go, "").unwrap();
    assert!(holder.wait().unwrap().success());
    let run = gateway.finish(1);
    assert_eq!((&run["state"], &run["attempts"]), (&json!("succeeded"), &json!(1)), "{run}");
    gateway.terminate();
    site.assert_tidy("a store that was held");
}

#[test]
fn what_is_old_goes_and_a_copy_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = folder.path().join("trainer");
    write_script(&trainer, QUICK);
    let site = Site::with_trainer(&trainer);
    let gateway = site.start();
    assert!(upload_and_train(&gateway));
    let copy = folder.path().join("copy.sqlite");
    let backup = site.command(&["backup", copy.to_str().unwrap()]);
    backup.run().success();
    assert!(fs::read(&copy).unwrap().starts_with(b"SQLite format 3"));
    assert_eq!(site.command(&["backup", copy.to_str().unwrap()]).run().code(), Some(7));
    let busy = site.command(&["purge", "--older", "0d"]).run();
    assert_eq!(busy.code(), Some(7), "{busy}");
    gateway.terminate();
    site.command(&["purge", "--older", "90d"]).run().success();
    let before = site.objects().len();
    assert!(before > 8, "{before}");
    let purged = site.command(&["purge", "--older", "0d"]).run().success();
    assert!(purged.stdout.starts_with("removed 1 runs, 1 pages"), "{purged}");
    assert!(site.objects().is_empty());
    // Numbers never come twice.
    let gateway = site.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    assert_eq!(gateway.post("/v1/runs", &tiny(&id, 1)).expect(202).json()["id"], 2);
}
