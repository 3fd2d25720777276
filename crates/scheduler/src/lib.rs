//! Submits jobs to a scheduler, finds them again, cancels them and reads what it says of them.
//! Knows no training.

mod gres;
mod interface;
pub mod kinds_of_job;
pub mod local;
mod site;
pub mod slurm;

pub use gres::{Gres, GresTable, GresTableError};
pub use interface::Scheduler;
pub use site::{Kind, SiteConfig};
