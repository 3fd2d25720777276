//! Secrets that the test knows are searched for in everything that a site leaves, shows and sends:
//! files, logs, replies, Slurm's record of the job and its environment; and meanwhile in the
//! arguments and the environment of every process. Real RabbitMQ, real Slurm.
//! `cargo nextest run --test stories secrets:: --no-capture` prints what was searched.

use crate::support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use lapin::BasicProperties;

use support::SECONDS;
use support::broker::{JOBS, RESULTS};
use support::desk::Desk;
use support::program::{Program, run_trainer};
use support::rodan::{Answer, LOGIN, Rodan, Setup};

const PASSWORD: &str = "pl4nted+password/of&rodan";
const TOKEN: &str = "feedfacefeedfacefeedfacefeedfacefeedface";

/// For the test that puts it into an environment, where the other test searches for its own.
const WORDS: &str = "badc0debadc0debadc0debadc0debadc0debadc0";
const PASSWORD_IN_WORDS: &str = "pl4nted-in-the-words-of-a-panic";

/// A job of this site prints its surroundings.
const LOOK_AROUND: &str = r#"env > "${1%/*}/../../../environment"
tr '\0' ' ' < /proc/$$/cmdline > "${1%/*}/../../../arguments"
scontrol show job -d "$SLURM_JOB_ID" > "${1%/*}/../../../record"
scontrol write batch_script "$SLURM_JOB_ID" "${1%/*}/../../../script" > /dev/null
exec "$HPC_TRAINER_HOME/run_trainer" "$@"
"#;

/// Searches for the secrets, as they are and as they are encoded on the way, and counts what it has
/// searched.
pub(crate) struct Search {
    forms: Vec<(String, Vec<u8>)>,
    pub(crate) seen: Vec<(&'static str, usize)>,
    pub(crate) hits: Vec<String>,
}

impl Search {
    pub(crate) fn new(secrets: &[(&str, &str)]) -> Self {
        let mut forms = Vec::new();
        for (name, secret) in secrets {
            let percent: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            let base64 = base64::engine::general_purpose::STANDARD.encode(secret);
            for (how, form) in
                [("", (*secret).to_owned()), (" (percent)", percent), (" (base64)", base64)]
            {
                if how.is_empty() || form != *secret {
                    forms.push((format!("{name}{how}"), form.into_bytes()));
                }
            }
        }
        Self { forms, seen: Vec::new(), hits: Vec::new() }
    }

    pub(crate) fn look(&mut self, kind: &'static str, which: &str, bytes: &[u8]) {
        match self.seen.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => self.seen.push((kind, 1)),
        }
        for (name, form) in &self.forms {
            if memchr::memmem::find(bytes, form).is_some() {
                self.hits.push(format!("{name} in {kind} {which}"));
            }
        }
    }

    /// The arguments and the environment of every process that this account may look at.
    pub(crate) fn look_at_processes(&mut self) {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.bytes().all(|b| b.is_ascii_digit()) {
                for (kind, file) in
                    [("process arguments", "cmdline"), ("process environment", "environ")]
                {
                    // The process may have ended, or belong to another account.
                    if let Ok(bytes) = fs::read(entry.path().join(file)) {
                        self.look(kind, &name, &bytes);
                    }
                }
            }
        }
    }
}

