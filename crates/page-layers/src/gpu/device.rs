//! What computes: a GPU where there is one, otherwise the CPU.

use std::panic::UnwindSafe;
use std::path::Path;

use tracing::{info, warn};

use crate::gpu::{Card, GpuError, Precision};
use crate::net::error::NetworkError;

/// Where to compute.
#[derive(Clone, Debug, Default)]
pub enum Device {
    /// All threads of the rayon pool.
    #[default]
    Cpu,
    /// A GPU.
    Card(Card),
}

/// Candle computes on the CPU only; the GPU has an engine of its own.
impl From<&candle_core::Device> for Device {
    fn from(_: &candle_core::Device) -> Self {
        Self::Cpu
    }
}

impl From<candle_core::Device> for Device {
    fn from(_: candle_core::Device) -> Self {
        Self::Cpu
    }
}

impl From<&Self> for Device {
    fn from(device: &Self) -> Self {
        device.clone()
    }
}

/// `cpu`: compute on the CPU even where there is a GPU.
const DEVICE: &str = "HPC_TRAINER_DEVICE";

/// `f32`, `tf32` or `bf16`: the precision of the GPU.
const PRECISION: &str = "HPC_TRAINER_GPU_PRECISION";

/// The device to train on, and its name for people.
///
/// A GPU is used only if it computes what the CPU computes, which a small network tests first. If
/// the fastest precision fails the test, the next one is tried.
pub fn choose_device() -> (Device, String) {
    if std::env::var(DEVICE).is_ok_and(|device| device.eq_ignore_ascii_case("cpu")) {
        info!("{DEVICE}=cpu: training on the CPU");
    } else if cfg!(feature = "cuda") {
        match checked_card() {
            Ok(card) => {
                let name = format!("{} (CUDA, {})", card.name(), card.precision().name());
                return (Device::Card(card), name);
            }
            Err(error) if gpu_expected() => {
                warn!("no usable GPU ({error}): training on the CPU, which takes far longer");
            }
            Err(_) => info!("no GPU here: training on the CPU"),
        }
    } else {
        info!("built without the feature cuda: training on the CPU");
    }
    (Device::Cpu, name_of_cpu())
}

/// The CPU's name for people, with its precision where that is another than f32, which is used from
/// now on. (A GPU is compared with what the CPU computes in f32.)
fn name_of_cpu() -> String {
    let threads = rayon::current_num_threads();
    match kernels::Precision::adopt() {
        Ok(kernels::Precision::F32) => format!("CPU ({threads} threads)"),
        Ok(precision) => format!("CPU ({threads} threads, {})", precision.name()),
        Err(why) => {
            warn!("{why}");
            format!("CPU ({threads} threads)")
        }
    }
}

/// Whether somebody expects a GPU: a driver is loaded, or Slurm or a person has assigned one.
fn gpu_expected() -> bool {
    let given = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    Path::new("/dev/nvidiactl").exists()
        || ["CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE"].into_iter().any(given)
}

/// The first GPU, with the given precision or the one that the environment asks for.
///
/// # Errors
///
/// When there is none, or a library of CUDA is missing.
pub fn open_card(precision: Option<Precision>) -> Result<Card, GpuError> {
    let wanted = precision.or_else(|| {
        let name = std::env::var(PRECISION).ok()?.to_ascii_lowercase();
        let found = Precision::parse(&name);
        if found.is_none() {
            warn!("{PRECISION}={name} is none of f32, tf32 and bf16: the GPU's fastest is taken");
        }
        found
    });
    Card::open(0, wanted)
}

impl Card {
    /// Does what opens a GPU and what first uses it. cudarc panics where a library lacks a
    /// function; that must not end the program, so it becomes an error here.
    ///
    /// # Errors
    ///
    /// After a panic.
    pub fn first_use<T>(work: impl FnOnce() -> T + UnwindSafe) -> Result<T, GpuError> {
        let done = std::panic::catch_unwind(work);
        done.map_err(|_| GpuError::Library("a function of CUDA or cuDNN"))
    }
}

fn checked_card() -> Result<Card, NetworkError> {
    let mut wanted = None;
    loop {
        let checked = Card::first_use(|| {
            let card =
                open_card(wanted).map_err(|error| (Precision::F32, NetworkError::from(error)))?;
            card.verify().map(|()| card.clone()).map_err(|error| (card.precision(), error))
        });
        let (precision, error) = match checked? {
            Ok(card) => return Ok(card),
            Err(failed) => failed,
        };
        let Some(slower) = precision.slower() else { return Err(error) };
        warn!("{} is not usable on this GPU ({error}): trying {}", precision.name(), slower.name());
        wanted = Some(slower);
    }
}
