//! The spool and the directories beside it: does the filesystem keep its promises, and is there
//! room?

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock, statfs, statvfs};

use super::row::{Row, Rows, apart};
use base::files::PROBE;
use base::text::file_size;
use scheduler::{Kind, SiteConfig};

/// A filesystem that does not answer within this time counts as away.
const DEADLINE: Duration = Duration::from_secs(20);
/// A job leaves some 25 MB for each layer until it is answered.
const LITTLE: u64 = 2 << 30;
const TOO_LITTLE: u64 = 100 << 20;
const FEW_INODES: u64 = 1000;
/// The beginning of the name of a directory for tests. The next doctor removes one that is left
/// behind.
pub(super) const DIRECTORY: &str = ".doctor-";
/// The longest time that a doctor takes; older directories are left over.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 3600);

/// How a filesystem reaches other machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// It is made for that.
    Shared,
    /// On this machine, unless it exports it.
    Local,
    /// In this machine's memory.
    Memory,
    Unknown,
}

/// By the magic numbers of Linux's `statfs(2)` and of the filesystems' own sources.
const KINDS: [(u64, &str, Reach); 22] = [
    (0x6969, "NFS", Reach::Shared),
    (0x0bd0_0bd0, "Lustre", Reach::Shared),
    (0x4750_4653, "GPFS", Reach::Shared),
    (0x1983_0326, "BeeGFS", Reach::Shared),
    (0x00c3_6400, "Ceph", Reach::Shared),
    (0xaad7_aaea, "PanFS", Reach::Shared),
    (0x0116_1970, "GFS2", Reach::Shared),
    (0x7461_636f, "OCFS2", Reach::Shared),
    (0x5346_414f, "AFS", Reach::Shared),
    (0xff53_4d42, "CIFS", Reach::Shared),
    (0xfe53_4d42, "SMB", Reach::Shared),
    (0x517b, "SMB", Reach::Shared),
    (0x0102_1997, "9p", Reach::Shared),
    (0x6573_5546, "FUSE", Reach::Unknown),
    (0xef53, "ext4", Reach::Local),
    (0x5846_5342, "XFS", Reach::Local),
    (0x9123_683e, "Btrfs", Reach::Local),
    (0x2fc1_2fc1, "ZFS", Reach::Local),
    (0xf2f5_2010, "F2FS", Reach::Local),
    (0x794c_7630, "overlay", Reach::Local),
    (0x0102_1994, "tmpfs", Reach::Memory),
    (0x8584_58f6, "ramfs", Reach::Memory),
];

/// Checks the directories and files of the installation. With `seen_from_node`, a compute node will
/// say whether it sees the spool.
pub(super) async fn rows(site: &SiteConfig, seen_from_node: bool) -> Vec<Row> {
    let site = site.clone();
    let spool = site.spool.display().to_string();
    match apart(DEADLINE, move || look(&site, seen_from_node)).await {
        Some(rows) => rows,
        None => {
            let mut rows = Rows::new("spool");
            rows.fail(
                "spool",
                format!("{spool} does not answer within {} s", DEADLINE.as_secs()),
                "look whether its file server is up: df",
            );
            rows.done()
        }
    }
}

fn look(site: &SiteConfig, seen_from_node: bool) -> Vec<Row> {
    let mut rows = Rows::new("spool");
    let spool = &site.spool;
    let Some(place) = existing(spool) else {
        rows.fail(
            "directory",
            format!("there is no {}", spool.display()),
            "set SPOOL_DIR to a directory",
        );
        return rows.done();
    };
    remove_left_behind(&place);
    directory(&mut rows, spool, &place);
    kind(&mut rows, &place, site.scheduler, seen_from_node);
    match promises(&place) {
        Ok(()) => rows.pass(
            "rename, fsync",
            "a file was written, renamed over another, linked once and \
                read",
        ),
        Err((what, error)) => rows.fail(
            "rename, fsync",
            format!("{what} in {} fails: {error}", place.display()),
            "make SPOOL_DIR a directory that this account can write, on a filesystem with links \
            and fsync",
        ),
    }
    locks(&mut rows, &place);
    room(&mut rows, &place);
    logs(&mut rows, &site.logs);
    script(
        &mut rows,
        "batch script",
        &site.batch_script,
        "set BATCH_SCRIPT to the script that sbatch runs",
    );
    if site.watcher && site.scheduler == Kind::Slurm {
        script(
            &mut rows,
            "watcher script",
            &site.watcher_script(),
            "put slurm/handle_failure.sh back, or set WATCHER=0",
        );
    }
    script(
        &mut rows,
        "run_check",
        &site.home.join("run_check"),
        "put run_check back: cron and the watcher start it",
    );
    rows.done()
}

