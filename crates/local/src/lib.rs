//! Pages in folders: trains them, evaluates models, cuts pages with them. Needs no network, no
//! broker and no scheduler, so that it is built from half of the crates.
//!
//! `run_trainer` and the small program `train_page` share the command line ([`Options`]). What a
//! job of a scheduler does in the same way, it takes from here: the progress bar, the parts of a
//! report, the threads, and the wait for a debugger.

mod check_gpu;
mod cores;
mod debug_wait;
mod evaluate;
mod folder;
mod going_on;
mod options;
mod parts;
mod predict;
mod progress_bar;
mod summary;
mod train;
pub mod train_page;
mod training_json;

pub use cores::use_the_cores_of_the_allocation;
pub use debug_wait::{Way, wait as wait_for_a_debugger};
pub use options::{Options, VERSION};
pub use parts::{layer_parts, page_parts, picture};
pub use progress_bar::Progress;
