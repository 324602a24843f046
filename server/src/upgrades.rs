//! Nodes that start again with what was installed there, one at a time.
//!
//! ```text
//!   POST upgrade ─► waiting ─► draining ─► restarting ─► hello of another process: done
//!                   (others)   (its tasks)  (answer to POST standing)
//! ```
//!
//! How far an upgrade is lies in the node's record; what drives it is the node itself, which tells
//! every few seconds how it stands. So it goes on after a restart of the server, and with any of
//! several servers. Nobody begins while another is under way, and when one has failed, those that
//! wait begin no more. Of a node that is away for too long, the server itself says that it has
//! failed: whoever waits for it hears so, also when no other node is to be upgraded.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;
use sluice_catalog::{
    AuditEntry, Capabilities, Node, NodeId, NodeLiveness, NodeState, Record, Tx, Upgrade,
    UpgradeState,
};
use sluice_node_api::{Hello, Orders, STANDS, mismatch};

use crate::api::Body;
use crate::api::policies::EVERYTHING;
use crate::auth::NodeActor;
use crate::certificates::capabilities;
use crate::problem::{Problem, Result};
use crate::queue::{LOST_MS, all_nodes_as_they_are};
use crate::state::Shared;

/// A node that has not come back after so long has failed.
const BACK_MS: u64 = 10 * 60_000;
/// How often is looked for such, in milliseconds.
const LOOK_MS: u64 = 30_000;

/// A node tells how it stands, and hears whether to start again.
pub(crate) async fn standing(
    State(shared): State<Shared>,
    NodeActor(id): NodeActor,
    Body(hello): Body<Hello>,
) -> Result<Json<Orders>> {
    let told = capabilities(hello)?;
    let known = shared.catalog.read().await?.get::<Node>(id, &EVERYTHING).await?.body;
    let moves = known.upgrade.as_ref().is_some_and(|one| one.state != UpgradeState::Failed);
    if known.capabilities == told && !moves {
        return Ok(Json(Orders::default()));
    }
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    // One server after the other, and no task is given away meanwhile.
    tx.decide_alone().await?;
    let mut node = tx.get::<Node>(id, &EVERYTHING).await?;
    let before = node.body.clone();
    node.body.capabilities = told;
    let restart = step(&mut tx, &mut node, now).await?;
    if node.body != before {
        tx.update(&mut node, now).await?;
    }
    tx.commit().await?;
    shared.work.notify_one();
    Ok(Json(Orders { restart }))
}

/// Takes a node's upgrade a step further; whether it is to start again.
async fn step(tx: &mut Tx, node: &mut Record<Node>, now: u64) -> Result<bool> {
    let Some(upgrade) = node.body.upgrade.clone() else { return Ok(false) };
    match upgrade.state {
        UpgradeState::Failed => Ok(false),
        UpgradeState::Restarting => Ok(true),
        UpgradeState::Draining => {
            let running = tx.liveness().await?.get(&node.id).map_or(0, |seen| seen.running);
            let message = match running {
                0 => "it starts again".to_owned(),
                more => format!("it finishes {more} tasks"),
            };
            let (state, since_ms) = match running {
                0 => (UpgradeState::Restarting, now),
                _ => (UpgradeState::Draining, upgrade.since_ms),
            };
            node.body.upgrade = Some(Upgrade { state, since_ms, message, ..upgrade });
            Ok(running == 0)
        }
        UpgradeState::Waiting => {
            let turn = turn(tx, node.id, &upgrade, now).await?;
            let (state, message) = match turn {
                Turn::Now => (UpgradeState::Draining, "it finishes what it has".to_owned()),
                Turn::After(name) => (UpgradeState::Waiting, format!("{name} goes first")),
                Turn::Never(name) => {
                    not_begun(tx, node, upgrade, &name, now).await?;
                    return Ok(false);
                }
            };
            let since_ms = if state == upgrade.state { upgrade.since_ms } else { now };
            node.body.upgrade = Some(Upgrade { state, since_ms, message, ..upgrade });
            Ok(false)
        }
    }
}

