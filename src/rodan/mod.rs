//! Rodan over HTTP: logging in and downloading. The token goes to Rodan's own origin only.

mod client;
mod clock;
mod download;
mod login;
mod target;

#[cfg(test)]
mod redirect_tests;

pub use client::{Client, ClientError};
pub use clock::server_time;
pub use download::{DownloadError, Downloader};
pub use login::{LoginError, log_in};
pub use target::{Target, TargetError};
