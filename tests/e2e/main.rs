//! Sigward end to end: real processes, real sockets, a server that verifies every signature on its own.
//!
//! One module per behaviour; each allow has its deny. Every process has a home, a runtime directory and ports of its
//! own, so that all tests run at once. Nothing waits without a deadline, and no line of any process may hold a canary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod activation;
mod agent;
mod answers;
mod attacks;
mod attribution;
mod audit;
mod aws_messages;
mod bad_input;
mod bodies;
mod botocore;
mod broker;
mod cases;
mod check;
mod client_files;
mod clients;
mod commands;
mod confined;
mod conformance;
mod corpus;
mod credentials;
mod demonstration;
mod dice;
mod duties;
mod faults;
mod fidelity;
mod hangs;
mod health;
mod http;
mod identity_shown;
mod isolation;
mod listening;
mod login_sessions;
mod manifests;
mod mcp_rules;
mod metadata;
mod metrics;
mod modules;
mod monitoring;
mod nasty;
mod network;
mod options;
mod pace;
mod pod;
mod private;
mod profiles;
mod protocol_versions;
mod rates;
mod readme;
mod renewed;
mod roles;
mod service_manager;
mod setup;
mod shutdown;
mod sign_in;
mod signatures;
mod sources;
mod standard;
mod standard_error;
mod status;
mod tls;
mod traces;
mod trusted;
mod unsolicited;
mod versions;
mod without_credentials;
mod workstation;
mod yaml;
