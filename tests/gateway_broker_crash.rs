//! The gateway is killed at every point of the road to a cluster and back, and started again: each
//! run ends once, nothing is lost, nothing is doubled. Real RabbitMQ; the cluster is played by the
//! test, which answers at once, so that the crashes are the gateway's.
#![cfg(feature = "gateway")]

use std::collections::BTreeMap;
use std::time::Instant;

use base::address::BrokerAddress;
use base::secret::Secret;
use contract::broker::{Broker, BrokerConfig};
use contract::wire::JobMessage;
use contract::wire::conversation::{
    Cancel, End, EndedEpochs, JobDone, JobFailed, JobProgress, JobState, Message, ModelEntry,
    Stage, Times, Used, model_messages, reply_queue, sha256,
};
use domain::{EpochReport, Standing};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::broker::Vhost;
use crate::support::gateway::{Gateway, Site, id_of, page, tiny};
use crate::support::program::run_trainer;
use crate::support::services::Services;
use crate::support::{SECONDS, wait_for};

/// A model of two parts and one of a single part.
const MODELS: [(&str, &[u8]); 2] = [("Background Model", b"0123456789"), ("Model 0", b"0123")];

/// Which way the run of a case goes. Each begins where the other does not come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Road {
    /// It is trained.
    Trained,
    /// It waits for its training, and is cancelled.
    Cancelled,
}

/// What a cluster does with jobs, without training. One connection serves all cases: to make one
/// takes longer than all that is said in a case.
struct Cluster<'a> {
    vhost: &'a Vhost,
    runtime: tokio::runtime::Runtime,
    broker: Broker,
    road: Road,
    /// The jobs that it has, by correlation id: their messages, and whether they have their end.
    jobs: BTreeMap<String, (Vec<u8>, bool)>,
    copies: usize,
}

impl<'a> Cluster<'a> {
    fn new(vhost: &'a Vhost) -> Self {
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
        let broker = runtime.block_on(Broker::connect(&config)).unwrap();
        Self { vhost, runtime, broker, road: Road::Trained, jobs: BTreeMap::new(), copies: 0 }
    }

    /// Begins a case.
    fn begin(&mut self, road: Road) {
        (self.road, self.copies) = (road, 0);
        assert!(self.jobs.is_empty());
    }

    /// Ends a case whose gateway is gone: how many jobs there were, and how many copies of them.
    /// Nothing of it is left for the next one.
    fn end(&mut self) -> (usize, usize) {
        self.pass();
        let Self { runtime, broker, jobs, .. } = self;
        for id in jobs.keys() {
            runtime.block_on(broker.forget(&reply_queue(id))).unwrap();
        }
        (std::mem::take(jobs).len(), self.copies)
    }

    /// Leaves the vhost as it was.
    fn leave(self) {
        self.runtime.block_on(self.broker.close());
        self.vhost.give_back();
    }

