//! What a gateway does again after it was killed, stopped or held up: nothing is lost or doubled.
#![cfg(feature = "gateway")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::local::Page;
use crate::support::gateway::{Gateway, QUICK, Site, apply, id_of, page, tiny, upload_and_train};
use crate::support::{SECONDS, wait_for, write_script};

#[test]
fn a_run_goes_on_after_the_gateway_was_killed_and_after_it_was_stopped() {
    let site = Site::new();
    // The models are the same with any number of threads. On busy cores several of them wait for
    // each other at each step.
    let one = [("RAYON_NUM_THREADS", "1".to_owned())];
    let start = |site: &Site| site.start_with(&one);
    let mut three_layers = page();
    three_layers.retain(|(name, _)| name != "layer_2.png");
    let place = |gateway: &Gateway| {
        let id = id_of(&gateway.upload(&three_layers).unwrap().expect(201));
        gateway.post("/v1/runs", &tiny(&id, 4)).expect(202);
    };
    let gateway = start(&site);
    place(&gateway);
    let trained = |gateway: &Gateway, attempt: u64| {
        wait_for("an epoch", SECONDS(60), || {
            let run = gateway.get("/v1/runs/1").json();
            let (layer, epoch) = (&run["progress"]["layer"], &run["progress"]["epoch"]);
            let goes_on = run["attempts"] == attempt && run["state"] == "running";
            (goes_on && layer.as_u64() >= Some(2) && epoch.as_u64() >= Some(1)).then_some(())
        });
    };
    trained(&gateway, 1);
    drop(gateway); // kill -9
    let gateway = start(&site);
    trained(&gateway, 2);
    gateway.terminate();
    let gateway = start(&site);
    let run = gateway.finish(1);
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["attempts"], 3);
    // Its first layer was not learned again: the log of all attempts has the whole story.
    let log = gateway.get("/v1/runs/1/log").text();
    let done = log.matches("Background Model: done after").count();
    assert_eq!(done, 1, "{log}");
    assert_eq!(gateway.get("/v1/runs").json()["runs"].as_array().unwrap().len(), 1);
    let told_in_three_parts = courses(&gateway);
    gateway.terminate();
    site.assert_tidy("a kill and a stop");

    // The same as without any of that.
    let undisturbed = Site::new();
    let gateway = start(&undisturbed);
    place(&gateway);
    let models = |run: &Value| -> Vec<Value> {
        let files = run["files"].as_array().unwrap().iter();
        files.filter(|file| file["kind"] == "model").map(|file| file["sha256"].clone()).collect()
    };
    let other = gateway.finish(1);
    assert_eq!(models(&other).len(), 3);
    assert_eq!(models(&other), models(&run));
    assert_eq!(courses(&gateway), told_in_three_parts);
}

/// The loss of each epoch of each layer, by the events of the only run. An epoch is told of twice
/// only where a network was started anew in between, which a killed training may have to do again.
fn courses(gateway: &Gateway) -> BTreeMap<(String, u64), Value> {
    let events = gateway.get("/v1/runs/1/events").expect(200).text();
    let mut told: BTreeMap<(String, u64), Vec<Value>> = BTreeMap::new();
    for line in events.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let event: Value = serde_json::from_str(line).unwrap();
        if let (Some(model), Some(epoch)) =
            (event["model"].as_str(), event["report"]["epoch"].as_u64())
        {
            let losses = told.entry((model.to_owned(), epoch)).or_default();
            losses.push(event["report"]["training_loss"].clone());
        }
    }
    assert!(told.len() >= 3 * 2, "{events}");
    for ((model, _), losses) in &told {
        let starts_anew = told.iter().any(|((other, _), losses)| {
            other == model && losses.iter().any(|loss| *loss != losses[0])
        });
        assert!(losses.len() == 1 || starts_anew, "{events}");
    }
    told.into_iter().map(|(epoch, mut losses)| (epoch, losses.pop().unwrap())).collect()
}

#[test]
fn a_training_that_fails_says_why_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = folder.path().join("trainer");
    write_script(&trainer, "kill -KILL $$");
    let site = Site::with_trainer(&trainer);
    let gateway = site.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    let error = gateway.finish(1)["error"].clone();
    assert!(error.as_str().unwrap().contains("too little memory"), "{error}");
    write_script(&trainer, "echo \"run_trainer: $PWD/pages/1/layer_0.png: is odd\" >&2; exit 11");
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    let run = gateway.finish(2);
    assert_eq!(
        (&run["state"], &run["error"]),
        (&json!("failed"), &json!("Page 1/layer_0.png: is odd."))
    );
    fs::remove_file(&trainer).unwrap();
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(202);
    let error = gateway.finish(3)["error"].clone();
    assert!(error.as_str().unwrap().contains("can't be started"), "{error}");
    gateway.terminate();
    site.assert_tidy("failures");
}

/// A way through the gateway, on which it is killed at each point: where it starts, how it goes,
/// and what is there in the end.
struct Way {
    start: Site,
    go: fn(&Gateway) -> bool,
    points: Vec<String>,
    end: Site,
}

