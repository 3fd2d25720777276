//! `./package`: a tarball that runs wherever it is unpacked, and over an older installation.

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::desk::Desk;
use support::program::{self, Finished, Program, expect};
use support::services::repository;
use support::{SECONDS, write_script};

const NAME: &str = concat!("hpc-trainer-", env!("CARGO_PKG_VERSION"), "-x86_64-linux");

fn package() -> Program {
    in_users_environment(Program::new(repository().join("package")))
}

/// With the variables that find cargo, which lists the crates.
fn in_users_environment(program: Program) -> Program {
    let names = ["HOME", "PATH", "CARGO_HOME", "RUSTUP_HOME"];
    let set = names.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    set.fold(program, |program, (name, value)| program.env(name, value)).limit(SECONDS(200))
}

/// This build's programs without debug information, which would take long to pack.
fn binaries(directory: &Path) -> PathBuf {
    let binaries = directory.join("binaries");
    fs::create_dir(&binaries).unwrap();
    let trainer = program::run_trainer().expect("a build with the trainer");
    let gateway = program::gateway().expect("a build with the gateway");
    for program in [program::check(), trainer, gateway] {
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(binaries.join(program.file_name().unwrap())).arg(program);
        assert!(strip.status().unwrap().success());
    }
    let reference = program::with_examples(&["reference"]).join("examples/reference");
    Program::new(reference).arg(&binaries).run().success();
    binaries
}

/// Unpacks a tarball over an existing installation, as an operator does.
fn unpack(tarball: &Path, home: &Path) {
    let tar =
        Program::new("tar").arg("-xzf").arg(tarball).args(["--strip-components=1", "-C"]).arg(home);
    tar.run().success();
}

fn run_check(home: &Path, desk: &Desk, arguments: &[&str]) -> Finished {
    let check =
        Program::new(home.join("run_check")).args(arguments).env("SLURM_CONF", desk.cluster.conf());
    check.current_dir("/").run()
}

