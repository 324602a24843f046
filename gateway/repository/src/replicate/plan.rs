//! Finding out what is missing at the target: listings on both sides, nothing written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::{Destination, ErrorKind as DestinationKind, Key, list_all};

use super::listing::{self, Found, PackName, Packs, Points};
use super::needs::Walker;
use super::reconcile::{Sides, Verdict};
use super::select::{self, Wanted};
use super::slots::{self, Slots};
use super::{Means, Options, Relation, Report, Source, relation, run, state};
use crate::bounded::get_small;
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::id::{
    ChainId, PointId, RepositoryId, commit_key, descriptor_key, pack_key, tombstone_key,
};
use crate::repository::{Repository, parse_error};
use crate::verify::Damage;

/// A pack to copy.
#[derive(Debug, Clone)]
pub(crate) struct PackJob {
    pub(crate) name: PackName,
    pub(crate) source: Found,
    pub(crate) target: Key,
    /// What becomes of what the target has of it.
    pub(crate) instead_of: InsteadOf,
}

/// What a copied pack takes the place of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InsteadOf {
    Nothing,
    /// A damaged object under the same key.
    Damaged,
    /// An older generation, which has less.
    Older(Key),
    /// An older generation, whose slots go into the new one.
    Part(Key),
}

/// Packs, and the points that can be committed when they are there.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) packs: Vec<PackName>,
    pub(crate) points: Vec<Wanted>,
}

/// A batch is closed when it has so many bytes of packs.
const BATCH_BYTES: u64 = 1 << 30;

/// What a replication will do.
#[derive(Debug)]
pub struct Plan {
    pub(crate) source: Source,
    pub(crate) target: Arc<dyn Destination>,
    pub(crate) options: Options,
    pub(crate) relation: Relation,
    pub(crate) id: RepositoryId,
    pub(crate) descriptor: Bytes,
    pub(crate) wanted: Vec<Wanted>,
    pub(crate) jobs: BTreeMap<PackName, PackJob>,
    /// For each point the packs it needs and none before it does, as far as they have to be
    /// copied; nothing when all packs are copied anyway.
    pub(crate) needs: Option<Vec<BTreeSet<PackName>>>,
    /// Packs of points that the target has already, which it may have lost.
    pub(crate) lost: BTreeSet<PackName>,
    pub(crate) segments: Vec<Key>,
    pub(crate) tombstones: Vec<(ChainId, PointId)>,
    /// Nothing when the source is a stale replica.
    pub(crate) slots: Option<Slots>,
    /// Beginnings of data epochs that the target lacks.
    pub(crate) epochs: Vec<Key>,
    pub(crate) damage: Vec<Damage>,
    /// Packs that cannot be copied, and why. Which points need them is found out later.
    pub(crate) bad: BTreeMap<PackName, String>,
    /// Points that are at the target already.
    present: u64,
    /// Collections at the target that were over when this was begun.
    pub(crate) over: BTreeSet<u64>,
}

impl Plan {
    /// Names of the points that are to be copied: INSTANCE@ID, or CHAIN@ID without a key.
    pub fn points(&self) -> Vec<String> {
        self.wanted.iter().map(|wanted| wanted.name.clone()).collect()
    }

    /// Points of the source that the target has.
    pub fn present(&self) -> u64 {
        self.present
    }

    /// Packs to copy.
    pub fn packs(&self) -> u64 {
        self.jobs.len() as u64
    }

    /// Bytes of the packs to copy.
    pub fn bytes(&self) -> u64 {
        self.jobs.values().map(|job| job.source.size).sum()
    }

    /// What was found to be damaged while planning; packs without the points that need them.
    pub fn damage(&self) -> Vec<Damage> {
        let packs = self.bad.iter().map(|((kind, pack), problem)| {
            let object = pack_key(*kind, *pack).to_string();
            Damage::whole(object, problem.clone(), BTreeSet::new())
        });
        self.damage.iter().cloned().chain(packs).collect()
    }

    /// Carries the plan out.
    ///
    /// # Errors
    /// When a destination fails, or the replication is [stopped](super::Progress::stop). What
    /// was copied stays, and the next replication goes on from there. Damage is not an error
    /// but in the report.
    pub async fn run(self, means: Means) -> Result<Report> {
        run::run(self, means).await
    }

    /// The plan in parts, each with the packs its points need.
    pub(crate) fn batches(&mut self) -> Vec<Batch> {
        let wanted = std::mem::take(&mut self.wanted);
        let Some(needs) = &self.needs else {
            return vec![Batch { packs: self.jobs.keys().copied().collect(), points: wanted }];
        };
        let lost = std::mem::take(&mut self.lost).into_iter().filter(|name| {
            self.jobs.contains_key(name) && !needs.iter().any(|needs| needs.contains(name))
        });
        let mut batches = vec![Batch { packs: lost.collect(), points: Vec::new() }];
        let mut bytes = u64::MAX;
        for (point, needs) in wanted.into_iter().zip(needs) {
            if bytes >= BATCH_BYTES {
                batches.push(Batch::default());
                bytes = 0;
            }
            let Some(batch) = batches.last_mut() else { continue };
            for name in needs {
                batch.packs.push(*name);
                bytes += self.jobs.get(name).map_or(0, |job| job.source.size);
            }
            batch.points.push(point);
        }
        batches
    }
}

