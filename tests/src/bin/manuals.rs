//! `cargo run --bin manuals -- DIRECTORY`: writes the man pages and completions of both programs, from their options.
//! It is a separate program so that the two don't grow.
//!
//! Pages are in `man1/`, completions in `completions/`, with the names that the shells expect.
#![allow(clippy::print_stderr, reason = "a program for a terminal")]

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap_complete::Shell;

/// The file name of a program's completions.
type FileName = fn(&str) -> String;

/// For each shell: the directory of its completions, and their file names.
const COMPLETIONS: [(Shell, &str, FileName); 3] = [
    (Shell::Bash, "bash", |program| program.to_owned()),
    (Shell::Zsh, "zsh", |program| format!("_{program}")),
    (Shell::Fish, "fish", |program| format!("{program}.fish")),
];

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: manuals DIRECTORY");
        return ExitCode::from(2);
    };
    match write(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manuals: {}: {error}", Path::new(&directory).display());
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    let pages = directory.join("man1");
    fs::create_dir_all(&pages)?;
    for command in [sigward_broker::cli::command(), sigward_proxy::cli::command()] {
        // Subcommands of subcommands have pages of their own: sigward-broker-audit-verify(1). The `help` subcommands
        // need none.
        let command = command.disable_help_subcommand(true);
        clap_mangen::generate_to(command.clone(), &pages)?;
        for (shell, name, file) in COMPLETIONS {
            let completions = directory.join("completions").join(name);
            fs::create_dir_all(&completions)?;
            let program = command.get_name().to_owned();
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut command.clone(), &program, &mut text);
            fs::write(completions.join(file(&program)), text)?;
        }
    }
    Ok(())
}
