//! Items of a group that are booted in one network: one task boots all, and each has a restore test
//! of its own with its proof.

use std::collections::BTreeSet;

use sluice_catalog::{NodeId, PlanItem, PlanMode, PlanNetwork, PlanRun, Point, Tx};
use sluice_scheduler::recovery::{Phase, StepState};

use super::RunBody;
use super::step::{PRIORITY, chosen, ended, spec};
use crate::api::policies::EVERYTHING;
use crate::problem::{Problem, Result};
use crate::restore_tests::{self, Guest};

/// Whether a step is booted together with others.
pub(super) fn is_for(state: &RunBody, mode: PlanMode, at: usize) -> bool {
    let step = &state.steps[at];
    let group = &state.plan.groups[step.group];
    let boots = || group.items[step.index].boot(mode).is_some();
    step.phase == Phase::Item && group.network.is_some() && boots()
}

/// Starts all of a group that are booted and wait. If one cannot be, none is.
pub(super) async fn start(
    tx: &mut Tx,
    run: &PlanRun,
    state: &mut RunBody,
    group: usize,
    now: u64,
) -> Result<()> {
    let members: Vec<usize> = (0..state.steps.len())
        .filter(|at| state.steps[*at].group == group)
        .filter(|at| state.steps[*at].state == StepState::Waiting && is_for(state, run.mode, *at))
        .collect();
    let started = boot(tx, run, state, (group, &members), now).await;
    for at in &members {
        let step = &mut state.steps[*at];
        step.started_ms = Some(now);
        match &started {
            Ok(()) => step.state = StepState::Running,
            Err(problem) => ended(step, StepState::Failed, &problem.detail, now),
        }
    }
    match started {
        Err(problem) if problem.status >= 500 => Err(problem),
        _ => Ok(()),
    }
}

async fn boot(
    tx: &mut Tx,
    run: &PlanRun,
    state: &mut RunBody,
    (group, members): (usize, &[usize]),
    now: u64,
) -> Result<()> {
    let rules = &state.plan.groups[group];
    let network = rules.network.clone().unwrap_or_default();
    let mut guests = Vec::new();
    for at in members {
        let item = &rules.items[state.steps[*at].index];
        let point = chosen(tx, run, item).await?;
        let Some(boot) = item.boot(run.mode) else { continue };
        let spec = spec(item, boot, &state.parameters)?;
        let address = item.address.clone().unwrap_or_default();
        guests.push(Guest { point, spec, stage: item.stage, address });
    }
    at_one_place(&guests)?;
    let booted = members.iter().map(|at| &rules.items[state.steps[*at].index]);
    let node = on_one_node(&network, booted)?;
    restore_tests::able(tx, node).await?;
    let PlanNetwork { subnet, .. } = network;
    let subnet = subnet.unwrap_or_default();
    let tests = restore_tests::start_together(tx, &guests, (&subnet, node), PRIORITY, now).await?;
    for ((at, guest), test) in members.iter().zip(&guests).zip(tests) {
        let task = tx.test(test, &EVERYTHING).await?.task;
        let step = &mut state.steps[*at];
        step.point = Some(guest.point.new.point.clone());
        (step.test, step.task) = (Some(test), task);
    }
    Ok(())
}

/// A task reads at one destination.
fn at_one_place(guests: &[Guest]) -> Result<()> {
    let place = |point: &Point| point.new.destination;
    let first = guests.first().map(|guest| place(&guest.point));
    match guests.iter().all(|guest| Some(place(&guest.point)) == first) {
        true => Ok(()),
        false => Err(Problem::invalid(
            "guests of one network are read at one destination: name it in each item",
        )),
    }
}

/// A task runs on one node: that of the network, or else the one that what is booted names.
fn on_one_node<'a>(
    network: &PlanNetwork,
    booted: impl Iterator<Item = &'a PlanItem>,
) -> Result<Option<NodeId>> {
    if network.node.is_some() {
        return Ok(network.node);
    }
    let named: BTreeSet<NodeId> = booted.filter_map(|item| item.target.node()).collect();
    match named.len() {
        0 | 1 => Ok(named.first().copied()),
        _ => Err(Problem::invalid(
            "guests of one network run on one node, and these name several: name it in the network",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn guests_of_one_network_run_on_the_node_that_they_name() {
        let node = |n: u64| NodeId::new(n);
        let item = |node: Option<NodeId>| -> PlanItem {
            let instance = "00000000-0000-7000-8000-000000000001";
            let target = json!({"kind": "boot-test", "node": node});
            serde_json::from_value(json!({"instance": instance, "target": target})).unwrap()
        };
        let (one, two) = (node(1), node(2));
        let (any, first, second) = (item(None), item(Some(one)), item(Some(two)));
        let own = PlanNetwork::default();
        let on = |items: &[&PlanItem]| on_one_node(&own, items.iter().copied());
        assert_eq!(on(&[&any, &any]).unwrap(), None);
        assert_eq!(on(&[&any, &first, &first]).unwrap(), Some(one));
        assert_eq!(on(&[&first, &any, &second]).unwrap_err().status, 422);
        let named = PlanNetwork { node: Some(two), ..PlanNetwork::default() };
        assert_eq!(on_one_node(&named, [&first, &second].into_iter()).unwrap(), Some(two));
    }
}
