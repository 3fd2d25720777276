//! `run_check` and `hpc_training.sh`, with a program in place that prints its arguments and
//! environment.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::support;
use support::program::{Finished, Program};
use support::services::repository;

/// A home with the scripts, in a directory whose name has spaces.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        fs::create_dir(home.path()).unwrap();
        for script in ["run_check", "hpc_training.sh"] {
            fs::copy(repository().join(script), home.path().join(script)).unwrap();
        }
        home
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("my site's home")
    }

    /// Puts a program there that prints `who`, its arguments, its umask, its process id and its
    /// environment.
    fn program(&self, place: &str, who: &str) -> &Self {
        let path = self.path().join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        script(
            &path,
            &format!(
                "echo who={who}; for a; do echo \"arg=$a\"; done; echo umask=$(umask); echo \
                pid=$$; env"
            ),
        );
        self
    }

    fn run(&self, name: &str) -> Program {
        Program::new(self.path().join(name)).current_dir("/")
    }
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[track_caller]
fn assert_says(finished: &Finished, line: &str) {
    assert!(finished.stdout.lines().any(|said| said == line), "no line «{line}»\n{finished}");
}

#[test]
fn run_check_hands_its_arguments_home_and_a_strict_umask_to_check() {
    let home = Home::new();
    let finished = home
        .program("check", "check")
        .run("run_check")
        .args(["--max-jobs", "a b", ""])
        .run()
        .success();
    assert_says(&finished, "who=check");
    assert_says(&finished, "arg=--max-jobs");
    assert_says(&finished, "arg=a b");
    assert_says(&finished, "arg=");
    assert_says(&finished, "umask=0077");
    assert_says(&finished, &format!("HPC_TRAINER_HOME={}", home.path().display()));
}

#[test]
fn run_check_works_with_no_environment_at_all() {
    let home = Home::new();
    home.program("check", "check");
    let env =
        Program::new("/usr/bin/env").arg("-i").arg(home.path().join("run_check")).current_dir("/");
    assert_says(&env.run().success(), "who=check");
}

#[test]
fn run_check_finds_its_home_through_links() {
    let home = Home::new();
    home.program("check", "check");
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(home.path().join("run_check"), elsewhere.path().join("first")).unwrap();
    symlink("first", elsewhere.path().join("second")).unwrap();
    let finished = Program::new("./second").current_dir(elsewhere.path()).run().success();
    assert_says(&finished, &format!("HPC_TRAINER_HOME={}", home.path().display()));
}

#[test]
fn run_check_is_replaced_by_check_so_that_signals_reach_it() {
    let home = Home::new();
    let running = home.program("check", "check").run("run_check").start();
    let id = running.id();
    assert_says(&running.wait().success(), &format!("pid={id}"));
}

#[test]
fn run_check_looks_in_bin_and_in_target_too() {
    let home = Home::new();
    home.program("target/release/check", "built as ever");
    assert_says(&home.run("run_check").run().success(), "who=built as ever");
    home.program("target/login/check", "built small");
    assert_says(&home.run("run_check").run().success(), "who=built small");
    home.program("bin/check", "installed");
    assert_says(&home.run("run_check").run().success(), "who=installed");
}

#[test]
fn run_check_without_a_program_says_how_to_build_it() {
    let home = Home::new();
    // A directory of that name is not a program.
    fs::create_dir(home.path().join("check")).unwrap();
    let finished = home.run("run_check").run();
    assert_eq!(finished.code(), Some(127), "{finished}");
    assert!(
        finished.stderr.contains("cargo build --profile login --no-default-features --bin check"),
        "{finished}"
    );
    assert!(finished.stderr.contains(&home.path().display().to_string()), "{finished}");
}

#[test]
fn the_batch_script_hands_its_arguments_and_slurms_cores_to_the_trainer() {
    let home = Home::new();
    let job = home
        .program("run_trainer", "cpu")
        .run("hpc_training.sh")
        .env("HPC_TRAINER_HOME", home.path())
        .env("SLURM_CPUS_PER_TASK", "6")
        .args(["job file.json", "hpc-results", "an-id"]);
    let running = job.start();
    let id = running.id();
    let finished = running.wait().success();
    assert_says(&finished, "who=cpu");
    assert_says(&finished, "arg=job file.json");
    assert_says(&finished, "arg=an-id");
    assert_says(&finished, "OMP_NUM_THREADS=6");
    assert_says(&finished, "RAYON_NUM_THREADS=6");
    assert_says(&finished, "umask=0077");
    // Slurm's `--signal=B:` reaches the process of the batch script, so that process has to become
    // the trainer.
    assert_says(&finished, &format!("pid={id}"));
}

#[test]
fn the_batch_script_takes_the_directory_of_sbatch_or_its_own_as_home() {
    let home = Home::new();
    home.program("run_trainer", "cpu");
    // Slurm runs a copy of the script.
    let copy = tempfile::tempdir().unwrap().keep().join("slurm_script");
    fs::copy(home.path().join("hpc_training.sh"), &copy).unwrap();
    let submitted = Program::new(&copy).env("SLURM_SUBMIT_DIR", home.path()).current_dir("/");
    assert_says(&submitted.run().success(), "who=cpu");
    let by_hand = Program::new(&copy).current_dir(home.path());
    assert_says(&by_hand.run().success(), "who=cpu");
    fs::remove_dir_all(copy.parent().unwrap()).unwrap();
}

