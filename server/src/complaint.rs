//! What goes wrong each second is said once a minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sluice_catalog::{Found, Kind, Page, Record, Tx, Visible};

use crate::api::policies::EVERYTHING;
use crate::problem::{Problem, Result};

/// How long the same is not said again.
const PAUSE: Duration = Duration::from_secs(60);
/// Things of which is remembered when they were said; with more, all may be said again.
const MOST: usize = 10_000;

static SAID: Mutex<Option<HashMap<String, Instant>>> = Mutex::new(None);

/// Tells that something cannot be seen to, unless that was told just now.
pub(crate) fn complain(what: &str, why: &str) {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let said = said.get_or_insert_default();
    if said.len() >= MOST {
        said.clear();
    }
    let now = Instant::now();
    if said.get(what).is_some_and(|last| now.duration_since(*last) < PAUSE) {
        return;
    }
    said.insert(what.to_owned(), now);
    tracing::error!("{what} cannot be seen to: {why}");
}

/// All records of a kind that can be read; the others are told of.
///
/// # Errors
/// Those of the database.
pub(crate) async fn all_readable<K: Kind>(tx: &mut Tx) -> Result<Vec<Record<K>>> {
    readable(tx, &EVERYTHING).await
}

/// The same, of those that somebody may know of.
///
/// # Errors
/// Those of the database.
pub(crate) async fn readable<K: Kind>(tx: &mut Tx, visible: &Visible) -> Result<Vec<Record<K>>> {
    let (mut records, mut page) = (Vec::new(), Page { after: None, limit: Page::LARGEST });
    loop {
        let part = tx.list_readable::<K>(visible, &page).await?;
        let Some(last) = part.last else { return Ok(records) };
        page.after = Some(last);
        for (_, name, error) in part.unreadable {
            complain(&format!("the {} {name}", K::WORD), &error.to_string());
        }
        records.extend(part.records);
    }
}

/// What can be read of what was found of things that are called `word`; the others are told of.
pub(crate) fn apart<T>(word: &str, found: Found<T>) -> Vec<T> {
    for one in found.unreadable {
        complain(&format!("the {word} {}", one.id), &one.error.to_string());
    }
    found.items
}

/// Lets the others go on without something that fails for a reason of its own. A database that does
/// not answer now is no such reason.
///
/// # Errors
/// When the database does not answer.
pub(crate) fn go_on<T>(what: &str, done: Result<T>) -> Result<Option<T>, Problem> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(problem) if problem.is_outage() => Err(problem),
        Err(problem) => {
            complain(what, &problem.detail);
            Ok(None)
        }
    }
}
