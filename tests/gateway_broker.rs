//! The gateway with a cluster behind it: a page goes to the cluster by way of RabbitMQ, models come
//! back. The gateway is Rodan for `check` and `run_trainer`. Real RabbitMQ, real Slurm, real
//! training.
#![cfg(feature = "gateway")]

use std::fs;
use std::time::Duration;

use domain::hex_sha256;
use serde_json::{Value, json};

use crate::local::Page;
use crate::support::broker::{CONTROL, JOBS};
use crate::support::desk::Desk;
use crate::support::gateway::{Answer, Gateway, PARTS, QUICK, Site, id_of, page, tiny};
use crate::support::rodan::Rodan;
use crate::support::services::Services;
use crate::support::{SECONDS, wait_for, write_script};

const TRAINING: Duration = Duration::from_secs(240);

/// The account of `check`.
const BRIDGE: &str = "cluster";

/// A gateway, and a cluster with its bridge.
struct Town {
    desk: Desk,
    site: Site,
    password: String,
}

impl Town {
    fn new(mut desk: Desk) -> Self {
        let site = Site::new();
        let password = site.account(BRIDGE, "bridge");
        desk.site.use_rodan("http://127.0.0.1:9", BRIDGE, &password);
        Self { desk, site, password }
    }

    /// Starts the gateway; `check` and the trainers find it.
    fn start(&mut self) -> Gateway {
        let file = self.desk.site.credentials().display().to_string();
        let gateway = self.site.try_start(&[], &["--env-file", &file, "--broker"]).unwrap();
        let address = format!("http://{}", gateway.address);
        self.desk.site.use_rodan(&address, BRIDGE, &self.password);
        gateway
    }

    /// A pass of `check`, as cron starts it.
    fn pass(&self) {
        let pass = self.desk.check().limit(SECONDS(60)).run();
        assert!(matches!(pass.code(), Some(0 | 6 | 8 | 9 | 10)), "{pass}");
    }

    /// Passes until a run is in one of these states.
    fn pass_until(&self, gateway: &Gateway, run: i64, states: &[&str]) -> Value {
        wait_for(&format!("run {run} to be {states:?}"), TRAINING, || {
            self.pass();
            let run = state_of(gateway, run);
            states.contains(&run["state"].as_str().unwrap()).then_some(run)
        })
    }
}

fn state_of(gateway: &Gateway, run: i64) -> Value {
    gateway.get(&format!("/v1/runs/{run}")).expect(200).json()
}

/// Waits until a run's job is in RabbitMQ.
fn wait_until_sent(gateway: &Gateway, run: i64) -> Value {
    wait_for("the job to be sent", SECONDS(30), || {
        let run = state_of(gateway, run);
        run["detail"].as_str().is_some_and(|said| said.contains("is in RabbitMQ")).then_some(run)
    })
}

fn end(run: &Value) -> (&Value, &Value) {
    (&run["state"], &run["error"])
}

