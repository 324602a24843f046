//! Questions about the files of mounts, from whoever asks a server to the node that has the mount.
//!
//! ```text
//!   download ──► desk of this server ──► a node that waits here ──► answers here
//!                     │ none waits for a moment                        ▲
//!                     ▼                                                │
//!                 database ──► desk of another server ──► node ────────┘ or there: by the database
//! ```
//!
//! Nodes speak first: each waits at a server, any one, for questions. So bytes go through the
//! database only when the node is at another server than whoever asks.
//!
//! # Invariants
//!
//! * What is under way is bounded, for each project and in all ([`PER_PROJECT`], [`IN_ALL`]): so is
//!   the memory that it takes, however large files are.
//! * A question is a node's: no other can answer it.
//! * Who asks waits no longer than [`PATIENCE`], and nothing of a question is left afterwards:
//!   what was asked by a server that died is removed by another.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::Value;
use sluice_catalog::{NodeId, ProjectId, WaitingLook};
use sluice_node_api::{Look, LookAnswer, LookOrder, Unseen};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::api::{Body, Path};
use crate::auth::NodeActor;
use crate::problem::{Problem, Result};
use crate::state::{Shared, new_token};

/// How long a node that waits for questions is kept waiting.
const WAIT: Duration = Duration::from_secs(20);
/// How long an answer may take: a node's own reads give up before.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long it is waited for the node to come here, before others are told of the question.
const HERE: Duration = Duration::from_millis(300);
/// How often is looked what servers tell each other.
const TURN: Duration = Duration::from_millis(200);
/// Questions as old as that are nobody's, in milliseconds.
const OLD_MS: u64 = 120_000;
/// How often is looked for these, in milliseconds.
const SWEEP_MS: u64 = 30_000;
/// Waits of one node at a time; the oldest gives way.
const WAITS: usize = 8;
/// Listings and downloads of one project at a time, on one server.
const PER_PROJECT: usize = 4;
/// The same of all: each download takes some megabytes.
const IN_ALL: usize = 24;

/// What is asked and who waits, on this server.
#[derive(Default)]
pub(crate) struct Looks(Arc<Mutex<Desk>>);

#[derive(Default)]
struct Desk {
    /// Nodes that wait here for questions.
    nodes: BTreeMap<NodeId, VecDeque<oneshot::Sender<LookOrder>>>,
    /// Questions that were asked here and have no answer.
    open: BTreeMap<String, Open>,
    /// What is under way for whom.
    busy: BTreeMap<Option<ProjectId>, usize>,
}

struct Open {
    node: NodeId,
    order: LookOrder,
    stage: Stage,
    answer: oneshot::Sender<LookAnswer>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The node has not come for it.
    Waiting,
    /// The node has it.
    Taken,
    /// All servers are told of it.
    Published,
}

/// A place among what is under way, given back when dropped.
pub(crate) struct Visit {
    desk: Arc<Mutex<Desk>>,
    project: Option<ProjectId>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut desk = lock(&self.desk);
        if let Some(many) = desk.busy.get_mut(&self.project) {
            *many -= 1;
            if *many == 0 {
                desk.busy.remove(&self.project);
            }
        }
    }
}

/// Takes a question back when nobody waits for its answer any more.
struct Asked {
    desk: Arc<Mutex<Desk>>,
    id: String,
}

impl Drop for Asked {
    fn drop(&mut self) {
        lock(&self.desk).open.remove(&self.id);
    }
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// Gives a question to a node that waits here, if one does.
    fn hand_over(&mut self, node: NodeId, mut order: LookOrder) -> bool {
        let Some(waits) = self.nodes.get_mut(&node) else { return false };
        while let Some(wait) = waits.pop_front() {
            match wait.send(order) {
                Ok(()) => return true,
                Err(back) => order = back,
            }
        }
        false
    }
}

