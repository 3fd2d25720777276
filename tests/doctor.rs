//! `check doctor`: first everything is well, then one fault after another is planted. Real
//! RabbitMQ, real Slurm, the stand-in Rodan.

use crate::support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, Stream};

use support::SECONDS;
use support::desk::{Desk, job};
use support::program::{Finished, Program};
use support::rodan::{Generation, Rodan, Setup};
use support::services::Services;
use support::{DEAD_PORT, write_script};

/// A site where everything is well, except that the shared cluster has no accounting.
struct Clinic {
    desk: Desk,
    /// A directory that comes first in `PATH`.
    tools: tempfile::TempDir,
}

impl Clinic {
    fn new() -> Self {
        Self::on(Services::shared(), Rodan::with(Setup { tls: true, ..Setup::default() }))
    }

    /// Broker and Rodan over TLS, a trainer, an entry in the crontab.
    fn on(services: Services, rodan: Rodan) -> Self {
        let mut desk = Desk::on(services, None, rodan);
        desk.vhost.declare_queues();
        let ca = fs::read_to_string(desk.services.ca_file()).unwrap();
        let theirs = if desk.rodan.setup().tls { desk.rodan.ca_pem() } else { "" };
        fs::write(desk.site.path().join("ca.pem"), format!("{ca}\n{theirs}")).unwrap();
        let address = desk.vhost.tls_url();
        desk.site.set("RABBITMQ_HOST", address).set("SITE_GRES", "none").set("WATCHER", "1");
        let trainer = desk.site.path().join("run_trainer");
        if !trainer.exists() {
            // A build for a login node has no trainer; only its `--version` is asked for.
            drop(fs::remove_file(&trainer));
            let version = concat!("echo run_trainer ", env!("CARGO_PKG_VERSION"), " '(CUDA)'");
            write_script(&trainer, version);
        }
        let tools = tempfile::Builder::new().prefix("tools.").tempdir_in("/tmp").unwrap();
        // The test must not touch this machine's own crontab, which may not even exist.
        let entry = "*/5 * * * * RABBITMQ_PASSWORD=planted /home/me/run_check";
        write_script(&tools.path().join("crontab"), &format!("echo '{entry}'"));
        Self { desk, tools }
    }

    fn program(&self, arguments: &[&str]) -> Program {
        let check = self.desk.check().arg("doctor").args(arguments);
        check
            .env("PATH", format!("{}:/usr/bin:/bin", self.tools.path().display()))
            .env("SSL_CERT_FILE", self.desk.site.path().join("ca.pem"))
            .limit(SECONDS(240))
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let finished = self.program(arguments).run();
        let secrets =
            [self.desk.vhost.password(), &self.desk.rodan.setup().password, "planted", "wr0ng"];
        for secret in secrets.into_iter().chain([self.desk.rodan.setup().token.as_str()]) {
            assert!(!finished.to_string().contains(secret), "{secret} is in\n{finished}");
        }
        finished
    }

    /// The doctor's report, and the exit code.
    fn report(&self, arguments: &[&str]) -> Report {
        let finished = self.run(&[&["--json"], arguments].concat());
        let json = serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("{error}\n{finished}"));
        Report { json, code: finished.code() }
    }
}

struct Report {
    json: Value,
    code: Option<i32>,
}

impl Report {
    #[track_caller]
    fn row(&self, group: &str, name: &str) -> (&str, &str, &str) {
        let rows = self.json["checks"].as_array().unwrap();
        let found = rows
            .iter()
            .find(|row| row["group"].as_str().unwrap().starts_with(group) && row["name"] == name);
        let row = found.unwrap_or_else(|| panic!("no row {group}/{name} in {:#}", self.json));
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        (text("verdict"), text("seen"), text("advice"))
    }

    /// Asserts a row's verdict, what was seen and what to do, and that exit code and overall
    /// verdict agree.
    #[track_caller]
    fn says(&self, group: &str, name: &str, verdict: &str, seen: &str, advice: &str) -> &Self {
        let row = self.row(group, name);
        assert_eq!(row.0, verdict, "{group}/{name}: {row:?}");
        assert!(row.1.contains(seen), "{group}/{name}: {seen:?} was not seen: {row:?}");
        assert!(row.2.contains(advice), "{group}/{name}: the advice is not {advice:?}: {row:?}");
        let (whole, code) = (self.json["verdict"].as_str().unwrap(), self.code);
        match verdict {
            "fail" => assert_eq!((whole, code), ("fail", Some(14))),
            "warn" => {
                assert!(
                    matches!((whole, code), ("warn", Some(13)) | ("fail", Some(14))),
                    "{whole} {code:?}"
                )
            }
            _ => {}
        }
        self
    }

