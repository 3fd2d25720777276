//! What a process that holds passwords keeps from others on its machine.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask,
};

use crate::exit_code::ExitCode;

/// No core dump of this process, for its passwords and tokens would be in it, and no look into its memory by another
/// process of the same account.
///
/// Both, because a core dump that is piped to a collector is not bound by the limit. To be called before anything secret is
/// read. The programs work without, so a system that refuses is a line in the log.
pub fn process() {
    let hard = getrlimit(Resource::Core).maximum;
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: hard }) {
        tracing::warn!("core dumps can't be switched off: {error}");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("this process can't be kept from being dumped: {error}");
    }
}

/// Files that are made from here on are for this account alone, whatever the shell's umask is; sbatch hands it on to the
/// job and its log. Not for pages in a folder, whose models belong to the user as any other file.
pub fn files() {
    umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// From here on neither this process nor its children gain rights by a program that is installed with more (set-user-ID and
/// the like). Threads that run already are not bound, so it comes before the threads that decode and train; and after the GPU
/// was opened, for whose devices the driver may start such a program.
pub fn no_new_privileges() {
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        tracing::warn!("this process can't be kept from gaining privileges: {error}");
    }
}

/// Runs a program to its exit code, which is that of an internal fault when it panics. What a panic says is shown only where
/// it is a part of the program: a text that was put together (or sliced) at run time may hold a secret.
pub fn guarded(run: impl FnOnce() -> ExitCode) -> ExitCode {
    panic::set_hook(Box::new(|info| {
        // Where standard error is gone there is nobody to tell.
        let _ = writeln!(std::io::stderr().lock(), "{}", fault(info));
    }));
    // What the closure leaves half done is not looked at again.
    panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or(ExitCode::Internal)
}

fn fault(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let words = info.payload().downcast_ref::<&'static str>();
    let words =
        words.map_or_else(|| "its words are left out, they may hold a secret".into(), ToString::to_string);
    let version = env!("CARGO_PKG_VERSION");
    let mut text =
        format!("a fault of the program (hpc-trainer {version}) at {place}: {words}; please report it");
    // Names of functions and lines, where RUST_BACKTRACE asks for them; no values.
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        text.push_str(&format!("\n{trace}"));
    }
    text
}
