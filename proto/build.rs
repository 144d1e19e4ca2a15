//! Compiles the proto with `protox`: pure Rust, so that a build needs nothing but cargo.

use std::error::Error;

#[allow(clippy::print_stdout, reason = "cargo reads build scripts on standard output")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=sigward");
    let files = protox::compile(["sigward/broker/v1/broker.proto"], ["."])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