#[test]
fn the_batch_script_reads_the_sites_own_lines_even_careless_ones() {
    let home = Home::new();
    home.program("run_trainer", "cpu");
    fs::write(
        home.path().join("site.sh"),
        "false\necho \"$no_such_variable\"\nexport FROM_SITE=yes\n",
    )
    .unwrap();
    let job = home.run("hpc_training.sh").env("HPC_TRAINER_HOME", home.path());
    assert_says(&job.run().success(), "FROM_SITE=yes");
}

#[test]
fn the_batch_script_without_a_trainer_says_how_to_build_it() {
    let home = Home::new();
    let finished = home.run("hpc_training.sh").env("HPC_TRAINER_HOME", home.path()).run();
    assert_eq!(finished.code(), Some(127), "{finished}");
    assert!(finished.stderr.contains("cargo build --release"), "{finished}");
}

/// A stand-in for Apptainer, which is not available here: it prints its arguments and starts
/// nothing.
fn apptainer(tools: &Path, name: &str) {
    script(&tools.join(name), "echo who=$0; for a; do echo \"arg=$a\"; done; echo pid=$$; env");
}

/// The arguments of a program, as [`Home::program`] and [`apptainer`] print them.
fn arguments(finished: &Finished) -> Vec<&str> {
    finished.stdout.lines().filter_map(|line| line.strip_prefix("arg=")).collect()
}

#[test]
fn the_batch_script_becomes_the_container_that_the_site_names() {
    let home = Home::new();
    let tools = tempfile::tempdir().unwrap();
    apptainer(tools.path(), "apptainer");
    let root = fs::canonicalize(home.path()).unwrap();
    fs::write(
        root.join("site.sh"),
        "export HPC_TRAINER_IMAGE=trainer.sif HPC_TRAINER_BIND=/opt/slurm\n",
    )
    .unwrap();
    fs::write(root.join("trainer.sif"), "an image").unwrap();
    let spool = tempfile::tempdir().unwrap();
    let spool = fs::canonicalize(spool.path()).unwrap();
    fs::create_dir_all(spool.join("jobs/7")).unwrap();
    fs::write(spool.join("jobs/7/job.json"), "{}").unwrap();
    fs::write(root.join("credentials.env"), "").unwrap();
    fs::create_dir(root.join("scratch")).unwrap();
    symlink(root.join("scratch"), root.join("tmp")).unwrap();
    let run = |job_file: PathBuf| {
        let job = home
            .run("hpc_training.sh")
            .env("HPC_TRAINER_HOME", &root)
            .env("SLURM_CPUS_PER_TASK", "3");
        let job = job.env("PATH", format!("{}:/usr/bin:/bin", tools.path().display()));
        // It is in home, all of which is inside.
        let job = job.env("HPC_TRAINER_ENV_FILE", root.join("credentials.env"));
        job.env("TMPDIR", root.join("tmp")).arg(job_file).args(["a queue", "an-id"]).start()
    };

    let running = run(spool.join("jobs/7/job.json"));
    let id = running.id();
    let finished = running.wait().success();
    // Slurm's signals go to the process of the batch script.
    assert_says(&finished, &format!("pid={id}"));
    assert_says(&finished, "RAYON_NUM_THREADS=3");
    let (root, spool) = (root.to_str().unwrap(), spool.to_str().unwrap());
    let job_file = format!("{spool}/jobs/7/job.json");
    let binds = format!("/opt/slurm,{spool},{root}:{root},{root}/scratch:{root}/tmp");
    let expected = [
        "exec",
        "--pwd",
        root,
        "--bind",
        &binds,
        &format!("{root}/trainer.sif"),
        "run_trainer",
        &job_file,
        "a queue",
        "an-id",
    ];
    assert_eq!(arguments(&finished), expected, "{finished}");

    // With a GPU; with a job file written by hand, named relative to where sbatch was called; and
    // with a configuration elsewhere.
    script(&tools.path().join("nvidia-smi"), "exit 0");
    fs::write(Path::new(root).join("mine.json"), "{}").unwrap();
    let config = format!("{spool}/its own.env");
    fs::write(&config, "").unwrap();
    let job = home
        .run("hpc_training.sh")
        .env("HPC_TRAINER_HOME", root)
        .env("HPC_TRAINER_ENV_FILE", &config)
        .current_dir(root)
        .arg("mine.json");
    let finished =
        job.env("PATH", format!("{}:/usr/bin:/bin", tools.path().display())).run().success();
    let arguments = arguments(&finished);
    assert_eq!(arguments[..3], ["exec", "--nv", "--pwd"], "{finished}");
    assert!(arguments[5].split(',').any(|bind| bind == format!("{config}:{config}")), "{finished}");
    assert_eq!(
        arguments[arguments.len() - 2..],
        ["run_trainer", &format!("{root}/mine.json")],
        "{finished}"
    );
}