    /// Takes jobs and requests, and trains the job where that is its road.
    fn pass(&mut self) {
        let Self { runtime, broker, road, jobs, copies, .. } = self;
        runtime.block_on(async {
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
                        let state = JobState::new(Stage::Taken, Timestamp::now(), "it is here");
                        tell(broker, &id, &state.message(&id)).await;
                    }
                }
                broker.acknowledge(taken).await.unwrap();
            }
            while let Some(taken) = broker.request().await.unwrap() {
                let cancel = Cancel::parse(taken.body()).unwrap();
                let job = jobs.get_mut(&cancel.correlation_id).expect("a job that is here");
                if !std::mem::replace(&mut job.1, true) {
                    let id = &cancel.correlation_id;
                    tell(broker, id, &cancelled().message(id)).await;
                }
                broker.acknowledge_request(taken).await.unwrap();
            }
            for (id, (_, over)) in jobs.iter_mut().filter(|_| *road == Road::Trained) {
                if !std::mem::replace(over, true) {
                    train(broker, id).await;
                }
            }
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
    // Each message about progress tells of epochs that were told before, as after a message that
    // was not confirmed, and the record has all of them, and one that was not told.
    let told = [&[("Background Model", 1)][..], &[("Background Model", 1), ("Model 0", 1)]];
    for ((name, file), told) in MODELS.into_iter().zip(told) {
        tell(broker, id, &progress(at, name, told).message(id)).await;
        for message in model_messages(id, name, at, file, Some(6)) {
            tell(broker, id, &message).await;
        }
    }
    let record = json!({"seed": 7, "layers": [
        {"figures": {"model": "Background Model", "f1": 0.5, "best_epoch": 1},
            "history": [{"training_loss": 0.5}]},
        {"figures": {"model": "Model 0", "f1": 0.5, "best_epoch": 1},
            "history": [{"training_loss": 0.5}, {"training_loss": 0.25}]},
    ]})
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

fn progress(at: Timestamp, layer: &str, told: &[(&str, usize)]) -> JobProgress {
    let standing = Standing {
        layer: layer.to_owned(),
        layer_number: told.len(),
        layers: 2,
        epoch: 1,
        epochs: 2,
        steps: 4,
        ..Standing::default()
    };
    let mut ended_epochs = EndedEpochs::default();
    for (layer, epoch) in told {
        let (epoch, training_loss) = (*epoch, 0.5 / *epoch as f64);
        let (validation, best, seconds) = (None, false, 1.0);
        let report = EpochReport { epoch, training_loss, validation, best, seconds };
        ended_epochs.add(layer, &report);
    }
    JobProgress { at, standing, ended_epochs }
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

/// The road of a case; `None` when the gateway died.
fn road(gateway: &Gateway, cluster: &mut Cluster<'_>, page: &str) -> Option<()> {
    let bearer = gateway.bearer();
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
        ("Idempotency-Key", "once"),
    ];
    let body = tiny(page, 1).to_string();
    gateway.try_send("POST", "/v1/runs", &headers, body.as_bytes())?.expect(202);
    if cluster.road == Road::Trained {
        return goes_to(gateway, cluster, |run| run["state"] == "succeeded");
    }
    goes_to(gateway, cluster, |run| run["detail"] == "It is here." || is_over(run))?;
    let answer = gateway.try_send("POST", "/v1/runs/1/cancel", &headers[..1], b"")?;
    assert!(matches!(answer.status, 202 | 409), "{answer:?}");
    goes_to(gateway, cluster, |run| run["state"] == "cancelled")
}

fn is_over(run: &Value) -> bool {
    ["succeeded", "failed", "cancelled"].contains(&run["state"].as_str().unwrap())
}

fn goes_to(gateway: &Gateway, cluster: &mut Cluster<'_>, wanted: fn(&Value) -> bool) -> Option<()> {
    let bearer = gateway.bearer();
    let until = Instant::now() + SECONDS(60);
    loop {
        cluster.pass();
        let headers = [("Authorization", bearer.as_str())];
        let answer = gateway.try_send("GET", "/v1/runs/1", &headers, b"")?;
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
    let vhost = services.vhost();
    let mut cluster = Cluster::new(&vhost);
    // One page for all cases.
    let first = Site::in_memory(run_trainer().unwrap());
    let gateway = first.start();
    let page = id_of(&gateway.upload(&page()).unwrap().expect(201));
    gateway.terminate();
    let start = |site: &Site, more: &[(&str, String)]| {
        let mut environment = vec![
            ("RABBITMQ_USER", vhost.user().to_owned()),
            ("RABBITMQ_PASSWORD", vhost.password().to_owned()),
        ];
        environment.extend_from_slice(more);
        site.try_start(&environment, &["--broker", &vhost.url()])
    };
    let (mut all, mut deaths) = (0, 0);
    for (way, ends, most) in
        [(Road::Trained, [1, 0, 3, 2], 50), (Road::Cancelled, [0, 1, 0, 0], 25)]
    {
        let (undisturbed, points) = {
            let site = first.copy();
            cluster.begin(way);
            let log = site.folder.path().join("points.txt");
            let set = [("HPC_TRAINER_DIE_LOG", log.display().to_string())];
            let gateway = start(&site, &set).unwrap();
            road(&gateway, &mut cluster, &page).expect("no crash");
            let result = result(&gateway);
            gateway.terminate();
            site.assert_tidy("no crash");
            assert_eq!(cluster.end(), (1, 0));
            (result, crate::crash::points(&log))
        };
        assert_eq!(undisturbed.1, ends, "{way:?}");
        assert!(points.len() > most, "{way:?}: {points:?}");
        for (number, name) in (1..).zip(&points) {
            let what = format!("{way:?}: a crash at point {number}, {name}");
            let site = first.copy();
            cluster.begin(way);
            let die = [("HPC_TRAINER_DIE_AT", number.to_string())];
            if let Some(mut dying) = start(&site, &die)
                && road(&dying, &mut cluster, &page).is_none()
            {
                wait_for(&what, SECONDS(60), || dying.child.try_wait().unwrap());
                deaths += 1;
            }
            let gateway = start(&site, &[]).unwrap();
            road(&gateway, &mut cluster, &page).unwrap_or_else(|| panic!("{what}: it died again"));
            assert_eq!(result(&gateway), undisturbed, "{what}");
            gateway.terminate();
            site.assert_tidy(&what);
            let (jobs, copies) = cluster.end();
            assert!(jobs == 1 && copies <= 1, "{what}: {jobs} jobs and {copies} copies");
        }
        all += points.len();
        eprintln!("{way:?}: {} points: {points:?}", points.len());
    }
    assert!(deaths > all / 2, "{deaths} of {all} points");
    eprintln!("{all} points, {deaths} deaths, 0 lost, 0 doubled");
    cluster.leave();
}
