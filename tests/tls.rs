//! Servers with a bad certificate: a broker that `check` connects to, a Rodan that `run_trainer`
//! connects to. Each is refused with what is wrong and what to do, before a byte of a secret is
//! sent. Needs no service.

use crate::support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, Stream};

use support::SECONDS;
use support::program::{Finished, Program, check, run_trainer};

const JOB: &str = r#"{"inputs":{"Image":"/i.png","Background":"/b.png",
                  "rgba PNG - Layer 0":"/0.png"},"token":"t0ken",
        "settings":{"Maximum number of training epochs":1,"Maximum number of samples per label":1,
                    "Patch height":32,"Patch width":32}}"#;

/// What is wrong with a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    UnknownAuthority,
    OtherName,
    Expired,
    NotYet,
    SelfSigned,
    NoTls,
}

const FAULTS: [(Fault, &str); 6] = [
    (
        Fault::UnknownAuthority,
        "an authority that this machine does not know: add the authority's certificate to",
    ),
    (Fault::OtherName, "its certificate is for another name (elsewhere.example) than localhost"),
    (Fault::Expired, "its certificate has expired, on 2001-01-01"),
    (Fault::NotYet, "its certificate is not valid yet, but from 3000-01-01"),
    (
        Fault::SelfSigned,
        "is signed by itself, and this machine does not know it: add this certificate to",
    ),
    (Fault::NoTls, "it does not speak TLS at this port"),
];

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }
}

/// A server that counts the bytes that reach it through TLS.
struct Server {
    port: u16,
    /// The certificate of the authority that the client trusts.
    trusted: String,
    heard: Arc<AtomicUsize>,
}

fn server(fault: Fault) -> Server {
    let (trusted, other) = (Authority::new("trusted"), Authority::new("other"));
    let name = if fault == Fault::OtherName { "elsewhere.example" } else { "localhost" };
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    match fault {
        Fault::Expired => params.not_after = date_time_ymd(2001, 1, 1),
        Fault::NotYet => params.not_before = date_time_ymd(3000, 1, 1),
        _ => {}
    }
    let key = KeyPair::generate().unwrap();
    let certificate = match fault {
        Fault::SelfSigned => params.self_signed(&key),
        Fault::UnknownAuthority => params.signed_by(&key, &other.issuer),
        _ => params.signed_by(&key, &trusted.issuer),
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.unwrap().der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(AtomicUsize::new(0));
    let (config, count) = (Arc::new(config), Arc::clone(&heard));
    // The thread ends with the test's process.
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            if fault == Fault::NoTls {
                let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                let _ = socket.read(&mut [0; 1024]);
                continue;
            }
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut bytes = [0; 1024];
            if let Ok(n) = Stream::new(&mut connection, &mut socket).read(&mut bytes) {
                count.fetch_add(n, Ordering::SeqCst);
            }
        }
    });
    Server { port, trusted: trusted.pem, heard }
}

/// A site with these addresses that trusts one authority, and the file with its certificate.
fn site(broker: &str, rodan: &str, trusted: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("credentials.env");
    let text = format!(
        "RABBITMQ_USER=u\nRABBITMQ_PASSWORD=p\nRABBITMQ_HOST={broker}\n\
         RODAN_USER=u\nRODAN_PASSWORD=p\nRODAN_HOST={rodan}\n"
    );
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(home.path().join("ca.pem"), trusted).unwrap();
    home
}

fn run(program: &Path, home: &Path, arguments: &[&str]) -> Finished {
    Program::new(program)
        .args(arguments)
        .arg("--env-file")
        .arg(home.join("credentials.env"))
        .env("HPC_TRAINER_HOME", home)
        .env("SSL_CERT_FILE", home.join("ca.pem"))
        .env("TMPDIR", "/tmp")
        .limit(SECONDS(200))
        .run()
}

fn ask_broker(fault: Fault) -> (Server, Finished) {
    let server = server(fault);
    let home = site(
        &format!("amqps://localhost:{}", server.port),
        "https://rodan.invalid",
        &server.trusted,
    );
    let finished = run(check(), home.path(), &[]);
    (server, finished)
}

