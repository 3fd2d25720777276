//! Rodan's HTTP side for a demonstration: logging in, and the files of a directory for whoever has the token.
//!
//! `cargo run --example stand_in_rodan -- DIRECTORY` prints what belongs into `credentials.env` and serves
//! `DIRECTORY/page.png` as `/uploads/page.png` until it is stopped.

use std::path::PathBuf;
use std::process::ExitCode;

#[path = "../tests/support/rodan.rs"]
mod rodan;

fn main() -> ExitCode {
    let Some(directory) =
        std::env::args_os().nth(1).map(PathBuf::from).filter(|directory| directory.is_dir())
    else {
        eprintln!("usage: stand_in_rodan DIRECTORY");
        return ExitCode::from(2);
    };
    let rodan = rodan::Rodan::with(rodan::Setup { directory: Some(directory), ..rodan::Setup::default() });
    println!("RODAN_HOST={}", rodan.url());
    println!("RODAN_USER={}", rodan.setup().user);
    println!("RODAN_PASSWORD='{}'", rodan.setup().password);
    loop {
        std::thread::park();
    }
}
