//! Writes the documents that are made from tables in the code: `credentials.env.example`, `docs/variables.md` and
//! `docs/settings.md`.
//!
//! ```sh
//! cargo run --example reference
//! ```
#![allow(clippy::print_stdout, reason = "it is not one of the programs")]

use std::error::Error;
use std::fs;
use std::path::Path;

use domain::settings;
use hpc_trainer::config;

fn main() -> Result<(), Box<dyn Error>> {
    for (name, text) in [
        ("credentials.env.example", config::example()),
        ("docs/variables.md", config::markdown()),
        ("docs/settings.md", settings::markdown(config::UPDATE)),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        fs::write(&path, text)?;
        println!("{}", path.display());
    }
    Ok(())
}
