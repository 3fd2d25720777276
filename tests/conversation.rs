//! A job of the second contract, from its message to its end: states, progress, models, one end;
//! cancelled, abandoned, with a small limit of the broker, without rights. Real RabbitMQ, real
//! Slurm, real training, the stand-in Rodan.
#![cfg(feature = "trainer")]

use crate::support;

use std::fs;
use std::process::Command;

use contract::wire::conversation::Kind;
use lapin::types::AMQPValue;
use serde_json::{Value, json};

use support::SECONDS;
use support::asker::{Asker, Jobs};
use support::broker::{CONTROL, JOBS};
use support::desk::{Desk, job};
use support::program::{Program, expect, run_trainer};
use support::rodan::Rodan;
use support::services::Services;

const TRAINING: std::time::Duration = std::time::Duration::from_secs(240);

/// The trainer, started by hand with a job of the second contract.
fn by_hand(desk: &Desk, asker: &Asker<'_>, job: &Value) -> Program {
    let mut file = job.clone();
    file["token"] = json!(desk.rodan.setup().token);
    file["protocol"] = json!(2);
    let path = desk.site.path().join(format!("{}.json", asker.id));
    fs::write(&path, file.to_string()).unwrap();
    Program::new(run_trainer().unwrap())
        .arg(&path)
        .args([&asker.queue, &asker.id])
        .arg("--env-file")
        .arg(desk.site.credentials())
        .env("TMPDIR", "/tmp")
        .limit(TRAINING)
}

/// A page of so many layers beside the background, each a column of 48 × 48 pixels.
fn layered_job(desk: &Desk, layers: u32) -> Value {
    // Around the layers a patch's width, so that each of them holds places for patches.
    let (width, height) = (16 * (layers + 1) + 64, 96);
    let picture = |pixel: &dyn Fn(u32, u32) -> [u8; 4]| {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Rgba);
        let pixels: Vec<u8> =
            (0..width * height).flat_map(|i| pixel(i % width, i / width)).collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        bytes
    };
    let grey = |x: u32, y: u32| [x as u8, (y * 2) as u8, 99, 255];
    let column =
        |layer: u32| move |x: u32, _: u32| [0, 0, 0, if x / 16 == layer + 2 { 255 } else { 0 }];
    let mut inputs = serde_json::Map::new();
    desk.rodan
        .put("/uploads/many.png", picture(&grey))
        .put("/uploads/many_b.png", picture(&column(0)));
    inputs.insert("Image".into(), json!("/uploads/many.png"));
    inputs.insert("Background".into(), json!("/uploads/many_b.png"));
    for layer in 0..layers {
        let path = format!("/uploads/many_{layer}.png");
        desk.rodan.put(&path, picture(&column(layer + 1)));
        inputs.insert(format!("rgba PNG - Layer {layer}"), json!(path));
    }
    let mut asked = job();
    asked["inputs"] = inputs.into();
    for (name, value) in
        [("Maximum number of samples per label", 10), ("Patch height", 16), ("Patch width", 16)]
    {
        asked["settings"][name] = json!(value);
    }
    asked
}

/// The same without what Slurm is asked for.
fn without_resources(mut job: Value) -> Value {
    let settings = job["settings"].as_object_mut().unwrap();
    for name in
        ["CPUs", "Maximum memory (MB)", "Maximum time (D-HH:MM)", "Slurm Notification Email"]
    {
        settings.remove(name);
    }
    job
}

