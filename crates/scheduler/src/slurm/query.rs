//! What became of our jobs: one call of squeue for all, and one of sacct for those that squeue no
//! longer knows.

use std::collections::HashMap;
use std::ffi::OsString;
use std::time::Duration;

use jiff::Timestamp;

use super::command::{Slurm, SlurmError};
use super::state::JobState;
use base::text::printable;
use domain::SlurmJobId;

/// What Slurm knows of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobInfo {
    /// Its number.
    pub id: SlurmJobId,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: JobState,
    /// Why it waits or ended, in Slurm's word; empty when Slurm says nothing.
    pub reason: String,
    /// How long it ran, in Slurm's form.
    pub elapsed: String,
    /// Most memory that its batch step used, MB; only sacct tells.
    pub used_mb: Option<u64>,
    /// Exit code and signal, such as `1:0`; only sacct tells.
    pub exit_code: Option<String>,
}

/// Reasons for waiting that don't pass by themselves: the request fits no node, or the account may
/// not ask for it. From `man squeue`, "JOB REASON CODES". A limit for one job ends in `PerJob` or
/// `PerJobLimit`, one for a node in `PerNode`.
const NEVER_PASSES: [&str; 13] = [
    "AccountNotAllowed",
    "BadConstraints",
    "DependencyNeverSatisfied",
    "InvalidAccount",
    "InvalidQOS",
    "JobHoldMaxRequeue",
    "MaxMemPerLimit",
    "PartitionConfig",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "QOSNotAllowed",
    "launch failed requeued held",
    "launch_failed_requeued_held",
];

impl JobInfo {
    /// True when the job waits for something that will never happen.
    pub fn can_never_start(&self) -> bool {
        let per_job = |suffix: &str| self.reason.trim_end_matches("Limit").ends_with(suffix);
        self.state.phase() == super::state::Phase::Waiting
            && (NEVER_PASSES.contains(&self.reason.as_str())
                || per_job("PerJob")
                || per_job("PerNode"))
    }

    /// How long it ran: `elapsed`, which is `[DAYS-][HOURS:]MINUTES:SECONDS`.
    pub fn ran_for(&self) -> Option<Duration> {
        let (days, time) = self.elapsed.split_once('-').unwrap_or(("0", &self.elapsed));
        let parts: Vec<u64> = time
            .split(':')
            .map(|part| part.parse::<u32>().ok().map(u64::from))
            .collect::<Option<_>>()?;
        let seconds = match parts[..] {
            [minutes, seconds] => minutes * 60 + seconds,
            [hours, minutes, seconds] => hours * 3600 + minutes * 60 + seconds,
            _ => return None,
        };
        Some(Duration::from_secs(u64::from(days.parse::<u32>().ok()?) * 86_400 + seconds))
    }
}

const SQUEUE_FORMAT: &str = "%i|%T|%r|%M|%j";
const SACCT_FORMAT: &str = "JobIDRaw,State,Reason,Elapsed,MaxRSS,ExitCode,JobName";

impl Slurm {
    /// All jobs of this account that Slurm's controller knows: waiting, running or recently ended.
    ///
    /// # Errors
    ///
    /// When squeue fails or does not answer. Then nothing is known, and nothing may be decided.
    pub async fn queue(&self) -> Result<Vec<JobInfo>, SlurmError> {
        let user = rustix::process::getuid().as_raw();
        let arguments = [
            OsString::from("--noheader"),
            "--states=all".into(),
            format!("--user={user}").into(),
            format!("--format={SQUEUE_FORMAT}").into(),
        ];
        let output = self.run("squeue", &arguments).await?;
        if !output.success {
            return Err(SlurmError::Failed { command: "squeue", detail: output.last_words() });
        }
        Ok(output.stdout.lines().filter_map(squeue_line).collect())
    }

