//! What computes: a GPU where there is one and the program was built for it, else the CPU.

use candle_core::Device;
use tracing::{info, warn};

/// The device to train on, and how a person calls it.
pub fn choose_device() -> (Device, String) {
    if cfg!(feature = "cuda") {
        match Device::new_cuda(0) {
            Ok(device) => return (device, "GPU 0 (CUDA)".to_owned()),
            Err(error) => warn!("no usable GPU ({error}): training on the CPU, which takes far longer"),
        }
    } else {
        info!("built without CUDA: training on the CPU");
    }
    let threads = rayon::current_num_threads();
    (Device::Cpu, format!("CPU ({threads} threads)"))
}