    /// All rows except those that pass or are skipped, as `group/name`.
    fn troubles(&self) -> Vec<String> {
        let rows = self.json["checks"].as_array().unwrap().iter();
        let trouble = rows.filter(|row| matches!(row["verdict"].as_str(), Some("warn" | "fail")));
        trouble
            .map(|row| {
                format!("{}/{}", row["group"].as_str().unwrap(), row["name"].as_str().unwrap())
            })
            .collect()
    }

    /// The rows without what changes from run to run.
    fn masked(&self, clinic: &Clinic) -> String {
        let site = clinic.desk.site.path().display().to_string();
        let mask = |text: &str| {
            let text = text.replace(&site, "SITE");
            let mut masked = String::new();
            for c in text.chars() {
                match c {
                    '0'..='9' if masked.ends_with('#') => {}
                    '0'..='9' => masked.push('#'),
                    c => masked.push(c),
                }
            }
            masked
        };
        let mut text = String::new();
        // Rows that depend on this machine.
        let own = ["filesystem", "free space", "free inodes", "nvidia-smi"];
        let rows = self.json["checks"].as_array().unwrap().iter();
        for row in rows.filter(|row| !own.contains(&row["name"].as_str().unwrap())) {
            let field = |name: &str| mask(row[name].as_str().unwrap_or("-"));
            let (group, name) = (field("group"), field("name"));
            text += &format!(
                "{group} | {name} | {} | {} | {}\n",
                field("verdict"),
                field("seen"),
                field("advice")
            );
        }
        text
    }
}

/// A server with a certificate of its own that ends in `days` days.
fn server(days: i64) -> (u16, String) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let end = std::time::SystemTime::now() + SECONDS(3600);
    params.not_after = if days < 0 {
        rcgen::date_time_ymd(2001, 1, 1)
    } else {
        rcgen::date_time_ymd(1970, 1, 1)
            + end.duration_since(std::time::UNIX_EPOCH).unwrap()
            + SECONDS(days as u64 * 86_400)
    };
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let pem = certificate.pem();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Arc::new(config);
    // The thread ends with the test's process.
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = Stream::new(&mut connection, &mut socket);
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            );
        }
    });
    (port, pem)
}