impl Way {
    /// Goes it without a crash.
    fn of(start: Site, go: fn(&Gateway) -> bool) -> Self {
        let log = start.folder.path().join("points.txt");
        let end = start.copy();
        let gateway = end.start_with(&[("HPC_TRAINER_DIE_LOG", log.display().to_string())]);
        assert!(go(&gateway));
        gateway.terminate();
        end.assert_tidy("no crash");
        Self { points: crate::crash::points(&log), start, go, end }
    }
}

#[test]
fn killed_at_every_point_it_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = folder.path().join("trainer");
    let drawn = Page::cut(150, 150);
    write_script(&trainer, &format!("drawn='{}'{QUICK}", drawn.path("").display()));
    let training = Way::of(Site::in_memory(&trainer), upload_and_train);
    let applying = Way::of(training.end.copy(), apply);
    assert!(training.points.len() > 25 && applying.points.len() > 10, "{:?}", applying.points);
    for (way, runs) in [(&training, 1), (&applying, 2)] {
        for (number, name) in (1..).zip(&way.points) {
            let what = format!("run {runs}: a crash at point {number}, {name}");
            let site = way.start.copy();
            let die = [("HPC_TRAINER_DIE_AT", number.to_string())];
            if let Some(mut dying) = site.try_start(&die, &[]) {
                // Near the end the answer may come first.
                (way.go)(&dying);
                wait_for(&what, SECONDS(60), || dying.child.try_wait().unwrap());
            }
            let gateway = site.start();
            assert!((way.go)(&gateway), "{what}");
            let listed = gateway.get("/v1/runs").json();
            let listed = listed["runs"].as_array().unwrap().iter();
            let ids: Vec<_> = listed.map(|run| run["id"].as_u64().unwrap()).collect();
            assert_eq!(ids, (1..=runs).rev().collect::<Vec<_>>(), "{what}");
            // The page that was uploaded, and the one that was made.
            let pages = gateway.get("/v1/pages").json()["pages"].as_array().unwrap().len();
            assert_eq!(pages as u64, runs, "{what}");
            wait_for("the run's folder to go", SECONDS(60), || {
                fs::read_dir(site.data().join("runs")).unwrap().next().is_none().then_some(())
            });
            gateway.terminate();
            site.assert_tidy(&what);
            assert_eq!(site.objects(), way.end.objects(), "{what}");
        }
        eprintln!("{} points, 0 lost, 0 doubled: {:?}", way.points.len(), way.points);
    }
}

/// As on a full disk, but that a test can bring about: somebody else holds the store.
#[test]
fn a_training_goes_on_while_the_store_can_not_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let (trainer, go) = (folder.path().join("trainer"), folder.path().join("go"));
    let waits = format!("while [ ! -e '{}' ]; do sleep 0.05; done", go.display());
    write_script(&trainer, &format!("{waits}{QUICK}"));
    let site = Site::with_trainer(&trainer);
    let gateway = site.start();
    let page = id_of(&gateway.upload(&page()).unwrap().expect(201));
    gateway.post("/v1/runs", &tiny(&page, 1)).expect(202);
    wait_for("the training", SECONDS(20), || {
        let run = gateway.get("/v1/runs/1").json();
        (run["state"] == "launch").then_some(())
    });
    // Longer than the gateway waits for its turn.
    let hold = "import sqlite3, sys, time\n\
                store = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                store.execute('BEGIN EXCLUSIVE'); print('held', flush=True); time.sleep(12)";
    let mut holder = Command::new("python3")
        .args(["-c", hold])
        .arg(site.data().join("gateway.sqlite"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    fs::write(&go, "").unwrap();
    assert!(holder.wait().unwrap().success());
    let run = gateway.finish(1);
    assert_eq!((&run["state"], &run["attempts"]), (&json!("succeeded"), &json!(1)), "{run}");
    gateway.terminate();
    site.assert_tidy("a store that was held");
}

#[test]
fn what_is_old_goes_and_a_copy_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = folder.path().join("trainer");
    write_script(&trainer, QUICK);
    let site = Site::with_trainer(&trainer);
    let gateway = site.start();
    assert!(upload_and_train(&gateway));
    let copy = folder.path().join("copy.sqlite");
    let backup = site.command(&["backup", copy.to_str().unwrap()]);
    backup.run().success();
    assert!(fs::read(&copy).unwrap().starts_with(b"SQLite format 3"));
    assert_eq!(site.command(&["backup", copy.to_str().unwrap()]).run().code(), Some(7));
    let busy = site.command(&["purge", "--older", "0d"]).run();
    assert_eq!(busy.code(), Some(7), "{busy}");
    gateway.terminate();
    site.command(&["purge", "--older", "90d"]).run().success();
    let before = site.objects().len();
    assert!(before > 8, "{before}");
    let purged = site.command(&["purge", "--older", "0d"]).run().success();
    assert!(purged.stdout.starts_with("removed 1 runs, 1 pages"), "{purged}");
    assert!(site.objects().is_empty());
    // Numbers never come twice.
    let gateway = site.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    assert_eq!(gateway.post("/v1/runs", &tiny(&id, 1)).expect(202).json()["id"], 2);
}
