//! Messages by an attacker who chooses every word, through the real broker, `check` and the real
//! sbatch, whose arguments are recorded on the way.

use crate::support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use lapin::BasicProperties;
use serde_json::{Value, json};

use support::broker::{JOBS, RESULTS};
use support::desk::{Desk, job};
use support::{SECONDS, write_script};

/// Texts that elsewhere would be an option, a word of the shell, a path, a header or a terminal's
/// command.
const HOSTILE: [&str; 12] = [
    "--wrap=touch /tmp/hostile",
    "-o /tmp/hostile",
    "; touch /tmp/hostile",
    "$(touch /tmp/hostile)",
    "`touch /tmp/hostile`",
    "../../../../tmp/hostile",
    "/tmp/hostile",
    "a\nBcc: everybody@example.org",
    "\u{1b}[2J\u{1b}]0;hostile\u{7}",
    "\u{202e}esrever\u{2066}",
    "%j%x%A",
    "nul\0byte",
];

/// Records the arguments of each call, one per line, with an empty line after each call, and then
/// calls the real sbatch.
const RECORDING_SBATCH: &str = r#"
for a in "$@"; do printf '%q\n' "$a"; done >> "$HPC_TRAINER_HOME/calls"
echo >> "$HPC_TRAINER_HOME/calls"
env -0 | tr '\0\n' '\n ' >> "$HPC_TRAINER_HOME/environment"
exec sbatch "$@""#;

/// The directory of Slurm's commands for this site: the real ones, except for sbatch.
fn record_sbatch(desk: &mut Desk) {
    let tools = desk.site.path().join("tools");
    fs::create_dir(&tools).unwrap();
    for name in ["squeue", "sacct", "scancel", "scontrol", "sinfo"] {
        let real = ["/usr/local/bin", "/usr/bin"].map(|d| PathBuf::from(d).join(name));
        if let Some(real) = real.iter().find(|path| path.exists()) {
            symlink(real, tools.join(name)).unwrap();
        }
    }
    write_script(&tools.join("sbatch"), RECORDING_SBATCH);
    desk.site.set("SITE_SLURM_BIN", tools.to_str().unwrap());
}

/// A message that asks for an answer to `id` in `reply_to`.
fn message(id: &str, reply_to: &str, body: &Value) -> (BasicProperties, Vec<u8>) {
    let properties =
        BasicProperties::default().with_reply_to(reply_to.into()).with_correlation_id(id.into());
    (properties, body.to_string().into_bytes())
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut message = job();
    change(&mut message);
    message
}

#[track_caller]
fn assert_harmless(what: &str, text: &str) {
    let bad = |c: char| {
        (c.is_control() && c != '\n')
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
    };
    assert!(
        !text.contains(bad),
        "{what} has {:?}:\n{}",
        text.chars().find(|c| bad(*c)),
        text.escape_debug()
    );
}

