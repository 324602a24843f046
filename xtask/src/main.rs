//! The workspace's own tools: `cargo xtask COMMAND`.
//!
//! One module per command. The steps of the gate ([`check`]) are commands too, so that each runs
//! alone while working: `cargo xtask rooms`. Rules that no compiler checks live here, with their
//! reasons, and not in a reviewer's memory.

#![expect(clippy::print_stdout, reason = "a command-line tool talks on stdout")]

mod bench;
mod check;
mod conformance;
mod counts;
mod deny;
mod dist;
mod fuzz;
mod host;
mod manifest;
mod rooms;
mod rust;
mod shell;
mod soak;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  check [--fuzz SECONDS] [--soak] [STEP...]
                                        the gate: every step below, or the named ones
  fuzz [--seconds N] [TARGET...]        run every fuzz target, or the named ones
  bench [OPTION...]                     Sluice and other tools side by side; bench --help
  soak [OPTION...]                      everything at once and killed at random; soak --help
  dist [OPTION...]                      package, archive and what is in them; dist --help
  conformance [OPTION...]               real clients and guests on the exports; conformance --help
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.split_first() {
        Some((&"check", rest)) => check::command(rest),
        Some((&"fuzz", rest)) => fuzz::command(rest),
        Some((&"bench", rest)) => bench::command(rest),
        Some((&"soak", rest)) => soak::command(rest),
        Some((&"dist", rest)) => dist::command(rest),
        Some((&"conformance", rest)) => conformance::command(rest),
        Some((name, [])) if check::step(name).is_some() => check::command(&[name]),
        None | Some((&("help" | "-h" | "--help"), _)) => {
            println!("{USAGE}\nsteps of the gate, each also a command of its own:\n");
            for step in check::STEPS {
                println!("  {:<10} {}", step.name, step.about);
            }
            Ok(())
        }
        Some((name, _)) => bail!("no command {name:?}\n\n{USAGE}"),
    }
}
