//! Checks worlds and prints what came out.

use std::process::ExitCode;

use sluice_simulation::{catalogue, check};

fn main() -> ExitCode {
    let mut fine = true;
    for world in catalogue::SMALL {
        let report = check::exhaust(*world);
        eprintln!("{report}");
        for (what, path) in &report.broken {
            fine = false;
            eprintln!("{what}\n{path}");
        }
    }
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
