//! Checks worlds and prints what came out.

use std::process::ExitCode;

use sluice_simulation::rules::Rule;
use sluice_simulation::{catalogue, check};

fn main() -> ExitCode {
    let mut fine = true;
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "--rules") {
        for rule in Rule::ALL {
            if args.get(1).is_some_and(|a| *a != format!("{rule:?}")) {
                continue;
            }
            eprintln!("{rule:?}");
            for world in catalogue::SMALL {
                let report = check::hunt(world.without(*rule));
                if let Some((_, path)) = report.broken.first() {
                    eprintln!("   {report}");
                    if args.get(2).is_some_and(|a| *a == world.name) {
                        eprintln!("{path}");
                    }
                }
            }
        }
        return ExitCode::SUCCESS;
    }
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
