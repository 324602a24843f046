//! Healing from a replica: a copy of the repository on another destination.
//!
//! Objects are immutable and named for ever, so the replica's object of the same name is the very
//! object that was damaged here. It is taken when two things hold: what lies here fails its own
//! checks (or is missing), which is looked at again immediately before, and what comes from there
//! passes all of them: seal, hash, and the id of every content in it. Packs that were compacted on
//! a side are put together slot by slot.
//!
//! # Why replacing is safe
//!
//! Bytes that authenticate under a name are unique: a (pid, slot) is sealed once, a record key has
//! one outcome. Whoever writes the object at the same time writes the same bytes. A collector
//! that removes the object meanwhile leaves one that nobody refers to, for the next collection.
//!
//! # Order
//!
//! Descriptor, key slots, records, points that only the replica has, each record after all that it
//! needs, then packs from the top of the block maps down: what is damaged below a page shows only
//! when the page can be read again.

mod packs;
mod points;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use sluice_destination::{Destination, Key};

pub(crate) use records::{descriptor_flaw, slot_flaw, witnessed};

use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::id::pack_key;
use crate::replicate::state::Underway;
use crate::repository::{Repository, Shared, Unlock};
use crate::verify::{Damage, Depth, Memory, PackName, VerifyProgress};
use packs::{Brought, How, bring_one};

/// Packs brought side by side.
const PARALLEL: usize = 4;
/// Damage is looked for at most so often; each time one level of the block maps shows.
const MOST_ROUNDS: usize = 8;

/// What to heal.
#[derive(Debug, Clone)]
pub struct HealOptions {
    /// How deep to look for damage.
    pub depth: Depth,
    /// Say what would be done, and change nothing.
    pub dry_run: bool,
    /// Bring back points that only the replica has: they may be lost here, or pruned.
    pub missing_points: bool,
}

/// An object that was healed, or could not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HealedObject {
    /// The object's key.
    pub object: String,
    /// What was wrong with it; for one that could not be healed, also why not.
    pub problem: String,
}

/// What healing came to.
#[derive(Debug, Clone, Default)]
pub struct HealReport {
    /// Objects replaced or brought back (with `dry_run`: that would be).
    pub healed: Vec<HealedObject>,
    /// Damaged objects that the replica could not help with.
    pub failed: Vec<HealedObject>,
    /// What cannot be told, or was left alone on purpose.
    pub notes: Vec<String>,
    /// Points only the replica has, as keys of their commit records.
    pub only_there: Vec<String>,
    /// What is still damaged, as a verification at the end tells.
    pub remaining: Vec<Damage>,
}

/// Both sides, and what was done so far.
pub(super) struct Healing {
    /// The damaged side.
    pub(super) here: Repository,
    /// The replica.
    pub(super) there: Repository,
    pub(super) options: HealOptions,
    pub(super) report: HealReport,
    /// Packs that are sound now, for the record.
    proven: BTreeSet<PackName>,
    /// Packs there is no use in trying again.
    hopeless: BTreeSet<PackName>,
    /// While points are brought that nothing refers to yet.
    underway: Option<Underway>,
}

impl Repository {
    /// Heals the repository at `damaged` from this one, its replica. `unlock` is how this one
    /// was opened.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when `damaged` is another repository, or nothing there tells that
    /// it is this one; or a destination fails.
    pub async fn heal(
        &self,
        damaged: Arc<dyn Destination>,
        unlock: &Unlock,
        options: HealOptions,
        progress: Arc<VerifyProgress>,
    ) -> Result<HealReport> {
        let shared = &self.shared;
        records::must_be_the_same(&*damaged, shared.id).await?;
        let here = Self::assemble(
            damaged,
            shared.id,
            crate::keys::Opened {
                secrets: shared.secrets.clone(),
                epoch: shared.keys.epoch(crate::format::id::PackKind::Data),
                slot: String::new(),
                content: None,
            },
            shared.descriptor.clone(),
            shared.clock.clone(),
            shared.settings.clone(),
        )?;
        let mut healing = Healing {
            here,
            there: self.clone(),
            options,
            report: HealReport::default(),
            proven: BTreeSet::new(),
            hopeless: BTreeSet::new(),
            underway: None,
        };
        healing.descriptor().await?;
        healing.key_slots(unlock).await?;
        healing.records().await?;
        healing.missing_points().await?;
        healing.packs(progress).await?;
        let mut report = healing.report;
        report.healed.sort();
        report.failed.sort();
        Ok(report)
    }
}

impl Healing {
    pub(super) fn here(&self) -> &Arc<Shared> {
        &self.here.shared
    }

