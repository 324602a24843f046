//! What tasks wait for, told to whoever reads one.
//!
//! Only a decision on all that waits tells what one of them waits for. So those who ask while one
//! is under way share the next, and however many ask, one decision is made at a time. None is
//! older than the question.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluice_catalog::TaskId;
use sluice_scheduler::queue::Hold;
use tokio::sync::Mutex;

use super::decide;
use crate::problem::Result;
use crate::state::Shared;

/// What tasks wait for, by their ids.
type Holds = Arc<BTreeMap<String, Hold>>;

/// Those who ask.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// How many have asked.
    asked: AtomicU64,
    /// The last decision, and how many had asked when it began.
    last: Mutex<(u64, Holds)>,
}

/// What a task waits for, as far as it can be told.
pub(crate) async fn hold(shared: &Shared, task: TaskId) -> Result<Option<Hold>> {
    let held = &shared.held;
    let own = held.asked.fetch_add(1, Ordering::SeqCst) + 1;
    let mut last = held.last.lock().await;
    if last.0 < own {
        let asked = held.asked.load(Ordering::SeqCst);
        let mut tx = shared.catalog.read().await?;
        let told = decide(&mut tx, None, shared.now()).await?.held;
        let told = told.into_iter().map(|(id, hold)| (id.to_string(), hold));
        *last = (asked, Arc::new(told.collect()));
    }
    Ok(last.1.get(&task.to_string()).copied())
}