impl Looks {
    /// A place for one more listing or download of a project.
    pub(crate) fn enter(&self, project: Option<ProjectId>) -> Result<Visit> {
        let mut desk = lock(&self.0);
        let all: usize = desk.busy.values().sum();
        let own = desk.busy.entry(project).or_default();
        if *own >= PER_PROJECT || all >= IN_ALL {
            if *own == 0 {
                desk.busy.remove(&project);
            }
            let text = "files of mounts are being read already, as many as may be at a time: wait \
                        until one is done";
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", text));
        }
        *own += 1;
        Ok(Visit { desk: Arc::clone(&self.0), project })
    }

    /// Puts a question down, and gives it to the node if that waits here.
    fn put(
        &self,
        node: NodeId,
        mount: &str,
        (path, what): (&str, Look),
    ) -> (Asked, oneshot::Receiver<LookAnswer>) {
        let id = new_token("look");
        let (mount, path) = (mount.to_owned(), path.to_owned());
        let order = LookOrder { id: id.clone(), mount, path, what };
        let (answer, told) = oneshot::channel();
        let mut desk = lock(&self.0);
        let taken = desk.hand_over(node, order.clone());
        let stage = if taken { Stage::Taken } else { Stage::Waiting };
        desk.open.insert(id.clone(), Open { node, order, stage, answer });
        drop(desk);
        (Asked { desk: Arc::clone(&self.0), id }, told)
    }

    /// A question that nobody has come for, from now on everybody's.
    fn publish(&self, id: &str) -> Option<(NodeId, LookOrder)> {
        let mut desk = lock(&self.0);
        let open = desk.open.get_mut(id).filter(|open| open.stage == Stage::Waiting)?;
        open.stage = Stage::Published;
        Some((open.node, open.order.clone()))
    }

    /// Puts down what a node says; gives it back when that was not asked here.
    fn answered(&self, id: &str, node: NodeId, answer: LookAnswer) -> Option<LookAnswer> {
        let mut desk = lock(&self.0);
        if desk.open.get(id).is_none_or(|open| open.node != node) {
            return Some(answer);
        }
        if let Some(open) = desk.open.remove(id) {
            // Whoever asked may have gone.
            let _ = open.answer.send(answer);
        }
        None
    }

    /// A node comes for a question.
    fn come(&self, node: NodeId) -> oneshot::Receiver<LookOrder> {
        let (wait, told) = oneshot::channel();
        let mut desk = lock(&self.0);
        let first = desk.open.values_mut().find(|open| {
            open.node == node && open.stage == Stage::Waiting && !open.answer.is_closed()
        });
        if let Some(open) = first {
            open.stage = Stage::Taken;
            let _ = wait.send(open.order.clone());
            return told;
        }
        let waits = desk.nodes.entry(node).or_default();
        waits.retain(|wait| !wait.is_closed());
        if waits.len() >= WAITS {
            waits.pop_front();
        }
        waits.push_back(wait);
        told
    }

    /// Whether a node waits here, and what was published here.
    fn to_look_for(&self) -> (Vec<NodeId>, Vec<String>) {
        let mut desk = lock(&self.0);
        desk.nodes.retain(|_, waits| {
            waits.retain(|wait| !wait.is_closed());
            !waits.is_empty()
        });
        let published = desk.open.iter().filter(|(_, open)| open.stage == Stage::Published);
        let published = published.map(|(id, _)| id.clone()).collect();
        (desk.nodes.keys().copied().collect(), published)
    }

    fn waits_here(&self, node: NodeId) -> bool {
        let desk = lock(&self.0);
        desk.nodes.get(&node).is_some_and(|waits| waits.iter().any(|wait| !wait.is_closed()))
    }
}

