//! The single integration test binary: a real server, real files and real HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod ai_gateway_guide;
mod api;
mod bad_input;
mod binary;
mod built_commit;
mod circles;
mod crash;
mod deploy;
mod documentation;
mod documented_commands;
mod durability;
mod example_calls;
mod gateways;
mod generated_clients;
mod invariants;
mod language;
mod layering;
mod licenses;
mod log_events;
mod metrics;
mod moving;
mod moving_guide;
mod openapi;
mod operate_pages;
mod pages;
mod readme;
mod references;
mod support;
mod tls;
mod verify_guide;
