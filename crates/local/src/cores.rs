//! The threads that compute.

use base::harden;

/// Starts one thread for each core that Slurm gave, and no more; outside of Slurm, rayon takes what
/// the system allows. No thread starts programs, so none needs more rights than the process has.
pub fn use_the_cores_of_the_allocation() {
    let given =
        std::env::var("SLURM_CPUS_PER_TASK").ok().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    let threads = given.filter(|_| std::env::var_os("RAYON_NUM_THREADS").is_none());
    let pool = rayon::ThreadPoolBuilder::new().start_handler(|_| harden::no_new_privileges());
    // 0: what RAYON_NUM_THREADS or the system says.
    if let Err(error) = pool.num_threads(threads.unwrap_or(0)).build_global() {
        tracing::warn!("the number of threads can't be set: {error}");
    }
}
