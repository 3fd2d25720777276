//! A gateway that runs, and what is sent to it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use domain::hex_sha256;
use serde_json::{Value, json};

use super::program::{Program, gateway, run_trainer};
use super::{SECONDS, wait_for};
use crate::local::Page;

pub(crate) const PARTS: [&str; 6] =
    ["image.png", "background.png", "regions.png", "layer_0.png", "layer_1.png", "layer_2.png"];

pub(crate) fn program() -> &'static Path {
    gateway().unwrap()
}

/// A folder with its accounts, in which gateways are started and killed.
pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) trainer: PathBuf,
    /// Token of an administrator.
    pub(crate) admin: String,
}

/// A folder in memory, where there is such a place: what is left after a program was killed does
/// not depend on the disk, and each commit waits for that.
fn folder_in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn copy_all(from: &Path, to: &Path) {
    fs::DirBuilder::new().mode(0o700).create(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with_trainer(run_trainer().unwrap())
    }

    pub(crate) fn with_trainer(trainer: &Path) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), trainer)
    }

    /// One whose files are in memory, for a program that is killed often.
    pub(crate) fn in_memory(trainer: &Path) -> Self {
        Self::in_folder(folder_in_memory(), trainer)
    }

    /// The same in another folder in memory, with everything that has happened so far.
    pub(crate) fn copy(&self) -> Self {
        let folder = folder_in_memory();
        copy_all(&self.data(), &folder.path().join("data"));
        Self { folder, trainer: self.trainer.clone(), admin: self.admin.clone() }
    }

    fn in_folder(folder: tempfile::TempDir, trainer: &Path) -> Self {
        let mut site = Self { folder, trainer: trainer.to_owned(), admin: String::new() };
        site.admin = site.account("boss", "admin");
        site
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Program {
        let program = Program::new(program()).current_dir(self.folder.path());
        program.arg("--data").arg(self.data()).args(arguments)
    }

    /// A file of variables, for its account alone.
    pub(crate) fn env_file(&self, lines: &str) -> String {
        let path = self.folder.path().join("variables.env");
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.unwrap().write_all(lines.as_bytes()).unwrap();
        path.display().to_string()
    }

    /// Makes an account; its token.
    pub(crate) fn account(&self, name: &str, role: &str) -> String {
        let added = self.command(&["account", "add", name, "--role", role]).run().success();
        added.stdout.trim().to_owned()
    }

    pub(crate) fn start(&self) -> Gateway {
        self.start_with(&[])
    }

    pub(crate) fn start_with(&self, environment: &[(&str, String)]) -> Gateway {
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
            // Not where somebody's credentials.env may lie.
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some((_, path)) = line.trim().split_once("; open the link in ") else {
            child.wait().unwrap();
            return None;
        };
        let link = fs::read_to_string(path).unwrap();
        let link = link.trim().strip_prefix("http://").unwrap();
        let (address, token) = link.split_once("/?token=").unwrap();
        assert!(!line.contains(token), "{line}");
        Some(Gateway {
            child,
            address: address.parse().unwrap(),
            link_token: token.to_owned(),
            token: self.admin.clone(),
        })
    }

    /// The names of all objects on the disk.
    pub(crate) fn objects(&self) -> BTreeSet<String> {
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
    pub(crate) child: Child,
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
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
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
    pub(crate) fn raw(&self, bytes: &[u8]) -> Option<Answer> {
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

    pub(crate) fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Answer> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("Content-Length: {}\r\n\r\n", body.len());
        self.raw(&[request.as_bytes(), body].concat())
    }

    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.try_send(method, path, headers, body).expect("an answer")
    }

    pub(crate) fn bearer(&self) -> String {
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
    pub(crate) fn send_form(&self, path: &str, form: &[u8]) -> Answer {
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
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let until = Instant::now() + SECONDS(40);
        let ended = loop {
            match self.child.try_wait().unwrap() {
                Some(ended) => break ended,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
            assert!(Instant::now() < until, "the gateway does not end");
        };
        assert_eq!(ended.code(), Some(0));
    }
}

pub(crate) fn unchunked(mut rest: &[u8]) -> Vec<u8> {
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
pub(crate) fn form(files: &[(String, Vec<u8>)]) -> Vec<u8> {
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
    static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        let page = Page::cut(150, 150);
        let file = |name: &str| (name.to_owned(), fs::read(page.path(name)).unwrap());
        PARTS.into_iter().map(file).collect()
    });
    files.clone()
}

pub(crate) fn tiny(page: &str, epochs: u32) -> Value {
    json!({"name": "tiny", "pages": [page], "settings": {
        "Patch height": 32, "Patch width": 32, "Seed": 7,
        "Maximum number of training epochs": epochs, "Patience": epochs,
        "Maximum number of samples per label": 20, "Calibrate": "no",
    }})
}

pub(crate) fn id_of(page: &Answer) -> String {
    page.json()["id"].as_str().unwrap().to_owned()
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
pub(crate) fn names_in(zip: &Answer) -> Vec<String> {
    let zip = zip::ZipArchive::new(std::io::Cursor::new(&zip.body)).unwrap();
    (0..zip.len()).map(|index| zip.name_for_index(index).unwrap().unwrap().into_owned()).collect()
}

/// A file of a zip.
pub(crate) fn taken_from(zip: &Answer, name: &str) -> Vec<u8> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(&zip.body)).unwrap();
    let mut bytes = Vec::new();
    zip.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Uploads a page and trains it, as a client that tries again; false when the gateway died.
pub(crate) fn upload_and_train(gateway: &Gateway) -> bool {
    let Some(uploaded) = gateway.upload(&page()) else { return false };
    assert!(matches!(uploaded.status, 200 | 201), "{uploaded:?}");
    asked_once(gateway, "/v1/runs", "train", &tiny(&id_of(&uploaded), 1))
}

/// Applies the models of run 1 to its page, as such a client; false when the gateway died.
pub(crate) fn apply(gateway: &Gateway) -> bool {
    let bearer = gateway.bearer();
    let Some(run) = gateway.try_send("GET", "/v1/runs/1", &[("Authorization", &bearer)], b"")
    else {
        return false;
    };
    let page = &run.expect(200).json()["pages"][0];
    asked_once(gateway, "/v1/runs/1/apply", "apply", &json!({"page": page}))
}

/// Asks for a run, as often as is needed, and waits for its end; false when the gateway died.
pub(crate) fn asked_once(gateway: &Gateway, path: &str, key: &str, body: &Value) -> bool {
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
