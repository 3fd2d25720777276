//! What keeps other processes on the machine away from the secrets in this one.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};

use rustix::process::{
    DumpableBehavior, PTracer, Resource, Rlimit, getrlimit, set_dumpable_behavior, set_ptracer,
    setrlimit, umask,
};

use crate::exit_code::ExitCode;

/// Forbids core dumps of this process, which would hold its passwords and tokens, and keeps other
/// processes of the same account from looking into its memory.
///
/// Both are needed, because the limit on core dumps does not bind a dump that is piped to a
/// collector. Call it before anything secret is read. The programs work without it, so a system
/// that refuses is only a line in the log.
pub fn process() {
    let hard = getrlimit(Resource::Core).maximum;
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: hard }) {
        tracing::warn!("core dumps can't be switched off: {error}");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("this process can't be kept from being dumped: {error}");
    }
}

/// Lets debuggers of the same account attach to this process, because a person has asked for it:
/// takes back a part of [`process`], which can be called again. Call it only where nothing secret
/// is in memory. Core dumps stay off.
pub fn let_debuggers_in() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::Dumpable) {
        tracing::warn!("this process can't be opened to debuggers: {error}");
    }
    // Where Yama is at work, a debugger would have to be a parent of this process. Elsewhere this
    // is refused.
    if let Err(error) = set_ptracer(PTracer::Any) {
        tracing::debug!("no ptracer is named: {error}");
    }
}

/// Makes files that are created from now on private to this account, whatever the shell's umask is.
/// sbatch hands the umask on to the job and its log. Not called for pages in a folder: their models
/// belong to the user like any other file.
pub fn files() {
    umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// From now on neither this process nor its children can gain rights by starting a program that is
/// installed with more rights (set-user-ID and the like). Threads that are already running are not
/// bound, so call it before the threads that decode and train are started; and after the GPU was
/// opened, because its driver may start such a program.
pub fn no_new_privileges() {
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        tracing::warn!("this process can't be kept from gaining privileges: {error}");
    }
}

/// Runs a program and returns its exit code; after a panic that is the code of an internal fault.
/// The words of a panic are shown only where they are a constant of the program: a text that was
/// put together at run time may hold a secret.
pub fn guarded(run: impl FnOnce() -> ExitCode) -> ExitCode {
    panic::set_hook(Box::new(|info| {
        // If standard error is gone, nobody can be told.
        let _ = writeln!(std::io::stderr().lock(), "{}", fault(info));
    }));
    // After a panic nothing that the closure has left half done is used.
    panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or(ExitCode::Internal)
}

fn fault(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let words = info.payload().downcast_ref::<&'static str>();
    let words = words.map_or_else(
        || "its words are left out, they may hold a secret".into(),
        ToString::to_string,
    );
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        "a fault of the program (hpc-trainer {version}) at {place}: {words}; please report it"
    );
    // Names of functions and line numbers, where RUST_BACKTRACE asks for them; no values.
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        text.push_str(&format!("\n{trace}"));
    }
    text
}