/// Asks a node about a path of a mount.
///
/// # Errors
/// A problem when there is no such thing, it cannot be read, or the node does not answer.
pub(crate) async fn ask(
    shared: &Shared,
    node: NodeId,
    mount: &str,
    asked: (&str, Look),
) -> Result<LookAnswer> {
    let (question, told) = shared.looks.put(node, mount, asked);
    let answer = tokio::time::timeout(PATIENCE, answered(shared, &question, told)).await;
    let answer = answer.unwrap_or_else(|_| {
        let text = "the node does not answer: is it running, and of this release?";
        Err(Problem::new(StatusCode::CONFLICT, "no-node", text))
    })?;
    match answer {
        LookAnswer::Refused { why, message } => Err(match why {
            Unseen::Missing => Problem::new(StatusCode::NOT_FOUND, "no-file", message),
            Unseen::Unfit => Problem::invalid(message),
            Unseen::NotMounted => Problem::new(StatusCode::CONFLICT, "not-mounted", message),
            Unseen::Failed => Problem::new(StatusCode::CONFLICT, "unreadable", message),
        }),
        answer => Ok(answer),
    }
}

async fn answered(
    shared: &Shared,
    question: &Asked,
    mut told: oneshot::Receiver<LookAnswer>,
) -> Result<LookAnswer> {
    let lost = || Problem::new(StatusCode::CONFLICT, "no-node", "the question was given up");
    if let Ok(answer) = tokio::time::timeout(HERE, &mut told).await {
        return answer.map_err(|_| lost());
    }
    let Some((node, order)) = shared.looks.publish(&question.id) else {
        return told.await.map_err(|_| lost());
    };
    let now = shared.now();
    let text = serde_json::to_string(&order).unwrap_or_default();
    let look = WaitingLook { id: order.id, node, question: text };
    // Before it is there: who asks may go away meanwhile.
    let published = Published { shared: shared.clone(), id: look.id.clone() };
    let mut tx = shared.catalog.begin().await?;
    tx.add_look(&look, now).await?;
    tx.commit().await?;
    let answer = told.await.map_err(|_| lost());
    drop(published);
    answer
}

/// Removes a question that all servers were told of, and what was answered, when nobody waits for
/// the answer any more.
struct Published {
    shared: Shared,
    id: String,
}

impl Drop for Published {
    fn drop(&mut self) {
        let (shared, id) = (self.shared.clone(), std::mem::take(&mut self.id));
        // Where nothing runs any more, another server removes it, once it is old.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(problem) = forget(&shared, &id).await {
                tracing::warn!("a question to a node is left for later: {}", problem.detail);
            }
        });
    }
}

async fn forget(shared: &Shared, id: &str) -> Result<()> {
    let mut tx = shared.catalog.begin().await?;
    tx.forget_look(id).await?;
    Ok(tx.commit().await?)
}

/// Takes questions and answers from one server to another, until `shutdown`.
pub(crate) async fn run(shared: Shared, shutdown: CancellationToken) {
    let mut swept_ms = 0;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(TURN) => {}
        }
        if let Err(problem) = turn(&shared, &mut swept_ms).await {
            tracing::warn!("other servers' questions cannot be seen: {}", problem.detail);
        }
    }
}

