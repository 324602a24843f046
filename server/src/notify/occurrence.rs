//! What happened that somebody may want to know.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};
use sluice_catalog::{
    Destination, DestinationId, Instance, Inventory, Policy, Project, ProjectId, Tx,
};
use utoipa::ToSchema;

use super::Wanted;
use crate::api::policies::EVERYTHING;
use crate::complaint::{all_readable, apart, go_on};
use crate::copies;
use crate::problem::{Problem, Result};
use crate::queue::moment;
use crate::quota::{self, Capped, Counted};
use crate::self_backup::SelfBackupState;

/// Transactions may end later than the time that they note, in milliseconds.
const OVERLAP_MS: u64 = 60_000;
/// A node that was not heard of for so long is gone, in milliseconds.
const GONE_MS: u64 = 300_000;
const DAY_MS: u64 = 86_400_000;
/// What stands before the keys of copies.
pub(super) const COPY: &str = "copy/";
/// Before the end of a certificate, it is told at these distances.
const DAYS: [u64; 3] = [1, 7, 30];

/// What may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Event {
    /// A task failed, and is not tried again.
    TaskFailed,
    /// Something was due and did not run.
    MissedRun,
    /// A project uses more than a soft limit.
    QuotaSoft,
    /// A node has not been heard of for five minutes.
    NodeGone,
    /// The server's certificate expires within 30, 7 or 1 days.
    CertificateExpires,
    /// The control plane could not be backed up.
    SelfBackupFailed,
    /// A copy that a policy wants was not made in time.
    CopyOverdue,
    /// What an inventory had found is no longer there: it is not backed up any more.
    InstanceGone,
    /// So much is gone at once that an inventory notes nothing of it until somebody agrees.
    InventoryHeld,
    /// A verification found that a restore point is damaged.
    PointDamaged,
    /// Somebody wants to see whether messages arrive.
    Test,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Occurrence {
    /// What.
    pub(crate) event: Event,
    /// When, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// Of which project.
    pub(crate) project: Option<ProjectId>,
    /// One line for people.
    pub(crate) text: String,
    /// The same for the same occurrence.
    #[serde(skip)]
    pub(crate) key: String,
}

/// All that happened since, and all that holds now; some of it may have been told.
pub(super) async fn since(
    tx: &mut Tx,
    wanted: &Wanted,
    (since, now): (u64, u64),
    certificate_end: Option<u64>,
) -> Result<Vec<Occurrence>> {
    let from = since.saturating_sub(OVERLAP_MS);
    let mut all = Vec::new();
    failed(tx, from, &mut all).await?;
    missed(tx, from, &mut all).await?;
    // What nobody is told of is not looked for.
    if wanted.wants(Event::PointDamaged) {
        damaged(tx, from, &mut all).await?;
    }
    nodes(tx, now, &mut all).await?;
    quotas(tx, now, &mut all).await?;
    found(tx, from, &mut all).await?;
    let own = SelfBackupState::load(tx).await?;
    if let Some(why) = own.failure {
        all.push(Occurrence {
            event: Event::SelfBackupFailed,
            at_ms: own.begun_ms,
            project: None,
            text: format!("the control plane was not backed up: {why}"),
            key: format!("self-backup/{}", own.begun_ms),
        });
    }
    all.extend(certificate_end.and_then(|end| certificate(end, now)));
    Ok(all)
}

/// The copies that are overdue.
pub(super) async fn overdue(tx: &mut Tx, now: u64) -> Result<Vec<Occurrence>> {
    let mut all = Vec::new();
    for (id, copies) in copies::overdue(tx, now).await? {
        let instance = tx.get::<Instance>(id, &EVERYTHING).await.map_err(Problem::from);
        let Some(instance) = go_on(&format!("the instance {id}"), instance)? else { continue };
        for copy in copies {
            let at = tx.get::<Destination>(copy.destination, &EVERYTHING).await;
            let at = at.map_or_else(|_| copy.destination.to_string(), |at| at.name);
            all.push(Occurrence {
                event: Event::CopyOverdue,
                at_ms: now,
                project: instance.project,
                text: format!(
                    "the copy {} of {} at {at} is overdue: there is none of what was backed up at \
                     {} and later",
                    copy.copy,
                    instance.name,
                    moment(copy.since_ms)
                ),
                key: format!("{COPY}{}/{}/{id}/{}", copy.policy, copy.copy, copy.destination),
            });
        }
    }
    Ok(all)
}

fn certificate(end: u64, now: u64) -> Option<Occurrence> {
    let left = end.saturating_sub(now) / DAY_MS;
    let near = DAYS.iter().find(|days| left < **days)?;
    let text = match end < now {
        true => "the server's certificate has expired".to_owned(),
        false => format!("the server's certificate expires in {left} days"),
    };
    let (event, key) = (Event::CertificateExpires, format!("certificate/{near}"));
    Some(Occurrence { event, at_ms: now, project: None, text, key })
}

