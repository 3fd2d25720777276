//! The whole road, and the trainer's part of it: real RabbitMQ, real Slurm, real training, the
//! stand-in Rodan.

use crate::support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Value, json};

use support::SECONDS;
use support::broker::{JOBS, RESULTS};
use support::desk::{Desk, job, page, with_setting};
use support::program::{self, Program, expect};
use support::rodan::{Answer, Generation, Rodan, Setup};
use support::services::repository;

const TRAINING: std::time::Duration = std::time::Duration::from_secs(240);

/// Takes a reply apart as Rodan does, and leaves the model files in a directory.
fn models(reply: &Value, directory: &Path) -> Vec<String> {
    let map: BTreeMap<String, String> = serde_json::from_value(reply.clone()).unwrap();
    for (name, text) in &map {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(bytes.starts_with(b"\x89HDF\r\n\x1a\n"), "{name} is no HDF5 file: {reply}");
        fs::write(directory.join(format!("{name}.hdf5")), bytes).unwrap();
    }
    map.into_keys().collect()
}

/// Opens every model in a directory with TensorFlow, warnings being errors.
fn open_with_tensorflow(directory: &Path) {
    let python = std::env::var_os("HPC_TRAINER_TEST_PYTHON").map(PathBuf::from);
    let python =
        python.expect("no Python with TensorFlow: use ./run_tests, or set HPC_TRAINER_TEST_PYTHON");
    let script = repository().join("tests/keras/check_models.py");
    Program::new(python)
        .arg(script)
        .arg("check")
        .arg(directory)
        .limit(SECONDS(300))
        .run()
        .success();
}

/// The trainer, started by hand.
fn trainer(desk: &Desk, job_file: &Path) -> Program {
    Program::new(program::run_trainer().unwrap())
        .arg(job_file)
        .arg("--env-file")
        .arg(desk.site.credentials())
        .env("TMPDIR", "/tmp")
        .limit(TRAINING)
}

/// A job file as a person writes it.
fn job_file(desk: &Desk, job: &Value) -> PathBuf {
    let mut file = job.clone();
    file["token"] = json!(desk.rodan.setup().token);
    let path = desk.site.path().join("by-hand.json");
    fs::write(&path, file.to_string()).unwrap();
    path
}

