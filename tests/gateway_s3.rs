//! Objects in S3: a real server (rclone's), which is away at times; and a gateway that is killed
//! between it and its own store.
//!
//! `HPC_TRAINER_TEST_SERVERS` names the folder of programs of an environment with rclone;
//! `run_tests` makes one. Where it is missing, that is said, and nothing is tested.
#![cfg(feature = "gateway")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::gateway_mlflow::{Relay, server_program};
use crate::support::gateway::{
    Gateway, QUICK, Site, id_of, names_in, page, tiny, upload_and_train,
};
use crate::support::{SECONDS, wait_for, write_script};
use domain::hex_sha256;

const KEY: &str = "key-of-the-test";
const SECRET: &str = "planted-secret-of-s3";

/// A server of S3, whose buckets are the folders of `folder`; it ends with this.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(folder: &Path) -> Option<Self> {
        let mut command = Command::new(server_program("rclone")?);
        command.args(["serve", "s3", "--addr", "127.0.0.1:0", "--auth-key"]);
        command.arg(format!("{KEY},{SECRET}")).arg(folder).env("RCLONE_CONFIG", "/dev/null");
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, rest) = line.split_once("[http://")?;
            rest.trim_end_matches(['/', ']']).parse().ok()
        });
        // What it says from now on is not to keep it waiting.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Some(Self { child, address: address.expect("rclone's address") })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The names of all objects in a folder of the bucket, each of which is what its name says.
fn objects(folder: &Path) -> BTreeSet<String> {
    let shelves = fs::read_dir(folder).into_iter().flatten().map(|shelf| shelf.unwrap().path());
    let mut found = BTreeSet::new();
    for shelf in shelves.filter(|shelf| shelf.is_dir()) {
        for file in fs::read_dir(&shelf).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            assert_eq!(hex_sha256(&fs::read(&path).unwrap()), name);
            assert!(shelf.ends_with(&name[..2]));
            found.insert(name);
        }
    }
    found
}

fn environment(relay: &Relay, folder: &str) -> Vec<(&'static str, String)> {
    vec![
        ("GATEWAY_OBJECTS", format!("s3://pages/{folder}")),
        ("AWS_ENDPOINT_URL", relay.url()),
        ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
    ]
}

/// Waits until a run says that its files can't be had.
fn wait_for_trouble(gateway: &Gateway, run: i64) {
    wait_for("the run to say why it waits", SECONDS(60), || {
        let run = gateway.get(&format!("/v1/runs/{run}")).expect(200).json();
        run["detail"].as_str().is_some_and(|said| said.contains("can't be reached")).then_some(())
    });
}

