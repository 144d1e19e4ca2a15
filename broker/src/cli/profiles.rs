//! `profiles`: the names of the profiles in the AWS files, for a program that writes a configuration with them.
//!
//! `sigward-proxy config` asks for them, since it opens no AWS file itself. No credentials are loaded.

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
