//! What a process that holds passwords keeps from others on its machine.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask,
};

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