#[test]
fn where_all_is_well_every_row_passes_and_nothing_is_left_behind() {
    // On a cluster of its own, with accounting.
    let cluster = Services::private(&[("PARTS", "slurm"), ("DBD", "1")]);
    let services = Services::shared().with_cluster_of(cluster);
    let clinic = Clinic::on(services, Rodan::with(Setup { tls: true, ..Setup::default() }));
    let spool = clinic.desk.site.spool();
    let before = clinic.desk.site.files_below(&spool);
    let report = clinic.report(&["--on-node", "--download", "/uploads/image.png"]);
    assert_eq!(report.troubles(), [""; 0], "{:#}", report.json);
    assert_eq!((&report.json["verdict"], report.code), (&Value::from("pass"), Some(0)));
    for (group, name) in [
        ("configuration", "variables"),
        ("spool", "rename, fsync"),
        ("RabbitMQ", "TLS"),
        ("RabbitMQ", "login"),
        ("RabbitMQ", "hpc-jobs"),
        ("Rodan", "TLS"),
        ("Rodan", "clock"),
        ("Rodan", "login"),
        ("Rodan", "download"),
        ("Slurm", "squeue"),
        ("Slurm", "sacct"),
        ("Slurm", "sbatch"),
        ("Slurm", "watcher"),
        ("trainer", "run_trainer"),
        ("schedule", "cron"),
        ("compute node", "job"),
        ("node ", "RabbitMQ login"),
        ("node ", "Rodan TLS"),
        ("node ", "Rodan answer"),
        ("node ", "spool"),
        ("node ", "trainer"),
    ] {
        report.says(group, name, "pass", "", "");
    }
    report.says("schedule", "cron", "pass", "*/5 * * * *", "");
    assert_eq!(clinic.desk.site.files_below(&spool), before, "nothing is left in the spool");
    assert_eq!(fs::read_dir(&spool).unwrap().count(), 0, "no directory either");
    let squeue = clinic.desk.cluster.command("squeue").args(["-h", "-o", "%T %j"]).run().success();
    assert!(
        !squeue.stdout.lines().any(|line| line.contains("hpcd-") && !line.contains("COMPLET")),
        "{squeue}"
    );
    assert_eq!(clinic.desk.vhost.waiting("hpc-jobs"), Some(0));

    let table = clinic.run(&["--no-download"]);
    eprintln!("{table}");
    for line in table.stdout.lines() {
        let is_path = line.trim_start().trim_start_matches("→ ").split_whitespace().count() == 1;
        assert!(line.chars().count() <= 80 || is_path, "{line:?} is wider than a terminal");
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
    assert!(table.stdout.contains("  pass  login"), "{table}");
    assert!(table.stdout.contains("  skip  download          --no-download\n"), "{table}");
}

#[test]
fn the_report_of_a_site_without_services() {
    let mut clinic = Clinic::new();
    let site = &mut clinic.desk.site;
    site.set("RABBITMQ_HOST", "amqps://127.0.0.1:1").set("RODAN_HOST", "https://127.0.0.1:1");
    site.set("SITE_SLURM_BIN", "/nowhere")
        .set("SITE_GRES", "gpu:1")
        .set("SSL_CERT_FILE", "/ca.pem");
    let report = clinic.report(&[]);
    assert_eq!(report.code, Some(14));
    insta::assert_snapshot!(report.masked(&clinic));
    // The same as a table.
    let table = clinic.run(&[]);
    for part in ["  FAIL  TCP", "      → check the port in RABBITMQ_HOST", " failed, "] {
        assert!(table.stdout.contains(part), "{part:?} is not in\n{table}");
    }
}

#[test]
fn each_fault_of_the_broker_is_named_with_what_to_do() {
    let mut clinic = Clinic::new();
    let (url, password) = (clinic.desk.vhost.tls_url(), clinic.desk.vhost.password().to_owned());
    // A wrong password.
    clinic.desk.site.set("RABBITMQ_PASSWORD", "wr0ng");
    let report = clinic.report(&[]);
    report.says("RabbitMQ", "login", "fail", "refuses user or password", "RABBITMQ_PASSWORD");
    report.says("Rodan", "login", "pass", "", "");
    assert_eq!(report.row("RabbitMQ", "hpc-jobs").0, "skipped");
    clinic.desk.site.set("RABBITMQ_PASSWORD", password);
    // A vhost that is not there.
    clinic.desk.site.set("RABBITMQ_HOST", format!("{}-nowhere", url));
    clinic.report(&[]).says(
        "RabbitMQ",
        "login",
        "fail",
        "may not use the vhost",
        "path of RABBITMQ_HOST",
    );
    // A port on which nobody listens.
    clinic.desk.site.set("RABBITMQ_HOST", format!("amqps://localhost:{DEAD_PORT}"));
    clinic.report(&[]).says("RabbitMQ", "TCP", "fail", "refused", "firewall");
    // A name that does not resolve, without TLS: it is not this machine's.
    clinic.desk.site.set("RABBITMQ_HOST", "rabbit.invalid");
    let report = clinic.report(&[]);
    report.says("RabbitMQ", "DNS", "fail", "rabbit.invalid", "check the name in RABBITMQ_HOST");
    report.says(
        "RabbitMQ",
        "address",
        "fail",
        "without TLS",
        "set RABBITMQ_HOST to amqps://rabbit.invalid",
    );
    // This machine, without TLS.
    let plain = clinic.desk.vhost.url();
    clinic.desk.site.set("RABBITMQ_HOST", plain);
    let report = clinic.report(&[]);
    report.says("RabbitMQ", "address", "warn", "this machine itself", "a name that they can reach");
    report.says("RabbitMQ", "login", "pass", "", "");
    // A port where something else listens.
    let rodan = clinic.desk.rodan.plain_url().replace("http://", "amqp://");
    clinic.desk.site.set("RABBITMQ_HOST", rodan);
    clinic.report(&[]).says("RabbitMQ", "AMQP", "fail", "does not speak AMQP", "compare the port");
    clinic.desk.site.set("RABBITMQ_HOST", url);
}

#[test]
fn queues_that_are_missing_or_odd_are_warnings() {
    let mut clinic = Clinic::new();
    // Another vhost, in which Rodan has not declared anything yet.
    let empty = clinic.desk.services.vhost();
    clinic.desk.site.set("RABBITMQ_HOST", empty.tls_url());
    let report = clinic.report(&[]);
    report.says(
        "RabbitMQ",
        "hpc-jobs",
        "warn",
        "Rodan has not declared it yet",
        "start a workflow",
    );
    report.says("RabbitMQ", "hpc-results", "pass", "the first reply makes it", "");
    assert_eq!(
        (report.code, empty.waiting("hpc-jobs")),
        (Some(13), None),
        "looking makes no queue"
    );
    empty.on_channel(|channel| async move {
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel
            .queue_declare("hpc-jobs".into(), durable, FieldTable::default())
            .await
            .expect("a queue");
    });
    let report = clinic.report(&[]);
    report.says("RabbitMQ", "hpc-jobs", "pass", "durable, which a Rodan from before 2023", "");
    // Jobs that wait are counted and stay.
    clinic.desk.site.set("RABBITMQ_HOST", clinic.desk.vhost.tls_url());
    clinic.desk.vhost.publish_job(&job());
    clinic.report(&[]).says("RabbitMQ", "hpc-jobs", "pass", "jobs that wait: 1", "");
    assert_eq!(clinic.desk.vhost.waiting("hpc-jobs"), Some(1));
}

#[test]
fn each_fault_of_rodan_is_named_with_what_to_do() {
    let mut clinic = Clinic::new();
    let password = clinic.desk.rodan.setup().password.clone();
    clinic.desk.site.set("RODAN_PASSWORD", "wr0ng");
    let report = clinic.report(&[]);
    report.says("Rodan", "login", "fail", "status 401", "RODAN_PASSWORD");
    report.says("RabbitMQ", "login", "pass", "", "");
    clinic.desk.site.set("RODAN_PASSWORD", password);
    let report = clinic.report(&["--download", "/uploads/no-such.png"]);
    report.says("Rodan", "download", "fail", "404", "access");
    // The doctor downloads the page of an earlier job without being told which.
    clinic.desk.site.set("SITE_PARTITION", "nowhere");
    clinic.desk.vhost.publish_job(&job());
    let pass =
        clinic.desk.check().env("SSL_CERT_FILE", clinic.desk.site.path().join("ca.pem")).run();
    assert_eq!(pass.code(), Some(6), "{pass}");
    clinic.report(&[]).says("Rodan", "download", "pass", "came through with the token", "");
    // Certificates: of an unknown authority, expired, about to expire.
    let finished =
        clinic.program(&["--json"]).env("SSL_CERT_FILE", clinic.desk.services.ca_file()).run();
    let report =
        Report { json: serde_json::from_str(&finished.stdout).unwrap(), code: finished.code() };
    report.says(
        "Rodan",
        "TLS",
        "fail",
        "authority that this machine does not know",
        "SSL_CERT_FILE",
    );
    report.says("RabbitMQ", "TLS", "pass", "days, until", "");
    for (days, verdict, seen, advice) in [
        (-1, "fail", "has expired", "renewed"),
        (9, "warn", "good for 9 days", "renewed"),
        (40, "pass", "40 days", ""),
    ] {
        let (port, pem) = server(days);
        clinic.desk.site.set("RODAN_HOST", format!("https://localhost:{port}"));
        let ca = fs::read_to_string(clinic.desk.services.ca_file()).unwrap();
        fs::write(clinic.desk.site.path().join("ca.pem"), format!("{ca}\n{pem}")).unwrap();
        clinic.report(&[]).says("Rodan", "TLS", verdict, seen, advice);
    }
}

#[test]
fn an_old_rodan_takes_the_login_too() {
    let setup = Setup { generation: Generation::Old, user: "hpc".into(), ..Setup::default() };
    let clinic = Clinic::on(Services::shared(), Rodan::with(setup));
    let report = clinic.report(&[]);
    report.says("Rodan", "login", "pass", "as hpc", "");
    report.says("Rodan", "address", "warn", "this machine itself", "TLS");
    assert_eq!(report.code, Some(13));
}

#[test]
fn each_fault_of_the_configuration_is_a_row_and_the_rest_is_looked_at() {
    let mut clinic = Clinic::new();
    let file = clinic.desk.site.credentials();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let report = clinic.report(&[]);
    report.says("configuration", "credentials.env", "fail", "0644", "chmod 600");
    report.says("RabbitMQ", "login", "pass", "", "").says("Rodan", "login", "pass", "", "");
    // A file that others may write is not trusted: they could send the passwords anywhere.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let report = clinic.report(&[]);
    report.says("configuration", "credentials.env", "fail", "it is not read", "chmod 600");
    assert_eq!(report.row("RabbitMQ", "address").0, "skipped");
    // A variable that is missing, one that is wrong, one that does not exist, and a line that is
    // none.
    clinic.desk.site.unset("RODAN_PASSWORD").set("MAX_CPUS", "many").set("SITE_PARTITON", "gpu");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}RODAN_TOKEN=wr0ng 'password\n")).unwrap();
    let report = clinic.report(&[]);
    report.says("configuration", "RODAN_PASSWORD", "fail", "is not set", "the password for Rodan");
    report.says("configuration", "MAX_CPUS", "fail", "whole number", "the most cores");
    report.says("configuration", "SITE_PARTITON", "warn", "means nothing", "spelling");
    report.says(
        "configuration",
        "credentials.env",
        "fail",
        "has more after the end",
        "single quotes",
    );
    report.says("Rodan", "TLS", "pass", "", "").says("RabbitMQ", "login", "pass", "", "");
    assert_eq!(report.row("Rodan", "login").0, "skipped");
    // No file at all.
    fs::remove_file(&file).unwrap();
    let report = clinic.report(&[]);
    report.says("configuration", "credentials.env", "warn", "there is none", "check init");
    report.says("configuration", "RABBITMQ_HOST", "fail", "is not set", "RabbitMQ's address");
}

