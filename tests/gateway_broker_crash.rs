//! The gateway is killed at every point of the road to a cluster and back, and started again: each
//! run ends once, nothing is lost, nothing is doubled. Real RabbitMQ; the cluster is played by the
//! test, which answers at once, so that the crashes are the gateway's.
#![cfg(feature = "gateway")]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use base::address::BrokerAddress;
use base::secret::Secret;
use contract::broker::{Broker, BrokerConfig};
use contract::wire::JobMessage;
use contract::wire::conversation::{
    Cancel, End, JobDone, JobFailed, JobProgress, JobState, Message, ModelEntry, Stage, Standing,
    Times, Used, model_messages, reply_queue, sha256,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::broker::Vhost;
use crate::support::gateway::{Gateway, Site, id_of, page, tiny};
use crate::support::services::Services;
use crate::support::{SECONDS, wait_for};

/// A model of two parts and one of a single part.
const MODELS: [(&str, &[u8]); 2] = [("Background Model", b"0123456789"), ("Model 0", b"0123")];

/// What a cluster does with jobs, without training.
struct Cluster {
    runtime: tokio::runtime::Runtime,
    config: BrokerConfig,
    /// The jobs that it has, by correlation id: their messages, and whether they have their end.
    jobs: BTreeMap<String, (Vec<u8>, bool)>,
    /// The first of them, which is the one that is trained.
    first: Option<String>,
    copies: usize,
}

impl Cluster {
    fn new(vhost: &Vhost) -> Self {
        let config = BrokerConfig {
            address: BrokerAddress::parse(&vhost.url()).unwrap(),
            user: vhost.user().to_owned(),
            password: Secret::new(vhost.password()),
            identity: None,
            reply_queue_durable: true,
            reply_ttl: SECONDS(60),
            max_reply_bytes: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, config, jobs: BTreeMap::new(), first: None, copies: 0 }
    }

    /// Leaves the vhost as it was.
    fn leave(&self, vhost: &Vhost) {
        for id in self.jobs.keys() {
            vhost.delete(&reply_queue(id));
        }
        vhost.give_back();
    }

    /// Takes jobs and requests, and trains the first job.
    fn pass(&mut self) {
        let Self { runtime, config, jobs, first, copies } = self;
        runtime.block_on(async {
            let mut broker = Broker::connect(config).await.unwrap();
            while let Some(taken) = broker.take().await.unwrap() {
                let id = taken.correlation_id().unwrap();
                assert_eq!(taken.reply_to().unwrap(), reply_queue(&id));
                JobMessage::parse(taken.body()).unwrap();
                match jobs.get(&id) {
                    // As `check`, which knows a copy by its id and its bytes.
                    Some((known, _)) => {
                        assert_eq!(known, taken.body(), "two messages of one id");
                        *copies += 1;
                    }
                    None => {
                        jobs.insert(id.clone(), (taken.body().to_vec(), false));
                        first.get_or_insert(id.clone());
                        let state = JobState::new(Stage::Taken, Timestamp::now(), "it is here");
                        tell(&mut broker, &id, &state.message(&id)).await;
                    }
                }
                broker.acknowledge(taken).await.unwrap();
            }
            while let Some(taken) = broker.request().await.unwrap() {
                let cancel = Cancel::parse(taken.body()).unwrap();
                let job = jobs.get_mut(&cancel.correlation_id).expect("a job that is here");
                if !std::mem::replace(&mut job.1, true) {
                    let id = &cancel.correlation_id;
                    tell(&mut broker, id, &cancelled().message(id)).await;
                }
                broker.acknowledge_request(taken).await.unwrap();
            }
            let over = first.as_ref().and_then(|first| jobs.get_mut(first)).map(|job| &mut job.1);
            if let (Some(first), Some(over @ false)) = (first, over) {
                train(&mut broker, first).await;
                *over = true;
            }
            broker.close().await;
        });
    }
}

async fn tell(broker: &mut Broker, id: &str, message: &Message<'_>) {
    broker.tell(&reply_queue(id), id, message).await.unwrap();
}

/// All that is said about a training, and some of it twice.
async fn train(broker: &mut Broker, id: &str) {
    let at = Timestamp::now();
    let running = JobState::new(Stage::Running, at, "it runs").message(id);
    tell(broker, id, &running).await;
    let standing = Standing {
        layer: "Background Model".into(),
        layer_number: 1,
        layers: 2,
        epoch: 1,
        epochs: 1,
        steps: 4,
        ..Standing::default()
    };
    tell(broker, id, &JobProgress { at, standing }.message(id)).await;
    for (name, file) in MODELS {
        for message in model_messages(id, name, at, file, Some(6)) {
            tell(broker, id, &message).await;
        }
    }
    let record = json!({"seed": 7, "layers": [{"figures": {"model": "Model 0", "f1": 0.5,
        "best_epoch": 1}, "history": [{"training_loss": 0.5}]}]})
    .to_string();
    let report = Message::report(id, "training.json", at, record.as_bytes()).unwrap();
    tell(broker, id, &report).await;
    let entry = |(name, file): (&str, &[u8])| ModelEntry {
        name: name.to_owned(),
        sha256: sha256(file),
        size: file.len() as u64,
    };
    let done = End::Done(JobDone {
        at,
        models: MODELS.map(entry).to_vec(),
        figures: Vec::new(),
        times: Times::default(),
        seed: 7,
        log: Vec::new(),
        asked: None,
        used: Used::default(),
    });
    // A cluster that was killed sends its end again.
    for message in [&report, &done.message(id), &done.message(id)] {
        tell(broker, id, message).await;
    }
}

fn cancelled() -> End {
    End::Failed(JobFailed {
        at: Timestamp::now(),
        error: "it was cancelled".into(),
        cause: "cancelled".into(),
        advice: String::new(),
        log: vec!["a line".into()],
        asked: None,
        used: Used::default(),
    })
}

/// A run that is trained and one that is cancelled; `None` when the gateway died.
fn road(gateway: &Gateway, cluster: &mut Cluster, page: &str) -> Option<()> {
    place(gateway, "trained", page)?;
    goes_to(gateway, cluster, 1, |run| run["state"] == "succeeded")?;
    place(gateway, "cancelled", page)?;
    goes_to(gateway, cluster, 2, |run| run["detail"] == "It is here." || is_over(run))?;
    let bearer = gateway.bearer();
    let headers = [("Authorization", bearer.as_str())];
    let answer = gateway.try_send("POST", "/v1/runs/2/cancel", &headers, b"")?;
    assert!(matches!(answer.status, 202 | 409), "{answer:?}");
    goes_to(gateway, cluster, 2, |run| run["state"] == "cancelled")
}

fn place(gateway: &Gateway, key: &str, page: &str) -> Option<()> {
    let bearer = gateway.bearer();
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
        ("Idempotency-Key", key),
    ];
    let body = tiny(page, 1).to_string();
    gateway.try_send("POST", "/v1/runs", &headers, body.as_bytes())?.expect(202);
    Some(())
}

