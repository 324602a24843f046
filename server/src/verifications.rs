//! Restore points are read back, by rules of policies, and what was found is noted with them.
//!
//! ```text
//!   a backup ended ──► verify the new point, as deep as the deepest rule says
//!   a schedule is due ──► verify all points of each instance at the rule's destination
//!   a verification ended, whoever asked ──► each point it looked at is sound or damaged
//! ```
//!
//! A restore point that no verification has looked at is *unproven*. Damage stays noted until as
//! much was read again as had found it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use sluice_catalog::{
    BackupType, Checked, DestinationId, Instance, InstanceId, NewTask, Point, PointId, Policy,
    PolicyId, ProofState, Record, Rule, Task, Tx, VerifyDepth, VerifyRule,
};
use sluice_node_api::TaskSpec;
use utoipa::ToSchema;

use crate::api::policies::EVERYTHING;
use crate::api::usage::every;
use crate::complaint::go_on;
use crate::ledger;
use crate::problem::Result;

/// After backups, like the maintenance of destinations.
const PRIORITY: u32 = 30;
const ATTEMPTS: u32 = 3;

/// What the document of a backup tells of what it took for granted.
pub(crate) fn type_told(point: &Value) -> Option<BackupType> {
    let method = point["method"].as_str()?;
    let nothing = method.split('+').all(|one| ["full", "rescan"].contains(&one));
    Some(if nothing { BackupType::Full } else { BackupType::Incremental })
}

/// The verifications that a policy wants now, each with its rule.
fn wanted(policy: &Policy) -> impl Iterator<Item = (&Rule, &VerifyRule)> {
    let rules = policy.rules.iter().filter(|_| !policy.paused);
    let all = rules.flat_map(|rule| rule.verify.iter().map(move |verify| (rule, verify)));
    all.filter(|(_, verify)| !verify.paused)
}

/// Those of what lies at a destination.
fn wanted_at(
    policies: &[Record<Policy>],
    destination: DestinationId,
) -> Vec<(PolicyId, &VerifyRule)> {
    let mut all = Vec::new();
    for policy in policies {
        let rules = wanted(&policy.body).filter(|(rule, _)| rule.destination == destination);
        all.extend(rules.map(|(_, verify)| (policy.id, verify)));
    }
    all
}

/// The one of them that looks deepest at each new restore point.
fn deepest<'a>(rules: &[(PolicyId, &'a VerifyRule)]) -> Option<(PolicyId, &'a VerifyRule)> {
    let each = rules.iter().filter(|(_, verify)| verify.schedules.is_empty());
    each.max_by_key(|(_, verify)| (verify.depth, verify.percent)).copied()
}

/// The verification at its place behind rules, tests and copies, with its rule.
pub(crate) fn at(policy: &Policy, place: usize) -> Option<(&Rule, &VerifyRule)> {
    let copies: usize = policy.rules.iter().map(|rule| rule.copies.len()).sum();
    let before = policy.rules.len() + policy.tests.len() + copies;
    let all = policy.rules.iter();
    let mut all = all.flat_map(|rule| rule.verify.iter().map(move |verify| (rule, verify)));
    all.nth(place.checked_sub(before)?)
}

/// How deep to look, as tasks say it: all data, or a share.
fn depth(verify: &VerifyRule) -> (bool, Option<u32>) {
    (verify.depth == VerifyDepth::Data, verify.percent)
}

fn task(
    instance: &Record<Instance>,
    (destination, policy): (DestinationId, PolicyId),
    due_key: Option<String>,
    spec: &TaskSpec,
) -> NewTask {
    NewTask {
        project: instance.project,
        instance: Some(instance.id),
        policy: Some(policy),
        destination: Some(destination),
        wanted_node: None,
        kind: spec.kind().to_owned(),
        priority: PRIORITY,
        due_key,
        max_attempts: ATTEMPTS,
        not_before_ms: 0,
        spec: serde_json::to_value(spec).unwrap_or_default(),
    }
}

/// A restore point was made: it is verified where a rule wants that.
pub(crate) async fn after_backup(tx: &mut Tx, by: &Task, point: &str, now: u64) -> Result<()> {
    let (Some(instance), Some(destination)) = (by.new.instance, by.new.destination) else {
        return Ok(());
    };
    let instance = tx.get::<Instance>(instance, &EVERYTHING).await?;
    let policies = tx.policies_of(&instance).await?;
    let here = wanted_at(&policies, destination);
    let Some((policy, verify)) = deepest(&here) else { return Ok(()) };
    let (data, sample) = depth(verify);
    let spec = TaskSpec::Verify { point: Some(point.into()), instance: None, sample, data };
    tx.add_task(&task(&instance, (destination, policy), None, &spec), now).await?;
    Ok(())
}

/// A schedule of verifications is due: for the instances that have restore points there.
pub(crate) async fn due(
    tx: &mut Tx,
    policy: &Record<Policy>,
    (rule, verify): (&Rule, &VerifyRule),
    (key, at): (&str, u64),
    now: u64,
) -> Result<()> {
    if verify.paused {
        return Ok(());
    }
    let destination = rule.destination;
    for instance in tx.instances_of(policy, &EVERYTHING).await? {
        let newest = tx.newest_point(instance.id, Some(destination), None).await?;
        let busy = tx.is_verified(instance.id, destination).await?;
        if instance.body.paused || newest.is_none() || busy {
            continue;
        }
        let added = add(tx, policy.id, &instance, (destination, verify), (key, at), now).await;
        go_on(&format!("the verification of instance {}", instance.id), added)?;
    }
    Ok(())
}

