//! Places where a test kills the program, to see that the next run carries on.
//!
//! Every write to the spool, and every step that others can see, passes a numbered point before and
//! after it. In a debug build `HPC_TRAINER_DIE_AT=N` makes the program abort at the N-th point that
//! it passes, without running destructors or writing anything; `HPC_TRAINER_DIE_LOG=FILE` lists the
//! points that are passed. `HPC_TRAINER_PANIC_AT=NAME` panics at the point of that name, with
//! `HPC_TRAINER_PANIC_WITH` in its message. A release build has none of this.

/// Passes a point: nothing in a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &str) {}

/// Passes a point, and aborts or panics if the environment names it.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::io::Write as _;
    use std::sync::atomic::{AtomicU32, Ordering};

    if std::env::var("HPC_TRAINER_PANIC_AT").is_ok_and(|at| at == name) {
        panic!("{}", std::env::var("HPC_TRAINER_PANIC_WITH").unwrap_or_default());
    }
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let (at, log) = settings();
    if at.is_none() && log.is_none() {
        return;
    }
    let number = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
    if let Some(path) = log
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = writeln!(file, "{number} {name}"); // a test that misses its log fails by itself
    }
    if *at == Some(number) {
        let _ = writeln!(std::io::stderr(), "dying at point {number}, {name}, as HPC_TRAINER_DIE_AT asks");
        std::process::abort();
    }
}

#[cfg(debug_assertions)]
fn settings() -> &'static (Option<u32>, Option<std::path::PathBuf>) {
    static SETTINGS: std::sync::OnceLock<(Option<u32>, Option<std::path::PathBuf>)> =
        std::sync::OnceLock::new();
    SETTINGS.get_or_init(|| {
        let at = std::env::var("HPC_TRAINER_DIE_AT").ok().and_then(|n| n.parse().ok());
        (at, std::env::var_os("HPC_TRAINER_DIE_LOG").map(Into::into))
    })
}
