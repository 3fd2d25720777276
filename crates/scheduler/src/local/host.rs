//! What this host has.

use std::fs;

/// Its memory in MB; `None` where the system does not tell it.
pub fn memory_mb() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes / 1024)
}

/// The processors that this process may use.
pub fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u64)
}

/// The GPUs that jobs may be given, by the names that `CUDA_VISIBLE_DEVICES` knows: those of that
/// variable where it is set, else all that the driver shows.
pub fn gpus() -> Vec<String> {
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(named) => of_variable(&named),
        Err(_) => {
            let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
            of_devices(entries.filter_map(|entry| entry.file_name().into_string().ok()))
        }
    }
}

fn of_variable(text: &str) -> Vec<String> {
    let names = text.split(',').map(str::trim);
    // CUDA itself stops at the first that is none, such as -1.
    names.take_while(|name| !name.is_empty() && *name != "-1").map(str::to_owned).collect()
}

/// `nvidia0`, `nvidia1` …; `nvidiactl` and `nvidia-uvm` are no GPUs.
fn of_devices(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut numbers: Vec<u32> =
        names.filter_map(|name| name.strip_prefix("nvidia")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_those_of_the_variable_or_of_the_driver() {
        assert_eq!(of_variable("3,5"), ["3", "5"]);
        assert_eq!(of_variable("GPU-8f, 1"), ["GPU-8f", "1"]);
        assert_eq!((of_variable(""), of_variable("-1")), (Vec::<String>::new(), Vec::new()));
        let names = ["nvidiactl", "nvidia10", "nvidia-uvm", "nvidia2", "null", "nvidia"];
        assert_eq!(of_devices(names.map(str::to_owned).into_iter()), ["2", "10"]);
    }

    #[test]
    fn this_host_has_memory_and_processors() {
        assert!(memory_mb().is_some_and(|mb| mb > 100) && cpus() > 0);
    }
}