/// Whether a node that waits may begin.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Now,
    After(String),
    Never(String),
}

async fn turn(tx: &mut Tx, own: NodeId, upgrade: &Upgrade, now: u64) -> Result<Turn> {
    let (nodes, seen) = (all_nodes_as_they_are(tx).await?, tx.liveness().await?);
    for mut other in nodes {
        let Some(theirs) = other.body.upgrade.clone().filter(|_| other.id != own) else { continue };
        let heard = seen.get(&other.id).is_some_and(|seen| is_heard(seen, now));
        match theirs.state {
            UpgradeState::Failed => {}
            UpgradeState::Waiting => {
                let first = (theirs.requested_ms, other.id) < (upgrade.requested_ms, own);
                if first && heard {
                    return Ok(Turn::After(other.name));
                }
            }
            UpgradeState::Draining | UpgradeState::Restarting => {
                if !is_away(&theirs, seen.get(&other.id), now) {
                    return Ok(Turn::After(other.name));
                }
                let why = "it did not come back";
                failed(tx, &mut other, (theirs, why), &[own], now).await?;
                tx.update(&mut other, now).await?;
                return Ok(Turn::Never(other.name));
            }
        }
    }
    Ok(Turn::Now)
}

/// Whether a node that was to be upgraded will not come back: it drains for hours, and is away
/// since it was heard last.
fn is_away(upgrade: &Upgrade, seen: Option<&NodeLiveness>, now: u64) -> bool {
    let last = seen.map_or(0, |seen| seen.last_seen_ms);
    upgrade.state != UpgradeState::Failed
        && !seen.is_some_and(|seen| is_heard(seen, now))
        && last.max(upgrade.since_ms) + BACK_MS < now
}

/// Looks after nodes that have not come back: nobody may wait behind them.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    looked_ms: u64,
}

impl Watch {
    /// Says of those that are away that they have failed.
    pub(crate) async fn tick(&mut self, shared: &Shared, now: u64) -> Result<()> {
        if now.abs_diff(self.looked_ms) < LOOK_MS {
            return Ok(());
        }
        self.looked_ms = now;
        let mut tx = shared.catalog.read().await?;
        let found = away(&mut tx, now).await?;
        drop(tx);
        if found.is_empty() {
            return Ok(());
        }
        let mut tx = shared.catalog.begin().await?;
        tx.decide_alone().await?;
        // One that fails takes others with it, so each is looked for anew.
        while let Some(mut node) = away(&mut tx, now).await?.into_iter().next() {
            let Some(upgrade) = node.body.upgrade.take() else { break };
            let waited = upgrade.state == UpgradeState::Waiting;
            let gone = (upgrade, "it did not come back");
            match waited {
                // What was not begun has proved nothing of what is installed.
                true => note_failure(&mut tx, &mut node, gone, now).await?,
                false => failed(&mut tx, &mut node, gone, &[], now).await?,
            }
            tx.update(&mut node, now).await?;
        }
        Ok(tx.commit().await?)
    }
}

async fn away(tx: &mut Tx, now: u64) -> Result<Vec<Record<Node>>> {
    let (mut nodes, seen) = (all_nodes_as_they_are(tx).await?, tx.liveness().await?);
    nodes.retain(|node| {
        let upgrade = node.body.upgrade.as_ref();
        upgrade.is_some_and(|upgrade| is_away(upgrade, seen.get(&node.id), now))
    });
    Ok(nodes)
}

fn is_heard(seen: &NodeLiveness, now: u64) -> bool {
    seen.last_seen_ms + LOST_MS >= now
}

