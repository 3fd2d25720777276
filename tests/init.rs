//! `check init`: from nothing to a configuration, with options and at a terminal. Real RabbitMQ and
//! Slurm for the doctor.

use crate::support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use support::desk::Desk;
use support::program::{Finished, Program, expect};
use support::rodan::{Rodan, Setup};
use support::services::Services;
use support::site::Site;
use support::{SECONDS, wait_for, write_script};

/// An installation without a configuration.
struct Home {
    site: Site,
    /// A directory with a `crontab` that keeps its table in a file beside it.
    tools: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let tools = tempfile::tempdir().unwrap();
        let table = tools.path().join("table");
        let text = format!(
            "case $1 in -l) cat {0} 2>/dev/null || {{ echo no crontab for me >&2; exit 1; }};; -) \
            cat > {0};; *) exit 9;; esac",
            table.display()
        );
        write_script(&tools.path().join("crontab"), &text);
        Self { site: Site::new(), tools }
    }

    fn file(&self) -> PathBuf {
        self.site.credentials()
    }

    fn crontab(&self) -> String {
        fs::read_to_string(self.tools.path().join("table")).unwrap_or_default()
    }

    fn path(&self) -> String {
        format!("{}:/usr/bin:/bin", self.tools.path().display())
    }

    fn init(&self, arguments: &[&str]) -> Program {
        Program::new(self.site.path().join("run_check"))
            .arg("init")
            .args(arguments)
            .env("PATH", self.path())
    }

    /// With every answer given as an option or in the environment, and without the doctor.
    fn complete(&self, more: &[&str]) -> Finished {
        let options = [
            "--rabbitmq-host=amqps://rabbit.example/rodan",
            "--rabbitmq-user=tester",
            "--rodan-host=https://rodan.example",
            "--rodan-user=me@example.org",
            "--no-doctor",
        ];
        let program = self.init(&[&options[..], more].concat());
        let finished = program
            .env("RABBITMQ_PASSWORD", "it's s3$cret#")
            .env("RODAN_PASSWORD", "pass word")
            .run();
        for secret in ["s3$cret", "pass word"] {
            assert!(!finished.to_string().contains(secret), "{finished}");
        }
        finished
    }
}

#[track_caller]
fn holds(file: &Path, lines: &[&str]) {
    let text = fs::read_to_string(file).unwrap();
    for line in lines {
        assert!(text.lines().any(|l| l == *line), "no line {line}");
    }
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn with_options_and_environment_nothing_is_asked() {
    let home = Home::new();
    let finished = home.complete(&["--set", "SITE_PARTITION=gpu", "--set=MAX_CPUS=8"]).success();
    let script = home.site.path().join("run_check");
    assert!(finished.stdout.contains(&format!("*/5 * * * * {}\n", script.display())), "{finished}");
    assert_eq!(home.crontab(), "", "the line is only shown");
    let all = [
        "RABBITMQ_HOST='amqps://rabbit.example/rodan'",
        "RABBITMQ_USER='tester'",
        r#"RABBITMQ_PASSWORD='it'"'"'s s3$cret#'"#,
        "RODAN_PASSWORD='pass word'",
        "REQUIRE_TLS=1",
        "SITE_PARTITION='gpu'",
        "MAX_CPUS='8'",
        "#SITE_QOS=normal",
    ];
    holds(&home.file(), &all);
    // An existing file is not lost by mistake.
    let before = fs::read(home.file()).unwrap();
    expect(&home.complete(&[]), 2, &["is there already", "--force"]);
    assert_eq!(fs::read(home.file()).unwrap(), before);
    let finished = home.complete(&["--force", "--crontab"]).success();
    assert!(finished.stdout.contains("starts it every five minutes now"), "{finished}");
    assert_eq!(home.crontab(), format!("*/5 * * * * {}\n", script.display()));
    assert_ne!(fs::read(home.file()).unwrap(), before);
    // The line is added only once, and the lines of others stay.
    fs::write(home.tools.path().join("table"), format!("{}@daily other", home.crontab())).unwrap();
    let finished = home.complete(&["--force", "--crontab"]).success();
    assert!(finished.stdout.contains("starts it already"), "{finished}");
    assert!(home.crontab().ends_with("@daily other"));
    fs::write(home.tools.path().join("table"), "@daily other").unwrap();
    home.complete(&["--force", "--crontab"]).success();
    assert_eq!(home.crontab(), format!("@daily other\n*/5 * * * * {}\n", script.display()));
}

#[test]
fn another_file_stands_in_the_crontab_line() {
    let home = Home::new();
    let file = home.tools.path().join("its own.env");
    let option = format!("--env-file={}", file.display());
    let script = home.site.path().join("run_check");
    let (file, script) = (file.display(), script.display());
    let line = format!("*/5 * * * * HPC_TRAINER_ENV_FILE='{file}' {script}\n");
    for said in ["starts it every five minutes now", "starts it already"] {
        let finished = home.complete(&["--force", "--crontab", &option]).success();
        assert!(finished.stdout.contains(said), "{finished}");
        assert_eq!(home.crontab(), line);
    }
    assert!(!home.file().exists());
}

#[test]
fn what_is_missing_or_wrong_is_named_and_nothing_is_written() {
    let home = Home::new();
    let finished = home.init(&["--rabbitmq-user=tester", "--no-doctor"]).run();
    let names = [
        "--rabbitmq-host (RABBITMQ_HOST)",
        "--rodan-host",
        "--rodan-user",
        "RABBITMQ_PASSWORD",
        "RODAN_PASSWORD",
    ];
    expect(&finished, 2, &names);
    assert!(!finished.stderr.contains("--rabbitmq-user"), "{finished}");
    expect(&home.complete(&["--set=MAX_CPUS=many"]), 3, &["MAX_CPUS must be a whole number"]);
    for wrong in ["SITE_PARTITON=gpu", "SITE_PARTITION", "RODAN_PASSWORD=wr0ng"] {
        expect(&home.complete(&["--set", wrong]), 2, &["--set"]);
    }
    expect(&home.complete(&["--password=x"]), 2, &["unexpected argument"]);
    assert!(!home.file().exists());
}

#[test]
fn passwords_come_from_standard_input_too_and_a_plain_host_is_pointed_out() {
    let home = Home::new();
    let command = format!(
        "printf 'from rabbit\\nfrom rodan\\n' | {} init --passwords-stdin --no-doctor \
        --rabbitmq-host localhost --rabbitmq-user u --rodan-host rodan.example --rodan-user v",
        home.site.path().join("run_check").display()
    );
    let finished =
        Program::new("/bin/sh").args(["-c", &command]).env("PATH", home.path()).run().success();
    assert!(finished.stderr.contains("REQUIRE_TLS=0"), "{finished}");
    let lines =
        ["RABBITMQ_PASSWORD='from rabbit'", "RODAN_PASSWORD='from rodan'", "REQUIRE_TLS='0'"];
    holds(&home.file(), &lines);
}

/// `check init` at a terminal: what it prints, and a way to type.
struct Terminal {
    child: std::process::Child,
    keyboard: ChildStdin,
    screen: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
    seen: usize,
}

impl Terminal {
    fn start(home: &Home, environment: &[(&str, String)]) -> Self {
        let command =
            format!("tty; exec {} init --crontab", home.site.path().join("run_check").display());
        let mut child = Command::new("script")
            .args(["-qfec", &command, "/dev/null"])
            .env_clear()
            .env("PATH", home.path())
            .env("TERM", "dumb")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let screen = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&screen);
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut bytes) {
                written.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        Self { keyboard: child.stdin.take().unwrap(), child, screen, reader: Some(reader), seen: 0 }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().clone()
    }

    /// Waits for a question, then types the answer.
    fn answer(&mut self, question: &str, answer: &str) {
        let seen = self.seen;
        self.seen = wait_for(question, SECONDS(60), || {
            Some(seen + self.text()[seen..].find(question)? + question.len())
        });
        if question.starts_with("Password") {
            // Text that is typed before the terminal stops echoing would be visible.
            let tty = self.text().lines().next().unwrap().trim().to_owned();
            wait_for("the terminal to stop echoing", SECONDS(60), || {
                let stty = Command::new("stty").args(["-a", "-F", &tty]).output().unwrap();
                String::from_utf8_lossy(&stty.stdout).contains("-echo ").then_some(())
            });
        }
        writeln!(self.keyboard, "{answer}").unwrap();
    }
}