#[test]
fn objects_are_kept_in_s3_and_nothing_is_lost_while_it_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = folder.path().join("pages");
    fs::create_dir(&bucket).unwrap();
    let Some(server) = Server::start(folder.path()) else {
        eprintln!("SKIPPED: there is no rclone to serve S3; ./run_tests makes an environment");
        return;
    };
    let relay = Relay::new();
    relay.lead(Some(server.address));
    let places = tempfile::tempdir().unwrap();
    let (trainer, go) = (places.path().join("trainer"), places.path().join("go"));
    let waits = format!("while [ ! -e '{}' ]; do sleep 0.05; done", go.display());
    write_script(&trainer, &format!("env | grep AWS_ >&2; {waits}{QUICK}"));
    fs::write(&go, "").unwrap();
    let site = Site::with_trainer(&trainer);
    let set = environment(&relay, "first/gateway");
    let lies = bucket.join("first/gateway");
    let gateway = site.start_with(&set);

    let uploaded = gateway.upload(&page()).unwrap().expect(201);
    let id = id_of(&uploaded);
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    assert_eq!(gateway.finish(1)["state"], "succeeded");
    let model = gateway.get("/v1/runs/1/models/Model%200.hdf5").expect(200);
    assert_eq!(model.text(), "model\n");
    let bearer = gateway.bearer();
    let part = [("Authorization", &*bearer), ("Range", "bytes=1-3")];
    let part = gateway.send("GET", "/v1/runs/1/models/Model%200.hdf5", &part, b"").expect(206);
    assert_eq!(part.text(), "ode");
    assert_eq!(names_in(&gateway.get("/v1/runs/1/models.zip").expect(200)), ["Model 0.hdf5"]);
    let thumbnail = gateway.get(&format!("/v1/pages/{id}/thumbnail")).expect(200);
    assert_eq!(thumbnail.body[..2], [0xff, 0xd8]);
    let kept = objects(&lies);
    assert!(kept.len() > 8 && site.objects().is_empty(), "{kept:?}");

    // Away: an upload is refused whole, and can be sent again.
    relay.lead(None);
    let mut other = page();
    other.retain(|(name, _)| name != "layer_2.png");
    let refused = gateway.upload(&other).unwrap().expect(503);
    assert_eq!(refused.header("retry-after"), Some("30"));
    assert!(refused.json()["detail"].as_str().unwrap().contains("can't be reached"));
    gateway.get(&format!("/v1/pages/{id}/thumbnail")).expect(503);
    assert_eq!(gateway.get("/v1/pages").json()["pages"].as_array().unwrap().len(), 1);
    // A run waits for its files and says so; so does one whose models can't be kept.
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    wait_for_trouble(&gateway, 2);
    fs::remove_file(&go).unwrap();
    relay.lead(Some(server.address));
    wait_for("the training", SECONDS(60), || {
        let run = gateway.get("/v1/runs/2").json();
        (run["detail"].is_null() && site.data().join("runs/2/log.txt").exists()).then_some(())
    });
    relay.lead(None);
    fs::write(&go, "").unwrap();
    wait_for_trouble(&gateway, 2);
    relay.lead(Some(server.address));
    assert_eq!(gateway.finish(2)["state"], "succeeded");
    assert_eq!(objects(&lies), kept);
    gateway.upload(&other).unwrap().expect(201);
    gateway.terminate();
    site.assert_tidy("S3");

    // What is there belongs to this gateway, and goes with its last row.
    let run = |site: &Site, arguments: &[&str], set: &[(&'static str, String)]| {
        let command = site.command(arguments);
        set.iter().fold(command, |command, (name, value)| command.env(name, value)).run()
    };
    let stranger = Site::with_trainer(&trainer);
    let refused = run(&stranger, &["purge", "--older", "0d"], &set);
    assert!(refused.stderr.contains("another gateway keeps its objects there"), "{refused}");
    assert_eq!(refused.code(), Some(7));
    let mut wrong = set.clone();
    wrong[3].1 = "another secret".to_owned();
    let refused = run(&site, &["purge", "--older", "0d"], &wrong);
    assert!(refused.stderr.contains("refuses the keys"), "{refused}");
    assert!(!refused.to_string().contains("another secret"), "{refused}");
    wrong.remove(3);
    let refused = run(&site, &["purge", "--older", "0d"], &wrong);
    assert_eq!(refused.code(), Some(3), "{refused}");
    let lines: Vec<String> = set.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    let file = site.env_file(&lines.concat());
    run(&site, &["purge", "--older", "0d", "--env-file", &file], &[]).success();
    assert_eq!(objects(&lies), BTreeSet::new());

    // Killed between the bucket and the store: nothing is there that no row names.
    let log = places.path().join("points.txt");
    let visit = |number: usize, die: Option<usize>| {
        let name = format!("visit-{number}");
        let site = Site::with_trainer(&trainer);
        let mut set = environment(&relay, &name);
        set.push(("HPC_TRAINER_DIE_LOG", log.display().to_string()));
        if let Some(at) = die {
            let mut dying = set.clone();
            dying.push(("HPC_TRAINER_DIE_AT", at.to_string()));
            let mut gateway = site.try_start(&dying, &[]).unwrap();
            upload_and_train(&gateway);
            wait_for("the gateway's death", SECONDS(20), || gateway.child.try_wait().unwrap());
        }
        let _ = fs::remove_file(&log);
        let gateway = site.start_with(&set);
        assert!(upload_and_train(&gateway));
        assert_eq!(gateway.get("/v1/runs").json()["runs"].as_array().unwrap().len(), 1);
        gateway.terminate();
        let data = site.data();
        site.assert_tidy(&name);
        (objects(&bucket.join(name)), crate::crash::points(&log), data, site)
    };
    let (undisturbed, points, data, _site) = visit(0, None);
    let numbered = points.iter().enumerate().filter(|(_, name)| name.contains("keeping an object"));
    let numbers: Vec<usize> = numbered.map(|(index, _)| index + 1).collect();
    let chosen = [numbers[0], numbers[1], numbers[numbers.len() - 1]];
    for at in chosen {
        assert_eq!(visit(at, Some(at)).0, undisturbed, "{at}: {}", points[at - 1]);
    }
    // The keys are in no file and in no environment of a training.
    let mut files = vec![data, bucket];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let bytes = fs::read(&path).unwrap();
            let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
}