fn is_over(run: &Value) -> bool {
    ["succeeded", "failed", "cancelled"].contains(&run["state"].as_str().unwrap())
}

fn goes_to(
    gateway: &Gateway,
    cluster: &mut Cluster,
    run: i64,
    wanted: fn(&Value) -> bool,
) -> Option<()> {
    let bearer = gateway.bearer();
    let until = Instant::now() + SECONDS(60);
    loop {
        cluster.pass();
        let path = format!("/v1/runs/{run}");
        let answer = gateway.try_send("GET", &path, &[("Authorization", &bearer)], b"")?;
        let now = answer.expect(200).json();
        if wanted(&now) {
            return Some(());
        }
        assert!(!is_over(&now) && Instant::now() < until, "{now}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// What is there in the end.
fn result(gateway: &Gateway) -> (Vec<Value>, Vec<usize>) {
    let runs = gateway.get("/v1/runs").expect(200).json()["runs"].as_array().unwrap().clone();
    let facts = |run: &Value| {
        let files = run["files"].as_array().unwrap().iter();
        let files: Vec<_> = files.map(|file| (&file["name"], &file["sha256"])).collect();
        json!([run["id"], run["state"], run["error"], run["figures"], files])
    };
    let counted = |run: &Value| {
        let events = gateway.get(&format!("/v1/runs/{}/events", run["id"])).expect(200).text();
        let count = |what: &str| events.matches(what).count();
        [
            count("\"state\":\"succeeded\""),
            count("\"state\":\"cancelled\""),
            count("event: epoch"),
            count("event: layer"),
        ]
    };
    (runs.iter().map(facts).collect(), runs.iter().flat_map(counted).collect())
}

#[test]
fn killed_at_every_point_of_the_road_every_run_ends_once() {
    let services = Services::shared();
    let folder = tempfile::tempdir().unwrap();
    // One page for all cases.
    let first = Site::new();
    let gateway = first.start();
    let page = id_of(&gateway.upload(&page()).unwrap().expect(201));
    gateway.terminate();
    let site = || {
        let folder = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-r").arg(first.data()).arg(folder.path()).status();
        assert!(copied.unwrap().success());
        Site { folder, trainer: first.trainer.clone(), admin: first.admin.clone() }
    };
    let start = |site: &Site, vhost: &Vhost, more: &[(&str, String)]| {
        let mut environment = vec![
            ("RABBITMQ_USER", vhost.user().to_owned()),
            ("RABBITMQ_PASSWORD", vhost.password().to_owned()),
        ];
        environment.extend_from_slice(more);
        site.try_start(&environment, &["--broker", &vhost.url()])
    };
    let log = folder.path().join("points.txt");
    let (undisturbed, points) = {
        let (site, vhost) = (site(), services.vhost());
        let mut cluster = Cluster::new(&vhost);
        let log = [("HPC_TRAINER_DIE_LOG", log.display().to_string())];
        let gateway = start(&site, &vhost, &log).unwrap();
        road(&gateway, &mut cluster, &page).expect("no crash");
        assert_eq!((cluster.jobs.len(), cluster.copies), (2, 0));
        let result = result(&gateway);
        gateway.terminate();
        site.assert_tidy("no crash");
        cluster.leave(&vhost);
        (result, crate::crash::points(std::path::Path::new(&log[0].1)))
    };
    assert_eq!(undisturbed.1, [0, 1, 0, 0, 1, 0, 1, 1]);
    assert!(points.len() > 70, "{points:?}");
    let mut died = 0;
    for (number, name) in (1..).zip(&points) {
        let what = format!("a crash at point {number}, {name}");
        let (site, vhost) = (site(), services.vhost());
        let mut cluster = Cluster::new(&vhost);
        let die = [("HPC_TRAINER_DIE_AT", number.to_string())];
        if let Some(mut dying) = start(&site, &vhost, &die)
            && road(&dying, &mut cluster, &page).is_none()
        {
            wait_for(&what, SECONDS(20), || dying.child.try_wait().unwrap());
            died += 1;
        }
        let gateway = start(&site, &vhost, &[]).unwrap();
        road(&gateway, &mut cluster, &page).unwrap_or_else(|| panic!("{what}: it died again"));
        assert_eq!(cluster.jobs.len(), 2, "{what}");
        assert!(cluster.copies <= 1, "{what}: {} copies", cluster.copies);
        assert_eq!(result(&gateway), undisturbed, "{what}");
        gateway.terminate();
        site.assert_tidy(&what);
        cluster.leave(&vhost);
    }
    assert!(died > points.len() / 2, "{died} of {} points", points.len());
    eprintln!("{} points, {died} deaths, 0 lost, 0 doubled: {points:?}", points.len());
}