    /// Puts an object that was checked in place of one that fails its checks.
    pub(super) async fn replace(
        &mut self,
        key: &Key,
        bytes: bytes::Bytes,
        problem: &str,
    ) -> Result<()> {
        if !self.options.dry_run {
            let lock = self.here().lock_on(key).await?;
            self.here().destination.put(key, bytes).await?;
            self.here().lock_like(lock, key).await?;
        }
        self.report.healed.push(HealedObject { object: key.to_string(), problem: problem.into() });
        Ok(())
    }

    pub(super) fn fail(&mut self, key: &Key, problem: &str) {
        let (object, problem) = (key.to_string(), problem.to_owned());
        self.report.failed.push(HealedObject { object, problem });
    }

    async fn packs(&mut self, progress: Arc<VerifyProgress>) -> Result<()> {
        let known = self.here().bad_slots().await?;
        let known = known.packs().map(|name| (name, "recorded as damaged".to_owned())).collect();
        for (key, problem) in self.bring(known, false).await? {
            // Points that need it are told below; perhaps none does any more.
            self.report.notes.push(format!("{key} is {problem}"));
        }
        let (mut depth, mut deepest) = (Depth::Structure, Vec::new());
        for _ in 0..MOST_ROUNDS {
            let found = self.here.verify(None, depth, progress.clone()).await?;
            let suspects: BTreeMap<PackName, String> = found
                .damage
                .iter()
                .chain(&found.warnings)
                .filter_map(|one| Some(((one.place?.kind, one.place?.pack), one.problem.clone())))
                .filter(|(name, _)| !self.hopeless.contains(name))
                .collect();
            let more = !suspects.is_empty() && !self.options.dry_run;
            for (key, problem) in self.bring(suspects, false).await? {
                self.fail(&key, &problem);
            }
            let through = depth == self.options.depth && (!more || depth != Depth::Structure);
            if depth != Depth::Structure {
                deepest = found.damage;
            } else {
                self.report.remaining = found.damage;
            }
            // From the top down until the maps are whole, then the data, once: what is brought
            // is read back when it is put.
            match (more, through) {
                (false, false) => depth = self.options.depth,
                (true, false) => {}
                (_, true) => break,
            }
        }
        self.remaining(deepest).await?;
        let proven: Vec<PackName> = self.proven.iter().copied().collect();
        if !self.options.dry_run {
            self.here().record_places(&[], &proven).await?;
        }
        Ok(())
    }

    /// What is left of the damage in the data, and of that in the maps.
    async fn remaining(&mut self, deepest: Vec<Damage>) -> Result<()> {
        if !deepest.is_empty() && !self.options.dry_run {
            let found = self.here.verify(None, Depth::Structure, Arc::default()).await?;
            self.report.remaining = found.damage;
        }
        let (proven, dry_run) = (&self.proven, self.options.dry_run);
        let left = |one: &Damage| {
            dry_run || one.place.is_none_or(|place| !proven.contains(&(place.kind, place.pack)))
        };
        self.report.remaining.extend(deepest.into_iter().filter(left));
        let order = |one: &Damage| (one.object.clone(), one.problem.clone());
        self.report.remaining.sort_by_key(order);
        self.report.remaining.dedup_by_key(|one| order(one));
        Ok(())
    }

    /// Brings packs from the replica where those here are damaged, or, with `lacking`, sound and
    /// without what points need; returns those it could not help with.
    async fn bring(
        &mut self,
        suspects: BTreeMap<PackName, String>,
        lacking: bool,
    ) -> Result<Vec<(Key, String)>> {
        let mut failed = Vec::new();
        let memory = Memory::for_threads(self.here().pool.threads());
        let (here, there) = (self.here().clone(), self.there.shared.clone());
        let how = How { lacking, dry_run: self.options.dry_run };
        let mut brought = stream::iter(suspects)
            .map(|(name, problem)| {
                let (here, there, memory) = (&here, &there, &memory);
                async move { (name, problem, bring_one(here, there, name, memory, how).await) }
            })
            .buffer_unordered(PARALLEL);
        while let Some((name, problem, outcome)) = brought.next().await {
            self.beat().await?;
            let key = pack_key(name.0, name.1);
            match outcome? {
                Brought::Healed => {
                    self.proven.insert(name);
                    let object = key.to_string();
                    self.report.healed.push(HealedObject { object, problem });
                }
                Brought::Completed => {
                    self.proven.insert(name);
                    // What it lacks now, the replica does not have.
                    self.hopeless.insert(name);
                    let object = key.to_string();
                    self.report.healed.push(HealedObject { object, problem });
                }
                Brought::NotDamaged => {
                    // What points say of it is wrong, or somebody was faster.
                    self.proven.insert(name);
                    self.hopeless.insert(name);
                }
                Brought::No(why) => {
                    self.hopeless.insert(name);
                    failed.push((key, format!("{problem}; {why}")));
                }
            }
        }
        Ok(failed)
    }
}

/// The error of two repositories that are not one.
pub(super) fn not_the_same(text: String) -> RepositoryError {
    RepositoryError::new(ErrorKind::Conflict, text)
}