/// Removes what is nobody's any more, when it was not looked for a while.
async fn sweep(shared: &Shared, swept_ms: &mut u64) -> Result<()> {
    let now = shared.now();
    if now.abs_diff(*swept_ms) < SWEEP_MS {
        return Ok(());
    }
    *swept_ms = now;
    let before = now.saturating_sub(OLD_MS);
    if shared.catalog.read().await?.has_old_looks(before).await? {
        let mut tx = shared.catalog.begin().await?;
        tx.forget_old_looks(before).await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn turn(shared: &Shared, swept_ms: &mut u64) -> Result<()> {
    sweep(shared, swept_ms).await?;
    let (waits, published) = shared.looks.to_look_for();
    if waits.is_empty() && published.is_empty() {
        return Ok(());
    }
    let mut tx = shared.catalog.read().await?;
    let mut questions = match waits.is_empty() {
        true => Vec::new(),
        false => tx.looks_waiting(shared.now().saturating_sub(OLD_MS)).await?,
    };
    questions.retain(|look| waits.contains(&look.node));
    let answers = tx.look_answers(&published).await?;
    drop(tx);
    for (id, text) in answers {
        let failed = || LookAnswer::Refused {
            why: Unseen::Failed,
            message: "another server has passed on what is not understood".into(),
        };
        let answer = serde_json::from_str(&text).unwrap_or_else(|_| failed());
        let mut desk = lock(&shared.looks.0);
        if let Some(open) = desk.open.remove(&id) {
            let _ = open.answer.send(answer);
        }
    }
    for look in questions {
        if !shared.looks.waits_here(look.node) {
            continue;
        }
        let mut tx = shared.catalog.begin().await?;
        let taken = tx.take_look(&look.id, shared.now()).await?;
        tx.commit().await?;
        if taken && let Ok(order) = serde_json::from_str(&look.question) {
            // A node that has gone meanwhile has not heard it: whoever asked asks again.
            lock(&shared.looks.0).hand_over(look.node, order);
        }
    }
    Ok(())
}

/// A node waits for a question.
pub(crate) async fn wait(
    State(shared): State<Shared>,
    NodeActor(node): NodeActor,
) -> Result<Json<Option<LookOrder>>> {
    let mut told = shared.looks.come(node);
    let order = match tokio::time::timeout(WAIT, &mut told).await {
        Ok(order) => order.ok(),
        Err(_) => {
            told.close();
            told.try_recv().ok()
        }
    };
    Ok(Json(order))
}

/// A node answers one.
pub(crate) async fn answer(
    State(shared): State<Shared>,
    NodeActor(node): NodeActor,
    Path(id): Path<String>,
    Body(answer): Body<LookAnswer>,
) -> Result<Json<Value>> {
    let Some(answer) = shared.looks.answered(&id, node, answer) else {
        return Ok(Json(Value::Null));
    };
    let text = serde_json::to_string(&answer).unwrap_or_default();
    let mut tx = shared.catalog.begin().await?;
    // One that nobody asked any more is thrown away.
    tx.answer_look(&id, node, &text, shared.now().saturating_sub(OLD_MS)).await?;
    tx.commit().await?;
    Ok(Json(Value::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_project_cannot_take_all_places() {
        let looks = Looks::default();
        let own = Some(ProjectId::new(1));
        let mut visits: Vec<_> = (0..PER_PROJECT).map(|_| looks.enter(own).unwrap()).collect();
        assert_eq!(looks.enter(own).err().map(|problem| problem.status), Some(429));
        let other = looks.enter(Some(ProjectId::new(2)));
        assert!(other.is_ok());
        visits.pop();
        assert!(looks.enter(own).is_ok());
        let all: Vec<_> = (10..).map_while(|n| looks.enter(Some(ProjectId::new(n))).ok()).collect();
        assert!(all.len() < IN_ALL);
        drop((visits, other, all));
        assert!(lock(&looks.0).busy.is_empty(), "what was refused is not counted");
    }

    #[tokio::test]
    async fn a_question_is_of_one_node_and_gone_with_who_asked() {
        let looks = Looks::default();
        let (own, other) = (NodeId::new(1), NodeId::new(2));
        let (asked, told) = looks.put(own, "m", ("", Look::Stat {}));
        let answer = || LookAnswer::Folder { entries: Vec::new(), more: false };
        assert!(looks.answered(&asked.id, other, answer()).is_some(), "it is another's");
        let mut stranger = looks.come(other);
        assert!(stranger.try_recv().is_err());
        let order = looks.come(own).await.unwrap();
        assert!(looks.publish(&order.id).is_none(), "the node has it");
        assert!(looks.answered(&order.id, own, answer()).is_none());
        assert_eq!(told.await, Ok(answer()));
        let (asked, told) = looks.put(own, "m", ("", Look::Stat {}));
        drop((asked, told));
        assert!(looks.come(own).try_recv().is_err(), "nobody wants to know any more");
        // A node that waits gets the next question at once; one that has left does not.
        let (gone, mut here) = (looks.come(own), looks.come(own));
        drop(gone);
        let (asked, _told) = looks.put(own, "m", ("x", Look::Stat {}));
        assert_eq!(here.try_recv().unwrap().id, asked.id);
    }
}
