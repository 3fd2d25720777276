//! `train_page`: the options for pages in folders, and nothing else.

use clap::{ArgGroup, Parser};

use crate::options::{Options, VERSION};
use base::exit_code::ExitCode;
use base::harden;
use terminal::Verbosity;

/// The name that messages begin with.
const NAME: &str = "train_page";

/// Trains one network for each layer of a manuscript page in a folder
///
/// With --local: takes the page from a folder and leaves the models in another. With --predict:
/// cuts a page into layers with such models. With --evaluate: compares such layers with drawn ones.
/// run_trainer has the same options, and takes jobs too.
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    version = VERSION,
    max_term_width = 100,
    group = ArgGroup::new("asked")
        .required(true)
        .args(["local", "predict", "evaluate", "check_gpu"]),
    after_help = "\
Exit codes: 0 done, 1 internal fault, 2 command line, 9 training failed, 11 an input can't be \
used, 12 stopped before there was a result."
)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    verbosity: Verbosity,
}

/// Runs `train_page` and returns its exit code.
pub fn run(arguments: Arguments) -> ExitCode {
    let Arguments { options, verbosity } = arguments;
    verbosity.start(tracing::Level::INFO);
    harden::process();
    // clap requires one of what these options can do.
    options.run(NAME, verbosity.quiet).unwrap_or(ExitCode::Usage)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn one_thing_is_asked_for_and_what_it_needs_is_there() {
        Arguments::command().debug_assert();
        for (typed, fits) in [
            ("--local page --out out", true),
            ("--local page --local another --out out --models first --set Seed=1", true),
            ("--predict page.png --models out --out layers --windows classifier", true),
            ("--evaluate page --models out --out errors --json", true),
            ("--check-gpu", true),
            ("--local page --out out --debug-wait", true),
            ("", false),
            ("--out out", false),
            ("job.json", false),
            ("--local page", false),
            ("--local page --out out --predict page.png --models out", false),
            ("--local page --out out --json", false),
            ("--local page --out out --debug-wait --quiet", false),
            ("--predict page.png --out layers", false),
            ("--check-gpu --out out", false),
        ] {
            let words = typed.split_whitespace();
            let parsed = Arguments::try_parse_from([NAME].into_iter().chain(words));
            assert_eq!(parsed.is_ok(), fits, "{typed}: {parsed:?}");
        }
    }
}
