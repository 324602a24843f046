//! The protocol without one of its rules.

use sluice_simulation::catalogue::{COMFORT, NEEDED, SMALL};
use sluice_simulation::check::{exhaust, hunt};
use sluice_simulation::rules::Rule;

#[test]
fn without_any_rule_the_checker_finds_what_goes_wrong() {
    for (rule, world) in NEEDED {
        let report = hunt(world.without(*rule));
        eprintln!("without {rule:?}: {report}");
        assert!(!report.broken.is_empty(), "{rule:?} is idle in the world {:?}", world.name);
    }
}

#[test]
fn rules_of_comfort_are_not_needed_for_safety() {
    for world in SMALL {
        let report = exhaust(COMFORT.iter().fold(*world, |world, rule| world.without(*rule)));
        eprintln!("without {COMFORT:?}: {report}");
        assert!(report.broken.is_empty(), "{:?}", report.broken);
    }
}

#[test]
fn every_rule_is_either_needed_or_comfort() {
    for rule in Rule::ALL {
        let needed = NEEDED.iter().any(|(known, _)| known == rule);
        assert!(needed != COMFORT.contains(rule), "{rule:?}");
    }
}
