//! The integration tests, one file a user story, in one program: linked once, and what they share is compiled once.
//!
//! `cargo nextest run --test stories check::` runs those of `tests/check.rs`.

mod support;

mod check;
mod cli_reference;
mod crash;
mod delivery;
mod demo;
mod doctor;
mod documents;
mod doors;
mod endings;
mod gpu;
mod init;
mod job;
mod keras_models;
mod load;
mod local;
mod monitoring;
mod operator;
mod package;
mod predict;
mod progress;
mod resume;
mod scripts;
mod secrets;
mod services;
mod sites;
mod snapshots;
mod supply_chain;
mod tensorboard;
mod tls;
mod watcher;