#[test]
fn known_secrets_are_found_nowhere_but_where_they_belong() {
    let setup = Setup { password: PASSWORD.into(), token: TOKEN.into(), ..Setup::default() };
    let mut desk = Desk::with(Some(LOOK_AROUND), Rodan::with(setup));
    let broker = desk.vhost.password().to_owned();
    let secrets = [
        ("password of Rodan", PASSWORD),
        ("token", TOKEN),
        ("password of RabbitMQ", broker.as_str()),
    ];
    let mut search = Search::new(&secrets);
    // The broker's own password is the same for all tests; it is in their environment and in that
    // of the services.
    let mut watch = Search::new(&secrets[..2]);
    let done = AtomicBool::new(false);

    let good = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                watch.look_at_processes();
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        });
        // The search ends with this scope, however the rest ends.
        let _end = Ends(&done);
        let run = |search: &mut Search, desk: &Desk, arguments: &[&str]| {
            let finished = desk.check().args(arguments).limit(SECONDS(120)).run();
            let kind =
                if arguments.is_empty() { "output of a pass" } else { "output of a command" };
            search.look(kind, &format!("{arguments:?}"), finished.to_string().as_bytes());
            finished
        };

        // A job that succeeds, from --dry-run to the models.
        let good = desk.vhost.publish_job(&desk.short_job());
        run(&mut search, &desk, &["--dry-run"]).success();
        run(&mut search, &desk, &["-v"]).success();
        let slurm_id = desk.slurm_job(&good);
        // Where the passwords may be: it shows that the search would find them.
        let mut control = Search::new(&secrets);
        control.look("file", "credentials.env", &fs::read(desk.site.credentials()).unwrap());
        let found = ["password of Rodan", "password of RabbitMQ"];
        assert_eq!(control.hits, found.map(|name| format!("{name} in file credentials.env")));
        // The trainer removes the job file, which has the token: perhaps before anybody looks.
        let mut control = Search::new(&secrets);
        let like_it = format!("{{\"token\": \"{TOKEN}\"}}");
        control.look("file", "like job.json", like_it.as_bytes());
        assert_eq!(control.hits, ["token in file like job.json"]);
        run(&mut search, &desk, &["status"]).success();
        run(&mut search, &desk, &["status", &good, "--json"]).success();
        let reply = desk.vhost.receive_reply(&good, SECONDS(120));
        assert!(reply.json().get("Background Model").is_some(), "{}", desk.log(&good));
        search.look("reply", &good, &reply.body);
        desk.cluster.wait_for_end(&slurm_id, SECONDS(60));
        run(&mut search, &desk, &[]).success();
        run(&mut search, &desk, &["logs", &good]).success();

        // A Rodan that sends back what it was sent: at the login, and at a download.
        let echo = format!("{{\"detail\":\"you said {PASSWORD}\"}}");
        let mut refused = Vec::new();
        for answer in [Answer::Body(echo.clone().into_bytes()), Answer::Says(400, echo)] {
            desk.rodan.answer_next(LOGIN, 1, &answer);
            refused.push(desk.vhost.publish_job(&desk.short_job()));
            run(&mut search, &desk, &["-v"]);
        }
        desk.rodan
            .answer_always("/uploads/i.png", Answer::Body(format!("Token {TOKEN}").into_bytes()));
        let downloads = desk.rodan.requests_for("/uploads/i.png").len();
        let broken = desk.vhost.publish_job(&desk.short_job());
        run(&mut search, &desk, &["-v"]);
        desk.cluster.wait_for_end(&desk.slurm_job(&broken), SECONDS(60));
        assert!(desk.rodan.requests_for("/uploads/i.png").len() > downloads);
        run(&mut search, &desk, &["-v"]);
        for id in refused.iter().chain([&broken]) {
            let reply = desk.vhost.receive_reply(id, SECONDS(60));
            assert!(reply.json().get("error").is_some(), "{}", reply.json());
            search.look("reply", id, &reply.body);
        }

        // sbatch refuses; a message that is no job.
        desk.site.set("SITE_PARTITION", "nowhere");
        let unsubmitted = desk.vhost.publish_job(&desk.short_job());
        let properties = BasicProperties::default()
            .with_reply_to(RESULTS.into())
            .with_correlation_id("poison".into());
        desk.vhost.publish(JOBS, b"{\"inputs\": 7", properties);
        for _ in 0..2 {
            run(&mut search, &desk, &["-v", "--max-jobs", "5"]);
        }
        run(&mut search, &desk, &["status"]);
        for id in [unsubmitted.as_str(), "poison"] {
            let reply = desk.vhost.receive_reply(id, SECONDS(60));
            search.look("reply", id, &reply.body);
        }
        run(&mut search, &desk, &["status", "--all"]);
        run(&mut search, &desk, &["purge", "--older", "1h", "--dry-run"]);
        search.look(
            "Slurm's record",
            &slurm_id,
            desk.cluster.command("scontrol").args(["show", "job", "-d"]).run().stdout.as_bytes(),
        );

        // A page in a folder, trained by somebody who has the site's variables in their
        // environment: models, pictures, training.json.
        let folder = desk.site.path().join("page");
        page(&folder);
        let mut local = Program::new(run_trainer().unwrap()).arg("--local").arg(folder);
        for setting in
            ["Patch height=16", "Patch width=16", "Maximum number of samples per label=10"]
        {
            local = local.args(["--set", setting]);
        }
        let local = local.args(["--set", "Maximum number of training epochs=1", "--out"]);
        let local = local.arg(desk.site.path().join("local")).arg("--tensorboard");
        let local =
            local.arg(desk.site.path().join("curves")).env("RODAN_PASSWORD", "in a file only");
        let finished = local.current_dir(desk.site.path()).limit(SECONDS(120)).run().success();
        search.look("output of a command", "--local", finished.to_string().as_bytes());
        good
    });

    // The job file of a job that Slurm does not have yet holds a token, and only this account may
    // read it.
    for path in desk.site.files_below(desk.site.path()) {
        if path == desk.site.credentials() || path.ends_with("job.json") {
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{}", path.display());
        } else if path.ends_with("check") || path.ends_with("run_trainer") {
            continue; // links to the programs
        } else {
            search.look("file", &path.display().to_string(), &fs::read(&path).unwrap());
        }
    }
    for name in
        ["environment", "arguments", "record", "script", "local/training.json", "local/report.html"]
    {
        assert!(desk.site.path().join(name).exists(), "{name} was looked at");
    }
    assert!(desk.site.spool().join("done").join(&good).join("report.html").exists());
    search.seen.append(&mut watch.seen);
    search.hits.append(&mut watch.hits);
    for (kind, count) in &search.seen {
        eprintln!("{count:>7}  {kind}");
    }
    assert!(search.seen.iter().any(|(kind, count)| *kind == "process arguments" && *count > 100));
    assert!(search.hits.is_empty(), "{:#?}", search.hits);
}

