//! `run_trainer --debug-wait`: the training stops before its first step until a debugger is there.
//!
//! By then the token and the passwords are gone from this process, so it may be looked into. It
//! goes on when a debugger that is attached lets it run (`TracerPid` in `/proc/self/status`), at
//! SIGUSR2, and when the job is to end: a cancelled job and one whose time is nearly up end as
//! they do while they train.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{Access, access};
use tracing::{info, warn};

use base::harden;

/// How often it looks whether it may go on.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Debuggers that attach by `-p NUMBER`, the best one first.
const DEBUGGERS: [&str; 3] = ["rust-gdb", "gdb", "lldb"];

/// How a person gets to where this process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// By `check shell`: the program and the job.
    Check(PathBuf, String),
    /// By a step of the Slurm job with this number, on this node.
    Step(String, String),
    /// The person is there.
    Here,
}

impl Way {
    /// The way to this process. `job` is the name of a job that `check` looks after.
    pub fn of_process(job: Option<&str>) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::of(job, &variable)
    }

    /// `check shell` leads to a job's first node only.
    fn of(job: Option<&str>, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let nodes = variable("SLURM_JOB_NUM_NODES").and_then(|n| n.parse::<u32>().ok());
        let step = variable("SLURM_JOB_ID").zip(variable("SLURMD_NODENAME"));
        match (job, step) {
            (Some(job), _) if nodes.is_none_or(|nodes| nodes <= 1) => {
                let home = variable("HPC_TRAINER_HOME").unwrap_or_else(|| ".".to_owned());
                Self::Check(Path::new(&home).join("run_check"), job.to_owned())
            }
            (_, Some((number, node))) => Self::Step(number, node),
            _ => Self::Here,
        }
    }

    /// What a person types to have these words run there.
    fn line(&self, words: &str) -> String {
        match self {
            Self::Check(program, job) => format!("{} shell {job} {words}", program.display()),
            Self::Step(number, node) => format!(
                "srun --jobid={number} --overlap --nodes=1 --ntasks=1 --nodelist={node} --pty \
                {words}"
            ),
            Self::Here => words.to_owned(),
        }
    }
}

/// What debuggers there are on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tools {
    debugger: Option<PathBuf>,
    gdbserver: Option<PathBuf>,
    lldb_server: Option<PathBuf>,
}

impl Tools {
    /// Those in the directories of `PATH`.
    fn found(path: &OsStr) -> Self {
        let find = |name: &str| {
            let mut places = std::env::split_paths(path).map(|directory| directory.join(name));
            places.find(|place| place.is_file() && access(place, Access::EXEC_OK).is_ok())
        };
        Self {
            debugger: DEBUGGERS.into_iter().find_map(find),
            gdbserver: find("gdbserver"),
            lldb_server: find("lldb-server"),
        }
    }
}

/// This process, as a person finds it.
struct Target<'a> {
    host: &'a str,
    process: u32,
    program: &'a Path,
}

/// What a person is told to do. `port` is one of this machine that nobody uses.
fn told(target: &Target<'_>, way: &Way, tools: &Tools, port: Option<u16>) -> Vec<String> {
    let Target { host, process, program } = *target;
    let mut lines =
        vec![format!("process {process} on {host} waits for a debugger before its first step")];
    match &tools.debugger {
        Some(debugger) => lines.push(format!(
            "attach one by: {}",
            way.line(&format!("{} -p {process}", debugger.display()))
        )),
        None => lines.push(format!(
            "there is none of {} in this job's PATH; with one: {}",
            DEBUGGERS.join(", "),
            way.line(&format!("gdb -p {process}"))
        )),
    }
    if let Some(port) = port {
        let servers = [
            tools.gdbserver.as_ref().map(|server| {
                let start = format!("{} --attach localhost:{port} {process}", server.display());
                (start, format!("rust-gdb {} -ex 'target remote localhost:", program.display()))
            }),
            tools.lldb_server.as_ref().map(|server| {
                let server = server.display();
                let start = format!("{server} gdbserver --attach {process} localhost:{port}");
                (start, format!("rust-lldb {} -o 'gdb-remote ", program.display()))
            }),
        ];
        for (start, client) in servers.into_iter().flatten() {
            lines.push(format!("or from another machine, first: {}", way.line(&start)));
            lines.push(format!("then there: ssh -N -L {port}:localhost:{port} {host}"));
            lines.push(format!("and: {client}{port}'"));
        }
    }
    lines.push(format!(
        "it goes on as soon as the debugger lets it (continue), and without one by: {}",
        way.line(&format!("kill -USR2 {process}"))
    ));
    lines
}

