//! Which requests let restore points be kept for a shorter time.
//!
//! What is kept of an instance at a destination is what any policy that it has keeps there; where
//! none says anything, everything is. So a first policy shortens, and so does taking away a policy
//! that kept more than those that stay.

use std::collections::BTreeSet;

use axum::http::Method;
use serde_json::Value;
use sluice_catalog::{
    DestinationId, Having, Instance, InstanceId, Keep, Policy, PolicyId, ProjectId, Record, Tx,
    Visible,
};

use crate::access::{At, Permission};
use crate::api::policies::EVERYTHING;
use crate::api::retention_events::about;
use crate::auth::Actor;
use crate::problem::Result;

/// What is kept at a destination; nothing when no policy says anything of it.
fn kept<'p>(
    policies: impl IntoIterator<Item = &'p Policy>,
    destination: DestinationId,
) -> Option<Keep> {
    let all = policies.into_iter().flat_map(Policy::keeps);
    all.filter(|(at, _)| *at == destination).map(|(_, keep)| keep).reduce(Keep::union)
}

/// Whether less is kept than before. Where nobody says anything any more, nothing is removed.
fn is_less(before: Option<Keep>, after: Option<Keep>) -> bool {
    let Some(after) = after else { return false };
    !covers(after, before.unwrap_or_default())
}

/// Whether `more` keeps everything that `less` keeps.
fn covers(more: Keep, less: Keep) -> bool {
    more.clone().union(less) == more
}

/// Whether restore points at some destination are kept for a shorter time than before, whatever
/// instances there are. A rule that is gone shortens too: who knows what takes its place.
fn shortens(old: &Policy, new: &Policy) -> bool {
    old.keeps().any(|(destination, _)| match kept([new], destination) {
        Some(after) => is_less(kept([old], destination), Some(after)),
        None => true,
    })
}