/// Compares the listings of both sides.
///
/// # Errors
/// [`ErrorKind::Role`] when the target is no replica of the source; [`ErrorKind::WrongKey`]
/// when the key is needed and was not given; or a destination fails.
pub async fn plan(
    source: Source,
    target: Arc<dyn Destination>,
    options: Options,
    means: &Means,
) -> Result<Plan> {
    let relation = relation(&*source.destination, &*target).await?;
    check_relation(relation, &*target)?;
    let key = descriptor_key();
    let descriptor = get_small(&*source.destination, &key).await?;
    let id = Repository::peek(&*source.destination).await?.id();
    let id = id.map_err(|error| parse_error(&key, error))?;
    // Before anything is listed there: one that ends later may take what is listed.
    let over = state::collections_over(&*target).await?;
    // Points before packs: what these points need is then in the listing of packs.
    let here = listing::points(&*source.destination).await?;
    let there = listing::points(&*target).await?;
    let pruned_there = here.live().any(|place| there.tombstones.contains(place));
    let selective = options.need_key() || pruned_there;
    let wanted = select::all(&here, &there);
    let mut plan = Plan {
        present: here.live().filter(|place| there.commits.contains(place)).count() as u64,
        slots: slots::compare(&source, &target).await?,
        epochs: missing(&*source.destination, &*target, "e/").await?,
        lost: BTreeSet::new(),
        segments: Vec::new(),
        tombstones: if options.mirror_prunes { mirrored(&here, &there) } else { Vec::new() },
        source,
        target,
        options,
        relation,
        id,
        descriptor,
        wanted: Vec::new(),
        jobs: BTreeMap::new(),
        needs: None,
        damage: Vec::new(),
        bad: BTreeMap::new(),
        over,
    };
    if selective {
        plan.select(wanted, &there, means).await?;
        if plan.wanted.is_empty() && plan.lost.is_empty() {
            return Ok(plan);
        }
    } else {
        plan.wanted = match &plan.source.key {
            Some(repository) => select::named(repository, wanted).await?,
            None => wanted,
        };
    }
    plan.find_packs().await?;
    plan.find_segments().await?;
    Ok(plan)
}

fn check_relation(relation: Relation, target: &dyn Destination) -> Result<()> {
    let place = target.location();
    let text = match relation {
        Relation::Empty | Relation::Replica => return Ok(()),
        Relation::Twin => format!(
            "{place} is the same repository and takes backups of its own; if it is to follow, \
             make it a replica with `sluice replicate demote` first"
        ),
        Relation::Other => format!("{place} is another repository, with keys of its own"),
    };
    Err(RepositoryError::new(ErrorKind::Role, text))
}

/// Objects of one side that the other lacks.
pub(crate) async fn missing(
    here: &dyn Destination,
    there: &dyn Destination,
    below: &str,
) -> Result<Vec<Key>> {
    let known: BTreeSet<Key> =
        list_all(there, below).await?.into_iter().map(|object| object.key).collect();
    let here = list_all(here, below).await?.into_iter().map(|object| object.key);
    Ok(here.filter(|key| !known.contains(key)).collect())
}

/// Whether the source is a replica that was not brought up to date after the target last was,
/// such as a disk from a drawer: it may still have key slots that were removed for a reason. Two
/// that were brought up to date in one millisecond cannot be told apart, so nothing is taken over.
pub(crate) async fn is_stale(source: &dyn Destination, target: &dyn Destination) -> Result<bool> {
    let Some(ours) = state::mark(source).await? else { return Ok(false) };
    let Some(theirs) = state::mark(target).await? else { return Ok(false) };
    let time = |mark: state::Mark| mark.last_done?.parse::<jiff::Timestamp>().ok();
    Ok(time(theirs).is_some_and(|theirs| time(ours).is_none_or(|ours| ours <= theirs)))
}

/// Tombstones of points the target still shows.
fn mirrored(here: &Points, there: &Points) -> Vec<(ChainId, PointId)> {
    let missing = here
        .tombstones
        .iter()
        .filter(|place| there.commits.contains(place) && !there.tombstones.contains(place));
    missing.copied().collect()
}

impl Plan {
    /// The opened repository, where one is needed.
    pub(crate) fn key(&self) -> Result<Repository> {
        self.source.key.clone().ok_or_else(|| {
            RepositoryError::new(
                ErrorKind::WrongKey,
                "which packs the wanted points need can only be told with the key; give the \
                 passphrase. (Only a copy of everything, to a place that prunes nothing by \
                 itself, does without.)",
            )
        })
    }