/// Runs `check` until a job is answered.
fn answer(desk: &Desk, id: &str) {
    support::wait_for("the answer", SECONDS(60), || {
        desk.check().args(["--max-jobs", "0"]).run();
        (!desk.directory(id).exists()).then_some(())
    });
}

/// A page in a folder, of 48×48 pixels, dark on the right.
fn page(folder: &std::path::Path) {
    fs::create_dir(folder).unwrap();
    let halves = |right: u8, left: u8| {
        (0..48 * 48).flat_map(move |i| [0, 0, 0, if i % 48 < 24 { left } else { right }])
    };
    let image: Vec<u8> =
        (0..48 * 48).flat_map(|i| [if i % 48 < 24 { 220 } else { 20 }, 90, 90, 255]).collect();
    let layers = [
        ("image.png", image),
        ("background.png", halves(0, 255).collect()),
        ("layer_0.png", halves(255, 0).collect()),
    ];
    for (name, pixels) in layers {
        let mut encoder = png::Encoder::new(fs::File::create(folder.join(name)).unwrap(), 48, 48);
        encoder.set_color(png::ColorType::Rgba);
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    }
}

/// A fault of the program whose message holds a secret, as the text of a wrong slice would.
#[test]
fn a_panic_shows_no_secret_and_takes_nothing_with_it() {
    let at = |point: &str| {
        format!(
            "export RUST_BACKTRACE=full HPC_TRAINER_PANIC_AT='{point}' \
             HPC_TRAINER_PANIC_WITH=\"token {WORDS}\"\n\
             exec \"$HPC_TRAINER_HOME/run_trainer\" \"$@\""
        )
    };
    let setup =
        Setup { password: PASSWORD_IN_WORDS.into(), token: WORDS.into(), ..Setup::default() };
    let mut desk = Desk::with(Some("exit 0"), Rodan::with(setup));
    let mut search = Search::new(&[("password of Rodan", PASSWORD_IN_WORDS), ("token", WORDS)]);
    let panics = |search: &mut Search, said: &str, whose: &str| {
        assert!(
            said.contains("a fault of the program (hpc-trainer ") && said.contains("src/crash.rs"),
            "{said}"
        );
        assert!(
            said.contains("please report it") && said.contains("its words are left out"),
            "{said}"
        );
        search.look("words of a panic", whose, said.as_bytes());
    };
    for point in ["after the log-in", "before writing job.json", "after writing job.json"] {
        let id = desk.vhost.publish_job(&desk.short_job());
        let check = desk.check().env("HPC_TRAINER_PANIC_AT", point);
        let check = check
            .env("HPC_TRAINER_PANIC_WITH", format!("{WORDS} {PASSWORD_IN_WORDS}"))
            .env("RUST_BACKTRACE", "full");
        let finished = check.run();
        assert_eq!(finished.code(), Some(1), "{finished}");
        panics(&mut search, &finished.stderr, point);
        assert!(finished.stderr.contains("src/bridge/"), "the backtrace: {finished}");
        // The next pass carries on.
        desk.check().run().success();
        desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(180));
        answer(&desk, &id);
        search.look("reply", &id, desk.error_reply(&id).as_bytes());
    }
    // In the trainer.
    let point = "before writing started";
    desk.use_script(&format!("#!/bin/bash\n{}\n", at(point)));
    let id = desk.vhost.publish_job(&desk.short_job());
    desk.check().run().success();
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(180));
    panics(&mut search, &desk.log(&id), point);
    answer(&desk, &id);
    let reply = desk.error_reply(&id);
    assert!(reply.contains("without a result"), "{reply}");
    search.look("reply", &id, reply.as_bytes());
    for path in desk.site.files_below(desk.site.path()) {
        let links = path.ends_with("check") || path.ends_with("run_trainer");
        if path != desk.site.credentials() && !links && !path.ends_with("batch.sh") {
            search.look("file", &path.display().to_string(), &fs::read(&path).unwrap());
        }
    }
    assert!(search.hits.is_empty(), "{:#?}", search.hits);
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
