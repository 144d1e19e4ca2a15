//! The support library of Sigward's end-to-end tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a panic here is a failed test"
)]

pub mod authority;
pub mod aws;
pub mod aws_home;
pub mod broker;
pub mod collector;
pub mod conformance;
pub mod console;
pub mod deadline;
pub mod demo;
pub mod echo;
pub mod figures;
pub mod frames;
pub mod keys;
pub mod known_aws;
mod loopback;
pub mod measure;
pub mod memory;
pub mod metadata;
pub mod modules;
pub mod processes;
pub mod quoting_aws;
pub mod ruled_server;
pub mod sigv4;
pub mod tools;
pub mod upstream;
pub mod workloads;
