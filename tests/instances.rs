//! Several tasks train the layers of one job: the models of one task, whatever happens to them. A
//! real Slurm with two nodes, real RabbitMQ, real training, the stand-in Rodan.
#![cfg(feature = "trainer")]

use crate::support;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use contract::wire::conversation::Kind;
use serde_json::{Value, json};

use crate::crash::{groups, points_of_trainer, settle, train_and_die};
use support::asker::Asker;
use support::broker::RESULTS;
use support::desk::{Desk, job};
use support::program::Program;
use support::rodan::Rodan;
use support::services::Services;
use support::{SECONDS, wait_for};

const TRAINING: Duration = Duration::from_secs(240);

/// So many epochs that there is time to interfere.
const EPOCHS: u32 = 8;

const MODELS: [&str; 3] = ["Background Model", "Model 0", "Model 1"];

/// A job of three layers.
fn three_layers(epochs: u32, tasks: &Value) -> Value {
    let mut job = job();
    job["inputs"]["rgba PNG - Layer 1"] = json!("/uploads/layer_1.png");
    for (name, value) in [
        ("Maximum number of training epochs", json!(epochs)),
        ("Maximum number of samples per label", json!(50)),
        ("Patience", json!(10_000)),
        ("Patch height", json!(32)),
        ("Patch width", json!(32)),
        ("Seed", json!(7)),
        ("PARALLEL_INSTANCES", tasks.clone()),
        // Whoever has trained the layers, they are calibrated in the same way.
        ("Calibrate", json!("yes")),
    ] {
        job["settings"][name] = value;
    }
    job
}

/// How many nodes a job has or, as long as it waits, wants at least: Slurm then says `2-2`.
fn nodes(shown: &HashMap<String, String>) -> &str {
    shown["NumNodes"].split('-').next().unwrap()
}

/// A job that is being trained by several tasks.
struct Job {
    desk: Desk,
    id: String,
    slurm: String,
}

impl Job {
    fn submit(mut desk: Desk, asked: &Value, settings: &[(&str, &str)]) -> Self {
        for (name, value) in settings {
            desk.site.set(name, *value);
        }
        let id = desk.vhost.publish_job(asked);
        desk.check().run().success();
        let slurm = desk.slurm_job(&id);
        Self { desk, id, slurm }
    }

    fn log(&self) -> String {
        self.desk.log_of(&self.id, &self.slurm)
    }