#[test]
fn a_trainer_by_hand_tells_how_far_it_is_and_sends_each_model() {
    let desk = Desk::new();
    let asker = Asker::listen(&desk.vhost, "by-hand-1");
    let finished = by_hand(&desk, &asker, &desk.short_job()).run().success();
    let heard = asker.heard();
    heard.assert_sound();
    heard.assert_models(&["Background Model", "Model 0"]);
    assert_eq!(heard.states(), ["running"], "{finished}");
    heard.assert_curves();
    let names: Vec<_> = heard
        .of_kind(Kind::Report)
        .iter()
        .map(|message| match message.properties.headers().as_ref().unwrap().inner().get("name") {
            Some(AMQPValue::LongString(name)) => name.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["training.json", "report.html"]);
    let end = heard.end();
    assert_eq!(end["figures"].as_array().unwrap().len(), 2, "{end}");
    assert!(end["used"]["memory_mb"].as_u64().unwrap() > 10 && end["seed"].is_u64(), "{end}");
    let left = desk.site.path().join("by-hand-1.outbox");
    assert!(!left.exists(), "what was sent is not kept");
}

#[test]
fn a_trainer_by_hand_that_fails_says_why_and_what_to_do() {
    let desk = Desk::new();
    let asker = Asker::listen(&desk.vhost, "by-hand-2");
    let mut asked = desk.short_job();
    asked["inputs"]["rgba PNG - Layer 0"] = json!("/uploads/absent.png");
    let finished = by_hand(&desk, &asker, &asked).run();
    expect(&finished, 5, &[]);
    let heard = asker.heard();
    heard.assert_sound();
    let end = heard.end();
    assert!(end["error"].as_str().unwrap().contains("rgba PNG - Layer 0"), "{end}");
    assert_eq!(end["cause"], "rodan");
    assert!(end["advice"].as_str().unwrap().contains("run the workflow again"), "{end}");
    assert!(heard.of_kind(Kind::Model).is_empty());
}

/// Passes of `check`, as cron starts them, until the conversation has its end and the job is filed
/// away.
#[track_caller]
fn settle(desk: &Desk, asker: &Asker<'_>) {
    let done = desk.site.spool().join("done").join(&asker.id);
    support::wait_for("the job to be filed away", TRAINING, || {
        let pass = desk.check().limit(SECONDS(60)).run();
        assert!(matches!(pass.code(), Some(0 | 6 | 8 | 9 | 10)), "{pass}");
        done.exists().then_some(())
    });
    assert!(!done.join("outbox").exists() && !done.join("reply.json").exists());
}

#[test]
fn a_job_is_told_about_from_the_queue_to_its_one_end() {
    let desk = Desk::new();
    let asker = Asker::ask(&desk.vhost, &without_resources(desk.short_job()));
    let finished = desk.check().run().success();
    assert!(finished.stdout.contains(&format!("{}  submitted", asker.id)), "{finished}");
    settle(&desk, &asker);
    let heard = asker.heard();
    heard.assert_sound();
    heard.assert_models(&["Background Model", "Model 0"]);
    let states = heard.states();
    assert_eq!(states[..2], ["taken", "submitted"], "{states:?}");
    assert!(states.contains(&"running".to_owned()), "{states:?}");
    heard.assert_curves();
    assert_eq!(heard.of_kind(Kind::Report).len(), 2);
    let asked = &heard.of_kind(Kind::State)[1].json()["asked"];
    assert_eq!(
        (&asked["cpus_from"], &asked["memory_from"], &asked["time_from"]),
        (&json!("site"), &json!("estimate"), &json!("site"))
    );
    let end = heard.end();
    assert_eq!(end["asked"], *asked, "{end}");
    assert!(
        end["used"]["memory_mb"].as_u64().unwrap() < asked["memory_mb"].as_u64().unwrap(),
        "{end}"
    );
    // A pass later nothing more is said.
    desk.check().run().success();
    assert_eq!(asker.heard().messages.len(), heard.messages.len());
}

#[test]
fn jobs_come_from_a_queue_of_any_kind() {
    for jobs in [Jobs::Durable, Jobs::Quorum, Jobs::Transient] {
        let desk = Desk::with_script("exit 3");
        let asker = Asker::ask_in(&desk.vhost, &job(), jobs);
        desk.check().run().success();
        desk.cluster.wait_for_end(&desk.slurm_job(&asker.id), SECONDS(60));
        settle(&desk, &asker);
        let heard = asker.heard();
        heard.assert_sound();
        let end = heard.end();
        assert_eq!(end["cause"], "training", "{jobs:?}: {end}");
        assert_eq!(
            (&end["asked"]["cpus"], &end["asked"]["cpus_from"]),
            (&json!(1), &json!("job")),
            "{end}"
        );
        assert_eq!(desk.vhost.waiting(JOBS), Some(0));
    }
}

#[test]
fn what_is_no_job_of_this_contract_is_answered_by_its_end() {
    let desk = Desk::with_script("exit 0");
    let mut wrong = job();
    wrong["settings"]["CPUs"] = json!("many");
    let asker = Asker::ask(&desk.vhost, &wrong);
    expect(&desk.check().run(), 8, &[]);
    let heard = asker.heard();
    heard.assert_sound();
    let end = heard.end();
    assert_eq!(end["cause"], "message");
    assert!(end["error"].as_str().unwrap().contains("\"CPUs\" must be a whole number"), "{end}");
    assert!(end["advice"].as_str().unwrap().starts_with("Correct the settings"), "{end}");
    assert!(desk.cluster.jobs_named(&format!("hpct-{}", asker.id)).is_empty());
}

#[test]
fn a_cancel_reaches_a_job_that_waits_in_rabbitmq() {
    let desk = Desk::with_script("exit 0");
    let asker = Asker::ask(&desk.vhost, &job());
    asker.request("no request");
    asker.request(&json!({"cancel": asker.id, "reply_to": "hpc-reply-other"}).to_string());
    asker.cancel();
    expect(&desk.check().run(), 9, &[]);
    let heard = asker.heard();
    heard.assert_sound();
    assert_eq!(heard.end()["cause"], "cancelled");
    assert_eq!(desk.vhost.waiting(CONTROL), Some(0), "requests are acknowledged");
    assert!(
        desk.cluster.jobs_named(&format!("hpct-{}", asker.id)).is_empty(),
        "it was not submitted"
    );
}

#[test]
fn a_cancel_ends_a_job_that_runs_and_its_asker_alone_can_cancel_it() {
    let desk = Desk::with_script("exec sleep 300");
    let asker = Asker::ask(&desk.vhost, &job());
    desk.check().run().success();
    let number = desk.slurm_job(&asker.id);
    desk.cluster.wait_for_state(&number, &["RUNNING"], SECONDS(60));
    // Whoever knows one of the names only can't cancel.
    asker.request(&json!({"cancel": asker.id, "reply_to": "hpc-results"}).to_string());
    asker.request(&json!({"cancel": "another", "reply_to": asker.queue}).to_string());
    desk.check().run().success();
    assert_eq!(desk.cluster.job(&number).unwrap()["JobState"], "RUNNING");
    asker.cancel();
    let finished = desk.check().run();
    assert!(finished.stdout.contains(&format!("{}  cancelled", asker.id)), "{finished}");
    settle(&desk, &asker);
    let heard = asker.heard();
    heard.assert_sound();
    assert_eq!(heard.end()["cause"], "cancelled");
    assert!(heard.end()["error"].as_str().unwrap().contains("as was asked"), "{}", heard.end());
    // Whether "cancelling" comes between, depends on how soon Slurm has ended the job.
    heard.assert_states_in_order(&["taken", "submitted", "running"]);
    // What has its end keeps it.
    asker.cancel();
    desk.check().run().success();
    assert_eq!(asker.heard().messages.len(), heard.messages.len());
}

#[test]
fn a_job_whose_reply_queue_is_gone_is_cancelled_and_filed_away() {
    let desk = Desk::with_script("exec sleep 300");
    let asker = Asker::ask(&desk.vhost, &job());
    desk.check().run().success();
    let number = desk.slurm_job(&asker.id);
    desk.cluster.wait_for_state(&number, &["RUNNING"], SECONDS(60));
    asker.leave();
    settle(&desk, &asker);
    let ended = desk.cluster.wait_for_end(&number, SECONDS(60));
    assert_eq!(ended["JobState"], "CANCELLED");
    assert!(!desk.vhost.queue_exists(&asker.queue), "it is not declared again");
    let record = desk.site.spool().join("done").join(&asker.id).join("record.json");
    let record: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    assert_eq!(
        (&record["verdict"]["name"], &record["cause"]),
        (&json!("abandoned"), &json!("cancelled"))
    );
}

#[test]
fn ten_layers_come_back_whole_where_each_model_is_larger_than_the_broker_takes() {
    const MOST: usize = 3 << 20;
    let most = MOST.to_string();
    let settings = [("PARTS", "broker"), ("VHOSTS", "1"), ("MAX_MESSAGE_SIZE", most.as_str())];
    let services = Services::private(&settings).with_cluster_of(Services::shared());
    let desk = Desk::on(services, None, Rodan::start());
    let asker = Asker::ask(&desk.vhost, &layered_job(&desk, 10));
    desk.check().run().success();
    settle(&desk, &asker);
    let heard = asker.heard();
    heard.assert_sound();
    let names: Vec<String> = std::iter::once("Background Model".to_owned())
        .chain((0..10).map(|n| format!("Model {n}")))
        .collect();
    heard.assert_models(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let parts = heard.of_kind(Kind::Model);
    // A model has 5.8 MB. Since version 4 RabbitMQ takes 16 MiB, which all of them pass.
    assert!(parts.len() >= 2 * names.len(), "{:?}", heard.kinds());
    assert!(heard.messages.iter().all(|message| message.body.len() <= MOST));
    let bytes: usize = parts.iter().map(|message| message.body.len()).sum();
    assert!(bytes > 16 << 20, "{bytes} bytes in all");
    eprintln!("{} messages, models of {bytes} bytes: {:?}", heard.messages.len(), heard.kinds());
}

#[test]
fn a_node_without_a_route_to_the_broker_leaves_everything_to_check() {
    let desk = Desk::with_script(
        "export RABBITMQ_HOST=127.0.0.1:1\nexec \"$HPC_TRAINER_HOME/run_trainer\" \"$@\"",
    );
    let asker = Asker::ask(&desk.vhost, &desk.short_job());
    desk.check().run().success();
    desk.cluster.wait_for_end(&desk.slurm_job(&asker.id), TRAINING);
    settle(&desk, &asker);
    let heard = asker.heard();
    heard.assert_sound();
    heard.assert_models(&["Background Model", "Model 0"]);
    assert_eq!(heard.of_kind(Kind::Report).len(), 2, "{:?}", heard.kinds());
}

/// An account that may write to the reply queue and read the two others, and configure nothing.
#[test]
fn where_the_queues_exist_no_right_to_configure_is_needed() {
    let mut desk = Desk::new();
    let asker = Asker::ask(&desk.vhost, &desk.short_job());
    asker.request("no request");
    let ctl = |arguments: &[&str]| {
        let output = Command::new(desk.services.directory().join("broker/ctl"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let user = format!("cluster-{}", asker.id);
    let vhost = desk.vhost.name().to_owned();
    ctl(&["add_user", &user, "a-password-of-the-cluster"]);
    // amq.default is how RabbitMQ calls the default exchange here.
    ctl(&[
        "set_permissions",
        "-p",
        &vhost,
        &user,
        "^$",
        "^(amq\\.default)?$",
        "^hpc-(jobs|control)$",
    ]);
    desk.site.set("RABBITMQ_USER", &user).set("RABBITMQ_PASSWORD", "a-password-of-the-cluster");
    desk.check().run().success();
    settle(&desk, &asker);
    ctl(&["delete_user", &user]);
    let heard = asker.heard();
    heard.assert_sound();
    heard.assert_models(&["Background Model", "Model 0"]);
}