#[test]
fn a_page_goes_to_a_cluster_and_models_come_back() {
    let mut town = Town::new(Desk::new());
    let gateway = town.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    gateway.post("/v1/runs", &tiny(&id, 2)).expect(202);
    let waiting = wait_until_sent(&gateway, 1);
    assert_eq!(waiting["state"], "queued", "{waiting}");
    assert_eq!((&waiting["queue_position"], &waiting["attempts"]), (&json!(0), &json!(0)));
    assert_eq!(town.desk.vhost.waiting(JOBS), Some(1));
    let status = gateway.get("/status").expect(200).json();
    assert_eq!((&status["queued_tasks"], &status["registered_workers"]), (&json!(1), &json!(null)));

    // A kill while the cluster trains: the next gateway goes on. It has another address, so the
    // trainer must have the page by then.
    town.pass();
    assert_eq!(town.desk.vhost.waiting(JOBS), Some(0));
    wait_for("the training to begin", TRAINING, || {
        let run = state_of(&gateway, 1);
        let begun = run["progress"]["layer"].as_u64() > Some(0);
        (begun || run["state"] == "succeeded" || run["state"] == "failed").then_some(())
    });
    drop(gateway);
    let gateway = town.start();
    let run = town.pass_until(&gateway, 1, &["succeeded", "failed", "cancelled"]);
    assert_eq!(end(&run), (&json!("succeeded"), &json!(null)));
    assert_eq!((&run["attempts"], &run["detail"]), (&json!(1), &json!(null)));
    let layers = run["figures"]["layers"].as_array().unwrap();
    assert_eq!((layers.len(), &run["figures"]["seed"]), (4, &json!(7)));
    assert_eq!(layers[3]["epochs"], 2);
    let files = run["files"].as_array().unwrap();
    let models: Vec<_> = files.iter().filter(|file| file["kind"] == "model").collect();
    assert_eq!(models.len(), 4);
    for model in models {
        let file = gateway.get(model["href"].as_str().unwrap()).expect(200);
        assert_eq!(hex_sha256(&file.body), model["sha256"].as_str().unwrap());
        assert_eq!(&file.body[..4], b"\x89HDF");
    }
    assert!(gateway.get("/v1/runs/1/report").expect(200).text().contains("<title>"));
    let events = gateway.get("/v1/runs/1/events").expect(200).text();
    let states =
        ["queued", "succeeded"].map(|state| events.find(&format!("\"state\":\"{state}\"")));
    assert!(states[0].is_some() && states.is_sorted(), "{events}");
    assert_eq!(events.matches("event: epoch").count(), 8, "{events}");
    // The page has the curves, and says what its figures were measured on.
    let shown = gateway.get("/runs/1").expect(200).text();
    assert!(shown.contains("<svg") && shown.contains("on the validation samples"), "{shown}");

    // Two pages, and the models of the first run to go on from.
    let other = Page::cut(120, 150);
    let file = |name: &&str| ((*name).to_owned(), fs::read(other.path(name)).unwrap());
    let files: Vec<_> = PARTS.iter().map(file).collect();
    let second = id_of(&gateway.upload(&files).unwrap().expect(201));
    let mut asked = tiny(&id, 1);
    asked["pages"] = json!([id, second]);
    asked["models_from"] = json!(1);
    gateway.post("/v1/runs", &asked).expect(202);
    wait_until_sent(&gateway, 2);
    let run = town.pass_until(&gateway, 2, &["succeeded", "failed", "cancelled"]);
    assert_eq!(end(&run), (&json!("succeeded"), &json!(null)));
    let logs = fs::read_dir(town.desk.site.logs()).unwrap();
    let logs: Vec<String> =
        logs.map(|log| fs::read_to_string(log.unwrap().path()).unwrap()).collect();
    assert!(
        logs.iter().any(|log| log.contains("goes on from the model that was given")
            && log.contains("pages 150x150 120x150")),
        "{logs:?}"
    );

    // Models are applied here, and not by the cluster.
    gateway.post("/v1/runs/1/apply", &json!({"page": id})).expect(202);
    assert_eq!(gateway.finish(3)["state"], "succeeded");
    assert_eq!(town.desk.vhost.waiting(JOBS), Some(0));
    gateway.terminate();
    town.site.assert_tidy("two trainings by a cluster");
}

#[test]
fn a_cancel_reaches_a_job_that_waits_and_a_job_that_is_trained() {
    let mut town = Town::new(Desk::with_script("sleep 300"));
    let gateway = town.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    let cancel = |run: i64| gateway.post(&format!("/v1/runs/{run}/cancel"), &json!({}));
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    wait_until_sent(&gateway, 1);
    let asked = cancel(1).expect(202).json();
    // Not before the cluster has heard of it.
    assert_eq!((&asked["state"], &asked["cancel_asked"]), (&json!("queued"), &json!(true)));
    wait_for("the request", SECONDS(20), || {
        (town.desk.vhost.waiting(CONTROL) == Some(1)).then_some(())
    });
    let run = town.pass_until(&gateway, 1, &["cancelled", "failed"]);
    assert_eq!(end(&run), (&json!("cancelled"), &json!(null)));
    cancel(1).expect(409);

    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    wait_until_sent(&gateway, 2);
    let run = town.pass_until(&gateway, 2, &["launch", "running"]);
    assert_eq!(run["attempts"], 1);
    cancel(2).expect(202);
    let run = town.pass_until(&gateway, 2, &["cancelled", "failed"]);
    assert_eq!(end(&run), (&json!("cancelled"), &json!(null)));
    gateway.terminate();
    town.site.assert_tidy("two cancelled runs");
}

