//! The ground that every other crate of hpc-trainer stands on; it knows none of them.

#[cfg(feature = "network")]
pub mod address;
pub mod advice;
pub mod crash;
pub mod exit_code;
pub mod files;
pub mod harden;
pub mod memory;
pub mod notify;
#[cfg(feature = "network")]
pub mod retry;
pub mod secret;
pub mod text;
#[cfg(feature = "network")]
pub mod tls;
pub mod wipe;

/// The name of this host.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of the product, as reports and error messages give it.
pub const PRODUCT: &str = "hpc-trainer";
