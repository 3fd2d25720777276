//! Runs programs as cron or Slurm would: their environment has only what the test gives, and they
//! have a deadline.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::services::repository;

/// The `check` of this build.
pub(crate) fn check() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_check"))
}

/// The `run_trainer` of this build; a build without the feature `trainer` has none.
pub(crate) fn run_trainer() -> Option<&'static Path> {
    option_env!("CARGO_BIN_EXE_run_trainer").map(Path::new)
}

/// The `gateway` of this build; a build without the feature `gateway` has none.
pub(crate) fn gateway() -> Option<&'static Path> {
    option_env!("CARGO_BIN_EXE_gateway").map(Path::new)
}

/// The directory of this build's programs, with these examples in `examples/`. Examples are not
/// built with the tests.
pub(crate) fn with_examples(names: &[&str]) -> PathBuf {
    let directory = check().parent().expect("programs lie in a directory");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--locked", "--workspace"])
        .args(names.iter().flat_map(|name| ["--example", name]));
    cargo
        .arg("--target-dir")
        .arg(directory.parent().expect("of a profile"))
        .current_dir(repository());
    // The variables that cargo sets for this test are removed; otherwise build scripts would run
    // again, and all that depends on them would be built anew. So would this project's crates
    // without the variables that the person who builds has set.
    let set_by_a_person = ["CARGO_HOME", "CARGO_INCREMENTAL"];
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_") && !set_by_a_person.contains(&name))
        {
            cargo.env_remove(name);
        }
    }
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().is_ok_and(|status| status.success()), "{names:?} can't be built");
    directory.to_owned()
}

/// A program that is about to run. Its environment is empty except for `PATH` and what
/// [`Program::env`] adds.
pub(crate) struct Program {
    command: Command,
    limit: Duration,
    described: String,
    output: Output,
}

/// Where a program's standard output and standard error go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Into what [`Finished`] holds.
    Kept,
    /// Onto a disk that is full: both of them.
    FullDisk,
    /// Standard output into a pipe that nobody reads any more; standard error is kept.
    NoReader,
    /// Both into such a pipe.
    NobodyAtAll,
}

impl Program {
    pub(crate) fn new(path: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(path.as_ref());
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .stdin(Stdio::null());
        let described = path.as_ref().to_string_lossy().into_owned();
        Self { command, limit: Duration::from_secs(60), described, output: Output::Kept }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Where its output goes.
    pub(crate) fn output(mut self, output: Output) -> Self {
        self.output = output;
        self
    }

    /// How long it may run (60 s by default).
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it can't be started, or still runs after the limit: then it is killed with all its
    /// children, and the panic shows what it had written.
    pub(crate) fn run(self) -> Finished {
        self.start().wait()
    }

    /// Starts it and leaves it running, for tests that interfere.
    pub(crate) fn start(mut self) -> Running {
        // A process group of its own, so that a kill reaches its children too.
        let full =
            || OpenOptions::new().write(true).open("/dev/full").expect("Linux has it").into();
        let closed = || std::io::pipe().expect("pipes are there").1.into();
        let (stdout, stderr): (Stdio, Stdio) = match self.output {
            Output::Kept => (Stdio::piped(), Stdio::piped()),
            Output::FullDisk => (full(), full()),
            Output::NoReader => (closed(), Stdio::piped()),
            Output::NobodyAtAll => (closed(), closed()),
        };
        self.command.stdout(stdout).stderr(stderr).process_group(0);
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("{} can't be started: {error}", self.described));
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        Running {
            child,
            stdout,
            stderr,
            end: Instant::now() + self.limit,
            described: self.described,
        }
    }
}

/// A running program. It is killed when dropped.
pub(crate) struct Running {
    child: std::process::Child,
    stdout: Said,
    stderr: Said,
    end: Instant,
    described: String,
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Whether it has written this to standard output so far.
    pub(crate) fn has_said(&self, text: &str) -> bool {
        self.stdout.text().contains(text)
    }

    /// Sends a signal to the program alone, by its name: `TERM`, `USR1`, `KILL`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(
            sent.expect("kill can be started").success(),
            "SIG{name} did not reach {}",
            self.described
        );
    }

    /// Waits for its end; panics when the limit comes first.
    pub(crate) fn wait(mut self) -> Finished {
        let mut late = false;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if Instant::now() >= self.end {
                late = true;
                kill_group(self.id());
                break self.child.wait().expect("a child can be waited for");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let (stdout, stderr) = (self.stdout.whole(), self.stderr.whole());
        let finished = Finished { status, stdout, stderr };
        assert!(!late, "{} did not end in time\n{finished}", self.described);
        finished
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            kill_group(self.child.id());
            drop(self.child.wait());
        }
    }
}

fn kill_group(id: u32) {
    drop(Command::new("kill").args(["-KILL", "--", &format!("-{id}")]).status());
}

/// What a program writes, as it comes.
struct Said {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Taken once everything has come.
    reader: Option<JoinHandle<()>>,
}

impl Said {
    /// What has come so far.
    fn text(&self) -> String {
        let bytes = self.bytes.lock().expect("the reader does not panic");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Everything, once nobody can write any more.
    fn whole(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        self.text()
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Said {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&bytes);
    let reader = std::thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut piece = vec![0; 1 << 16];
        while let Ok(length @ 1..) = pipe.read(&mut piece) {
            kept.lock().expect("nobody panics with it").extend_from_slice(&piece[..length]);
        }
    });
    Said { bytes, reader: Some(reader) }
}

/// How a program ended. Its `Display` shows everything, for the message of an assertion.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Asserts exit code 0 and returns itself.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => writeln!(f, "exit code {code}")?,
            (None, signal) => writeln!(f, "ended by signal {signal:?}")?,
        }
        write!(f, "── stdout\n{}── stderr\n{}", self.stdout, self.stderr)
    }
}

/// Asserts the exit code, and that each of these texts is in what the program wrote to standard
/// error.
#[track_caller]
pub(crate) fn expect(finished: &Finished, code: i32, stderr: &[&str]) {
    assert_eq!(finished.code(), Some(code), "{finished}");
    for part in stderr {
        assert!(finished.stderr.contains(part), "{part:?} is not in\n{finished}");
    }
}
