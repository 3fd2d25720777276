//! What is in the trainer's memory while it decodes and learns from a stranger's files: no token
//! and no password. Real RabbitMQ, the stand-in Rodan. Needs Linux's `/proc`, and root, because the
//! process can't be looked into otherwise.
#![cfg(feature = "trainer")]

use crate::support;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::time::Duration;

use contract::wire::conversation::Kind;
use serde_json::json;

use support::asker::Asker;
use support::desk::Desk;
use support::program::{Program, Running};
use support::rodan::{Answer, Rodan, Setup};
use support::{SECONDS, wait_for};

const TOKEN: &str = "0dd5ec2e70dd5ec2e70dd5ec2e70dd5ec2e70dd5";
const PASSWORD: &str = "pl4nted_password_of_rodan";

/// How often each of these texts occurs in the memory that the process can write to, while it is
/// stopped.
fn find(running: &Running, texts: &[&str]) -> Vec<usize> {
    find_in(running.id(), texts)
}

fn signal(process: u32, name: &str) {
    let process = process.to_string();
    Program::new("kill").args([&format!("-{name}"), &process]).run().success();
}

fn find_in(process: u32, texts: &[&str]) -> Vec<usize> {
    signal(process, "STOP");
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let mut memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let mut found = vec![0; texts.len()];
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        memory.seek(SeekFrom::Start(start)).unwrap();
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        if memory.read_exact(&mut bytes).is_err() {
            continue; // a mapping of a device
        }
        for (count, text) in found.iter_mut().zip(texts) {
            *count += memchr::memmem::find_iter(&bytes, text).count();
        }
    }
    signal(process, "CONT");
    found
}

/// How often each of these texts occurs in the arguments and the environment of a process.
fn find_outside(process: u32, texts: &[&str]) -> Vec<usize> {
    let shown: Vec<u8> = ["cmdline", "environ"]
        .iter()
        .flat_map(|name| fs::read(format!("/proc/{process}/{name}")).unwrap())
        .collect();
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("run_trainer"), "{shown}");
    texts.iter().map(|text| shown.matches(text).count()).collect()
}

/// The processes of `run_trainer` with this text among their arguments.
fn trainers_with(text: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let is_one = |process: &u32| {
        let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut words = line.split('\0');
        words.next().is_some_and(|program| program.ends_with("run_trainer"))
            && words.any(|word| word == text)
    };
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(is_one).collect()
}