#[test]
fn a_job_that_rodan_published_comes_back_as_models_that_keras_opens() {
    let mut desk = Desk::new();
    let curves = desk.site.path().join("curves");
    desk.site.set("TENSORBOARD_DIR", curves.to_str().unwrap());
    let mut asked = with_setting("Seed", json!(7));
    asked["settings"]["Calibrate"] = json!("yes");
    asked["inputs"]["rgba PNG - Layer 2"] = json!("/uploads/layer_2.png");
    let id = desk.vhost.publish_job(&asked);
    let finished = desk.check().run().success();
    assert!(finished.stdout.starts_with(&format!("{id}  submitted  Slurm job ")), "{finished}");

    let reply = desk.vhost.try_receive_reply(&id, TRAINING);
    let reply = reply.unwrap_or_else(|| panic!("no reply; the job's log:\n{}", desk.log(&id)));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(models(&reply.json(), folder.path()), ["Background Model", "Model 0", "Model 2"]);
    assert_eq!(reply.properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!((reply.properties.delivery_mode(), reply.properties.reply_to()), (&Some(2), &None));
    assert!(reply.properties.expiration().is_some() && reply.properties.message_id().is_some());

    // After the reply, it cuts the page into its layers, for the report.
    let shown = desk.cluster.wait_for_end(&desk.slurm_job(&id), TRAINING);
    assert_eq!(shown["JobState"], "COMPLETED");
    let log = desk.log(&id);
    for part in [
        "seed 7",
        "Background Model",
        "Model 2",
        "epoch 1/1",
        "the reply is in the queue 'hpc-results'",
    ] {
        assert!(log.contains(part), "{part} is not in the log:\n{log}");
    }
    let times =
        log.lines().find_map(|line| line.split_once("time to the reply ")).unwrap_or_default().1;
    let parts: Vec<f64> =
        times.split(" s").filter_map(|part| part.rsplit(' ').next()?.parse().ok()).collect();
    let names =
        "download decode sample train validate write calibrate encode spool other".split(' ');
    assert!(names.clone().all(|name| times.contains(&format!(" {name} "))), "{times}");
    let sum: f64 = parts[1..].iter().sum();
    assert!(
        parts.len() == 1 + names.count() && (parts[0] - sum).abs() < 0.1,
        "the parts are all of it: {times}"
    );
    let finished = desk.check().run().success();
    assert!(
        finished.stdout.contains(&format!("{id}  answered   the models are in the queue")),
        "{finished}"
    );
    for layer in ["Background Model", "Model 0", "Model 2"] {
        let written: Vec<_> =
            fs::read_dir(curves.join(&id).join(layer)).unwrap().map(|e| e.unwrap()).collect();
        let name = written[0].file_name().into_string().unwrap();
        assert!(written.len() == 1 && name.starts_with("events.out.tfevents."), "{written:?}");
        assert!(written[0].metadata().unwrap().len() > 100, "{layer}: nothing was written");
    }
    let done = desk.site.spool().join("done").join(&id);
    let report = fs::read_to_string(done.join("report.html")).unwrap();
    assert_eq!(fs::metadata(done.join("report.html")).unwrap().permissions().mode() & 0o777, 0o600);
    for part in [
        "seed<td>7<",
        "Layer 2",
        "data:image/jpeg;base64,",
        "download<td>",
        "encode<td>",
        "136 × 136",
        "CPUs<td>1<",
    ] {
        assert!(report.contains(part), "{part} is not in the report:\n{report}");
    }
    assert!(!report.contains("://") && !report.contains(desk.vhost.password()), "{report}");
    let status = desk.check().args(["status", &id]).run().success();
    assert!(
        status.stdout.contains(&format!("report          {}", done.join("report.html").display())),
        "{status}"
    );
    let left: Vec<PathBuf> = desk.site.files_below(&desk.site.spool());
    assert!(left.iter().all(|f| f.starts_with(&done) || f.ends_with("lock")), "{left:?}");
    let token = desk.rodan.setup().token.clone();
    for file in left.iter().chain(&desk.site.files_below(&desk.site.logs())) {
        assert!(
            !String::from_utf8_lossy(&fs::read(file).unwrap()).contains(&token),
            "{}",
            file.display()
        );
    }
    assert_eq!((desk.vhost.waiting(JOBS), desk.vhost.waiting(RESULTS)), (Some(0), Some(0)));
    open_with_tensorflow(folder.path());
}

/// A page in a zip, as Rodan's newer trainer sends it.
fn zip_of(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, file) in entries {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&page(file)).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn pages_in_zips_and_models_to_go_on_from_become_models() {
    let desk = Desk::new();
    let sample = [
        ("Image.png", "image.png"),
        ("rgba PNG - Selected regions.png", "regions.png"),
        ("rgba PNG - Background layer.png", "background.png"),
        ("rgba PNG - Layer 0.png", "layer_0.png"),
    ];
    let folders =
        ["a/Image.png", "a/rgba PNG - Layer 0 (Background).png", "a/rgba PNG - Layer 1.png"];
    let files = ["image.png", "background.png", "layer_1.png"];
    let several: Vec<_> = folders.into_iter().zip(files).collect();
    desk.rodan.put("/uploads/one.zip", zip_of(&sample)).put("/uploads/many.zip", zip_of(&several));
    let mut asked = with_setting("Patience", json!(0));
    asked["inputs"] =
        json!({"Sample 2": "/uploads/one.zip", "Multi-Sample Zip": "/uploads/many.zip"});
    let id = desk.vhost.publish_job(&asked);
    desk.check().run().success();
    let reply = desk.vhost.try_receive_reply(&id, TRAINING);
    let reply =
        reply.unwrap_or_else(|| panic!("no reply; the job's log:\n{}", desk.log(&id))).json();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(models(&reply, folder.path()), ["Background Model", "Model 0", "Model 1"]);
    assert!(desk.log(&id).contains("pages 136x136 136x136"), "{}", desk.log(&id));

    // The next job starts from one of these models; an odd zip is answered with what is wrong in
    // it.
    let model = fs::read(folder.path().join("Model 0.hdf5")).unwrap();
    desk.rodan.put("/uploads/model.hdf5", model);
    asked["inputs"] = json!({"Sample 1": "/uploads/one.zip", "Model 0": "/uploads/model.hdf5"});
    let finished = trainer(&desk, &job_file(&desk, &asked)).args([RESULTS, "c-2"]).run().success();
    assert!(
        finished.stderr.contains("Model 0: goes on from the model that was given"),
        "{finished}"
    );
    assert_eq!(
        models(&desk.vhost.receive_reply("c-2", SECONDS(60)).json(), folder.path()),
        ["Background Model", "Model 0"]
    );
    let cases = [
        (zip_of(&[("../../Image.png", "image.png")]), "\"../../Image.png\" is no name of a file"),
        (zip_of(&sample[..2]), "has no rgba PNG - Background layer"),
        (b"no zip".to_vec(), "\"Sample 1\" is not a zip"),
    ];
    for (number, (zip, part)) in cases.into_iter().enumerate() {
        desk.rodan.put("/uploads/one.zip", zip);
        let id = format!("odd-{number}");
        let finished = trainer(&desk, &job_file(&desk, &asked)).args([RESULTS, &id]).run();
        expect(&finished, 11, &[]);
        let error = desk.vhost.receive_reply(&id, SECONDS(60)).json();
        assert!(error["error"].as_str().unwrap().contains(part), "{part:?} is not in {error}");
    }
}

#[test]
fn an_old_workflow_by_hand_from_a_rodan_that_redirects_to_https() {
    let setup = Setup { generation: Generation::Old, tls: true, ..Setup::default() };
    let mut desk = Desk::with(None, Rodan::with(setup));
    desk.site.set("RODAN_HOST", desk.rodan.plain_url());
    let ca = desk.site.path().join("ca.pem");
    fs::write(&ca, desk.rodan.ca_pem()).unwrap();
    let mut asked = job();
    asked["inputs"] = json!({"Image": "/uploads/image.png", "Background": "/uploads/background.png",
        "Selected Regions": "/uploads/regions.png", "Staff Layer": "/uploads/layer_1.png"});
    let file = job_file(&desk, &asked);
    desk.rodan.answer_next("/uploads/layer_1.png", 1, &Answer::BreakAfter(100));
    desk.rodan.answer_next("/uploads/image.png", 1, &Answer::Status(503));
    let finished =
        trainer(&desk, &file).args(["by.hand", "c-1"]).env("SSL_CERT_FILE", &ca).run().success();
    assert!(finished.stderr.contains("trying again"), "{finished}");
    let replies = desk.vhost.leftovers("by.hand");
    assert_eq!((replies.len(), replies[0].correlation_id()), (1, Some("c-1")));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        models(&replies[0].json(), folder.path()),
        ["Background Model", "Staff Lines Model"]
    );
    assert!(file.exists(), "a job file written by hand stays");
}