    async fn select(&mut self, wanted: Vec<Wanted>, there: &Points, means: &Means) -> Result<()> {
        let repository = self.key()?;
        let (options, now) = (&self.options, means.clock.now_ms());
        let selected = select::some(&repository, &self.target, wanted, there, options, now).await?;
        self.damage.extend(selected.damaged.iter().map(|error| damage_of(error, None)));
        self.needs = Some(Vec::new());
        let (mut walker, mut seen) = (Walker::default(), BTreeSet::new());
        for point in selected.wanted {
            let Some(read) = &point.read else { continue };
            match walker.packs(&repository.shared, read).await {
                Ok(mut packs) => {
                    // Points share most of their packs: a list of all for each would be long.
                    packs.retain(|name| seen.insert(*name));
                    self.needs.get_or_insert_default().push(packs);
                    self.wanted.push(point);
                }
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    // Pages of a point that was pruned meanwhile may go away while it is read.
                    if !is_pruned(&self.source.destination, &point).await? {
                        self.damage.push(damage_of(&error, Some(&point.name)));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        for point in selected.present.iter().filter(|_| self.options.repair) {
            match walker.packs(&repository.shared, point).await {
                Ok(packs) => self.lost.extend(packs),
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    tracing::warn!(%error, %point, "cannot tell which packs this point needs");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Compares the packs of both sides.
    async fn find_packs(&mut self) -> Result<()> {
        let ours = listing::packs(&*self.source.destination).await?;
        let theirs = listing::packs(&*self.target).await?;
        let names: BTreeSet<PackName> = match &self.needs {
            Some(needs) => needs.iter().flatten().chain(&self.lost).copied().collect(),
            None => ours.keys().copied().collect(),
        };
        for name in names {
            self.find_pack(name, &ours, &theirs).await?;
        }
        // What is needed and must not be copied need not be looked at again.
        let jobs = &self.jobs;
        for needs in self.needs.iter_mut().flatten() {
            needs.retain(|name| jobs.contains_key(name));
        }
        Ok(())
    }

    async fn find_pack(&mut self, name: PackName, ours: &Packs, theirs: &Packs) -> Result<()> {
        let (here, there) = (ours.get(&name), theirs.get(&name));
        let verdict = match (here, there) {
            (Some(here), None) => Verdict::Copy(here.key.clone()),
            // Without new points what was enough before is enough.
            (Some(here), Some(there)) if !self.wanted.is_empty() || there.generation == 0 => {
                let sides = Sides {
                    source: &self.source.destination,
                    target: &self.target,
                    repository: self.id,
                    shared: self.source.key.as_ref().map(|repository| &repository.shared),
                };
                sides.judge(name, here, there).await?
            }
            (_, Some(_)) => Verdict::Keep,
            (None, None) => Verdict::Bad("it is missing"),
        };
        let older = there.map(|there| there.key.clone());
        let (target, instead_of) = match (verdict, older) {
            (Verdict::Copy(key), None) => (key, InsteadOf::Nothing),
            (Verdict::Copy(key), Some(older)) => (key, InsteadOf::Older(older)),
            (Verdict::Merge(key), Some(older)) => (key, InsteadOf::Part(older)),
            (Verdict::Repair, Some(key)) => (key, InsteadOf::Damaged),
            (Verdict::Bad(problem), _) => {
                self.bad.insert(name, problem.into());
                return Ok(());
            }
            _ => return Ok(()),
        };
        if let Some(here) = here {
            let job = PackJob { name, source: here.clone(), target, instead_of };
            self.jobs.insert(name, job);
        }
        Ok(())
    }

    /// Index segments the target lacks; of sessions that wrote the wanted packs, where not all
    /// packs are.
    async fn find_segments(&mut self) -> Result<()> {
        let ours = listing::segments(&*self.source.destination).await?;
        let theirs = listing::segments(&*self.target).await?;
        let sessions: Option<BTreeSet<String>> = self
            .needs
            .as_ref()
            .map(|_| self.jobs.keys().map(|(_, pack)| pack.session().to_string()).collect());
        let wanted = |key: &Key| {
            let name = key.as_str().rsplit('/').next().unwrap_or_default();
            let session = name.split('-').next().unwrap_or_default();
            sessions.as_ref().is_none_or(|sessions| sessions.contains(session))
        };
        let missing = ours.into_keys().filter(|key| !theirs.contains_key(key));
        self.segments = missing.filter(wanted).collect();
        Ok(())
    }
}

/// Whether a point has a tombstone by now.
pub(crate) async fn is_pruned(source: &Arc<dyn Destination>, wanted: &Wanted) -> Result<bool> {
    match source.head(&tombstone_key(wanted.chain, wanted.point)).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == DestinationKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The damage that an error tells.
pub(crate) fn damage_of(error: &RepositoryError, point: Option<&str>) -> Damage {
    let (object, problem) = crate::verify::split(error, "");
    Damage::whole(object, problem, point.into_iter().map(str::to_owned).collect())
}

/// The damage of a commit record.
pub(crate) fn damaged_record(wanted: &Wanted, problem: impl ToString) -> Damage {
    let object = commit_key(wanted.chain, wanted.point).to_string();
    Damage::whole(object, problem.to_string(), BTreeSet::from([wanted.name.clone()]))
}
