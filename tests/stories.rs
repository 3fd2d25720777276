//! The integration tests, one file a user story, in one program: linked once, and what they share
//! is compiled once.
//!
//! `cargo nextest run --test stories check::` runs those of `tests/check.rs`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is not one of the programs")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that can't go on panics, and says where"
)]

mod support;

mod allocations;
mod benches;
mod bombs;
mod check;
mod client_certificate;
mod containers;
mod conversation;
mod conversation_again;
mod cpu_precision;
mod crash;
mod crash_conversation;
mod debug_wait;
mod delivery;
mod demo;
mod doctor;
mod documents;
mod doors;
mod endings;
mod evaluate;
mod gateway;
mod gateway_again;
mod gateway_broker;
mod gateway_broker_crash;
mod gateway_browser;
mod gateway_clients;
mod gateway_grpc;
mod gateway_iiif;
mod gateway_mlflow;
mod gateway_s3;
mod gpu;
mod hostile;
mod init;
mod instances;
mod job;
mod keras_models;
mod load;
mod local;
mod local_scheduler;
mod memory;
mod monitoring;
mod notebook;
mod operator;
mod output;
mod package;
mod poison;
mod predict;
mod progress;
mod promises;
mod quorum;
mod reference;
mod resume;
mod scripts;
mod secrets;
mod secrets_gateway;
mod services;
mod sites;
mod snapshots;
mod stay;
mod structure;
mod submission;
mod supply_chain;
mod tensorboard;
mod tls;
mod token;
mod watcher;