async fn add(
    tx: &mut Tx,
    policy: PolicyId,
    instance: &Record<Instance>,
    (destination, verify): (DestinationId, &VerifyRule),
    (key, at): (&str, u64),
    now: u64,
) -> Result<()> {
    let (data, sample) = depth(verify);
    let name = ledger::name(tx, instance).await?;
    let spec = TaskSpec::Verify { point: None, instance: Some(name), sample, data };
    let key = Some(format!("{policy}/{key}/{}/{at}", instance.id));
    tx.add_task(&task(instance, (destination, policy), key, &spec), now).await?;
    Ok(())
}

/// The restore points that need something that is damaged, as a document names them.
fn names(damage: &[Value]) -> BTreeSet<String> {
    let lists = damage.iter().filter_map(|one| one["points"].as_array());
    lists.flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// A verification has ended, with or without damage: what it found is noted.
pub(crate) async fn ended(tx: &mut Tx, task: &Task, document: &Value, now: u64) -> Result<()> {
    let Some(found) = document["damage"].as_array() else { return Ok(()) };
    let Some(destination) = task.new.destination else { return Ok(()) };
    let Ok(TaskSpec::Verify { point, .. }) = serde_json::from_value(task.new.spec.clone()) else {
        return Ok(());
    };
    // A release that does not say how deep it looked may not know samples and instances.
    let depth = document["depth"].as_str().and_then(VerifyDepth::from_word).unwrap_or_default();
    let mut damaged = BTreeSet::new();
    for name in names(found) {
        // A record that cannot be read is named by its object, which ends with the point's id.
        match name.rsplit_once('/').filter(|_| !name.contains('@')) {
            Some((_, id)) => damaged.extend(tx.points_with_id(destination, id).await?),
            None => _ = damaged.insert(name),
        }
    }
    let looked = Checked {
        destination,
        instance: task.new.instance,
        point: point.as_deref(),
        depth,
        before_ms: task.started_ms.unwrap_or(now),
    };
    Ok(tx.set_proofs(looked, &damaged, now).await?)
}

/// A restore point on which one cannot count, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Doubt {
    /// Which.
    point: PointId,
    /// As `sluice` takes it.
    name: String,
    /// Where.
    destination: DestinationId,
    /// Why.
    pub(crate) state: DoubtState,
    /// What moment it holds, in milliseconds since 1970.
    taken_ms: u64,
}

/// Why one cannot count on a restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DoubtState {
    /// A verification found damage.
    Damaged,
    /// A rule wants it verified, and it was not yet.
    Unproven,
}

impl Doubt {
    fn of(point: Point, state: DoubtState) -> Self {
        let Point { id, new, .. } = point;
        let (name, taken_ms) = (new.point, new.taken_ms);
        Self { point: id, name, destination: new.destination, state, taken_ms }
    }
}

/// All restore points that are damaged, and of each instance the newest that is to be proven and
/// is not.
pub(crate) async fn doubts(tx: &mut Tx) -> Result<BTreeMap<InstanceId, Vec<Doubt>>> {
    let mut all: BTreeMap<InstanceId, Vec<Doubt>> = BTreeMap::new();
    for point in tx.damaged_points(None, None).await? {
        all.entry(point.instance).or_default().push(Doubt::of(point, DoubtState::Damaged));
    }
    for policy in every::<Policy>(tx, &EVERYTHING).await? {
        if wanted(&policy.body).next().is_none() {
            continue;
        }
        for instance in tx.instances_of(&policy, &EVERYTHING).await? {
            for (rule, verify) in wanted(&policy.body) {
                let newest = tx.newest_point(instance.id, Some(rule.destination), None).await?;
                let Some(point) = newest else { continue };
                let proven = match verify.schedules.is_empty() {
                    true => point.proof.is_some(),
                    false => tx.any_proven(instance.id, rule.destination).await?,
                };
                let damaged = point.proof.is_some_and(|one| one.state == ProofState::Damaged);
                let known = all.entry(instance.id).or_default();
                if !proven && !damaged && known.iter().all(|doubt| doubt.point != point.id) {
                    known.push(Doubt::of(point, DoubtState::Unproven));
                }
            }
        }
    }
    all.retain(|_, doubts| !doubts.is_empty());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_backup_is_full_that_took_nothing_for_granted_of_any_image() {
        let told = |method: &str| type_told(&json!({ "method": method }));
        assert_eq!(told("full"), Some(BackupType::Full));
        assert_eq!(told("rescan"), Some(BackupType::Full));
        assert_eq!(told("regions+rescan"), Some(BackupType::Incremental));
        assert_eq!(told("changed"), Some(BackupType::Incremental));
        assert_eq!(type_told(&json!({})), None, "another release");
    }

    #[test]
    fn verifications_have_their_place_behind_copies() {
        let destination = |n: u32| format!("00000000-0000-7000-8000-00000000000{n}");
        let rule = |name: &str, n: u32| {
            json!({"name": name, "destination": destination(n), "schedules": [],
                "copies": [{"name": format!("{name}-copy"), "destination": destination(9)}],
                "verify": [{"name": format!("{name}-verify")}]})
        };
        let policy: Policy =
            serde_json::from_value(json!({"rules": [rule("a", 1), rule("b", 2)]})).unwrap();
        let names: Vec<&String> = policy.timed().map(|(name, _)| name).collect();
        for (place, name) in names.into_iter().enumerate() {
            let found = at(&policy, place).map(|(_, verify)| &verify.name);
            assert_eq!(found.is_some(), name.ends_with("-verify"), "{place} {name}");
            assert!(found.is_none_or(|found| found == name));
        }
        assert!(at(&policy, 99).is_none());
    }
}