async fn failed(tx: &mut Tx, from: u64, all: &mut Vec<Occurrence>) -> Result<()> {
    for task in apart("task", tx.failed_since(from).await?) {
        let of = match task.instance {
            Some(id) => match tx.get::<Instance>(id, &EVERYTHING).await {
                Ok(instance) => format!(" of {}", instance.name),
                Err(_) => String::new(),
            },
            None => String::new(),
        };
        all.push(Occurrence {
            event: Event::TaskFailed,
            at_ms: task.finished_ms,
            project: task.project,
            text: format!("{}{of} failed: {} (task {})", task.kind, task.message, task.id),
            key: format!("task/{}", task.id),
        });
    }
    Ok(())
}

async fn missed(tx: &mut Tx, from: u64, all: &mut Vec<Occurrence>) -> Result<()> {
    for one in tx.missed(&EVERYTHING, from).await? {
        let policy = tx.get::<Policy>(one.policy, &EVERYTHING).await;
        let policy = policy.map_or_else(|_| one.policy.to_string(), |policy| policy.name);
        let instance = one.instance.map(|id| id.to_string()).unwrap_or_default();
        all.push(Occurrence {
            event: Event::MissedRun,
            at_ms: one.last_ms,
            project: one.project,
            text: format!("{} of policy {policy} did not run: {}", one.schedule, one.reason),
            key: format!(
                "missed/{}/{}/{instance}/{}/{}",
                one.policy, one.schedule, one.reason, one.last_ms
            ),
        });
    }
    Ok(())
}

async fn damaged(tx: &mut Tx, from: u64, all: &mut Vec<Occurrence>) -> Result<()> {
    let mut names: BTreeMap<DestinationId, String> = BTreeMap::new();
    for point in apart("restore point", tx.damaged_since(from).await?) {
        let (Some(proof), id) = (point.proof, point.new.destination) else { continue };
        let at = match names.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let at = tx.get::<Destination>(id, &EVERYTHING).await;
                new.insert(at.map_or_else(|_| id.to_string(), |at| at.name))
            }
        };
        all.push(Occurrence {
            event: Event::PointDamaged,
            at_ms: proof.at_ms,
            project: point.project,
            text: format!("the restore point {} at {at} is damaged", point.new.point),
            key: format!("damaged/{}/{}", point.id, proof.at_ms),
        });
    }
    Ok(())
}

async fn nodes(tx: &mut Tx, now: u64, all: &mut Vec<Occurrence>) -> Result<()> {
    for node in tx.heard().await? {
        let silent = now.saturating_sub(node.last_seen_ms);
        if silent < GONE_MS {
            continue;
        }
        all.push(Occurrence {
            event: Event::NodeGone,
            at_ms: node.last_seen_ms,
            project: None,
            text: format!("the node {} was last heard of {} s ago", node.name, silent / 1000),
            key: format!("node/{}", node.node),
        });
    }
    Ok(())
}

async fn found(tx: &mut Tx, from: u64, all: &mut Vec<Occurrence>) -> Result<()> {
    for one in apart("finding", tx.gone_since(from).await?) {
        let Ok(instance) = tx.get::<Instance>(one.instance, &EVERYTHING).await else { continue };
        let at_ms = one.gone_ms.unwrap_or(from);
        all.push(Occurrence {
            event: Event::InstanceGone,
            at_ms,
            project: instance.project,
            text: format!("{} is gone: there is no {} any more", instance.name, one.place),
            key: format!("gone/{}/{at_ms}", one.instance),
        });
    }
    for (id, looked) in apart("last look of inventory", tx.held_looks().await?) {
        let Ok(inventory) = tx.get::<Inventory>(id, &EVERYTHING).await else { continue };
        all.push(Occurrence {
            event: Event::InventoryHeld,
            at_ms: looked.at_ms,
            project: inventory.project,
            text: format!("the inventory {}: {}", inventory.name, looked.message),
            key: format!("held/{id}"),
        });
    }
    Ok(())
}

async fn quotas(tx: &mut Tx, now: u64, all: &mut Vec<Occurrence>) -> Result<()> {
    for project in all_readable::<Project>(tx).await? {
        let Some(quota) = quota::of(tx, project.id).await? else { continue };
        let caps = quota.project;
        let used = Counted::load(tx, &caps, project.id, None, now).await?;
        for limit in used.against(&caps) {
            let Capped { words: what, used, .. } = limit;
            let Some(soft) = limit.soft.filter(|soft| used > *soft) else { continue };
            all.push(Occurrence {
                event: Event::QuotaSoft,
                at_ms: now,
                project: Some(project.id),
                text: format!("{} has {used} {what}, above its soft limit of {soft}", project.name),
                key: format!("quota/{}/{what}", project.id),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_of_at_three_distances() {
        let end = 100 * DAY_MS;
        let key = |days: u64| certificate(end, end - days * DAY_MS).map(|one| one.key);
        assert_eq!(key(31), None);
        assert_eq!(key(29).as_deref(), Some("certificate/30"));
        assert_eq!((key(8), key(6).as_deref()), (key(29), Some("certificate/7")));
        assert_eq!(key(0).as_deref(), Some("certificate/1"));
        let late = certificate(end, end + DAY_MS).unwrap();
        assert!(late.text.contains("has expired"), "{}", late.text);
    }
}
