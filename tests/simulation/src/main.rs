//! Checks worlds and prints what came out.
//!
//! ```text
//! sluice-simulation              the small worlds
//! sluice-simulation --deep       the others too: minutes, and gigabytes of memory
//! sluice-simulation --rules      what goes wrong without each rule, step by step
//! ```

use std::io::{self, Write};
use std::process::ExitCode;

use sluice_simulation::check::{self, Report};
use sluice_simulation::{catalogue, world::World};

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut fine = true;
    match &*arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        [] => fine &= hold(catalogue::SMALL)?,
        ["--deep"] => {
            fine &= hold(catalogue::SMALL)?;
            fine &= hold(catalogue::DEEP)?;
        }
        ["--rules"] => {
            for (rule, world) in catalogue::NEEDED {
                let report = check::hunt(world.without(*rule));
                writeln!(io::stdout(), "without {rule:?}")?;
                print(&report)?;
                fine &= !report.broken.is_empty();
            }
        }
        _ => {
            writeln!(io::stderr(), "usage: sluice-simulation [--deep | --rules]")?;
            return Ok(ExitCode::from(2));
        }
    }
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks worlds in which everything must hold.
fn hold(worlds: &[World]) -> io::Result<bool> {
    let mut fine = true;
    for world in worlds {
        let report = check::exhaust(*world);
        print(&report)?;
        fine &= report.broken.is_empty() && report.unseen.is_empty();
    }
    Ok(fine)
}

fn print(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{report}")?;
    for (what, steps) in &report.broken {
        write!(out, "{what}\n{steps}")?;
    }
    out.flush()
}