#[test]
fn nothing_in_a_message_becomes_an_option_a_word_a_path_or_a_terminals_command() {
    let mut desk = Desk::with_script("exit 0");
    record_sbatch(&mut desk);
    desk.site.set("SITE_GRES", "none").set("MAX_OPEN_JOBS", "500");
    let (mut messages, mut ids) = (Vec::new(), Vec::new());
    let mut publish = |id: String, body: &Value| {
        messages.push(message(&id, RESULTS, body));
        ids.push(id);
    };
    // Unknown names are kept and not looked at.
    publish(
        "names".into(),
        &with(|m| HOSTILE.iter().for_each(|word| m["settings"][word] = json!(word))),
    );
    publish("keys".into(), &with(|m| HOSTILE.iter().for_each(|word| m[word] = json!(word))));
    for (n, word) in HOSTILE.iter().enumerate() {
        publish(format!("{word} {n}"), &job());
        publish(format!("image-{n}"), &with(|m| m["inputs"]["Image"] = json!(word)));
        publish(format!("input-{n}"), &with(|m| m["inputs"][word] = json!("/uploads/image.png")));
        let settings =
            ["Slurm Notification Email", "CPUs", "Maximum time (D-HH:MM)", "Early stopping metric"];
        publish(
            format!("settings-{n}"),
            &with(|m| settings.iter().for_each(|s| m["settings"][s] = json!(word))),
        );
    }
    for word in HOSTILE {
        messages.push(message("to-another-queue", word, &json!({"inputs": word})));
    }
    let count = messages.len();
    desk.vhost.publish_all(JOBS, messages);
    for arguments in [&["--dry-run"][..], &["--dry-run", "--log-format", "json"]] {
        let finished = desk.check().args(arguments).run().success();
        assert_harmless("a dry run", &format!("{}{}", finished.stdout, finished.stderr));
    }
    let finished = desk.check().args(["-vv", "--max-jobs", "200"]).limit(SECONDS(250)).run();
    assert_eq!(finished.code(), Some(8), "{finished}");
    assert_eq!(desk.vhost.waiting(JOBS), Some(0), "all {count} messages were taken: {finished}");
    assert_harmless("a pass", &format!("{}{}", finished.stdout, finished.stderr));
    for arguments in [&["status"][..], &["status", "--json"]] {
        let finished = desk.check().args(arguments).run().success();
        assert_harmless("status", &format!("{}{}", finished.stdout, finished.stderr));
    }

    // Arguments: the known options, each with a value of harmless characters (%q does not change
    // those), and the job file.
    let calls = fs::read_to_string(desk.site.path().join("calls")).unwrap();
    let home = desk.site.path().to_str().unwrap().to_owned();
    let mut jobs = 0;
    for line in calls.lines().filter(|line| !line.is_empty()) {
        assert!(!line.contains("hostile") || line.contains(&home), "{line}");
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_=/.:,@%+".contains(c);
        assert!(line.chars().all(fits), "{line}");
        let option = line.split('=').next().unwrap();
        assert!(!["--wrap", "--output-mode", "--export", "--uid"].contains(&option), "{line}");
        if let Some(name) = line.strip_prefix("--job-name=") {
            let id = name.strip_prefix("hpct-").or_else(|| name.strip_prefix("hpcw-")).unwrap();
            assert!(
                id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'),
                "{name}"
            );
            jobs += 1;
        }
        if line.starts_with('/') {
            assert!(line.starts_with(&home), "{line}");
        }
    }
    assert_eq!(
        jobs,
        2 + 2 * HOSTILE.len(),
        "the jobs whose hostile word nobody reads before the trainer does"
    );
    let environment = fs::read_to_string(desk.site.path().join("environment")).unwrap();
    assert!(
        !environment.contains("hostile") && !environment.contains("everybody@"),
        "{environment}"
    );

    // File names; and nothing was written outside of the site.
    for path in desk
        .site
        .files_below(&desk.site.spool())
        .iter()
        .chain(&desk.site.files_below(&desk.site.logs()))
    {
        let name = path.strip_prefix(desk.site.path()).unwrap().to_str().unwrap();
        assert!(
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./%".contains(&b)),
            "{name:?}"
        );
    }
    assert!(!PathBuf::from("/tmp/hostile").exists());

    // Each is answered under its own id, in words that can't act on anything.
    support::wait_for("the end of the jobs", SECONDS(120), || {
        let finished = desk.check().args(["-v", "--max-jobs", "0"]).run();
        assert_harmless("a pass", &format!("{}{}", finished.stdout, finished.stderr));
        let jobs = fs::read_dir(desk.site.spool().join("jobs")).unwrap().count();
        (jobs == 0).then_some(())
    });
    let mut answered = Vec::new();
    desk.vhost.receive_all(ids.len(), SECONDS(60), |message| {
        let reply = message.json();
        assert_harmless("a reply", reply["error"].as_str().unwrap());
        answered.push(message.correlation_id().unwrap().to_owned());
    });
    answered.sort();
    ids.sort();
    assert_eq!(answered, ids);
    // RabbitMQ takes line breaks out of a name. The queue in the message can't exist, and the
    // similar one must not be made.
    assert!(!desk.vhost.queue_exists("aBcc: everybody@example.org"));
    for queue in HOSTILE.into_iter().filter(|queue| !queue.contains('\n')) {
        let replies = desk.vhost.leftovers(queue);
        assert_eq!(replies.len(), 1, "{queue:?}");
        assert_harmless("a reply", replies[0].json()["error"].as_str().unwrap());
    }
}
