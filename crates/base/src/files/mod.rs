//! Files that are whole or not there, and that belong to this account.

mod atomic;
mod own;

pub use atomic::{
    Mode, PROBE, Replace, UNFINISHED, create_atomic, sweep, sync_directory, write_atomic,
};
pub use own::{is_own_directory, own_directory, read_own};
