//! `profiles`: prints the names of the profiles in the AWS files, for programs that write a
//! configuration.
//!
//! `sigward-proxy config` runs it, because the proxy opens no AWS file. No credentials are loaded.

use std::process::ExitCode;

use super::table::print;
use crate::error::Error;
use crate::profile::{self, Surroundings};

pub(super) fn run(surroundings: &Surroundings) -> Result<ExitCode, Error> {
    let names =
        profile::names(surroundings).map_err(|denial| Error::Usage(denial.detail().to_owned()))?;
    print(&format!("{}\n", serde_json::Value::from(names)));
    Ok(ExitCode::SUCCESS)
}