#[test]
fn each_fault_of_slurm_spool_and_trainer_is_named_with_what_to_do() {
    let mut clinic = Clinic::new();
    clinic.desk.site.set("SITE_PARTITION", "nowhere");
    let report = clinic.report(&["--on-node"]);
    report.says("Slurm", "sbatch", "fail", "invalid partition", "SITE_PARTITION");
    report.says("Slurm", "watcher", "warn", "invalid partition", "WATCHER_PARTITION");
    assert_eq!(report.row("compute node", "job").0, "skipped");
    clinic.desk.site.unset("SITE_PARTITION");
    // A wrong row of the table is found, although the usual job uses another row.
    clinic.desk.site.set("SITE_GRES_TABLE", "8000=none, *=none@nowhere");
    let report = clinic.report(&[]);
    report.says("Slurm", "sbatch 6000 MB", "pass", "would start", "");
    report.says("Slurm", "sbatch 8001 MB", "fail", "invalid partition", "SITE_GRES_TABLE");
    clinic.desk.site.unset("SITE_GRES_TABLE").set("SITE_SLURM_BIN", "/nowhere");
    let report = clinic.report(&[]);
    report.says("Slurm", "sbatch", "fail", "can't run sbatch", "SITE_SLURM_BIN");
    report.says("Slurm", "sacct", "warn", "there is none", "squeue and scontrol");
    clinic.desk.site.unset("SITE_SLURM_BIN");

    // A place where not even root can make a file.
    clinic.desk.site.set("SPOOL_DIR", "/sys/kernel").set("LOG_DIR", "/sys/kernel/logs");
    let report = clinic.report(&[]);
    report.says(
        "spool",
        "rename, fsync",
        "fail",
        "making a directory in /sys/kernel fails",
        "SPOOL_DIR",
    );
    report.says("spool", "log directory", "fail", "can't be written", "LOG_DIR");
    clinic.desk.site.unset("SPOOL_DIR").unset("LOG_DIR");
    fs::set_permissions(clinic.desk.site.spool(), fs::Permissions::from_mode(0o755)).unwrap();
    clinic.report(&[]).says("spool", "directory", "warn", "0755", "chmod 700");
    if Path::new("/dev/shm").is_dir() {
        let memory = tempfile::Builder::new().prefix("spool.").tempdir_in("/dev/shm").unwrap();
        clinic.desk.site.set("SPOOL_DIR", memory.path().display().to_string());
        clinic.report(&[]).says(
            "spool",
            "filesystem",
            "warn",
            "tmpfs",
            "login node and compute nodes share",
        );
        clinic.desk.site.unset("SPOOL_DIR");
    }

    let home = clinic.desk.site.path().to_owned();
    fs::remove_file(home.join("run_trainer")).unwrap();
    fs::remove_file(home.join("hpc_training.sh")).unwrap();
    write_script(&clinic.tools.path().join("crontab"), "echo no crontab for me >&2; exit 1");
    let report = clinic.report(&[]);
    report.says(
        "trainer",
        "run_trainer",
        "fail",
        "there is no run_trainer",
        "cargo build --release",
    );
    report.says("spool", "batch script", "fail", "can't be read", "BATCH_SCRIPT");
    let line = format!("*/5 * * * * SSL_CERT_FILE={}/ca.pem", home.display());
    report.says("schedule", "cron", "warn", "run_check", &line);
    write_script(&home.join("run_trainer"), "echo run_trainer 0.0.1 '(CPU)'");
    clinic.desk.site.set("SITE_GRES", "gpu:1");
    let report = clinic.report(&[]);
    report.says("trainer", "run_trainer", "warn", "0.0.1", "from one version");
    report.says("trainer", "CUDA", "warn", "jobs ask for gpu:1", "SITE_GRES=none");
    write_script(&home.join("run_trainer"), "echo libcuda.so.1: no such file >&2; exit 127");
    clinic.report(&[]).says("trainer", "run_trainer", "warn", "libcuda.so.1", "--on-node");
}