#[test]
fn a_job_that_fails_says_why() {
    let mut town = Town::new(Desk::with_script("echo 'no such library' >&2; exit 3"));
    let gateway = town.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    wait_until_sent(&gateway, 1);
    let run = town.pass_until(&gateway, 1, &["failed", "succeeded"]);
    let error = run["error"].as_str().unwrap();
    assert!(error.ends_with('.') && error.contains("exit"), "{run}");
    let shown = gateway.get("/runs/1").expect(200).text();
    assert!(shown.contains("failed"), "{shown}");
    assert!(gateway.get("/v1/runs/1/log").expect(200).text().contains("no such library"));
    gateway.terminate();
}

#[test]
fn a_broker_that_is_away_keeps_runs_waiting_and_says_so() {
    let broker = Services::private(&[("PARTS", "broker"), ("VHOSTS", "1")]);
    let mut town = Town::new(Desk::on(
        broker.with_cluster_of(Services::shared()),
        Some("exit 0"),
        Rodan::start(),
    ));
    let gateway = town.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    wait_until_sent(&gateway, 1);
    town.desk.services.service("stop", "broker");
    let ask = |name: &str| {
        let mut asked = tiny(&id, 1);
        asked["name"] = name.into();
        gateway.post("/v1/runs", &asked).expect(202).json()["id"].as_i64().unwrap()
    };
    let waits = ask("waits");
    let away = wait_for("the gateway to say so", SECONDS(30), || {
        let run = state_of(&gateway, waits);
        run["detail"].is_string().then_some(run)
    });
    let detail = away["detail"].as_str().unwrap();
    assert_eq!(away["state"], "queued");
    assert!(detail.starts_with("RabbitMQ can't be reached since 20"), "{detail}");
    for path in ["/", &format!("/runs/{waits}")] {
        let shown = gateway.get(path).expect(200).text();
        assert!(shown.contains("RabbitMQ can't be reached since"), "{path}: {shown}");
    }
    assert_eq!(gateway.get("/status").expect(200).json()["trouble"].as_str(), Some(detail));
    assert!(gateway.get("/metrics").expect(200).text().contains("gateway_broker_up 0"));
    // What was not sent is cancelled at once.
    let goes = ask("goes");
    let path = format!("/v1/runs/{goes}/cancel");
    assert_eq!(gateway.post(&path, &json!({})).expect(202).json()["state"], "cancelled");
    // A gateway that is started meanwhile works, too.
    gateway.terminate();
    let gateway = town.start();
    assert_eq!(state_of(&gateway, waits)["state"], "queued");
    town.desk.services.service("start", "broker");
    wait_for("the job to be sent", SECONDS(90), || {
        let run = state_of(&gateway, waits);
        run["detail"].as_str().is_some_and(|said| said.contains("is in RabbitMQ")).then_some(())
    });
    // Each job once: the one from before, and the one that has waited.
    let jobs = town.desk.vhost.leftovers(JOBS);
    let mut ids: Vec<_> = jobs.iter().map(|job| job.correlation_id().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((jobs.len(), ids.len()), (2, 2));
    assert!(gateway.get("/metrics").expect(200).text().contains("gateway_broker_up 1"));
    gateway.terminate();
}

/// What a bridge asks.
fn log_in(gateway: &Gateway, user: &str, password: &str) -> Answer {
    let form = format!("username={user}&email={user}&password={password}");
    let kind = [("Content-Type", "application/x-www-form-urlencoded")];
    gateway.send("POST", "/api/auth/token/", &kind, form.as_bytes())
}

fn fetch(gateway: &Gateway, path: &str, authorization: &str) -> Answer {
    gateway.send("GET", path, &[("Authorization", authorization)], b"")
}

#[test]
fn files_are_a_runs_own_for_a_bridge_until_the_run_is_over() {
    let mut town = Town::new(Desk::with_script("exit 0"));
    let gateway = town.start();
    for (user, password) in [
        (BRIDGE, "wrong"),
        ("other", town.password.as_str()),
        ("boss", &*town.site.admin),
        (BRIDGE, ""),
    ] {
        let refused = log_in(&gateway, user, password).expect(401).json();
        assert!(refused["detail"].is_string() && refused.get("token").is_none(), "{refused}");
    }
    let answer = log_in(&gateway, BRIDGE, &town.password).expect(200).json();
    let token = answer["token"].as_str().unwrap().to_owned();
    // A bridge has no account of the interface.
    for own in [&town.password, &token] {
        fetch(&gateway, "/v1/runs", &format!("Bearer {own}")).expect(401);
    }
    let uploaded = page();
    let id = id_of(&gateway.upload(&uploaded).unwrap().expect(201));
    for _ in 0..2 {
        gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    }
    wait_until_sent(&gateway, 1);
    wait_until_sent(&gateway, 2);
    let jobs = town.desk.vhost.leftovers(JOBS);
    let path = |job: usize| jobs[job].json()["inputs"]["Image"].as_str().unwrap().to_owned();
    let (one, other) = (path(0), path(1));
    assert!(one.starts_with("/uploads/") && one != other);
    let with = format!("Token {token}");
    let image = fetch(&gateway, &one, &with).expect(200);
    assert!(image.body == uploaded[0].1, "another image");
    fetch(&gateway, &one.replace("image.png", "layer_9.png"), &with).expect(404);
    for (path, authorization) in [
        (one.as_str(), String::new()),
        (&one, "Token ".to_owned()),
        (&one, format!("Token {}", town.site.admin)),
        (&one, format!("Token {}", town.password)),
        (&one, format!("Bearer {token}")),
        (&one, gateway.bearer()),
        ("/uploads/1/image.png", with.clone()),
        ("/uploads/0123456789abcdef0123456789abcdef/image.png", with.clone()),
    ] {
        fetch(&gateway, path, &authorization).expect(401);
    }
    // The store has neither the token nor the word of the address.
    let word = one.split('/').nth(2).unwrap();
    for name in ["gateway.sqlite", "gateway.sqlite-wal"] {
        let bytes = fs::read(town.site.data().join(name)).unwrap_or_default();
        let has = |secret: &str| bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
        assert!(!has(&token) && !has(&town.password), "{name}");
        assert!(name.ends_with("-wal") || !has(word), "{name}");
    }
    // Another gateway, the same tokens.
    drop(gateway);
    let gateway = town.start();
    fetch(&gateway, &one, &with).expect(200);
    // The end of a run is the end of its files, and of nobody else's.
    gateway.post("/v1/runs/1/cancel", &json!({})).expect(202);
    town.pass_until(&gateway, 1, &["cancelled"]);
    let first = jobs[0].json()["inputs"]["Image"].as_str().unwrap().to_owned();
    fetch(&gateway, &first, &with).expect(401);
    // An account that is removed has no token.
    town.site.command(&["account", "remove", BRIDGE]).run().success();
    fetch(&gateway, &other, &with).expect(401);
    log_in(&gateway, BRIDGE, &town.password).expect(401);
    gateway.terminate();
}

#[test]
fn what_stands_on_the_command_line_is_no_secret() {
    let site = Site::new();
    for (arguments, code, words) in [
        (&["--broker", "amqps://me:hunter2@broker.example"][..], 2, "RABBITMQ_PASSWORD"),
        (&["--broker", "http://broker.example"], 2, "amqp"),
        (&["--broker", "broker.example"], 3, "RABBITMQ_USER"),
        (&["--broker"], 3, "RABBITMQ_HOST"),
        (&["--env-file", "x"], 3, "can't read"),
    ] {
        let refused = site.command(arguments).current_dir(site.folder.path()).run();
        assert_eq!(refused.code(), Some(code), "{arguments:?}: {refused}");
        assert!(refused.stderr.contains(words), "{arguments:?}: {refused}");
        assert!(!refused.stderr.contains("hunter2"), "{refused}");
    }
}

/// A gateway whose trainings began here, or with a cluster, and that is started the other way.
#[test]
fn what_was_begun_one_way_is_not_begun_again_the_other_way() {
    let mut town = Town::new(Desk::with_script("exit 0"));
    let trainer = town.site.folder.path().join("trainer");
    write_script(&trainer, QUICK);
    town.site.trainer = trainer;
    let gateway = town.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    wait_until_sent(&gateway, 1);
    gateway.terminate();
    let gateway = town.site.start();
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    assert_eq!(gateway.finish(2)["state"], "succeeded");
    let left = state_of(&gateway, 1);
    assert_eq!(left["state"], "queued");
    assert!(left["detail"].as_str().unwrap().contains("with --broker again"), "{left}");
    gateway.terminate();
    let gateway = town.start();
    wait_until_sent(&gateway, 1);
    assert_eq!(town.desk.vhost.waiting(JOBS), Some(1));
    gateway.terminate();
}
