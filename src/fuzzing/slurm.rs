//! What Slurm's commands print, and a site's banner around it.

use super::assert_shown;
use crate::bridge;
use scheduler::slurm::fuzzing::{answer, exit_code_in, sacct_lines, squeue_line};
use scheduler::slurm::{JobInfo, JobState, Phase, SubmitError, in_words};

/// States in which Slurm is done with a job (`man squeue`, "JOB STATE CODES").
const ENDS: [&str; 10] = [
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
];

/// The first letter is the command: s(q)ueue, s(a)cct, (s)batch, (f)ailed sbatch, s(c)ontrol.
pub(super) fn answers(data: &[u8]) {
    let Some((command, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    match command {
        b'q' => squeue(&text),
        b'a' => sacct(&text),
        b's' | b'f' => {
            let (stdout, stderr) = text.split_once("\n--\n").unwrap_or((&text, ""));
            sbatch(*command == b's', stdout, stderr);
        }
        b'c' => {
            if let Some(code) = exit_code_in(&text) {
                check_exit_code(&code);
                assert!(text.contains(&format!("ExitCode={code}")));
            }
        }
        _ => {}
    }
}

fn squeue(text: &str) {
    for line in text.lines() {
        let Some(job) = squeue_line(line) else { continue };
        let number: String = line.trim().chars().take_while(|c| *c != '|').collect();
        assert_eq!(number.trim().parse(), Ok(job.id.0), "{line:?}");
        assert!(line.contains(&job.name), "{line:?}");
        assert_eq!((job.used_mb, &job.exit_code), (None, &None));
        check(&job, line);
    }
}

fn sacct(text: &str) {
    let jobs = sacct_lines(text);
    assert!(jobs.len() <= text.lines().count());
    for job in &jobs {
        let number = job.id.to_string();
        // The line of the job itself, not of a step.
        let own = |line: &&str| {
            let id = line.trim().split('|').next().unwrap_or_default();
            id.trim_start_matches(['+', '0']) == number.trim_start_matches('0') && !id.contains('.')
        };
        let lines: Vec<&str> = text.lines().filter(own).collect();
        assert!(!lines.is_empty(), "{job:?}");
        assert!(lines.iter().any(|line| line.contains(&job.name)), "{job:?}");
        if let Some(code) = &job.exit_code {
            check_exit_code(code);
        }
        assert!(job.used_mb.is_none_or(|mb| mb <= 1_000_000_000_000));
        let ends = lines.iter().any(|line| ENDS.iter().any(|end| line.contains(end)));
        assert!(job.state.phase() != Phase::Ended || ends, "{job:?}");
        check(job, text);
    }
}

/// Checks what is shown of a job, or used for a decision.
fn check(job: &JobInfo, text: &str) {
    let phase = job.state.phase();
    assert!(phase != Phase::Ended || ENDS.iter().any(|end| text.contains(end)), "{job:?}");
    if let JobState::Unknown(word) = &job.state {
        assert_shown(word);
        assert_eq!(phase, Phase::Unknown);
    }
    assert!(!job.can_never_start() || phase == Phase::Waiting);
    if let Some(time) = job.ran_for() {
        assert!(job.elapsed.chars().all(|c| c.is_ascii_digit() || "-:+".contains(c)), "{job:?}");
        assert!(time.as_secs() < 1 << 50);
    }
    in_words(&job.reason);
    bridge::fuzzing::ends(job, assert_shown);
}

fn check_exit_code(code: &str) {
    let (status, signal) = code.split_once(':').expect("CODE:SIGNAL");
    for number in [status, signal] {
        assert!(
            (1..=10).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit()),
            "{code:?}"
        );
    }
}

/// A job must never be taken for submitted, or for refused, by mistake.
fn sbatch(success: bool, stdout: &str, stderr: &str) {
    let answer = answer(success, stdout, stderr);
    match &answer {
        Ok(id) => {
            assert!(success);
            let names =
                |line: &str| line.trim().split(';').next().is_some_and(|n| n.parse() == Ok(id.0));
            assert!(stdout.lines().any(names), "{id}");
        }
        Err(error) => {
            // A job that sbatch accepted may exist; only one that it has refused is given up.
            assert!(!success || matches!(error, SubmitError::Later(_)), "{error}");
            assert_shown(&error.to_string());
        }
    }
}