#[test]
fn a_compute_node_that_does_not_come_is_not_waited_for_for_ever() {
    // The only node of this cluster is busy.
    let cluster = Services::private(&[("PARTS", "slurm"), ("NODES", "1"), ("CPUS", "1")]);
    let services = Services::shared().with_cluster_of(cluster);
    let clinic = Clinic::on(services, Rodan::with(Setup { tls: true, ..Setup::default() }));
    let desk = &clinic.desk;
    let busy = desk.cluster.submit(desk.site.path(), ["--output=/dev/null", "--wrap=sleep 600"]);
    desk.cluster.wait_for_state(&busy, &["RUNNING"], SECONDS(60));
    let jobs = || {
        let squeue =
            desk.cluster.command("squeue").args(["-h", "-t", "all", "-o", "%j %T"]).run().success();
        squeue
            .stdout
            .lines()
            .filter(|line| line.starts_with("hpcd-"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    // The typical job may ask for one CPU only here.
    let one = |program: Program| program.env("MAX_CPUS", "1");
    let finished = one(clinic.program(&["--json", "--on-node", "--wait", "20"])).run();
    let report =
        Report { json: serde_json::from_str(&finished.stdout).unwrap(), code: finished.code() };
    report.says("compute node", "job", "warn", "(Resources)", "--wait");
    assert!(finished.stderr.contains("nodes are busy (Resources)"), "{finished}");
    let all_cancelled = || jobs().iter().all(|job| job.ends_with(" CANCELLED")).then_some(());
    support::wait_for("the job to be cancelled", SECONDS(60), all_cancelled);
    assert_eq!(jobs().len(), 1);

    let running = one(clinic.program(&["--on-node"])).start();
    support::wait_for("the job", SECONDS(60), || {
        jobs().iter().any(|job| job.ends_with(" PENDING")).then_some(())
    });
    running.signal("INT");
    let finished = running.wait();
    assert_eq!(finished.code(), Some(12), "{finished}");
    assert!(finished.stdout.contains("is cancelled"), "{finished}");
    support::wait_for("the job to be cancelled", SECONDS(60), all_cancelled);
    assert_eq!(
        (jobs().len(), fs::read_dir(desk.site.spool()).unwrap().count()),
        (2, 0),
        "nothing is left"
    );
    desk.cluster.cancel(&busy);
}

#[test]
fn what_only_a_compute_node_can_tell_is_told() {
    let mut clinic = Clinic::new();
    // Jobs read another address from the file than this process gets from its environment.
    let good = clinic.desk.vhost.tls_url();
    clinic.desk.site.set("RABBITMQ_HOST", "amqps://rabbit.invalid");
    fs::remove_file(clinic.desk.site.path().join("run_trainer")).unwrap();
    write_script(
        &clinic.desk.site.path().join("run_trainer"),
        "[ -z \"${SLURM_JOB_ID:-}${HPC_ON_NODE:-}\" ] || exit 1; echo run_trainer 0.1.0",
    );
    let finished = clinic.program(&["--json", "--on-node"]).env("RABBITMQ_HOST", good).run();
    let report =
        Report { json: serde_json::from_str(&finished.stdout).unwrap(), code: finished.code() };
    report.says("RabbitMQ", "login", "pass", "", "");
    report.says("node ", "RabbitMQ DNS", "fail", "rabbit.invalid", "RABBITMQ_HOST");
    assert_eq!(report.row("node ", "RabbitMQ login").0, "skipped");
}
