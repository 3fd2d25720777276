//! Writes what is made from the programs: pages of `docs/`, and with a directory the man pages and
//! completions.
//!
//! ```sh
//! cargo run --example reference            # docs/cli.md, credentials.env.example …
//! cargo run --example reference -- DIR     # DIR/man/man1/*.1, DIR/completions/{bash,zsh,fish}/*
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is not one of the programs")]
#![allow(missing_docs)]

use std::error::Error;
use std::fs;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use hpc_trainer::cli::reference::{pages, programs};

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args_os().nth(1) {
        None => {
            for (name, text) in pages() {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
                fs::write(&path, text)?;
                println!("{}", path.display());
            }
        }
        Some(directory) => man_pages_and_completions(Path::new(&directory))?,
    }
    Ok(())
}

fn man_pages_and_completions(directory: &Path) -> Result<(), Box<dyn Error>> {
    let man = directory.join("man/man1");
    fs::create_dir_all(&man)?;
    let mut completed: Vec<(Command, String)> = Vec::new();
    for program in programs() {
        clap_mangen::generate_to(program.clone(), &man)?;
        let name = program.get_name().to_owned();
        // What an operator types is run_check, which hands its arguments on.
        if name == "check" {
            completed.push((program.clone(), "run_check".to_owned()));
        }
        completed.push((program, name));
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let of_shell = directory.join("completions").join(shell.to_string());
        fs::create_dir_all(&of_shell)?;
        for (mut command, name) in completed.clone() {
            clap_complete::generate_to(shell, &mut command, name, &of_shell)?;
        }
    }
    println!("{} and {}", man.display(), directory.join("completions").display());
    Ok(())
}
