//! `setup`: sets up a separate broker for one user of this machine. It moves the AWS files out of
//! the user's home, so that no program of the user can read a key, and it can move them back.
//!
//! Invariant: without `--apply` nothing is changed, and the printed steps are exactly those that
//! `--apply` carries out.

mod home;
mod plan;
mod step;

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use self::home::AwsDirectory;
use self::plan::{Facts, Person, Plan};
use self::step::{Account, account};
use super::table::print;
use crate::error::Error;
use crate::profile::{Listed, listed};
use crate::trusted::Trusted;

/// The default endpoint, which most agents use.
const ENDPOINT: &str = "https://aws-mcp.us-east-1.api.aws/mcp";

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sigward-broker setup --for alice                 show the steps
  sudo sigward-broker setup --for alice --apply
  sudo sigward-broker setup --for alice --undo --apply")]
pub(super) struct Options {
    /// User whose agents get a broker in place of keys
    #[arg(long = "for", value_name = "USER")]
    user: String,
    /// Endpoints to sign requests for [default: the AWS MCP Server in us-east-1]
    #[arg(long, value_name = "URL", num_args = 1.., conflicts_with = "undo")]
    endpoint: Vec<String>,
    /// Profiles of the user's AWS files to sign with [default: all that can sign]
    #[arg(long, value_name = "NAME", num_args = 1.., conflicts_with = "undo")]
    profile: Vec<String>,
    /// Carry out the steps, instead of showing them
    #[arg(long)]
    apply: bool,
    /// Move the AWS files back to the user's home, and disable the broker
    #[arg(long)]
    undo: bool,
}

/// Shows the steps, or carries them out.
pub(super) fn run(options: &Options) -> Result<ExitCode, Error> {
    let facts = Facts::of(person(&options.user)?);
    let plan = if options.undo {
        plan::undo(&facts)
    } else {
        let endpoints = match options.endpoint.as_slice() {
            [] => vec![ENDPOINT.to_owned()],
            given => given.to_vec(),
        };
        let known = profiles(&facts)?;
        plan::setup(&facts, &endpoints, &options.profile, &known).map_err(Error::Usage)?
    };
    let command = format!(
        "sudo sigward-broker setup --for {}{}",
        options.user,
        if options.undo { " --undo" } else { "" }
    );
    if !options.apply {
        print(&plan.show());
        print(&format!(
            "\nNothing has been changed. To carry out these steps:\n  {command} --apply\n"
        ));
        return Ok(ExitCode::SUCCESS);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Usage(format!("only root can do this: {command} --apply")));
    }
    if !options.undo {
        trust(&facts.program)?;
    }
    apply(&plan)?;
    if !options.undo {
        print(&format!(
            "\nDone. MCP clients of {} need nothing in their configuration: sigward-proxy finds this broker.\n  sigward-broker \
             status     as {}: the profiles\nTo go back: {command} --undo --apply\n",
            options.user, options.user
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The attack: a program in the user's home, which the user replaces with one that shows the keys.
fn trust(program: &Path) -> Result<(), Error> {
    Trusted::existing(program).map(drop).map_err(|why| {
        Error::Usage(format!(
            "{why}
The service would run this program; put it where root alone can change it, and use it from there:
  sudo \
             install -m 0755 {} /usr/local/bin/sigward-broker",
            program.display()
        ))
    })
}

fn apply(plan: &Plan) -> Result<(), Error> {
    let bold = std::io::stdout().is_terminal();
    for (number, part) in plan.parts.iter().enumerate() {
        let (on, off) = if bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        print(&format!("{on}{}. {}{off}\n", number + 1, part.what));
        for step in &part.steps {
            print(&format!("   {step}\n"));
            let done = step.apply().map_err(|why| {
                Error::Usage(format!("{why}\nThe steps before were carried out; once the cause is repaired, run the same command again"))
            })?;
            if let Some(note) = done {
                print(&format!("      {note}\n"));
            }
        }
    }
    Ok(())
}

/// The user from the system's user database, which includes directory services.
fn person(name: &str) -> Result<Person, Error> {
    let wrong = |why: &str| Error::Usage(format!("--for {name}: {why}"));
    // The attack: a name that getent(1) parses as an option.
    if name.is_empty() || name.starts_with('-') || name.chars().any(char::is_control) {
        return Err(wrong("isn't a valid user name"));
    }
    let Some(Account { uid, gid, home }) = account(name).map_err(Error::Usage)? else {
        return Err(wrong("there is no such user"));
    };
    if uid == 0 {
        return Err(wrong("is root, who can read every file"));
    }
    if !home.is_absolute() {
        return Err(wrong("has no home directory"));
    }
    Ok(Person { name: name.to_owned(), uid, gid, home })
}

/// The profiles of the files in their current place: in the person's home, or with the broker after
/// an earlier run.
fn profiles(facts: &Facts) -> Result<Vec<Listed>, Error> {
    let person = &facts.person;
    let places = [(person.home.clone(), person.uid), (facts.state(), facts.broker_uid())];
    for (home, owner) in places {
        let Some(directory) = AwsDirectory::open(&home, owner).map_err(Error::Usage)? else {
            continue;
        };
        let read = |name: &str| directory.read(Path::new(name)).map_err(Error::Usage);
        let (config, credentials) = (read("config")?, read("credentials")?);
        if config.is_none() && credentials.is_none() {
            continue;
        }
        let (config, credentials) = (config.unwrap_or_default(), credentials.unwrap_or_default());
        let at = |name: &str| home.join(".aws").join(name);
        return listed((&at("config"), &config), (&at("credentials"), &credentials))
            .map_err(Error::Usage);
    }
    Ok(Vec::new())
}