#[test]
fn what_can_not_be_trained_is_answered_with_what_to_change() {
    let desk = Desk::new();
    desk.rodan.put("/uploads/text.png", "no image").put("/uploads/small.png", tiny_png());
    let cases: [(&str, &str, i32, &[&str]); 4] = [
        (
            "rgba PNG - Layer 0",
            "/uploads/gone.png",
            5,
            &["rgba PNG - Layer 0", "404", "run the workflow again"],
        ),
        ("Background", "/uploads/text.png", 11, &["Background"]),
        ("rgba PNG - Layer 0", "/uploads/small.png", 11, &["rgba PNG - Layer 0", "4x4", "136x136"]),
        ("Image", "file:///etc/passwd", 5, &["Image", "neither a path"]),
    ];
    for (number, (input, location, code, parts)) in cases.into_iter().enumerate() {
        let mut asked = job();
        asked["inputs"][input] = json!(location);
        let id = format!("c-{number}");
        let finished = trainer(&desk, &job_file(&desk, &asked)).args([RESULTS, &id]).run();
        expect(&finished, code, &[]);
        let sentence = desk.error_reply(&id);
        for part in parts {
            assert!(sentence.contains(part), "{part:?} is not in {sentence:?}");
        }
        assert!(!format!("{finished}{sentence}").contains(&desk.rodan.setup().token));
    }
}

/// A black page of 4×4 pixels, as RGBA PNG.
fn tiny_png() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 4, 4);
    encoder.set_color(png::ColorType::Rgba);
    encoder.write_header().unwrap().write_image_data(&[255; 64]).unwrap();
    bytes
}

#[test]
fn the_token_goes_to_rodan_only() {
    let desk = Desk::new();
    let foreign = Rodan::with(Setup { check_token: false, ..Setup::default() });
    for name in ["image.png", "regions.png"] {
        foreign.put(&format!("/uploads/{name}"), page(name));
    }
    let mut asked = job();
    asked["inputs"]["Image"] = json!(format!("{}/uploads/image.png", foreign.url()));
    let elsewhere = format!("{}/uploads/regions.png", foreign.url());
    desk.rodan.answer_always("/uploads/regions.png", Answer::Redirect(elsewhere));
    let finished = trainer(&desk, &job_file(&desk, &asked)).args([RESULTS, "c-1"]).run().success();
    assert_eq!(foreign.requests().len(), 2, "{finished}");
    assert!(!foreign.was_told(&desk.rodan.setup().token));
    assert!(desk.rodan.was_told(&desk.rodan.setup().token));
}