    /// How a job ended, where there is no accounting: exit code and signal, such as `0:9`. `None`
    /// when the controller has forgotten it.
    pub async fn exit_code(&self, id: SlurmJobId) -> Option<String> {
        let arguments = ["--oneliner".into(), "show".into(), "job".into(), id.to_string().into()];
        let output = self.run("scontrol", &arguments).await.ok().filter(|output| output.success)?;
        exit_code_in(&output.stdout)
    }

    /// What the accounting database knows of jobs of these names that were submitted since `since`;
    /// `None` if the site has no accounting.
    ///
    /// # Errors
    ///
    /// When sacct does not answer.
    pub async fn accounting(
        &self,
        names: &[String],
        since: Timestamp,
    ) -> Result<Option<Vec<JobInfo>>, SlurmError> {
        if names.is_empty() {
            return Ok(Some(Vec::new()));
        }
        // sacct reads a time as local time: an hour is added for clocks, a day for time zones.
        let since = since - jiff::SignedDuration::from_hours(25);
        let arguments = [
            OsString::from("--noheader"),
            "--parsable2".into(),
            format!("--name={}", names.join(",")).into(),
            format!("--starttime={}", since.strftime("%Y-%m-%dT%H:%M:%S")).into(),
            format!("--format={SACCT_FORMAT}").into(),
        ];
        let output = match self.run("sacct", &arguments).await {
            Ok(output) => output,
            Err(SlurmError::Missing { detail, .. }) => {
                tracing::debug!("no sacct here: {detail}");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if !output.success {
            tracing::debug!("sacct: {}", output.last_words());
            return Ok(None);
        }
        Ok(Some(sacct_lines(&output.stdout)))
    }
}

/// The exit code in what `scontrol show job` prints of a job.
pub fn exit_code_in(text: &str) -> Option<String> {
    text.split_whitespace().find_map(|word| exit_code(word.strip_prefix("ExitCode=")?))
}

/// `STATUS:SIGNAL`, two small numbers; anything else is no exit code.
fn exit_code(text: &str) -> Option<String> {
    let (status, signal) = text.split_once(':')?;
    let number =
        |text: &str| (1..=10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    (number(status) && number(signal)).then(|| text.to_owned())
}

/// A reason for waiting or ending, made printable; Slurm's `None` becomes empty.
fn reason_of(text: &str) -> String {
    if text == "None" { String::new() } else { printable(text, 300) }
}

/// One line of squeue in our format; nothing where it is no such line.
pub fn squeue_line(line: &str) -> Option<JobInfo> {
    let mut fields = line.trim().splitn(5, '|');
    let id = SlurmJobId(fields.next()?.trim().parse().ok()?);
    let mut next = || fields.next().map(|f| f.trim().to_owned());
    let (state, reason, elapsed, name) = (next()?, next()?, next()?, next()?);
    Some(JobInfo {
        id,
        name,
        state: JobState::parse(&state),
        reason: reason_of(&reason),
        elapsed: printable(&elapsed, 40),
        used_mb: None,
        exit_code: None,
    })
}

/// A job has a line of its own, and one for each step (`4711.batch`), which holds the memory used.
pub fn sacct_lines(text: &str) -> Vec<JobInfo> {
    let mut jobs: Vec<JobInfo> = Vec::new();
    let mut used: HashMap<SlurmJobId, u64> = HashMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.trim().splitn(7, '|').collect();
        let [id, state, reason, elapsed, max_rss, code, name] = fields[..] else { continue };
        let (number, step) = id.split_once('.').map_or((id, false), |(number, _)| (number, true));
        let Ok(number) = number.parse().map(SlurmJobId) else { continue };
        if let Some(mb) = megabytes(max_rss) {
            let most = used.entry(number).or_default();
            *most = mb.max(*most);
        }
        if !step {
            jobs.push(JobInfo {
                id: number,
                name: name.to_owned(),
                state: JobState::parse(state),
                reason: reason_of(reason),
                elapsed: printable(elapsed, 40),
                used_mb: None,
                exit_code: exit_code(code),
            });
        }
    }
    for job in &mut jobs {
        job.used_mb = used.get(&job.id).copied();
    }
    jobs
}

/// `1234K`, `1.5G` … in MB, rounded up. More than 10¹² MB is not a memory size.
fn megabytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, bytes) = match text.chars().next_back()? {
        'K' => (&text[..text.len() - 1], 1024.0),
        'M' => (&text[..text.len() - 1], 1_048_576.0),
        'G' => (&text[..text.len() - 1], 1_073_741_824.0),
        'T' => (&text[..text.len() - 1], 1_099_511_627_776.0),
        _ => (text, 1.0),
    };
    let mb = Some(number.parse::<f64>().ok()? * bytes / 1_048_576.0)
        .filter(|n| (0.0..=1e12).contains(n))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be in range"
    )]
    Some(mb.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squeue_is_read_with_banner_and_odd_names() {
        let text = "Welcome to the cluster\n17|PENDING|Resources|0:00|hpct-a\n\
                    18|RUNNING|None|1-02:03:04|my|job\n19_[1-4]|PENDING|Priority|0:00|array\n";
        let jobs: Vec<JobInfo> = text.lines().filter_map(squeue_line).collect();
        assert_eq!(jobs.len(), 2);
        assert_eq!((jobs[0].name.as_str(), jobs[0].reason.as_str()), ("hpct-a", "Resources"));
        assert_eq!((jobs[1].name.as_str(), jobs[1].reason.as_str()), ("my|job", ""));
        let ran_for = |job: &JobInfo| job.ran_for().map(|time| time.as_secs());
        assert_eq!((ran_for(&jobs[0]), ran_for(&jobs[1])), (Some(0), Some(93_784)));
    }

    #[test]
    fn sacct_gives_the_memory_of_the_steps_to_the_job() {
        let text = "17|OUT_OF_MEMORY|None|00:01:02||0:125|hpct-a\n\
                    17.batch|OUT_OF_MEMORY||00:01:02|2038000K|0:125|batch\n\
                    17.extern|COMPLETED||00:01:02|1K|0:0|extern\n\
                    18|CANCELLED by 1000|None|00:00:00||0:0|hpct-b\n";
        let jobs = sacct_lines(text);
        assert_eq!(jobs.len(), 2);
        assert_eq!((&jobs[0].state, jobs[0].used_mb), (&JobState::OutOfMemory, Some(1991)));
        assert_eq!((&jobs[1].state, jobs[1].used_mb), (&JobState::Cancelled, None));
    }

    #[test]
    fn what_slurm_prints_is_made_fit_to_be_shown() {
        let job = squeue_line("17|FAILED|Node\u{1b}[2J down|0:01\u{7}|hpct-a").unwrap();
        assert_eq!((job.reason.as_str(), job.elapsed.as_str()), ("Node [2J down", "0:01"));
        let line = |code: &str| format!("17|FAILED|{}|00:00:01||{code}|hpct-a", "x".repeat(1000));
        let job = sacct_lines(&line("137:0")).remove(0);
        assert_eq!((job.reason.chars().count(), job.exit_code.as_deref()), (301, Some("137:0")));
        for code in ["", "137", "1:\u{1b}[2J", "-1:0", "12345678901:0"] {
            assert_eq!(sacct_lines(&line(code))[0].exit_code, None, "{code:?}");
        }
        let shown =
            |code: &str| exit_code_in(&format!("JobId=17 ExitCode={code} RunTime=00:00:04"));
        assert_eq!((shown("0:9").as_deref(), shown("\u{1b}]0;x")), (Some("0:9"), None));
    }

    #[test]
    fn memory_in_every_unit() {
        assert_eq!(
            ["512K", "1.5G", "3M", "1048577", "", "x", "2T"].map(megabytes),
            [Some(1), Some(1536), Some(3), Some(2), None, None, Some(2_097_152)]
        );
        assert_eq!(
            ["1e12M", "1000001000000M", "1e300T", "-1K", "nan"].map(megabytes),
            [Some(1_000_000_000_000), None, None, None, None]
        );
    }
}