fn parent_of(process: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

#[test]
fn while_it_learns_no_secret_is_in_the_trainers_memory() {
    let setup = Setup { password: PASSWORD.into(), token: TOKEN.into(), ..Setup::default() };
    let mut desk = Desk::with(None, Rodan::with(setup));
    let curves = desk.site.path().join("curves");
    desk.site.set("TENSORBOARD_DIR", curves.to_str().unwrap());
    let mut asked = desk.short_job();
    asked["settings"]["Maximum number of training epochs"] = json!(10_000);
    asked["settings"]["Patience"] = json!(10_000);
    desk.rodan.answer_next("/uploads/b.png", 1, &Answer::Late(Duration::from_secs(15)));
    let mut running = desk.by_hand("memory", &asked).start();
    if !rustix::process::geteuid().is_root() {
        wait_for("the first download", SECONDS(60), || {
            (!desk.rodan.requests().is_empty()).then_some(())
        });
        let mem = File::open(format!("/proc/{}/mem", running.id()));
        assert!(mem.is_err(), "another process of the account can't look into it");
        return;
    }
    let broker = desk.vhost.password().to_owned();
    let texts = [TOKEN, broker.as_str(), PASSWORD];

    // It waits for a file. It still needs the token, so finding the token shows that the search
    // works.
    wait_for("the download of the background", SECONDS(60), || {
        (!desk.rodan.requests_for("/uploads/b.png").is_empty()).then_some(())
    });
    let found = find(&running, &texts);
    assert!(found[0] > 0, "while it downloads: {found:?}");
    assert_eq!(found[1..], [0, 0], "RabbitMQ's password is not needed yet, Rodan's never");

    // It learns: the curves begin.
    wait_for("the first epoch", SECONDS(240), || {
        assert!(running.is_running());
        let files = curves.exists().then(|| desk.site.files_below(&curves))?;
        files.iter().any(|file| fs::metadata(file).is_ok_and(|m| m.len() > 0)).then_some(())
    });
    let found = find(&running, &texts);
    assert_eq!(found, [0, 0, 0], "while it learns");
    let status = |task: &str| {
        fs::read_to_string(format!("/proc/{}/task/{task}/status", running.id())).unwrap()
    };
    let tasks = fs::read_dir(format!("/proc/{}/task", running.id())).unwrap().flatten();
    let sealed = tasks
        .map(|task| status(task.file_name().to_str().unwrap()))
        .filter(|s| s.contains("NoNewPrivs:\t1"));
    // The main thread and the threads that train.
    assert!(status(&running.id().to_string()).contains("NoNewPrivs:\t1") && sealed.count() > 1);

    // The password is in memory again when it is needed.
    running.signal("TERM");
    let finished = running.wait();
    let reply = desk.vhost.receive_reply("memory", SECONDS(60)).json();
    assert!(reply.get("error").is_some() || reply.get("Model 0").is_some(), "{finished}");
}

/// In a conversation the trainer tells how far it is while it learns: through a process of its own,
/// which has RabbitMQ's password and sees no page.
#[test]
fn in_a_conversation_the_trainer_that_learns_holds_no_secret_and_its_courier_one_password() {
    let (token, password) =
        ("1dd5ec2e71dd5ec2e71dd5ec2e71dd5ec2e71dd5", "pl4nted_password_of_a_conversation");
    let setup = Setup { password: password.into(), token: token.into(), ..Setup::default() };
    let desk = Desk::with(None, Rodan::with(setup));
    let mut asked = desk.short_job();
    asked["settings"]["Maximum number of training epochs"] = json!(10_000);
    asked["settings"]["Patience"] = json!(10_000);
    let asker = Asker::ask(&desk.vhost, &asked);
    desk.check().run().success();
    wait_for("progress", SECONDS(240), || {
        (!asker.heard().of_kind(Kind::Progress).is_empty()).then_some(())
    });
    let job_file = desk.directory(&asker.id).join("job.json");
    let trainers = trainers_with(job_file.to_str().unwrap());
    let [trainer] = trainers[..] else { panic!("{trainers:?}") };
    let couriers = trainers_with("--courier");
    let couriers: Vec<u32> =
        couriers.into_iter().filter(|child| parent_of(*child) == Some(trainer)).collect();
    let [courier] = couriers[..] else { panic!("{couriers:?}") };

    let broker = desk.vhost.password().to_owned();
    let texts = [broker.as_str(), password, token];
    let job_file = fs::read_to_string(job_file).unwrap();
    let in_job_file = texts.map(|text| job_file.matches(text).count());
    assert_eq!(in_job_file[..2], [0, 0], "the job file");
    if rustix::process::geteuid().is_root() {
        assert_eq!(find_outside(trainer, &texts), [0, 0, 0], "the trainer's surroundings");
        assert_eq!(find_outside(courier, &texts), [0, 0, 0], "the courier's surroundings");
        assert_eq!(find_in(trainer, &texts), [0, 0, 0], "the trainer");
        let found = find_in(courier, &texts);
        assert!(found[0] > 0, "the search works: {found:?}");
        assert_eq!(found[1..], [0, 0], "the courier");
    }

    asker.cancel();
    wait_for("the end", SECONDS(120), || {
        desk.check().run();
        (!asker.heard().ends().is_empty()).then_some(())
    });
    let heard = asker.heard();
    heard.assert_sound();
    for message in &heard.messages {
        let body = String::from_utf8_lossy(&message.body);
        assert!(texts.iter().all(|text| !body.contains(text)), "{body}");
    }
    for log in desk.site.files_below(&desk.site.logs()) {
        let log = fs::read_to_string(log).unwrap();
        assert!(texts.iter().all(|text| !log.contains(text)), "{log}");
    }
}