/// A node was started: what lies there is what runs, or its upgrade has failed.
pub(crate) async fn begun(
    tx: &mut Tx,
    node: &mut Record<Node>,
    told: Capabilities,
    now: u64,
) -> Result<()> {
    let (version, again) = (told.version.clone(), told.installed.is_some());
    node.body.capabilities = told;
    let Some(upgrade) = node.body.upgrade.take() else { return Ok(()) };
    match upgrade.state {
        UpgradeState::Waiting | UpgradeState::Failed if again => {
            node.body.upgrade = Some(upgrade);
            return Ok(());
        }
        _ if again => {
            return failed(tx, node, (upgrade, "it came back as it was"), &[], now).await;
        }
        _ => {}
    }
    let detail = json!({"from": upgrade.from, "to": version});
    Ok(tx.audit(did(node, "node.upgraded", detail), now).await?)
}

/// A node that was started is not understood: its upgrade has failed.
pub(crate) async fn refused(tx: &mut Tx, id: NodeId, why: &str, now: u64) -> Result<()> {
    let mut node = tx.get::<Node>(id, &EVERYTHING).await?;
    let Some(upgrade) = node.body.upgrade.take() else { return Ok(()) };
    failed(tx, &mut node, (upgrade, why), &[], now).await?;
    tx.update(&mut node, now).await.map_err(Into::into)
}

/// Notes that an upgrade has failed, and lets those that wait begin no more, but for some, whose
/// records the caller writes as it does that of the node.
async fn failed(
    tx: &mut Tx,
    node: &mut Record<Node>,
    (upgrade, why): (Upgrade, &str),
    but: &[NodeId],
    now: u64,
) -> Result<()> {
    note_failure(tx, node, (upgrade, why), now).await?;
    for mut other in all_nodes_as_they_are(tx).await? {
        let Some(theirs) = other.body.upgrade.take() else { continue };
        let others = other.id == node.id || but.contains(&other.id);
        if others || theirs.state != UpgradeState::Waiting {
            continue;
        }
        not_begun(tx, &mut other, theirs, &node.name, now).await?;
        tx.update(&mut other, now).await?;
    }
    Ok(())
}

/// One that waits begins no more, because that of `name` has failed.
async fn not_begun(
    tx: &mut Tx,
    node: &mut Record<Node>,
    upgrade: Upgrade,
    name: &str,
    now: u64,
) -> Result<()> {
    let why = format!("it was not begun, because that of {name} failed");
    note_failure(tx, node, (upgrade, &why), now).await
}

async fn note_failure(
    tx: &mut Tx,
    node: &mut Record<Node>,
    (upgrade, why): (Upgrade, &str),
    now: u64,
) -> Result<()> {
    let (state, message) = (UpgradeState::Failed, why.to_owned());
    node.body.upgrade = Some(Upgrade { state, since_ms: now, message, ..upgrade });
    Ok(tx.audit(did(node, "node.upgrade-failed", json!({"why": why})), now).await?)
}

fn did(node: &Record<Node>, action: &'static str, detail: serde_json::Value) -> AuditEntry {
    let (actor, object) = (format!("node {}", node.name), node.id.to_string());
    AuditEntry { actor, action, object, project: None, detail }
}

