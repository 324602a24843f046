//! Restore points are read back, by rules of policies, and what was found is noted with them.
//!
//! ```text
//!   a backup or a copy ended ──► verify what is new there, as deep as the deepest rule says
//!   a schedule is due ──► verify all points of each instance at each of the rule's destinations
//!   a verification ended, whoever asked ──► each point it looked at is sound or damaged,
//!                                           and what it did not find there is unproven
//! ```
//!
//! A restore point that no verification has looked at is *unproven*. Damage stays noted until as
//! much was read again as had found it. A copy is a restore point of its own: it is proven, and
//! judged, at its destination, whatever was found of the one that it was made of.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use sluice_catalog::{
    BackupType, Checked, DestinationId, Having, Instance, InstanceId, Point, PointId, Policy,
    PolicyId, ProjectId, ProofState, Record, Rule, Task, Tx, VerifyDepth, VerifyRule, Visible,
};
use sluice_node_api::TaskSpec;
use sluice_scheduler::plan::MissReason;
use utoipa::ToSchema;

use crate::api::policies::EVERYTHING;
use crate::complaint::{go_on, readable};
use crate::dispatch::by_instance;
use crate::ledger;
use crate::maintenance::of_instance;
use crate::problem::Result;
use crate::ticker::{Batch, Due};

/// Attempts of a verification.
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
        let here =
            |(rule, verify): &(&Rule, &VerifyRule)| verify.places(rule).contains(&destination);
        let rules = wanted(&policy.body).filter(here);
        all.extend(rules.map(|(_, verify)| (policy.id, verify)));
    }
    all
}

/// The one of them that looks deepest at each new restore point.
fn deepest<'a>(rules: &[(PolicyId, &'a VerifyRule)]) -> Option<(PolicyId, &'a VerifyRule)> {
    let each = rules.iter().filter(|(_, verify)| verify.schedules.is_empty());
    each.max_by_key(|(_, verify)| (verify.depth, verify.percent)).copied()
}

/// How deep to look, as tasks say it: all data, or a share.
fn depth(verify: &VerifyRule) -> (bool, Option<u32>) {
    (verify.depth == VerifyDepth::Data, verify.percent)
}

/// Restore points came to a destination, by a backup or as copies: they are verified where a rule
/// wants that.
pub(crate) async fn after(tx: &mut Tx, by: &Task, points: &[&str], now: u64) -> Result<()> {
    let (Some(instance), Some(destination)) = (by.new.instance, by.new.destination) else {
        return Ok(());
    };
    let instance = tx.get::<Instance>(instance, &EVERYTHING).await?;
    let policies = tx.readable_policies_of(&instance).await?;
    let here = wanted_at(&policies, destination);
    let Some((policy, verify)) = deepest(&here) else { return Ok(()) };
    let (data, sample) = depth(verify);
    let (point, all) = match points {
        [] => return Ok(()),
        [one] => (Some((*one).to_owned()), None),
        // Of what they share each would read all again.
        _ => (None, Some(ledger::name(tx, &instance).await?)),
    };
    let spec = TaskSpec::Verify { point, instance: all, sample, data };
    let task = of_instance(&instance, (destination, policy), (&spec, ATTEMPTS), None);
    tx.add_task(&task, now).await?;
    Ok(())
}

/// A schedule of verifications is due: for the instances that have restore points there, at each
/// destination. What is not verified now is missed, however many destinations it is at.
pub(crate) async fn due(
    batch: &mut Batch<'_>,
    wanted: (&Rule, &VerifyRule),
    due: &Due,
) -> Result<()> {
    if wanted.1.paused {
        return batch.none_runs(MissReason::Paused, due).await;
    }
    let (rule, verify) = wanted;
    for instance in batch.tx.instances_of(batch.policy, &EVERYTHING).await? {
        let mut reason = None;
        for destination in verify.places(rule) {
            let added = add(batch, &instance, (destination, verify), due.last).await;
            let added = go_on(&format!("the verification of instance {}", instance.id), added)?;
            reason = reason.or(added.unwrap_or(Some(MissReason::Broken)));
        }
        batch.came(&instance, "verification", Ok(reason), due).await?;
    }
    Ok(())
}