#[test]
fn a_container_that_can_not_be_started_is_named() {
    let home = Home::new();
    let root = home.path();
    fs::write(root.join("site.sh"), "export HPC_TRAINER_IMAGE=/no/such.sif\n").unwrap();
    let job = || home.run("hpc_training.sh").env("HPC_TRAINER_HOME", &root);
    let finished = job().env("PATH", "/usr/bin:/bin").run();
    assert_eq!(finished.code(), Some(127), "{finished}");
    assert!(
        finished.stderr.contains("there is no apptainer: load its module in site.sh"),
        "{finished}"
    );
    let tools = tempfile::tempdir().unwrap();
    let path = format!("{}:/usr/bin:/bin", tools.path().display());
    apptainer(tools.path(), "singularity");
    let finished = job().env("PATH", &path).run();
    assert_eq!(finished.code(), Some(127), "{finished}");
    assert!(finished.stderr.contains("there is no image /no/such.sif"), "{finished}");
    // An image that the runtime fetches by itself, and the older name of Apptainer.
    fs::write(root.join("site.sh"), "export HPC_TRAINER_IMAGE=docker://example/trainer\n").unwrap();
    let finished = job().env("PATH", &path).run().success();
    assert!(arguments(&finished).contains(&"docker://example/trainer"), "{finished}");
}

/// A machine that lacks what is installed by packages, with an `apt-get` of the test: it finds the
/// lock taken three times, as on a machine that installs its updates meanwhile.
fn bare_machine(holds_the_lock: &str) -> tempfile::TempDir {
    let tools = tempfile::tempdir().unwrap();
    for tool in ["bash", "cat", "grep", "mktemp", "rm", "sed", "sleep", "tail", "wc"] {
        symlink(Path::new("/usr/bin").join(tool), tools.path().join(tool)).unwrap();
    }
    script(&tools.path().join("id"), "echo 0");
    let calls = tools.path().join("calls");
    script(
        &tools.path().join("apt-get"),
        &format!(
            "echo \"$*\" >>'{calls}'\n\
             if {holds_the_lock}; then\n\
             echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 \
             (apt-get)' >&2\n\
             exit 100\nfi\necho \"E: said by apt-get\"",
            calls = calls.display()
        ),
    );
    tools
}

fn packages(tools: &Path) -> Program {
    Program::new(repository().join("slurm/test-cluster/packages"))
        .env("PATH", tools)
        .env("TMPDIR", tools)
}

#[test]
fn packages_wait_for_another_apt_get() {
    let tools = bare_machine("[ $(wc -l <\"${0%/*}/calls\") -le 3 ]");
    let finished = packages(tools.path()).arg("demo").run().success();
    assert_says(&finished, "Another program installs packages: waiting for it.");
    assert!(finished.stdout.contains("missing: slurm-client"), "{finished}");
    let calls = fs::read_to_string(tools.path().join("calls")).unwrap();
    let verbs = ["update", "update", "update", "update", "install"];
    assert_eq!(calls.lines().count(), verbs.len(), "{calls}");
    assert!(
        calls.lines().zip(verbs).all(|(line, verb)| line.contains(&format!(" {verb} "))),
        "{calls}"
    );
    assert!(calls.lines().last().unwrap().contains("slurm-client"), "{calls}");
}

#[test]
fn packages_wait_no_longer_than_they_are_told() {
    let tools = bare_machine("true");
    let finished = packages(tools.path()).arg("tests").env("APT_PATIENCE", "2").run();
    assert_eq!(finished.code(), Some(1), "{finished}");
    assert!(finished.stdout.contains("held by process 7"), "{finished}");
    assert!(finished.stdout.contains("waited 2 s for the lock"), "{finished}");
}

#[test]
fn packages_that_may_not_be_installed_are_named() {
    let tools = bare_machine("true");
    let finished = packages(tools.path()).args(["--no-install", "tests", "python3-venv"]).run();
    assert_eq!(finished.code(), Some(3), "{finished}");
    assert!(finished.stderr.contains("install these packages first"), "{finished}");
    assert!(finished.stderr.contains("python3-venv"), "{finished}");
    assert!(!tools.path().join("calls").exists());
    let finished = packages(tools.path()).run();
    assert_eq!(finished.code(), Some(2), "{finished}");
}

#[test]
fn run_tests_ends_with_3_where_something_has_to_be_installed_first() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(repository().join("run_tests"), folder.path().join("run_tests")).unwrap();
    // Services that are there, and a Python that could make an environment.
    fs::write(folder.path().join("env.sh"), "").unwrap();
    script(&folder.path().join("python3.11"), "exit 0");
    let finished = Program::new(folder.path().join("run_tests"))
        .args(["--no-install", "--only", "rodan"])
        .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
        .env("HOME", folder.path())
        .env("HPC_TRAINER_TEST_SERVICES", folder.path())
        .run();
    assert_eq!(finished.code(), Some(3), "{finished}");
    assert!(finished.stdout.contains("leave --no-install out"), "{finished}");
}