    fn progress(&self) -> Option<Value> {
        let text = fs::read(self.desk.directory(&self.id).join("progress.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Waits until so many tasks train a layer each, with an epoch done.
    fn wait_for_tasks(&self, tasks: usize) {
        wait_for("the tasks to train", TRAINING, || {
            let note = self.progress()?;
            let under_way = note["tasks"].as_array().map_or(0, |all| {
                all.iter().filter(|task| task["epoch"].as_u64() > Some(1)).count()
            });
            (under_way >= tasks).then_some(())
        });
    }

    /// The processes of a task, or of the leader, by what is on their command lines.
    fn processes(&self, task: Option<u32>) -> Vec<PathBuf> {
        let wanted = self.desk.directory(&self.id).join("job.json").to_string_lossy().into_owned();
        let number = task.map(|task| format!("--task={task}"));
        let is_it = |path: &PathBuf| {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let words: Vec<&str> = line.split('\0').collect();
            words.first().is_some_and(|program| program.ends_with("run_trainer"))
                && words.contains(&wanted.as_str())
                && match &number {
                    Some(number) => words.contains(&number.as_str()),
                    None => !line.contains("--task="),
                }
        };
        fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).filter(is_it).collect()
    }

    fn kill(&self, task: Option<u32>) {
        let found = self.processes(task);
        assert_eq!(found.len(), 1, "{found:?}\n{}", self.log());
        let number = found[0].file_name().unwrap().to_string_lossy().into_owned();
        Program::new("kill").args(["-KILL", &number]).run().success();
    }

    fn reply(&self) -> Value {
        let reply = self.desk.vhost.try_receive_reply(&self.id, TRAINING);
        reply.unwrap_or_else(|| panic!("no reply:\n{}", self.log())).json()
    }

    /// One reply, with the models of one trainer, and nothing left over.
    fn assert_answered_like(&self, expected: &Value) {
        let reply = self.reply();
        let names: Vec<_> = reply.as_object().unwrap().keys().collect();
        assert_eq!(names, MODELS, "{:?}\n{}", reply.get("error"), self.log());
        assert!(reply == *expected, "the models differ:\n{}", self.log());
        self.desk.cluster.wait_for_end(&self.slurm, SECONDS(60));
        settle(&self.desk, &self.id);
        assert_eq!(self.desk.vhost.waiting(RESULTS), Some(0), "one reply only");
        let done = self.desk.site.spool().join("done").join(&self.id);
        for left in ["tasks", "checkpoint", "job.json", "reply.json"] {
            assert!(!done.join(left).exists(), "{left} is left");
        }
        for task in 0..3 {
            assert!(self.processes(Some(task)).is_empty(), "task {task} is left");
        }
    }

    fn wait_for_restart(&self) {
        wait_for("Slurm to start the job again", SECONDS(90), || {
            let shown = self.desk.cluster.job(&self.slurm)?;
            let is = |name: &str, value: &str| shown.get(name).is_some_and(|v| v == value);
            (is("Restarts", "1") && (is("JobState", "RUNNING") || is("JobState", "COMPLETED")))
                .then_some(())
        });
    }
}

#[test]
fn tasks_on_two_nodes_train_the_models_of_one() {
    let desk = Desk::new();
    let asked = three_layers(2, &json!("auto"));
    let expected = desk.of_one_trainer(&asked);
    let job = Job::submit(desk, &asked, &[("MAX_INSTANCES", "2")]);
    let shown = job.desk.cluster.job(&job.slurm).unwrap();
    assert_eq!((nodes(&shown), shown["NumTasks"].as_str()), ("2", "2"), "{shown:?}");
    job.assert_answered_like(&expected);
    let log = job.log();
    assert!(log.contains("calibration: mean F1"), "{log}");
    // Each task was on a node of its own.
    for task in 0..2 {
        assert!(log.contains(&format!("task {task} of 2 runs on")), "{log}");
    }
    assert!(MODELS.iter().all(|name| log.contains(&format!("{name} is done"))), "{log}");
    let status = job.desk.check().args(["status", &job.id]).run().success();
    assert!(
        status.stdout.contains("2 tasks (the site gives no more), each with 1 CPUs"),
        "{status}"
    );
    assert!(job.desk.site.spool().join("done").join(&job.id).join("report.html").exists());
}

#[test]
fn a_job_with_one_task_is_run_as_before() {
    let desk = Desk::new();
    let asked = three_layers(1, &json!(1));
    let job = Job::submit(desk, &asked, &[]);
    let reply = job.reply();
    assert_eq!(reply.as_object().unwrap().len(), 3, "{:?}", reply.get("error"));
    let log = job.log();
    assert!(!log.contains("task") && !log.contains("srun"), "{log}");
}

#[test]
fn more_tasks_than_the_site_gives_are_refused_with_the_limit() {
    let mut desk = Desk::new();
    desk.site.set("MAX_INSTANCES", "2");
    let id = desk.vhost.publish_job(&three_layers(1, &json!(3)));
    desk.check().run();
    let sentence = desk.error_reply(&id);
    assert!(sentence.contains("\"Parallel instances\"") && sentence.contains('2'), "{sentence}");
}

#[test]
fn a_task_that_dies_is_started_again_and_loses_no_layer() {
    let desk = Desk::new();
    let asked = three_layers(EPOCHS, &json!(2));
    let expected = desk.of_one_trainer(&asked);
    let job = Job::submit(desk, &asked, &[("CHECKPOINT_SECONDS", "0")]);
    job.wait_for_tasks(2);
    job.kill(Some(1));
    job.assert_answered_like(&expected);
    let log = job.log();
    assert!(log.contains("task 1 has ended: it was killed by signal 9"), "{log}");
    assert!(log.contains("going on from a checkpoint"), "{log}");
}

#[test]
fn a_layer_that_kills_every_task_ends_the_job_as_its_task_ended() {
    let desk = Desk::new();
    let job = Job::submit(desk, &three_layers(10_000, &json!(2)), &[]);
    for _ in 0..3 {
        wait_for("task 0", SECONDS(120), || {
            trains(&job, 0)?;
            (!job.processes(Some(0)).is_empty()).then_some(())
        });
        job.kill(Some(0));
        wait_for("the leader to see it", SECONDS(60), || {
            job.processes(Some(0)).is_empty().then_some(())
        });
    }
    let shown = job.desk.cluster.wait_for_end(&job.slurm, SECONDS(120));
    assert_eq!((shown["JobState"].as_str(), shown["ExitCode"].as_str()), ("FAILED", "0:9"));
    job.desk.check().run();
    let sentence = job.desk.error_reply(&job.id);
    assert!(sentence.contains("killed"), "{sentence}");
}

/// Something once a task has begun a layer in its latest start.
fn trains(job: &Job, task: u32) -> Option<()> {
    let tasks = job.desk.directory(&job.id).join("tasks");
    let mut runs = fs::read_dir(tasks).ok()?.flatten().map(|entry| entry.path());
    let run = runs.find(|path| path.to_string_lossy().contains("run-"))?;
    let note: Value =
        serde_json::from_slice(&fs::read(run.join(format!("{task}.progress"))).ok()?).ok()?;
    (note["epoch"].as_u64()? > 0).then_some(())
}

#[test]
fn a_requeued_job_goes_on_with_all_its_tasks() {
    let desk = Desk::new();
    let asked = three_layers(EPOCHS, &json!(2));
    let expected = desk.of_one_trainer(&asked);
    let job = Job::submit(desk, &asked, &[("CHECKPOINT_SECONDS", "0")]);
    job.wait_for_tasks(2);
    job.desk.cluster.command("scontrol").args(["requeue", &job.slurm]).run().success();
    job.wait_for_restart();
    job.assert_answered_like(&expected);
    assert!(job.log().contains("going on from a checkpoint"), "{}", job.log());
}

#[test]
fn a_leader_that_dies_leaves_its_job_to_a_requeue() {
    let desk = Desk::new();
    let asked = three_layers(EPOCHS, &json!(2));
    let expected = desk.of_one_trainer(&asked);
    let job = Job::submit(desk, &asked, &[("CHECKPOINT_SECONDS", "0")]);
    job.wait_for_tasks(2);
    job.kill(None);
    job.desk.cluster.wait_for_end(&job.slurm, SECONDS(60));
    wait_for("the tasks to end with their job", SECONDS(60), || {
        (0..2).all(|task| job.processes(Some(task)).is_empty()).then_some(())
    });
    job.desk.cluster.command("scontrol").args(["requeue", &job.slurm]).run().success();
    job.wait_for_restart();
    job.assert_answered_like(&expected);
}

#[test]
fn a_warning_reaches_all_tasks_and_the_best_of_each_layer_is_the_reply() {
    // A task for each layer: all have an epoch to show when the warning comes.
    let mut asked = three_layers(10_000, &json!(3));
    asked["settings"]["Maximum number of samples per label"] = json!(100);
    let job = Job::submit(Desk::new(), &asked, &[("SITE_TASKS_PER_NODE", "2")]);
    let shown = job.desk.cluster.job(&job.slurm).unwrap();
    assert_eq!(nodes(&shown), "2", "{shown:?}");
    job.wait_for_tasks(3);
    let warn = ["--signal=USR1", "--batch", &job.slurm];
    job.desk.cluster.command("scancel").args(warn).run().success();
    let reply = job.reply();
    let names: Vec<_> = reply.as_object().unwrap().keys().collect();
    assert_eq!(names, MODELS, "{}", job.log());
    assert_eq!(job.log().matches("stopped early, its best epoch so far").count(), 3);
}

#[test]
fn a_warned_job_with_a_layer_that_has_not_begun_requeues_itself_and_is_cancelled() {
    let job = Job::submit(Desk::new(), &three_layers(10_000, &json!(2)), &[]);
    job.wait_for_tasks(2);
    let warn = ["--signal=USR1", "--batch", &job.slurm];
    job.desk.cluster.command("scancel").args(warn).run().success();
    job.wait_for_restart();
    wait_for("the tasks to go on", SECONDS(120), || {
        (job.log().matches("going on from a checkpoint").count() >= 2).then_some(())
    });
    job.desk.cluster.cancel(&job.slurm);
    let shown = job.desk.cluster.wait_for_end(&job.slurm, SECONDS(60));
    assert_eq!(shown["JobState"], "CANCELLED");
    assert_eq!(job.desk.vhost.waiting(RESULTS).unwrap_or_default(), 0);
    job.desk.check().run();
    let sentence = job.desk.error_reply(&job.id);
    assert!(sentence.contains("cancelled on the cluster"), "{sentence}");
}

#[test]
fn what_a_task_can_not_do_is_the_answer() {
    let mut asked = three_layers(1, &json!(2));
    // The leader finds this out before any task is started.
    asked["inputs"]["rgba PNG - Layer 1"] = json!("/uploads/image.png");
    let job = Job::submit(Desk::new(), &asked, &[]);
    let sentence = job.desk.error_reply(&job.id);
    assert!(sentence.contains("rgba PNG - Layer 1"), "{sentence}");
}

#[test]
fn without_srun_one_task_trains_all_layers() {
    let desk = Desk::new();
    let asked = three_layers(1, &json!(2));
    let expected = desk.of_one_trainer(&asked);
    let tools = desk.site.path().join("slurm-bin");
    fs::create_dir(&tools).unwrap();
    for name in ["sbatch", "squeue", "sacct", "scancel", "scontrol"] {
        support::write_script(&tools.join(name), &format!("exec {name} \"$@\""));
    }
    let job = Job::submit(desk, &asked, &[("SITE_SLURM_BIN", tools.to_str().unwrap())]);
    job.assert_answered_like(&expected);
    assert!(job.log().contains("one task trains all layers, on this node"), "{}", job.log());
}

#[test]
fn a_host_without_slurm_trains_by_several_processes() {
    let mut desk = Desk::new();
    desk.site.set("SCHEDULER", "local").set("SITE_GRES", "none").set("SITE_SLURM_BIN", "no-slurm");
    let asked = three_layers(1, &json!(2));
    let expected = desk.of_one_trainer(&asked);
    let id = desk.vhost.publish_job(&asked);
    desk.check().run().success();
    let reply = desk.vhost.try_receive_reply(&id, TRAINING);
    let log = desk.log_of(&id, "1");
    let reply = reply.unwrap_or_else(|| panic!("no reply:\n{log}")).json();
    assert!(reply == expected, "the models differ:\n{log}");
    // A host with one core has room for one task.
    if std::thread::available_parallelism().unwrap().get() > 1 {
        assert!(log.contains("2 tasks train 3 layers") && !log.contains("srun"), "{log}");
    }
    settle(&desk, &id);
}

#[test]
fn a_node_that_fails_ends_its_job_which_goes_on_on_others() {
    let cluster = Services::private(&[("PARTS", "slurm"), ("NODES", "3"), ("KILL_WAIT", "1")]);
    let services = Services::shared().with_cluster_of(cluster.lent());
    let desk = Desk::on(services, None, Rodan::start());
    let asked = three_layers(EPOCHS, &json!(2));
    let expected = desk.of_one_trainer(&asked);
    let job = Job::submit(desk, &asked, &[("CHECKPOINT_SECONDS", "0")]);
    job.wait_for_tasks(2);
    // The node of the second task, as an administrator or a watchdog takes it away.
    job.desk.cluster.update(&["NodeName=node2", "State=DOWN", "Reason=test"]);
    job.wait_for_restart();
    job.assert_answered_like(&expected);
}

#[test]
fn the_asker_is_told_of_each_task_and_gets_each_model() {
    let desk = Desk::new();
    let asked = three_layers(EPOCHS, &json!(2));
    let asker = Asker::ask(&desk.vhost, &asked);
    desk.check().run().success();
    let slurm = desk.slurm_job(&asker.id);
    let directory = desk.directory(&asker.id);
    let status = wait_for("status to show both tasks", TRAINING, || {
        let note = fs::read_to_string(directory.join("progress.json")).ok()?;
        let note: Value = serde_json::from_str(&note).ok()?;
        (note["tasks"].as_array()?.len() == 2).then_some(())?;
        Some(desk.check().args(["status", &asker.id]).run().success().stdout)
    });
    assert!(status.contains("task 0") && status.contains("task 1"), "{status}");
    desk.cluster.wait_for_end(&slurm, TRAINING);
    settle(&desk, &asker.id);
    let heard = asker.heard();
    heard.assert_sound();
    heard.assert_models(&MODELS);
    let told = heard.of_kind(Kind::Progress);
    let both = told.iter().any(|message| {
        let body: Value = serde_json::from_slice(&message.body).unwrap();
        body["tasks"].as_array().is_some_and(|tasks| tasks.len() == 2)
    });
    assert!(both, "{:?}", heard.kinds());
    let end = heard.end();
    assert_eq!(end["asked"]["instances"], json!({"number": 2, "from": "job"}), "{end}");
}

/// The batch script of a test: the leader or the second task dies at the point that is noted for
/// its job; a task only the first time.
fn dying_script(whose: &str) -> String {
    let dies = "HPC_TRAINER_DIE_AT=$(cat \"$job.at\") && \
                export HPC_TRAINER_DIE_AT HPC_TRAINER_DIE_LOG=\"$job.points\"";
    let lives = "unset HPC_TRAINER_DIE_AT HPC_TRAINER_DIE_LOG";
    let (leader, task) = match whose {
        "leader" => (dies.to_owned(), lives.to_owned()),
        _ => (lives.to_owned(), format!("mkdir \"$job.dies\" && {dies}")),
    };
    format!(
        "job=${{1%/*}} && job=$HPC_TRAINER_HOME/${{job##*/}}\n\
         case $2 in --task=1) {task} ;; --task=*) {lives} ;; *) {leader} ;; esac\n\
         exec \"$HPC_TRAINER_HOME/run_trainer\" \"$@\""
    )
}

/// Kills the leader, or a task, at each of its points, each time with a new job. Returns how many
/// of the jobs were answered with models.
fn every_point_of(whose: &str) -> (usize, Vec<String>) {
    let run = |at: Vec<usize>, names: &[String]| {
        let desk = Desk::with_script(&dying_script(whose));
        let mut asked = desk.short_job();
        asked["settings"]["Parallel instances"] = json!(2);
        let jobs = train_and_die(&desk, at, || desk.vhost.publish_job(&asked));
        let replies = desk.vhost.leftovers(RESULTS);
        assert_eq!(replies.len(), jobs.len(), "a reply to each job");
        let mut with_models = 0;
        for job in &jobs {
            let what = names.get(job.at.wrapping_sub(1)).map_or("none", String::as_str);
            let reply = replies.iter().find(|reply| reply.correlation_id() == Some(&job.id));
            let reply = reply.unwrap_or_else(|| panic!("no reply after {what}"));
            assert_eq!(desk.cluster.jobs_named(&format!("hpct-{}", job.id)).len(), 1, "{what}");
            with_models += usize::from(reply.json().get("error").is_none());
            let done = desk.site.spool().join("done").join(&job.id);
            for left in ["tasks", "checkpoint", "job.json", "reply.json"] {
                assert!(!done.join(left).exists(), "{left} is left after {what}");
            }
        }
        (with_models, points_of_trainer(&desk, &jobs[0].id))
    };
    let (mut with_models, names) = run(vec![0], &[]);
    assert!(names.len() > 5, "{names:?}");
    for group in groups(&names) {
        with_models += run(group, &names).0;
    }
    eprintln!("{whose}: {} points, {with_models} with models: {names:?}", names.len());
    (with_models, names)
}

#[test]
fn a_leader_dies_wherever_it_may() {
    let (with_models, names) = every_point_of("leader");
    // Once the models are on disk, they are the answer.
    let spooled = names.iter().position(|name| name == "after writing reply.json").unwrap();
    assert!(with_models > names.len() - spooled, "{with_models} of {names:?}");
}

#[test]
fn a_task_dies_wherever_it_may_and_the_answer_is_the_models() {
    let (with_models, names) = every_point_of("task");
    assert_eq!(with_models, names.len() + 1, "{names:?}");
}