fn ask_rodan(fault: Fault) -> (Server, Finished) {
    let server = server(fault);
    let home = site("127.0.0.1:1", &format!("https://localhost:{}", server.port), &server.trusted);
    let job = home.path().join("job.json");
    fs::write(&job, JOB).unwrap();
    let finished =
        run(run_trainer().unwrap(), home.path(), &[job.to_str().unwrap(), "queue", "id"]);
    (server, finished)
}

#[test]
fn a_broker_with_a_bad_certificate_is_refused_before_the_login() {
    let (server, finished) = ask_broker(Fault::None);
    assert!(
        server.heard.load(Ordering::SeqCst) > 0,
        "with a good certificate it is spoken to: {finished}"
    );
    for (fault, words) in FAULTS {
        let (server, finished) = ask_broker(fault);
        assert_eq!(finished.code(), Some(4), "{fault:?}: {finished}");
        assert!(
            finished.stderr.contains(words) && finished.stderr.contains("localhost"),
            "{fault:?}: {finished}"
        );
        assert_eq!(server.heard.load(Ordering::SeqCst), 0, "{fault:?}");
    }
}

#[test]
fn a_rodan_with_a_bad_certificate_is_refused_before_the_token_is_sent() {
    std::thread::scope(|scope| {
        let good = scope.spawn(|| ask_rodan(Fault::None));
        let bad =
            FAULTS.map(|(fault, words)| scope.spawn(move || (fault, words, ask_rodan(fault))));
        let (server, finished) = good.join().unwrap();
        assert!(
            server.heard.load(Ordering::SeqCst) > 0,
            "with a good certificate it is spoken to: {finished}"
        );
        for thread in bad {
            let (fault, words, (server, finished)) = thread.join().unwrap();
            assert!(finished.to_string().contains(words), "{fault:?}: {finished}");
            assert_eq!(server.heard.load(Ordering::SeqCst), 0, "{fault:?}");
        }
    });
}

/// OpenSSL's own server, which can speak versions and show certificates that nobody should use any
/// more. Ends when dropped.
struct OldServer {
    child: std::process::Child,
    port: u16,
    said: std::thread::JoinHandle<String>,
}

impl OldServer {
    fn start(home: &Path, options: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-cipher", "ALL:@SECLEVEL=0"])
            .args(options)
            .arg("-cert")
            .arg(home.join("server.pem"))
            .arg("-key")
            .arg(home.join("server.key"))
            // Kept open, because the server would end when it closes.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("ACCEPT") {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "openssl s_server did not start");
        }
        let port = line.trim().rsplit(':').next().unwrap().parse().unwrap();
        let said = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = lines.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Self { child, port, said }
    }

    /// What it was told within TLS, now that it ends.
    fn end(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.said.join().unwrap()
    }
}