#[test]
fn at_a_terminal_it_asks_writes_installs_and_ends_with_the_doctor() {
    let rodan = Rodan::with(Setup { tls: true, ..Setup::default() });
    let desk = Desk::on(Services::shared(), None, rodan);
    desk.vhost.declare_queues();
    let home = Home::new();
    let ca = home.site.path().join("ca.pem");
    let own = fs::read_to_string(desk.services.ca_file()).unwrap();
    fs::write(&ca, format!("{own}\n{}", desk.rodan.ca_pem())).unwrap();
    let environment = [
        ("SLURM_CONF", desk.cluster.conf().display().to_string()),
        ("SSL_CERT_FILE", ca.display().to_string()),
        ("HOME", "/tmp".to_owned()),
    ];
    let mut terminal = Terminal::start(&home, &environment);
    let (user, password) = (desk.rodan.setup().user.clone(), desk.rodan.setup().password.clone());
    terminal.answer("RabbitMQ's address", "http://wrong");
    terminal.answer("must begin with amqp:// or amqps://", "");
    terminal.answer("it must be given", &desk.vhost.tls_url());
    terminal.answer("User name for RabbitMQ", desk.vhost.user());
    terminal.answer("Password for RabbitMQ", desk.vhost.password());
    terminal.answer("Rodan's address", &desk.rodan.url());
    terminal.answer("User name or e-mail", &user);
    terminal.answer("Password for Rodan", &password);
    terminal.answer("Slurm account", "");
    terminal.answer("Slurm partition", "");
    terminal.answer("What a job asks for", "none");
    let status = wait_for("the end", SECONDS(200), || terminal.child.try_wait().unwrap());
    terminal.reader.take().unwrap().join().unwrap();
    let text = terminal.text();
    eprintln!("{text}");
    assert!(matches!(status.code(), Some(0 | 13 | 14)), "{status:?}\n{text}");
    for part in [
        "is written (mode 0600)",
        "starts it every five minutes now",
        "  pass  login",
        "  pass  cron",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    for secret in [desk.vhost.password(), &password] {
        assert!(!text.contains(secret), "{secret} is on the screen");
    }
    holds(
        &home.file(),
        &[&format!("RODAN_PASSWORD='{password}'"), "SITE_GRES='none'", "REQUIRE_TLS=1"],
    );
    assert!(home.crontab().contains("SSL_CERT_FILE="), "{}", home.crontab());
}
