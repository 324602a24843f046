//! Key slots: those of the source come to the target, and those it has removed go, while a way in
//! is left.
//!
//! Whoever can write to the source can remove its slots and put something that looks like some. A
//! target that followed would lose its own as well, and a second place is there for just that
//! case. Without the key nobody can tell such a slot from a real one, so then none is removed; with
//! it, one that is known to open the repository has to be left at the target.

use std::sync::Arc;

use sluice_destination::{Destination, Key};

use super::Source;
use super::plan::{Plan, is_stale, missing};
use crate::error::Result;
use crate::keys::{name_of, read_slots};
use crate::repository::Repository;

/// Where the key slots of both sides differ.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots {
    /// Slots that only the source has.
    pub(crate) added: Vec<Key>,
    /// Slots that only the target has.
    pub(crate) extra: Vec<Key>,
}

/// Compares both sides; nothing when the source is a stale replica.
pub(crate) async fn compare(
    source: &Source,
    target: &Arc<dyn Destination>,
) -> Result<Option<Slots>> {
    let source = &*source.destination;
    if is_stale(source, &**target).await? {
        return Ok(None);
    }
    let added = missing(source, &**target, "keys/").await?;
    let extra = missing(&**target, source, "keys/").await?;
    Ok(Some(Slots { added, extra }))
}

/// Removes slots that only the target has. Returns the names of those that stay.
pub(crate) async fn withdraw(plan: &Plan, extra: &[Key]) -> Result<Vec<String>> {
    if extra.is_empty() {
        return Ok(Vec::new());
    }
    let leaves_a_way_in = match &plan.source.key {
        Some(repository) => leaves_a_way_in(repository, &*plan.target, extra).await?,
        None => false,
    };
    if !leaves_a_way_in {
        return Ok(extra.iter().map(name_of).collect());
    }
    for key in extra {
        plan.target.delete(key).await?;
    }
    Ok(Vec::new())
}

/// Whether a slot that is known to open the repository is at the target beside `extra`.
async fn leaves_a_way_in(
    repository: &Repository,
    target: &dyn Destination,
    extra: &[Key],
) -> Result<bool> {
    let slots = read_slots(target).await?;
    let mut others = slots.iter().filter(|(key, _)| !extra.contains(key));
    Ok(others.any(|(key, slot)| {
        slot.as_ref().is_ok_and(|slot| repository.is_way_in(&name_of(key), slot))
    }))
}