/// The directory, or the nearest above it that is there.
fn existing(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|path| path.is_dir()).map(Path::to_path_buf)
}

fn directory(rows: &mut Rows, spool: &Path, place: &Path) {
    if place != spool {
        return rows.pass(
            "directory",
            format!("{} is not there yet; the first pass makes it", spool.display()),
        );
    }
    let metadata = match fs::metadata(spool) {
        Ok(metadata) => metadata,
        Err(error) => {
            return rows.fail(
                "directory",
                format!("{}: {error}", spool.display()),
                "set SPOOL_DIR anew",
            );
        }
    };
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    let mode = metadata.mode() & 0o7777;
    if owner != own {
        let advice = format!("run as root: chown {own} {}", spool.display());
        rows.fail("directory", format!("{} belongs to user {owner}", spool.display()), advice);
    } else if mode & 0o077 != 0 {
        let seen = format!("others can look into {} (mode {mode:04o})", spool.display());
        rows.warn("directory", seen, format!("chmod 700 {}", spool.display()));
    } else {
        rows.pass("directory", format!("mode {mode:04o}, nobody else's: {}", spool.display()));
    }
}

fn kind(rows: &mut Rows, place: &Path, scheduler: Kind, seen_from_node: bool) {
    let magic = match statfs(place) {
        // The number has 32 bits; the field's type differs between architectures.
        #[expect(clippy::cast_sign_loss, reason = "its bits are compared")]
        Ok(found) => found.f_type as u64 & 0xffff_ffff,
        Err(error) => return rows.skip("filesystem", format!("its type can't be read: {error}")),
    };
    let known = KINDS.iter().find(|(number, ..)| *number == magic);
    let (name, reach) = known.map_or_else(
        || (format!("type {magic:#x}"), Reach::Unknown),
        |(_, n, r)| ((*n).to_owned(), *r),
    );
    let advice = "put SPOOL_DIR on the filesystem that login node and compute nodes share; check \
        doctor --on-node shows whether they do";
    match reach {
        Reach::Shared => rows.pass("filesystem", name),
        Reach::Local | Reach::Unknown if scheduler != Kind::Slurm => rows.pass("filesystem", name),
        Reach::Memory => {
            rows.warn(
                "filesystem",
                format!("{name}: in this machine's memory, gone when it restarts"),
                advice,
            );
        }
        _ if seen_from_node => {
            rows.pass("filesystem", format!("{name}; whether compute nodes see it is asked below"))
        }
        Reach::Local => {
            rows.warn("filesystem", format!("{name}: it looks like this machine's own"), advice)
        }
        Reach::Unknown => {
            rows.pass("filesystem", format!("{name}; --on-node shows whether compute nodes see it"))
        }
    }
}

/// Removes what a doctor that was killed has left.
fn remove_left_behind(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let is_old = |metadata: &fs::Metadata| {
            metadata.is_dir()
                && metadata
                    .modified()
                    .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LEFT_BEHIND))
        };
        if entry.file_name().to_string_lossy().starts_with(DIRECTORY)
            && entry.metadata().as_ref().is_ok_and(is_old)
        {
            let _ = fs::remove_dir_all(entry.path()); // it does no harm where it can't be removed
        }
    }
}

/// Does what the ledger does, in a directory of its own. The error says at which step.
pub(super) fn promises(place: &Path) -> Result<(), (&'static str, io::Error)> {
    let at = |step: &'static str| move |error: io::Error| (step, error);
    let directory = tempfile::Builder::new()
        .prefix(DIRECTORY)
        .tempdir_in(place)
        .map_err(at("making a directory"))?;
    let path = |name: &str| directory.path().join(name);
    let write = |name: &str, text: &[u8]| {
        let mut file = File::create(path(name))?;
        file.write_all(text)?;
        file.sync_all()
    };
    write("old", b"old").map_err(at("writing and syncing a file"))?;
    write("new", b"new").map_err(at("writing and syncing a file"))?;
    fs::rename(path("new"), path("old")).map_err(at("renaming a file over another"))?;
    fs::hard_link(path("old"), path("link")).map_err(at("linking a file"))?;
    match fs::hard_link(path("old"), path("link")) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(("linking a file a second time", error)),
        Ok(()) => {
            return Err(("linking a file", io::Error::other("the same name was given twice")));
        }
    }
    File::open(directory.path()).and_then(|d| d.sync_all()).map_err(at("syncing a directory"))?;
    let mut text = String::new();
    File::open(path("old"))
        .and_then(|mut f| f.read_to_string(&mut text))
        .map_err(at("reading a file"))?;
    if text != "new" {
        return Err(("reading a file", io::Error::other("it is not what was written")));
    }
    directory.close().map_err(at("removing a directory"))
}