/// Whether an instance that has restore points loses some sooner when it has `after` instead of
/// the policies of `before`.
async fn loses(
    tx: &mut Tx,
    instance: InstanceId,
    before: &[Policy],
    after: &[Policy],
) -> Result<bool> {
    let places: BTreeSet<DestinationId> =
        after.iter().flat_map(Policy::keeps).map(|(at, _)| at).collect();
    for at in places {
        if is_less(kept(before, at), kept(after, at))
            && tx.newest_point(instance, Some(at), None).await?.is_some()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The policies that an instance has.
async fn policies(tx: &mut Tx, instance: &Record<Instance>) -> Result<Vec<Record<Policy>>> {
    Ok(tx.policies_of(instance).await?)
}

fn bodies(records: &[Record<Policy>], without: Option<PolicyId>) -> Vec<Policy> {
    let others = records.iter().filter(|record| Some(record.id) != without);
    others.map(|record| record.body.clone()).collect()
}

/// The project that a request concerns which shortens retention; nothing when it does not.
pub(super) async fn shortened(
    tx: &mut Tx,
    actor: &Actor,
    (method, template, ids): (&Method, &str, &str),
    document: &Value,
) -> Result<Option<Option<ProjectId>>> {
    let visible = actor.visible();
    let (first, second) = ids.split_once('/').unwrap_or((ids, ""));
    match template {
        "/api/v1/policies" => {
            let Ok(new) = serde_json::from_value::<Policy>(document["spec"].clone()) else {
                return Ok(None);
            };
            let project = serde_json::from_value(document["project"].clone()).unwrap_or(None);
            // Who may not make it is refused, and nothing is looked up for that.
            if actor.require(Permission::Manage, project).is_err() {
                return Ok(None);
            }
            let shorter = is_first(tx, project, None, &new).await?;
            Ok(shorter.then_some(project))
        }
        "/api/v1/policies/{id}" => {
            let Ok(id) = first.parse::<PolicyId>() else { return Ok(None) };
            let policy = tx.get::<Policy>(id, &visible).await?;
            if actor.require(Permission::Manage, &policy).is_err() {
                return Ok(None);
            }
            let Ok(new) = serde_json::from_value::<Policy>(document["spec"].clone()) else {
                return Ok(None);
            };
            let shorter = shortens(&policy.body, &new)
                || is_first(tx, policy.project, Some(&policy), &new).await?;
            Ok(shorter.then_some(policy.project))
        }
        // Until it has happened, everything is kept.
        "/api/v1/retention-events" => {
            let of = (
                serde_json::from_value(document["instance"].clone()).unwrap_or(None),
                serde_json::from_value(document["point"].clone()).unwrap_or(None),
            );
            let (project, instance, _) = about(tx, &visible, of).await?;
            let may = actor.require(Permission::Manage, At::instance(project, instance));
            Ok(may.is_ok().then_some(project))
        }
        "/api/v1/instances/{id}" => {
            let Ok(id) = first.parse::<InstanceId>() else { return Ok(None) };
            let old = tx.get::<Instance>(id, &visible).await?;
            let Ok(body) = serde_json::from_value::<Instance>(document["spec"].clone()) else {
                return Ok(None);
            };
            let new = Record { body, ..old.clone() };
            let before = bodies(&policies(tx, &old).await?, None);
            let after = bodies(&policies(tx, &new).await?, None);
            Ok(loses(tx, id, &before, &after).await?.then_some(old.project))
        }
        _ => {
            let (Ok(policy), Ok(id)) = (first.parse::<PolicyId>(), second.parse()) else {
                return Ok(None);
            };
            let policy = tx.get::<Policy>(policy, &visible).await?;
            let instance = tx.get::<Instance>(id, &visible).await?;
            let now = policies(tx, &instance).await?;
            let found = Having::of(&policy, &BTreeSet::new()).has(&instance);
            let mut after = bodies(&now, Some(policy.id));
            // What the policy finds by itself has it still.
            if *method == Method::PUT || found {
                after.push(policy.body.clone());
            }
            let shorter = loses(tx, id, &bodies(&now, None), &after).await?;
            Ok(shorter.then_some(instance.project))
        }
    }
}

/// Whether a policy that says this, instead of what it said, lets any instance lose restore points
/// sooner: one to which it did not apply, or to which no other applied.
async fn is_first(
    tx: &mut Tx,
    project: Option<ProjectId>,
    old: Option<&Record<Policy>>,
    new: &Policy,
) -> Result<bool> {
    let mut record = Record::draft(project, new.clone());
    record.id = old.map_or(record.id, |old| old.id);
    let mut instances = tx.instances_of(&record, &EVERYTHING).await?;
    // Those that it no longer finds.
    if let Some(old) = old {
        for instance in tx.instances_of(old, &Visible::All).await? {
            if instances.iter().all(|known| known.id != instance.id) {
                let now = policies(tx, &instance).await?;
                let after = bodies(&now, Some(old.id));
                if loses(tx, instance.id, &bodies(&now, None), &after).await? {
                    return Ok(true);
                }
            }
        }
    }
    for instance in instances.drain(..) {
        let now = policies(tx, &instance).await?;
        let mut after = bodies(&now, old.map(|old| old.id));
        after.push(new.clone());
        if loses(tx, instance.id, &bodies(&now, None), &after).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keep(last: u32, daily: u32) -> Keep {
        Keep { last, daily, ..Keep::default() }
    }

    fn policy(rules: &[(DestinationId, Keep)]) -> Policy {
        let rules: Vec<Value> = rules
            .iter()
            .map(|(destination, keep)| {
                json!({"name": destination.to_string(), "destination": destination, "keep": keep,
                    "schedules": []})
            })
            .collect();
        serde_json::from_value(json!({ "rules": rules })).unwrap()
    }

    #[test]
    fn keeping_less_anywhere_is_shorter() {
        let (one, two) = (DestinationId::new(1), DestinationId::new(2));
        let old = policy(&[(one, keep(3, 7)), (two, Keep::default())]);
        for (new, shorter) in [
            (policy(&[(one, keep(3, 7)), (two, Keep::default())]), false),
            (policy(&[(one, keep(4, 7)), (two, Keep::default())]), false),
            (policy(&[(one, Keep::default()), (two, Keep::default())]), false),
            (policy(&[(one, keep(9, 6)), (two, Keep::default())]), true),
            (policy(&[(one, keep(3, 7)), (two, keep(99, 99))]), true),
            (policy(&[(one, keep(3, 7))]), true),
            (policy(&[(one, keep(3, 0)), (one, keep(0, 7)), (two, Keep::default())]), false),
        ] {
            assert_eq!(shortens(&old, &new), shorter, "{new:?}");
        }
    }

    #[test]
    fn a_first_policy_keeps_less_than_none_and_the_last_one_gone_keeps_everything() {
        let at = DestinationId::new(1);
        let (few, more) = (policy(&[(at, keep(1, 0))]), policy(&[(at, keep(9, 0))]));
        assert!(is_less(kept([], at), kept([&few], at)));
        assert!(!is_less(kept([], at), kept([&policy(&[(at, Keep::default())])], at)));
        assert!(!is_less(kept([&few], at), kept([&few, &more], at)));
        assert!(is_less(kept([&few, &more], at), kept([&few], at)));
        assert!(!is_less(kept([&few], at), kept([], at)));
    }

    #[test]
    fn a_shorter_time_after_an_event_is_shorter_and_so_is_no_time() {
        let at = DestinationId::new(1);
        let keep = |days: &[(&str, u32)]| Keep {
            after_event: days.iter().map(|(name, days)| ((*name).to_owned(), *days)).collect(),
            ..keep(3, 0)
        };
        let policy = |days| policy(&[(at, keep(days))]);
        let old = policy(&[("sold", 10)]);
        assert!(!shortens(&old, &policy(&[("sold", 11)])));
        assert!(!shortens(&old, &policy(&[("sold", 10), ("over", 1)])));
        assert!(shortens(&old, &policy(&[("sold", 9)])) && shortens(&old, &policy(&[])));
        assert!(shortens(&old, &policy(&[("over", 99)])), "it is another event");
    }

    #[test]
    fn copies_are_kept_as_they_say() {
        let (one, two) = (DestinationId::new(1), DestinationId::new(2));
        let with = |last: u32| -> Policy {
            let copy = json!({"name": "c", "destination": two, "keep": {"last": last}});
            let rule = json!({"name": "r", "destination": one, "schedules": [], "copies": [copy]});
            serde_json::from_value(json!({ "rules": [rule] })).unwrap()
        };
        assert!(shortens(&with(3), &with(2)) && !shortens(&with(2), &with(3)));
    }
}
