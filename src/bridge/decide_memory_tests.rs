//! More memory for a job that ran out of it.

use super::*;

/// A running job with so much memory, chosen like this, after so many Slurm jobs with too little.
fn with_memory(memory_mb: u64, from: Origin, raises: usize) -> Record {
    with(running(), |job| {
        job.resources = Some(ResourceSettings { memory_mb, ..asked() });
        job.asked = Some(Asked {
            cpus: 6,
            cpus_from: Origin::Site,
            memory_mb,
            memory_from: from,
            time_seconds: 21_600,
            time_from: Origin::Site,
            instances: None,
        });
        for n in 0..raises as u64 {
            job.too_small.push(TooSmall {
                slurm_id: SlurmJobId(n + 1),
                memory_mb: 1,
                watcher: None,
                at: ago(HOUR),
            });
        }
    })
}

#[test]
fn who_ran_out_of_memory_that_was_chosen_gets_more_within_the_sites_limit() {
    use Origin::{Estimate, Job, Measured, Raised, Site, Unknown};
    for (memory_mb, from, raises, most, more) in [
        (2000, Estimate, 0, None, Some(4000)),
        (2000, Site, 0, None, Some(4000)),
        (2000, Measured, 0, None, Some(4000)),
        (4000, Raised, 1, None, Some(8000)),
        // The job's own word is kept, and what nobody here understands.
        (2000, Job, 0, None, None),
        (2000, Unknown, 0, None, Some(4000)),
        // Twice is enough.
        (8000, Raised, 2, None, None),
        (8000, Raised, 9, None, None),
        // The site's limit.
        (2000, Estimate, 0, Some(9000), Some(4000)),
        (2000, Estimate, 0, Some(3000), Some(3000)),
        (3000, Raised, 1, Some(3000), None),
        (3000, Estimate, 0, Some(2000), None),
        // The setting's limit.
        (60_000_000, Estimate, 0, None, Some(100_000_000)),
        (100_000_000, Raised, 1, Some(u64::MAX), None),
    ] {
        let job = with_memory(memory_mb, from, raises);
        let rules = with(rules(), |rules| rules.most_memory_mb = most);
        let decision = decided(&job, "OUT_OF_MEMORY", &nothing(), &rules);
        let expected = match more {
            Some(more) => Decision::RaiseMemory(more),
            None => Decision::Fail(Verdict::OutOfMemory { used_mb: None }),
        };
        assert_eq!(decision, expected, "{memory_mb} {from:?} {raises} {most:?}");
    }
}

#[test]
fn more_memory_is_for_those_alone_that_ran_out_of_it() {
    let job = with_memory(2000, Origin::Estimate, 0);
    for words in ["FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"] {
        let decision = decided(&job, words, &nothing(), &rules());
        assert!(!matches!(decision, Decision::RaiseMemory(_)), "{words}: {decision:?}");
    }
    // Without cgroups and with a figure that explains the end.
    let used = Found { peak_memory: Some((ID, 1990)), ..nothing() };
    assert_eq!(decided(&job, "FAILED", &used, &rules()), Decision::RaiseMemory(4000));
    // Models that lie there win, and so does whoever cancels it.
    let models = a_reply(Outcome::Models);
    let decision = decided(&job, "OUT_OF_MEMORY", &models, &rules());
    assert_eq!(decision, Decision::Collect(Outcome::Models));
    let cancelled = with(job, |job| job.verdict = Some(Verdict::CancelledByAsker));
    let decision = decided(&cancelled, "OUT_OF_MEMORY", &nothing(), &rules());
    assert_eq!(decision, Decision::Fail(Verdict::CancelledByAsker));
}

#[test]
fn a_job_with_more_memory_is_another_slurm_job_and_its_time_begins_anew() {
    let mut job = with_memory(2000, Origin::Estimate, 0);
    job.watcher = Some(SlurmJobId(18));
    job.raise_memory(4000, now()).unwrap();
    let asked = |job: &Record| {
        let (resources, asked) = (job.resources.as_ref().unwrap(), job.asked.as_ref().unwrap());
        assert_eq!(resources.memory_mb, asked.memory_mb);
        (asked.memory_mb, asked.memory_from)
    };
    assert_eq!(asked(&job), (4000, Origin::Raised));
    assert_eq!((&job.state, job.slurm_id, job.watcher), (&State::Received, Some(ID), None));
    assert!(job.has_outgrown(ID) && job.has_outgrown(SlurmJobId(18)));
    assert!(!job.has_outgrown(SlurmJobId(19)));
    assert_eq!(decided(&job, "silent", &nothing(), &rules()), Decision::Submit);
    // It was taken long ago, but has waited for sbatch only since now.
    job.received_at = ago(1000 * HOUR);
    job.apply(Event::SubmitStarted, now()).unwrap();
    assert_eq!(decided(&job, "unknown", &nothing(), &rules()), Decision::Submit);
    job.too_small[0].at = ago(25 * HOUR);
    assert_eq!(decided(&job, "unknown", &nothing(), &rules()), Decision::Fail(Verdict::NotTaken));
    // Slurm has not so much: what is answered is what it had.
    job.lower_memory();
    assert_eq!(asked(&job), (2000, Origin::Estimate));
    // Only what Slurm has can run out of memory.
    assert!(received().raise_memory(1, now()).is_err());
}
