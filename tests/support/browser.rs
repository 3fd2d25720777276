//! A real browser without a window: Chromium, by its DevTools protocol over two pipes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

/// How long a page has for what is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with one tab; killed when dropped.
pub(crate) struct Browser {
    child: Child,
    to: RefCell<File>,
    from: Receiver<Value>,
    /// Events that came before the answer that was waited for.
    events: RefCell<VecDeque<Value>>,
    number: Cell<u64>,
    session: String,
    _folder: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The browser of this machine.
fn program() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders = ["/usr/bin", "/usr/local/bin"];
    let paths = names.iter().flat_map(|name| folders.map(|folder| Path::new(folder).join(name)));
    paths.into_iter().find(|path| path.exists())
}

impl Browser {
    /// Starts it; `None` where there is none, which is said.
    pub(crate) fn start() -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("there is no chromium: nothing was looked at in a browser");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let (asks, answers) = (folder.path().join("asks"), folder.path().join("answers"));
        assert!(Command::new("mkfifo").arg(&asks).arg(&answers).status().unwrap().success());
        let child = Command::new("bash")
            .args(["-c", "exec \"${@:3}\" 3<\"$1\" 4>\"$2\"", "-"])
            .arg(&asks)
            .arg(&answers)
            .arg(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .arg("about:blank")
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let to = File::options().write(true).open(&asks).unwrap();
        let mut pipe = File::open(&answers).unwrap();
        let (sender, from) = channel();
        std::thread::spawn(move || {
            let (mut rest, mut piece) = (Vec::new(), vec![0; 1 << 16]);
            while let Ok(read @ 1..) = pipe.read(&mut piece) {
                rest.extend_from_slice(&piece[..read]);
                while let Some(end) = rest.iter().position(|byte| *byte == 0) {
                    let message = serde_json::from_slice(&rest[..end]).unwrap();
                    rest.drain(..=end);
                    if sender.send(message).is_err() {
                        return;
                    }
                }
            }
        });
        let mut browser = Self {
            child,
            to: RefCell::new(to),
            from,
            events: RefCell::default(),
            number: Cell::new(0),
            session: String::new(),
            _folder: folder,
        };
        let tabs = browser.ask("Target.getTargets", &json!({}));
        let tabs = tabs["targetInfos"].as_array().unwrap();
        let tab = tabs.iter().find(|tab| tab["type"] == "page").unwrap()["targetId"].clone();
        let attached =
            browser.ask("Target.attachToTarget", &json!({"targetId": tab, "flatten": true}));
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "DOM", "Log"] {
            browser.ask(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    /// Calls a method of the protocol.
    #[track_caller]
    fn ask(&self, method: &str, parameters: &Value) -> Value {
        self.try_ask(method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Calls a method of the protocol, which may answer with an error.
    fn try_ask(&self, method: &str, parameters: &Value) -> Result<Value, Value> {
        let number = self.number.get() + 1;
        self.number.set(number);
        let mut call = json!({"id": number, "method": method, "params": parameters});
        if !self.session.is_empty() {
            call["sessionId"] = self.session.as_str().into();
        }
        let mut bytes = call.to_string().into_bytes();
        bytes.push(0);
        self.to.borrow_mut().write_all(&bytes).unwrap();
        loop {
            let message = self.from.recv_timeout(PATIENCE).expect(method);
            if message["id"] == number {
                let error = &message["error"];
                return if error.is_null() {
                    Ok(message["result"].clone())
                } else {
                    Err(error.clone())
                };
            }
            self.events.borrow_mut().push_back(message);
        }
    }

    /// What an expression of JavaScript is in the page.
    #[track_caller]
    pub(crate) fn value(&self, expression: &str) -> Value {
        let parameters =
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.ask("Runtime.evaluate", &parameters);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Opens an address, and waits until it is there.
    #[track_caller]
    pub(crate) fn open(&self, address: &str) {
        let opened = self.ask("Page.navigate", &json!({"url": address}));
        assert_eq!(opened["errorText"], Value::Null, "{address}: {opened}");
        self.wait(&format!("{address} to be there"), "document.readyState === 'complete'");
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, expression: &str) {
        let end = Instant::now() + PATIENCE;
        // While a page is left there is nothing that could answer.
        let is = || {
            let parameters = json!({"expression": expression, "returnByValue": true});
            let answer = self.try_ask("Runtime.evaluate", &parameters);
            answer.is_ok_and(|answer| answer["result"]["value"] == true)
        };
        while !is() {
            let shown = || self.value("document.body ? document.body.innerText : ''");
            assert!(Instant::now() < end, "{what} did not come: {}", shown());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Clicks on what a selector finds.
    #[track_caller]
    pub(crate) fn click(&self, selector: &str) {
        let script = format!("document.querySelector({}).click()", json!(selector));
        self.value(&script);
    }

    /// Presses a button of a form, and waits for the page that it leads to.
    #[track_caller]
    pub(crate) fn submit(&self, selector: &str) {
        self.value("window.left = true");
        self.click(selector);
        self.wait(
            &format!("the page after {selector}"),
            "window.left !== true && document.readyState === 'complete'",
        );
    }

    /// Writes into a field.
    #[track_caller]
    pub(crate) fn fill(&self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        self.value(&format!("document.querySelector({selector}).value = {text}"));
    }

    /// Chooses the files of a field.
    #[track_caller]
    pub(crate) fn choose(&self, selector: &str, files: &[PathBuf]) {
        let root = self.ask("DOM.getDocument", &json!({}))["root"]["nodeId"].clone();
        let asked = json!({"nodeId": root, "selector": selector});
        let node = self.ask("DOM.querySelector", &asked)["nodeId"].clone();
        self.ask("DOM.setFileInputFiles", &json!({"nodeId": node, "files": files}));
    }

    /// How wide the window is.
    pub(crate) fn width(&self, width: u32) {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.ask("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Whether scripts of pages run.
    pub(crate) fn scripts(&self, run: bool) {
        self.ask("Emulation.setScriptExecutionDisabled", &json!({"value": !run}));
    }

    /// Light or dark.
    pub(crate) fn dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let feature = json!({"name": "prefers-color-scheme", "value": value});
        self.ask("Emulation.setEmulatedMedia", &json!({"features": [feature]}));
    }

    /// What the page has complained of: errors in scripts, and what its policy has refused.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let events = self.events.take();
        let wrong = |event: &&Value| {
            event["method"] == "Runtime.exceptionThrown"
                || (event["method"] == "Log.entryAdded"
                    && event["params"]["entry"]["level"] == "error")
        };
        events.iter().filter(wrong).map(Value::to_string).collect()
    }

    /// A picture of the whole page, into `GATEWAY_PICTURES` where that is set: to be looked at.
    pub(crate) fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("GATEWAY_PICTURES") else { return };
        let parameters = json!({"format": "png", "captureBeyondViewport": true});
        let taken = self.ask("Page.captureScreenshot", &parameters);
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(taken["data"].as_str().unwrap())
            .unwrap();
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), bytes).unwrap();
    }
}
