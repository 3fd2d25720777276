//! The trainer: is it there, does it start, and what does it compute on?

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::row::{Row, Rows, within};
use base::text::printable;
use scheduler::SiteConfig;

const DEADLINE: Duration = Duration::from_secs(30);
const TRAINER: &str = "run_trainer";
const BUILD: &str = "build it there: cargo build --release --bin run_trainer";
const BUILD_CUDA: &str = "build it with its default features, or set SITE_GRES=none";

/// The Apptainer image that `hpc_training.sh` starts the trainer from, where the site has set one;
/// on the login node it may be known to `site.sh` only, which is not run there.
const IMAGE: &str = "HPC_TRAINER_IMAGE";

fn names_an_image(home: &Path) -> bool {
    let set =
        |line: &str| !line.trim_start().starts_with('#') && line.contains(&format!("{IMAGE}="));
    std::env::var_os(IMAGE).is_some_and(|image| !image.is_empty())
        || std::fs::read_to_string(home.join("site.sh")).is_ok_and(|text| text.lines().any(set))
}

/// Where `hpc_training.sh` looks for the trainer, in this order.
fn find(home: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let places = ["", "bin", "target/release"].map(|directory| home.join(directory).join(TRAINER));
    let is_program = |path: &PathBuf| {
        std::fs::metadata(path)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    places.into_iter().find(is_program)
}

/// The first line that a program prints, or what went wrong, in words.
async fn first_line(program: &Path, arguments: &[&str]) -> Result<String, String> {
    Ok(first(output(program, arguments).await?.as_bytes()).unwrap_or_default())
}

fn first(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(|line| printable(line, 200))
}

/// Runs a program to its end and gives what it prints, or what went wrong, in words. It gets no
/// secret.
pub(super) async fn output(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let passed_on = [
        "PATH",
        "HOME",
        "LD_LIBRARY_PATH",
        "CUDA_VISIBLE_DEVICES",
        // The way to the account's own systemd.
        "XDG_RUNTIME_DIR",
        "DBUS_SESSION_BUS_ADDRESS",
    ];
    let environment = passed_on.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment).env("LC_ALL", "C");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match within(DEADLINE, command.output()).await {
        None => return Err(format!("it does not end within {} s", DEADLINE.as_secs())),
        Some(Err(error)) => return Err(error.to_string()),
        Some(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(first(&output.stderr)
        .or_else(|| first(&output.stdout))
        .unwrap_or_else(|| output.status.to_string()))
}

/// On the login node, where it need not start: its system may be another than the compute nodes'.
pub(super) async fn rows(site: &SiteConfig) -> Vec<Row> {
    let mut rows = Rows::new("trainer");
    match find(&site.home) {
        None if names_an_image(&site.home) => {
            rows.skip(
                TRAINER,
                format!(
                    "comes from the image that {IMAGE} names; --on-node looks \
                for it"
                ),
            );
        }
        None => rows.fail(TRAINER, missing(site), BUILD),
        Some(path) => match first_line(&path, &["--version"]).await {
            Ok(version) => {
                is_ours(&mut rows, TRAINER, &version);
                for_gpus(&mut rows, site, &version);
            }
            Err(error) => rows.warn(
                TRAINER,
                format!("{} does not start on this machine: {error}", path.display()),
                "check doctor --on-node shows whether it does on a compute node; if not, build it \
                anew",
            ),
        },
    }
    match first_line(Path::new("nvidia-smi"), &["-L"]).await {
        Ok(gpu) => rows.pass("nvidia-smi", without_serial(&gpu)),
        Err(_) => rows.skip(
            "nvidia-smi",
            "no GPU here, as on most login nodes; --on-node looks at a compute node",
        ),
    }
    rows.done()
}

fn missing(site: &SiteConfig) -> String {
    format!("there is no {TRAINER} in {}, its bin or its target/release", site.home.display())
}

fn for_gpus(rows: &mut Rows, site: &SiteConfig, version: &str) {
    let gres = site.gres.as_deref().filter(|gres| gres.contains("gpu"));
    match gres {
        _ if version.contains("CUDA") => {
            rows.pass("CUDA", "it opens CUDA's libraries where there is a GPU")
        }
        Some(gres) => {
            rows.warn(
                "CUDA",
                format!("jobs ask for {gres}, and the trainer is built without CUDA"),
                BUILD_CUDA,
            );
        }
        None => rows.skip("CUDA", "the trainer is built without; jobs ask for no GPU"),
    }
}

fn is_ours(rows: &mut Rows, name: &str, version: &str) {
    let own = env!("CARGO_PKG_VERSION");
    if version.split_whitespace().nth(1) == Some(own) {
        rows.pass(name, version);
    } else {
        let seen = format!("it says {version}, and this check is {own}");
        rows.warn(name, seen, "build both anew, from one version");
    }
}

/// `GPU 0: Tesla V100-SXM2-16GB (UUID: GPU-…)` without the end.
fn without_serial(line: &str) -> &str {
    line.split_once(" (UUID").map_or(line, |(name, _)| name)
}

/// An image is there and can be started; what is in it the first job shows.
async fn from_image(rows: &mut Rows, home: &Path, image: &str) {
    let is_remote = image.contains("://");
    if !is_remote && let Err(error) = std::fs::metadata(home.join(image)) {
        let advice = format!("build the image, or set {IMAGE} anew in site.sh");
        return rows.fail("trainer", format!("{}: {error}", home.join(image).display()), advice);
    }
    let mut runtime = first_line(Path::new("apptainer"), &["--version"]).await;
    if runtime.is_err() {
        runtime = first_line(Path::new("singularity"), &["--version"]).await;
    }
    match runtime {
        Ok(version) => rows.pass("trainer", format!("from the image {image}; {version}")),
        Err(error) => {
            let seen =
                format!("{IMAGE} is set, but neither apptainer nor singularity starts: {error}");
            rows.fail("trainer", seen, "load its module in site.sh");
        }
    }
}

/// On a compute node, where it must start.
pub(super) async fn rows_on_node(group: &str, site: &SiteConfig, wants_gpu: bool) -> Vec<Row> {
    let mut rows = Rows::new(group);
    let gpu = first_line(Path::new("nvidia-smi"), &["-L"]).await;
    match &gpu {
        Ok(gpu) => rows.pass("GPU", without_serial(gpu)),
        Err(error) if wants_gpu => rows.warn(
            "GPU",
            format!("the job asked for one, and nvidia-smi shows none: {error}"),
            "check SITE_GRES and SITE_GRES_TABLE, and the node's driver; jobs train on its CPUs \
            until then",
        ),
        Err(_) => rows.skip("GPU", "the job asks for none"),
    }
    if let Some(image) = std::env::var_os(IMAGE).filter(|image| !image.is_empty()) {
        from_image(&mut rows, &site.home, &image.to_string_lossy()).await;
        return rows.done();
    }
    let Some(path) = find(&site.home) else {
        rows.fail("trainer", missing(site), BUILD);
        return rows.done();
    };
    match first_line(&path, &["--version"]).await {
        Ok(version) if gpu.is_ok() && !version.contains("CUDA") => {
            rows.warn("trainer", format!("{version} starts, and leaves the GPU alone"), BUILD_CUDA);
        }
        Ok(version) => rows.pass("trainer", format!("{version} starts")),
        Err(error) => rows.fail(
            "trainer",
            format!("{} does not start: {error}", path.display()),
            "load the modules that it needs in site.sh, or build it anew on such a node",
        ),
    }
    rows.done()
}