#[test]
fn a_server_that_speaks_only_older_versions_is_refused() {
    let authority = Authority::new("trusted");
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority.issuer).unwrap();
    // It speaks with other clients, and with us if it has a version that we accept.
    let speak = &|version: &str, is_refused: bool, program: &Path| {
        let keys = tempfile::tempdir().unwrap();
        fs::write(keys.path().join("server.pem"), certificate.pem()).unwrap();
        fs::write(keys.path().join("server.key"), key.serialize_pem()).unwrap();
        let server = OldServer::start(keys.path(), &[version]);
        let client = Command::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{}", server.port), version])
            .args(["-cipher", "ALL:@SECLEVEL=0"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(client.status.success(), "{version}: {}", String::from_utf8_lossy(&client.stderr));
        let is_check = program == check();
        let url = |scheme: &str| format!("{scheme}://localhost:{}", server.port);
        let (broker, rodan) = match is_check {
            true => (url("amqps"), "https://rodan.invalid".to_owned()),
            false => ("127.0.0.1:1".to_owned(), url("https")),
        };
        let home = site(&broker, &rodan, &authority.pem);
        let settings = home.path().join("credentials.env");
        let text = fs::read_to_string(&settings).unwrap() + "DOWNLOAD_SECONDS=8\n";
        fs::write(&settings, text).unwrap();
        let job = home.path().join("job.json");
        fs::write(&job, JOB).unwrap();
        let arguments = [job.to_str().unwrap(), "queue", "id"];
        let finished = run(program, home.path(), if is_check { &[] } else { &arguments });
        let said = server.end();
        let spoken = if is_check { "AMQP" } else { "GET /" };
        assert_eq!(
            said.contains(spoken),
            !is_refused,
            "{version} {}: {finished}",
            program.display()
        );
        let words = finished.to_string().contains("it speaks no TLS 1.2 or newer");
        assert_eq!(words, is_refused, "{version} {}: {finished}", program.display());
    };
    std::thread::scope(|scope| {
        for (version, is_refused) in [("-tls1_2", false), ("-tls1_1", true), ("-tls1", true)] {
            for program in [check(), run_trainer().unwrap()] {
                scope.spawn(move || speak(version, is_refused, program));
            }
        }
    });
}

/// Runs `openssl` in a directory.
fn openssl(directory: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `check` or `run_trainer` before the server whose key and certificate lie in `directory`, which
/// is trusted.
fn speak_with(directory: &Path, program: &Path) -> (String, Finished) {
    let server = OldServer::start(directory, &[]);
    let is_check = program == check();
    let url = |scheme: &str| format!("{scheme}://localhost:{}", server.port);
    let (broker, rodan) = match is_check {
        true => (url("amqps"), "https://rodan.invalid".to_owned()),
        false => ("127.0.0.1:1".to_owned(), url("https")),
    };
    let home = site(&broker, &rodan, &fs::read_to_string(directory.join("server.pem")).unwrap());
    let settings = home.path().join("credentials.env");
    let text = fs::read_to_string(&settings).unwrap() + "DOWNLOAD_SECONDS=8\n";
    fs::write(&settings, text).unwrap();
    let job = home.path().join("job.json");
    fs::write(&job, JOB).unwrap();
    let arguments = [job.to_str().unwrap(), "queue", "id"];
    let finished = run(program, home.path(), if is_check { &[] } else { &arguments });
    (server.end(), finished)
}

/// A certificate for localhost that signs itself, with these further options.
fn certificate(options: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let basic = ["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=localhost"];
    let files = ["-keyout", "server.key", "-out", "server.pem"];
    openssl(directory.path(), &[&basic[..], &files, options].concat());
    directory
}

const NAME: [&str; 2] = ["-addext", "subjectAltName=DNS:localhost"];
const NO_CA: [&str; 2] = ["-addext", "basicConstraints=critical,CA:FALSE"];
const RSA: [&str; 2] = ["-newkey", "rsa:2048"];

/// What people make with `openssl` for a server at home, each trusted by SSL_CERT_FILE.
#[test]
fn certificates_that_openssl_makes_wrong_are_refused_in_words() {
    let of_version_1 = || {
        let directory = tempfile::tempdir().unwrap();
        let request = ["req", "-new", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=localhost"];
        openssl(
            directory.path(),
            &[&request[..], &["-keyout", "server.key", "-out", "request"]].concat(),
        );
        let sign =
            ["x509", "-req", "-in", "request", "-signkey", "server.key", "-out", "server.pem"];
        openssl(directory.path(), &sign);
        directory
    };
    let with = |parts: &[&[&str]]| certificate(&parts.concat());
    let faults: Vec<(&str, tempfile::TempDir)> = vec![
        ("is that of an authority (CA:TRUE), as openssl req -x509 makes it", with(&[&RSA, &NAME])),
        (
            "an RSA key of 1024 bits, which is too short",
            with(&[&["-newkey", "rsa:1024"], &NAME, &NO_CA]),
        ),
        ("is signed with SHA-1", with(&[&RSA, &NAME, &NO_CA, &["-sha1"]])),
        ("is of version 1", of_version_1()),
        ("its certificate names no host in subjectAltName", with(&[&RSA, &NO_CA])),
        (
            "lacks serverAuth",
            with(&[&RSA, &NAME, &NO_CA, &["-addext", "extendedKeyUsage=clientAuth"]]),
        ),
        (
            "than localhost",
            with(&[&RSA, &NO_CA, &["-addext", "subjectAltName=DNS:elsewhere.example,IP:10.0.0.1"]]),
        ),
        (
            "has a critical extension that is not known here",
            with(&[&RSA, &NAME, &NO_CA, &["-addext", "1.2.3.4=critical,ASN1:UTF8String:x"]]),
        ),
        (
            "no cipher in common",
            with(&[&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp521r1"], &NAME, &NO_CA]),
        ),
    ];
    std::thread::scope(|scope| {
        for (words, directory) in &faults {
            for program in [check(), run_trainer().unwrap()] {
                scope.spawn(move || {
                    let (said, finished) = speak_with(directory.path(), program);
                    let all = finished.to_string();
                    assert!(all.contains(words), "{words:?} is not in {all}");
                    assert!(!all.contains("set SSL_CERT_FILE"), "it is set: {all}");
                    assert!(!said.contains("AMQP") && !said.contains("GET /"), "{words}: {said}");
                });
            }
        }
    });
}

/// The command of the advice makes a certificate that is taken.
#[test]
fn a_certificate_that_is_made_by_the_advice_is_accepted() {
    let wrong = certificate(&[&RSA[..], &NAME].concat());
    let (_, finished) = speak_with(wrong.path(), check());
    let advice = finished.stderr.split_once("make one for the server: ").unwrap().1;
    let command = advice.split_once(';').unwrap().0;
    assert!(command.starts_with("openssl req -x509 "), "{finished}");
    let right = tempfile::tempdir().unwrap();
    openssl(right.path(), &command.split(' ').skip(1).collect::<Vec<_>>());
    for (program, spoken) in [(check(), "AMQP"), (run_trainer().unwrap(), "GET /")] {
        let (said, finished) = speak_with(right.path(), program);
        assert!(said.contains(spoken), "{said}\n{finished}");
    }
}

/// SSL_CERT_FILE names something else than certificates: named, before anything is sent.
#[test]
fn a_file_of_authorities_that_holds_something_else_is_named() {
    let made = certificate(&[&RSA[..], &NAME, &NO_CA].concat());
    openssl(made.path(), &["x509", "-in", "server.pem", "-outform", "der", "-out", "server.der"]);
    fs::write(made.path().join("empty"), "").unwrap();
    for (file, words) in [
        ("server.der", "holds a certificate in bytes (DER); convert it: openssl x509 -inform der"),
        ("server.key", "holds a private key; name a file with certificates"),
        ("empty", "is empty; name a file with certificates"),
        ("absent", "can't be read: No such file or directory"),
    ] {
        let path = made.path().join(file);
        let home = site("amqps://localhost:1", "https://localhost:1", "");
        // Others that are there do not make up for those that were meant.
        let run = |program: &Path, arguments: &[&str], has_directory: bool| {
            let mut program = Program::new(program)
                .args(arguments)
                .arg("--env-file")
                .arg(home.path().join("credentials.env"))
                .env("HPC_TRAINER_HOME", home.path())
                .env("SSL_CERT_FILE", &path)
                .env("TMPDIR", "/tmp")
                .limit(SECONDS(200));
            if has_directory {
                program = program.env("SSL_CERT_DIR", "/etc/ssl/certs");
            }
            program.run()
        };
        let beside = run(check(), &[], true);
        let finished = run(check(), &[], false);
        assert_eq!(finished.code(), Some(4), "{file}: {finished}");
        let job = home.path().join("job.json");
        fs::write(&job, JOB).unwrap();
        let trained = run(run_trainer().unwrap(), &[job.to_str().unwrap(), "queue", "id"], false);
        for finished in [finished, beside, trained] {
            let all = finished.to_string();
            assert!(all.contains(words) && all.contains("SSL_CERT_FILE names"), "{file}: {all}");
        }
    }
}