/// Adds the verification of one instance at a destination, if it has any restore points there; or
/// tells why there is none.
async fn add(
    batch: &mut Batch<'_>,
    instance: &Record<Instance>,
    (destination, verify): (DestinationId, &VerifyRule),
    at: u64,
) -> Result<Option<MissReason>> {
    // Verifications of one occurrence are one for each destination.
    let own = format!("{}/{}/{destination}/{}/", batch.policy.id, batch.key, instance.id);
    let due_key = format!("{own}{at}");
    let tx = &mut *batch.tx;
    if tx.newest_point(instance.id, Some(destination), None).await?.is_none() {
        return Ok(None);
    }
    if instance.body.paused {
        return Ok(Some(MissReason::Paused));
    }
    // What follows a backup looks at one restore point, and stands for none of the others.
    if tx.is_verified(instance.id, &own).await? {
        return Ok(Some(MissReason::StillActive));
    }
    let (data, sample) = depth(verify);
    let name = ledger::name(tx, instance).await?;
    let spec = TaskSpec::Verify { point: None, instance: Some(name), sample, data };
    let whose = (destination, batch.policy.id);
    let task = of_instance(instance, whose, (&spec, ATTEMPTS), Some(due_key));
    tx.add_task(&task, batch.now).await?;
    Ok(None)
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
    // A node of an earlier release does not tell what was there, and of too many nobody does.
    let seen: Option<BTreeSet<String>> =
        document["looked"].is_object().then(|| by_instance(&document["looked"]).collect());
    let looked = Checked {
        seen: seen.as_ref(),
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
    pub(crate) destination: DestinationId,
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

/// What rules want of the restore points of instances at a destination.
#[derive(Default)]
struct Asked {
    /// That of each the newest was verified.
    each: BTreeSet<InstanceId>,
    /// That any was, by schedules.
    any: BTreeSet<InstanceId>,
}

/// What is asked of the instances that somebody may know of, in few statements however many they
/// are.
async fn asked(
    tx: &mut Tx,
    visible: &Visible,
    project: Option<ProjectId>,
) -> Result<BTreeMap<DestinationId, Asked>> {
    let mut asked: BTreeMap<DestinationId, Asked> = BTreeMap::new();
    // Who has a role on an instance alone sees no policies.
    let mut policies = readable::<Policy>(tx, &EVERYTHING).await?;
    policies.retain(|policy| wanted(&policy.body).next().is_some());
    if policies.is_empty() {
        return Ok(asked);
    }
    let by_hand = tx.by_hand().await?;
    let having: Vec<Having<'_>> = policies.iter().map(|one| Having::of(one, &by_hand)).collect();
    for instance in readable::<Instance>(tx, visible).await? {
        if project.is_some() && project != instance.project {
            continue;
        }
        let own = having.iter().filter(|one| one.has(&instance));
        for (rule, verify) in own.flat_map(|one| wanted(&one.policy().body)) {
            for destination in verify.places(rule) {
                let here = asked.entry(destination).or_default();
                match verify.schedules.is_empty() {
                    true => here.each.insert(instance.id),
                    false => here.any.insert(instance.id),
                };
            }
        }
    }
    Ok(asked)
}

/// All restore points that are damaged, and of each instance the newest that is to be proven and
/// is not: of those that somebody may know of, in one project when it is named.
pub(crate) async fn doubts(
    tx: &mut Tx,
    visible: &Visible,
    project: Option<ProjectId>,
) -> Result<BTreeMap<InstanceId, Vec<Doubt>>> {
    let mut all: BTreeMap<InstanceId, Vec<Doubt>> = BTreeMap::new();
    for point in tx.damaged_points(visible, project).await? {
        all.entry(point.instance).or_default().push(Doubt::of(point, DoubtState::Damaged));
    }
    for (destination, Asked { each, any }) in asked(tx, visible, project).await? {
        let instances: Vec<InstanceId> = each.union(&any).copied().collect();
        let any: Vec<InstanceId> = any.into_iter().collect();
        let proven = tx.proven_of(destination, &any).await?;
        let unproven: BTreeSet<InstanceId> =
            any.into_iter().filter(|id| !proven.contains(id)).collect();
        for point in tx.newest_points(destination, &instances).await? {
            let damaged = point.proof.is_some_and(|one| one.state == ProofState::Damaged);
            let new = each.contains(&point.instance) && point.proof.is_none();
            if !damaged && (new || unproven.contains(&point.instance)) {
                let known = all.entry(point.instance).or_default();
                known.push(Doubt::of(point, DoubtState::Unproven));
            }
        }
    }
    Ok(all)
}

/// Of which instances the newest restore point cannot be counted on: each that holds the latest
/// moment is damaged, or one of them is to be proven and is not. `doubts` are theirs.
pub(crate) async fn newest(
    tx: &mut Tx,
    doubts: &BTreeMap<InstanceId, Vec<Doubt>>,
) -> Result<BTreeMap<InstanceId, DoubtState>> {
    let instances: Vec<InstanceId> = doubts.keys().copied().collect();
    let mut held: BTreeMap<InstanceId, Vec<PointId>> = BTreeMap::new();
    for point in tx.newest_held(&instances).await? {
        held.entry(point.instance).or_default().push(point.id);
    }
    let state = |(instance, points): (InstanceId, Vec<PointId>)| {
        let own = doubts.get(&instance).map(Vec::as_slice).unwrap_or_default();
        Some((instance, worst(&points, own)?))
    };
    Ok(held.into_iter().filter_map(state).collect())
}

/// What is wrong with restore points that hold the same, of which one is enough.
fn worst(points: &[PointId], doubts: &[Doubt]) -> Option<DoubtState> {
    let is = |point: &PointId, state| {
        doubts.iter().any(|doubt| doubt.point == *point && doubt.state == state)
    };
    if !points.is_empty() && points.iter().all(|point| is(point, DoubtState::Damaged)) {
        return Some(DoubtState::Damaged);
    }
    let unproven = points.iter().any(|point| is(point, DoubtState::Unproven));
    unproven.then_some(DoubtState::Unproven)
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
    fn the_newest_is_damaged_when_no_copy_of_it_is_sound() {
        let (one, other) = (PointId::new(1), PointId::new(2));
        let doubt = |point, state| {
            let destination = DestinationId::new(1);
            Doubt { point, name: String::new(), destination, state, taken_ms: 5 }
        };
        let damaged = doubt(one, DoubtState::Damaged);
        let both = [damaged.clone(), doubt(other, DoubtState::Damaged)];
        assert_eq!(worst(&[one, other], &both), Some(DoubtState::Damaged));
        assert_eq!(worst(&[one, other], &both[..1]), None, "the copy is sound");
        let waits = [damaged, doubt(other, DoubtState::Unproven)];
        assert_eq!(worst(&[one, other], &waits), Some(DoubtState::Unproven));
        assert_eq!(worst(&[PointId::new(3)], &waits), None, "older ones are damaged");
        assert_eq!(worst(&[], &waits), None);
    }
}
