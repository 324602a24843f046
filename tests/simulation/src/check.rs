//! Runs a world.

use std::fmt;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use crate::world::World;

/// What came out.
#[derive(Debug)]
pub struct Report {
    /// The world's name.
    pub world: &'static str,
    /// Different states.
    pub states: usize,
    /// Steps of the longest way that was needed to see them all.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Properties that do not hold, each with the steps that lead there.
    pub broken: Vec<(&'static str, String)>,
    /// What should have been seen and was not.
    pub unseen: Vec<&'static str>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { world, states, depth, .. } = self;
        let verdict = match (&*self.broken, &*self.unseen) {
            ([], []) => "holds".to_owned(),
            ([], unseen) => format!("shows nothing: {unseen:?}"),
            ([(what, _), ..], _) => format!("BROKEN: {what}"),
        };
        let seconds = self.took.as_secs_f32();
        write!(f, "{world:<28} {states:>10} states {depth:>3} deep {seconds:>6.1} s  {verdict}")
    }
}

/// Looks at every state of a world.
#[must_use]
pub fn exhaust(world: World) -> Report {
    run(world, 2)
}

/// Looks for a broken property until the first one, by the shortest way.
#[must_use]
pub fn hunt(mut world: World) -> Report {
    world.sights = &[];
    run(world, 1)
}

fn run(world: World, threads: usize) -> Report {
    let began = Instant::now();
    let checker = world.checker().threads(threads);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    let (mut broken, mut unseen) = (Vec::new(), Vec::new());
    for property in world.properties() {
        match (property.expectation.discovery_is_failure(), found.get(property.name)) {
            (true, Some(path)) => {
                let steps = path.clone().into_actions().into_iter();
                broken.push((property.name, steps.map(|step| format!("  {step:?}\n")).collect()));
            }
            (false, None) => unseen.push(property.name),
            _ => {}
        }
    }
    Report {
        world: world.name,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: began.elapsed(),
        broken,
        unseen,
    }
}