#[test]
fn a_tarball_runs_a_job_wherever_it_is_unpacked_and_an_update_keeps_what_is_the_sites() {
    let work = tempfile::Builder::new().prefix("pkg.").tempdir_in("/tmp").unwrap();
    let binaries = binaries(work.path());
    let out = work.path().join("out");
    let build = |umask: &str, out: &Path| {
        let line = format!("umask {umask}; exec \"$@\"");
        let program =
            Program::new("bash").args(["-c", &line, "-"]).arg(repository().join("package"));
        let program = program.arg("--binaries").arg(&binaries).arg("--out").arg(out);
        in_users_environment(program.args(["--level", "1"])).run().success()
    };
    let finished = build("022", &out);
    assert!(
        finished.stdout.contains("glibc 2.") && finished.stdout.contains("SHA-256 "),
        "{finished}"
    );
    let tarball = out.join(format!("{NAME}.tar.gz"));
    let again = work.path().join("again");
    build("077", &again);
    let (first, second) =
        (fs::read(&tarball).unwrap(), fs::read(again.join(format!("{NAME}.tar.gz"))).unwrap());
    assert!(first == second, "two runs, two tarballs");

    let listed =
        Program::new("tar").args(["-tvzf"]).arg(&tarball).arg("--numeric-owner").run().success();
    for wanted in [
        "man/man1/check.1",
        "man/man1/run_trainer.1",
        "completions/bash/run_check.bash",
        "bin/check",
    ] {
        assert!(listed.stdout.lines().any(|line| line.ends_with(wanted)), "no {wanted}: {listed}");
    }
    for line in listed.stdout.lines() {
        assert!(line.contains(" 0/0 ") && line.contains(&format!(" {NAME}/")), "{line}");
        for own in ["/credentials.env", "/site.sh", "/spool", "/logs", "/target"] {
            assert!(!line.ends_with(own), "{own} is the site's own, and in the tarball");
        }
    }

    let home = work.path().join("some where");
    fs::create_dir(&home).unwrap();
    unpack(&tarball, &home);
    Program::new("sha256sum")
        .args(["--quiet", "-c", "SHA256SUMS"])
        .current_dir(&home)
        .run()
        .success();
    for file in ["LICENSE", "CHANGELOG.md", "BUILD", "credentials.env.example", "docs/protocol.md"]
    {
        assert!(home.join(file).exists(), "{file} is not in the tarball");
    }
    for file in ["rodan/hpc_training/jobs.py", "rodan/registerJobs.yaml", "rodan/set_up_broker"] {
        assert!(home.join(file).exists(), "{file} is not in the tarball");
    }
    for file in ["bin/gateway", "packaging/gateway.service", "packaging/hpc-trainer-check.service"]
    {
        assert!(home.join(file).exists(), "{file} is not in the tarball");
    }
    for file in ["slurm/notebook.sh", "examples/models.ipynb"] {
        assert!(home.join(file).exists(), "{file} is not in the tarball");
    }
    for file in ["slurm/sites/generic.env", "slurm/cuda-libraries", "slurm/hpc-trainer.def"] {
        assert!(home.join(file).exists(), "{file} is not in the tarball");
    }

    let desk = Desk::new();
    let version = run_check(&home, &desk, &["--version"]).success();
    assert_eq!(version.stdout.trim(), concat!("check ", env!("CARGO_PKG_VERSION")));
    expect(&run_check(&home, &desk, &[]), 3, &["RABBITMQ_HOST is not set"]);
    let configuration = fs::read_to_string(desk.site.credentials()).unwrap();
    fs::write(home.join("credentials.env"), &configuration).unwrap();
    fs::set_permissions(home.join("credentials.env"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(home.join("site.sh"), "echo the lines of this site\n").unwrap();
    let id = desk.vhost.publish_job(&desk.short_job());
    let finished = run_check(&home, &desk, &[]).success();
    assert!(finished.stdout.starts_with(&format!("{id}  submitted")), "{finished}");
    let reply = desk.vhost.receive_reply(&id, SECONDS(120)).json();
    assert!(reply.get("Model 0").is_some(), "{reply}");
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    run_check(&home, &desk, &[]).success();
    let log = run_check(&home, &desk, &["logs", &id]).success();
    assert!(log.stdout.contains("the lines of this site"), "{log}");

    // An older version's program is replaced; files that the new version does not have stay.
    fs::write(home.join("bin/check"), "#!/bin/sh\necho an old one\n").unwrap();
    fs::write(home.join("README.md"), "old").unwrap();
    unpack(&tarball, &home);
    Program::new("sha256sum")
        .args(["--quiet", "-c", "SHA256SUMS"])
        .current_dir(&home)
        .run()
        .success();
    assert_eq!(fs::read_to_string(home.join("credentials.env")).unwrap(), configuration);
    let mode = fs::metadata(home.join("credentials.env")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_to_string(home.join("site.sh")).unwrap(), "echo the lines of this site\n");
    assert_eq!(fs::metadata(home.join("spool")).unwrap().permissions().mode() & 0o777, 0o700);
    let status = run_check(&home, &desk, &["status", &id]).success();
    assert!(status.stdout.contains("answered") && status.stdout.contains("the models"), "{status}");
    run_check(&home, &desk, &["logs", &id]).success();
}

#[test]
fn what_can_not_be_packed_is_named() {
    let empty = tempfile::tempdir().unwrap();
    let finished =
        package().arg("--binaries").arg(empty.path()).arg("--out").arg(empty.path()).run();
    expect(&finished, 1, &["has no check"]);
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0, "something is left");
    expect(&package().args(["--out"]).run(), 2, &["--out needs a directory"]);
    expect(&package().args(["--level", "0"]).run(), 2, &["--level needs a number from 1 to 9"]);
    expect(&package().arg("sideways").run(), 2, &["what is «sideways»?", "usage:"]);
}

#[test]
fn the_script_for_cudas_libraries_says_what_it_needs_before_it_fetches_anything() {
    let script = || Program::new(repository().join("slurm/cuda-libraries"));
    expect(&script().run(), 2, &["usage:"]);
    expect(&script().args(["--sideways"]).run(), 2, &["usage:"]);
    let tools = tempfile::tempdir().unwrap();
    for tool in ["bash", "dirname"] {
        std::os::unix::fs::symlink(Path::new("/usr/bin").join(tool), tools.path().join(tool))
            .unwrap();
    }
    let bare = script().arg("never").env("PATH", tools.path()).current_dir(tools.path()).run();
    expect(&bare, 3, &["install python3-pip"]);
    assert!(!tools.path().join("never").exists());
}

#[test]
fn cudas_libraries_are_found_in_a_directory_of_any_name() {
    let tools = tempfile::tempdir().unwrap();
    // Makes what pip makes of NVIDIA's packages.
    let pip = "while [ $# -gt 0 ]; do\n\
        [ \"$1\" != --target ] || mkdir -p \"$2/nvidia/cu13/lib\" \"$2/nvidia/cudnn/lib\"\n\
        shift\ndone";
    write_script(&tools.path().join("python3"), pip);
    let directory = tools.path().join("the site's $(libraries)");
    let made = Program::new(repository().join("slurm/cuda-libraries"))
        .arg(&directory)
        .env("PATH", format!("{}:/usr/bin:/bin", tools.path().display()))
        .run()
        .success();
    let line = made.stdout.trim().strip_prefix("In site.sh: ").unwrap();
    let found = Program::new("bash")
        .args(["-c", &format!("{line}; printf %s \"$LD_LIBRARY_PATH\"")])
        .env("LD_LIBRARY_PATH", "/before")
        .run()
        .success();
    let nvidia = fs::canonicalize(&directory).unwrap().join("nvidia");
    let nvidia = nvidia.display();
    assert_eq!(found.stdout, format!("{nvidia}/cu13/lib:{nvidia}/cudnn/lib:/before"));
    let text = fs::read_to_string(directory.join("runtime.sh")).unwrap();
    assert_eq!(text.lines().next(), Some("# shellcheck shell=bash"));
}