fn locks(rows: &mut Rows, place: &Path) {
    let lock = || -> io::Result<bool> {
        let file = tempfile::Builder::new().prefix(PROBE).tempfile_in(place)?;
        let second = File::open(file.path())?;
        flock(file.as_file(), FlockOperation::NonBlockingLockExclusive)?;
        Ok(flock(&second, FlockOperation::NonBlockingLockExclusive).is_err())
    };
    let without = "nothing to do: the lock's own file and its heartbeat keep passes apart";
    match lock() {
        Ok(true) => rows.pass("locks", "flock keeps a second one out"),
        Ok(false) => rows.warn("locks", "flock lets two in at once", without),
        Err(error) => rows.warn("locks", format!("flock does not work here: {error}"), without),
    }
}

fn room(rows: &mut Rows, place: &Path) {
    let found = match statvfs(place) {
        Ok(found) => found,
        Err(error) => return rows.skip("free space", format!("can't be asked for: {error}")),
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let advice = "make room: check purge --older 30d removes what is left of answered jobs";
    let seen = format!("{} free (a quota of the account may leave less)", file_size(free));
    match free {
        0..TOO_LITTLE => rows.fail("free space", seen, advice),
        TOO_LITTLE..LITTLE => rows.warn("free space", seen, advice),
        _ => rows.pass("free space", seen),
    }
    // A filesystem that makes inodes when they are needed reports none.
    if found.f_files == 0 {
        rows.pass("free inodes", "this filesystem makes them as needed");
    } else if found.f_favail < FEW_INODES {
        rows.warn("free inodes", format!("{} left", found.f_favail), advice);
    } else {
        rows.pass("free inodes", format!("{} left", found.f_favail));
    }
}

fn logs(rows: &mut Rows, logs: &Path) {
    let place = existing(logs);
    let writable =
        place.as_deref().map(|place| tempfile::Builder::new().prefix(PROBE).tempfile_in(place));
    match writable {
        Some(Ok(_)) if place.as_deref() == Some(logs) => {
            rows.pass("log directory", logs.display().to_string())
        }
        Some(Ok(_)) => {
            rows.pass(
                "log directory",
                format!("{} is not there yet; the first pass makes it", logs.display()),
            );
        }
        Some(Err(error)) => rows.fail(
            "log directory",
            format!("{} can't be written: {error}", logs.display()),
            "set LOG_DIR to a directory that this account can write",
        ),
        None => {
            rows.fail("log directory", format!("there is no {}", logs.display()), "set LOG_DIR")
        }
    }
}

fn script(rows: &mut Rows, name: &str, path: &Path, advice: &str) {
    let mut start = [0; 2];
    let read = File::open(path).and_then(|mut file| {
        file.read_exact(&mut start)?;
        file.metadata()
    });
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            rows.fail(name, format!("{} is empty", path.display()), advice);
        }
        Err(error) => rows.fail(name, format!("{} can't be read: {error}", path.display()), advice),
        Ok(_) if &start != b"#!" => {
            let seen = format!("{} does not begin with #!", path.display());
            rows.fail(
                name,
                seen,
                "its first line has to be #!/usr/bin/env bash, else it can't be started",
            );
        }
        Ok(metadata) if metadata.permissions().mode() & 0o100 == 0 => {
            let seen = format!("{} can't be executed", path.display());
            rows.fail(name, seen, format!("chmod u+x {}", path.display()));
        }
        Ok(_) => rows.pass(name, path.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filesystem_that_works_passes_and_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        promises(dir.path()).unwrap();
        let mut rows = Rows::new("spool");
        locks(&mut rows, dir.path());
        assert_eq!(rows.done()[0].seen, "flock keeps a second one out");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn the_step_that_fails_is_named() {
        let (step, _) = promises(Path::new("/proc/self")).unwrap_err();
        assert_eq!(step, "making a directory");
    }
}