#[test]
fn a_node_without_a_route_to_the_broker_leaves_the_reply_to_check() {
    let nobody = support::DEAD_PORT;
    let desk = Desk::with_script(&format!(
        "RABBITMQ_HOST=127.0.0.1:{nobody} exec \"$HPC_TRAINER_HOME/run_trainer\" \"$@\""
    ));
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let shown = desk.cluster.wait_for_end(&desk.slurm_job(&id), TRAINING);
    assert_eq!(shown["ExitCode"], "10:0", "{}", desk.log(&id));
    assert!(desk.directory(&id).join("reply.json").exists());
    assert!(!desk.directory(&id).join("job.json").exists(), "the token is not needed any more");
    let report = fs::read_to_string(desk.directory(&id).join("report.html")).unwrap();
    assert!(
        report.contains("There is no picture: the trainer ended before it was drawn"),
        "{report}"
    );
    desk.check().run().success();
    let reply = desk.vhost.receive_reply(&id, SECONDS(60));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(models(&reply.json(), folder.path()), ["Background Model", "Model 0"]);
}

#[test]
fn a_report_takes_no_time_that_is_not_there_and_is_no_reason_to_fail() {
    let cases = [
        (
            "export SLURM_JOB_END_TIME=$(date +%s)",
            "no picture in the report: the job was near its time limit",
            Some("There is no picture: the job was near its time limit."),
        ),
        ("mkdir \"${1%/*}/report.html\"", "no report: ", None),
    ];
    for (first, said, reported) in cases {
        let desk =
            Desk::with_script(&format!("{first}\nexec \"$HPC_TRAINER_HOME/run_trainer\" \"$@\""));
        let id = desk.vhost.publish_job(&desk.short_job());
        desk.check().run().success();
        let shown = desk.cluster.wait_for_end(&desk.slurm_job(&id), TRAINING);
        let log = desk.log(&id);
        assert_eq!(shown["JobState"], "COMPLETED", "{log}");
        assert!(log.contains(said), "{said:?} is not in\n{log}");
        let reply = desk.vhost.receive_reply(&id, SECONDS(60)).json();
        assert!(reply.get("Model 0").is_some(), "{reply}");
        let report = fs::read_to_string(desk.directory(&id).join("report.html"));
        match reported {
            Some(text) => assert!(report.unwrap().contains(text), "{first}"),
            None => assert!(report.is_err(), "{first}"),
        }
        desk.check().run().success();
    }
}

#[test]
fn slurms_early_warning_is_answered_where_the_job_may_not_requeue_itself() {
    let mut desk = Desk::new();
    desk.site.set("REQUEUE", "0");
    let mut asked = with_setting("Maximum number of training epochs", json!(10_000));
    asked["settings"]["Patience"] = json!(10_000);
    let id = desk.vhost.publish_job(&asked);
    desk.check().run().success();
    let slurm_id = desk.slurm_job(&id);
    support::wait_for("the first epoch", TRAINING, || {
        desk.log(&id).contains("epoch 1/").then_some(())
    });
    desk.cluster.command("scancel").args(["--signal=USR1", "--batch", &slurm_id]).run().success();
    let sentence = desk.error_reply(&id);
    assert!(
        sentence.contains("ran out of time") && sentence.contains("Maximum time"),
        "{sentence}"
    );
    desk.cluster.wait_for_end(&slurm_id, SECONDS(60));
    let finished = desk.check().run();
    assert!(finished.stdout.contains("answered   an error reply"), "{finished}");
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "one answer only");
}

#[test]
fn a_job_file_that_is_none_is_answered_where_the_command_line_says() {
    let desk = Desk::new();
    let path = desk.site.path().join("broken.json");
    fs::write(&path, "{\"token\": \"s3cret-token\", oops").unwrap();
    let finished = trainer(&desk, &path).args([RESULTS, "c-1"]).run();
    expect(&finished, 8, &["line 1"]);
    assert!(desk.error_reply("c-1").contains("The job file is not JSON"));
    assert!(!finished.to_string().contains("s3cret"));
    expect(&trainer(&desk, &path).run(), 10, &["names a correlation id"]);
    expect(&Program::new(program::run_trainer().unwrap()).run(), 2, &["JOB_FILE"]);
}