/// A port of this machine that nobody uses now.
fn free_port() -> Option<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    listener.local_addr().ok().map(|address| address.port())
}

/// The process that traces the one of this `/proc/…/status`.
fn tracer(status: &str) -> Option<u32> {
    let number = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    number.trim().parse().ok().filter(|number| *number > 0)
}

/// Waits until a debugger is there, SIGUSR2 has come, or `stopped` says that the job is to end.
///
/// Call it where nothing secret is in memory: with the debugger, every process of this account may
/// look into this one.
pub fn wait(way: &Way, stopped: &dyn Fn() -> bool) {
    let may_go_on = Arc::new(AtomicBool::new(false));
    if let Err(error) =
        signal_hook::flag::register(signal_hook::consts::SIGUSR2, Arc::clone(&may_go_on))
    {
        warn!("can't watch for SIGUSR2, so only a debugger lets it go on: {error}");
    }
    harden::let_debuggers_in();
    let host = base::host_name();
    let program = std::env::current_exe().unwrap_or_else(|_| "run_trainer".into());
    let target = Target { host: &host, process: std::process::id(), program: &program };
    let tools = Tools::found(&std::env::var_os("PATH").unwrap_or_default());
    for line in told(&target, way, &tools, free_port()) {
        warn!("debug-wait: {line}");
    }
    loop {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if let Some(tracer) = tracer(&status) {
            info!("debug-wait: process {tracer} is attached; the training goes on");
            return;
        }
        if may_go_on.load(Ordering::Relaxed) {
            info!("debug-wait: SIGUSR2 has come; the training goes on without a debugger");
            break;
        }
        if stopped() {
            info!("debug-wait: the job is to end; nobody is waited for any more");
            break;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    harden::process();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn way(job: Option<&str>, variables: &[(&str, &str)]) -> Way {
        let variables: BTreeMap<_, _> = variables.iter().copied().collect();
        Way::of(job, &|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn the_way_leads_to_the_node_of_this_process() {
        let slurm = [("SLURM_JOB_ID", "17"), ("SLURMD_NODENAME", "node2")];
        let home = ("HPC_TRAINER_HOME", "/opt/t");
        let check = |home: &str| Way::Check(format!("{home}/run_check").into(), "a1".into());
        let step = || Way::Step("17".into(), "node2".into());
        let with = |more: &[(&'static str, &'static str)]| [&slurm[..], more].concat();
        let cases = [
            (Some("a1"), with(&[home, ("SLURM_JOB_NUM_NODES", "1")]), check("/opt/t")),
            (Some("a1"), with(&[home]), check("/opt/t")),
            (Some("a1"), vec![], check(".")),
            // A host without Slurm sets no name of a node.
            (Some("a1"), vec![home, ("SLURM_JOB_ID", "3")], check("/opt/t")),
            (Some("a1"), with(&[home, ("SLURM_JOB_NUM_NODES", "2")]), step()),
            (None, with(&[]), step()),
            (None, vec![("SLURM_JOB_ID", "17")], Way::Here),
            (None, vec![], Way::Here),
        ];
        for (job, variables, expected) in cases {
            assert_eq!(way(job, &variables), expected, "{job:?} {variables:?}");
        }
        assert_eq!(check("/opt/t").line("gdb -p 4"), "/opt/t/run_check shell a1 gdb -p 4");
        assert_eq!(
            step().line("gdb -p 4"),
            "srun --jobid=17 --overlap --nodes=1 --ntasks=1 --nodelist=node2 --pty gdb -p 4"
        );
        assert_eq!(Way::Here.line("gdb -p 4"), "gdb -p 4");
    }

    #[test]
    fn a_tracer_is_a_process_that_is_not_0() {
        let status = |line: &str| format!("Name:\trun_trainer\nPid:\t4711\n{line}\nUid:\t1\t1\n");
        let cases = [
            ("TracerPid:\t0", None),
            ("TracerPid:\t815", Some(815)),
            ("TracerPid:", None),
            ("TracerPid:\t-1", None),
            ("PPid:\t815", None),
        ];
        for (line, expected) in cases {
            assert_eq!(tracer(&status(line)), expected, "{line}");
        }
        assert_eq!(tracer(""), None);
    }

    #[test]
    fn every_command_that_can_be_typed_is_told() {
        let target =
            Target { host: "node1", process: 4711, program: Path::new("/opt/t/bin/run_trainer") };
        let way = Way::Check("/opt/t/run_check".into(), "a1".into());
        let tools = Tools {
            debugger: Some("/usr/bin/gdb".into()),
            gdbserver: Some("/usr/bin/gdbserver".into()),
            lldb_server: Some("/usr/bin/lldb-server".into()),
        };
        let all = told(&target, &way, &tools, Some(40123)).join("\n");
        for part in [
            "process 4711 on node1 waits",
            "/opt/t/run_check shell a1 /usr/bin/gdb -p 4711",
            "/opt/t/run_check shell a1 /usr/bin/gdbserver --attach localhost:40123 4711",
            "ssh -N -L 40123:localhost:40123 node1",
            "rust-gdb /opt/t/bin/run_trainer -ex 'target remote localhost:40123'",
            "/usr/bin/lldb-server gdbserver --attach 4711 localhost:40123",
            "rust-lldb /opt/t/bin/run_trainer -o 'gdb-remote 40123'",
            "/opt/t/run_check shell a1 kill -USR2 4711",
        ] {
            assert!(all.contains(part), "{part:?} is not in\n{all}");
        }
        let bare = told(&target, &Way::Here, &Tools::default(), Some(40123)).join("\n");
        assert!(bare.contains("there is none of rust-gdb, gdb, lldb"), "{bare}");
        assert!(bare.contains("by: kill -USR2 4711"), "{bare}");
        assert!(!bare.contains("40123"), "{bare}");
        let no_port = told(&target, &way, &tools, None).join("\n");
        assert!(!no_port.contains("localhost"), "{no_port}");
    }

    #[test]
    fn tools_are_looked_for_as_a_shell_does() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
        for (directory, name, mode) in [
            (&first, "gdb", 0o644),
            (&second, "gdb", 0o755),
            (&second, "lldb", 0o755),
            (&first, "gdbserver", 0o755),
        ] {
            fs::create_dir_all(directory).unwrap();
            fs::write(directory.join(name), "").unwrap();
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(directory.join(name), mode).unwrap();
        }
        fs::create_dir(second.join("lldb-server")).unwrap();
        let path = std::env::join_paths([&first, &second]).unwrap();
        let expected = Tools {
            debugger: Some(second.join("gdb")),
            gdbserver: Some(first.join("gdbserver")),
            lldb_server: None,
        };
        assert_eq!(Tools::found(&path), expected);
        assert_eq!(Tools::found(OsStr::new("")), Tools::default());
    }

    #[test]
    fn a_job_that_is_to_end_waits_no_longer() {
        wait(&Way::Here, &|| true);
    }
}