/// The upgrade of a node, if it can be had.
pub(crate) fn asked_for(
    node: &Record<Node>,
    seen: Option<&NodeLiveness>,
    now: u64,
) -> Result<Upgrade> {
    let no = |text: String| Err(Problem::new(StatusCode::CONFLICT, "conflict", text));
    let (name, told) = (&node.name, &node.body.capabilities);
    if let Some(under_way) =
        node.body.upgrade.as_ref().filter(|one| one.state != UpgradeState::Failed)
    {
        return no(format!("{name} is being upgraded: {}", under_way.message));
    }
    if told.contract < STANDS {
        return no(format!(
            "{name} runs a release that does not start again by itself: start its service again"
        ));
    }
    if node.body.state == NodeState::Disabled || !seen.is_some_and(|seen| is_heard(seen, now)) {
        return no(format!("{name} is disabled, or has not been heard of"));
    }
    let Some(installed) = &told.installed else {
        return no(format!(
            "what is installed on {name} is what runs there ({}): install another package first; \
             the node notices it within seconds",
            told.version
        ));
    };
    if !installed.problem.is_empty() {
        return no(installed.problem.clone());
    }
    if let Some(text) = mismatch(installed.contract) {
        return no(format!("what is installed on {name} does not fit to this server: {text}"));
    }
    Ok(Upgrade {
        state: UpgradeState::Waiting,
        requested_ms: now,
        since_ms: now,
        from: told.version.clone(),
        to: installed.version.clone(),
        message: "it begins within seconds".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use sluice_catalog::{AuditFilter, Catalog, Visible};

    use super::*;

    fn upgrade(state: UpgradeState, requested_ms: u64) -> Upgrade {
        let (from, to, message) = ("1.0".to_owned(), "2.0".to_owned(), String::new());
        Upgrade { state, requested_ms, since_ms: 0, from, to, message }
    }

    #[tokio::test]
    async fn what_does_not_come_back_and_what_waits_for_it_have_failed_and_that_is_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("catalog.sqlite").display());
        let catalog = Catalog::open(&url).await.unwrap();
        let mut tx = catalog.begin().await.unwrap();
        let states = [UpgradeState::Restarting, UpgradeState::Waiting, UpgradeState::Waiting];
        let mut nodes = Vec::new();
        for (at, (name, state)) in (0..).zip(["away", "next", "last"].into_iter().zip(states)) {
            let body = Node { upgrade: Some(upgrade(state, at)), ..Node::default() };
            nodes.push(tx.insert(None, name, body, 1).await.unwrap());
        }
        assert!(!step(&mut tx, &mut nodes[1], BACK_MS).await.unwrap());
        let told = |node: &Record<Node>| {
            let upgrade = node.body.upgrade.clone().unwrap();
            (upgrade.state, upgrade.message)
        };
        assert_eq!(told(&nodes[1]), (UpgradeState::Waiting, "away goes first".to_owned()));
        assert!(!step(&mut tx, &mut nodes[1], BACK_MS + 1).await.unwrap());
        let stopped = "it was not begun, because that of away failed";
        let failed = |why: &str| (UpgradeState::Failed, why.to_owned());
        assert_eq!(told(&nodes[1]), failed(stopped));
        tx.update(&mut nodes[1], BACK_MS + 1).await.unwrap();
        for (node, why) in [(&nodes[0], "it did not come back"), (&nodes[2], stopped)] {
            let kept = tx.get::<Node>(node.id, &EVERYTHING).await.unwrap();
            assert_eq!(told(&kept), failed(why));
        }
        let filter = AuditFilter::default();
        let log = tx.audit_found(&Visible::All, &filter, None, 100).await.unwrap();
        let mut of: Vec<String> = log.items.into_iter().map(|row| row.object).collect();
        let mut all: Vec<String> = nodes.iter().map(|node| node.id.to_string()).collect();
        of.sort();
        all.sort();
        assert_eq!(of, all);
    }

    #[test]
    fn a_node_that_is_away_for_too_long_has_failed_whatever_it_was_about() {
        let upgrade = |state| Upgrade {
            state,
            requested_ms: 0,
            since_ms: 1_000_000,
            from: String::new(),
            to: String::new(),
            message: String::new(),
        };
        let seen = |last_seen_ms| NodeLiveness { last_seen_ms, running: 0 };
        let late = 1_000_000 + BACK_MS + 1;
        for state in [UpgradeState::Waiting, UpgradeState::Draining, UpgradeState::Restarting] {
            let upgrade = upgrade(state);
            assert!(is_away(&upgrade, Some(&seen(900_000)), late));
            assert!(is_away(&upgrade, None, late), "nothing is known of it");
            assert!(!is_away(&upgrade, Some(&seen(900_000)), late - 1), "it may come back");
            assert!(!is_away(&upgrade, Some(&seen(1_000_001)), late), "it was heard later");
            assert!(!is_away(&upgrade, Some(&seen(late)), late + BACK_MS), "it drains");
        }
        assert!(!is_away(&upgrade(UpgradeState::Failed), None, late), "it is known already");
    }
}
