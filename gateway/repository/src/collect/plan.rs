//! What a collection would do, without doing it.

use std::collections::BTreeSet;

use sluice_destination::Key;

use crate::collect::budget;
use crate::collect::mark::Marking;
use crate::collect::marks::{Marks, Row};
use crate::collect::roots::Roots;
use crate::collect::{CollectOptions, CollectPhase, CollectProgress};
use crate::error::Result;
use crate::format::collection::{MAX_VERDICTS, Sentence, Verdict};
use crate::format::id::{CollectionPart, PackId, generation_key, next_generation};
use crate::lock::ms_of;
use crate::repository::{Repository, Shared};

/// Bytes of a pack that are no slots: header, footer, and the table's share is small as well.
const FRAME: u32 = 256;

/// Requests to the destination, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Objects written.
    pub put: u64,
    /// Objects or parts of them read.
    pub get: u64,
    /// Pages of listings.
    pub list: u64,
    /// Removals, each of as many objects as the destination takes.
    pub delete: u64,
}

/// What a collection would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectionPlan {
    /// Number of the collection.
    pub number: u64,
    /// Whether it goes on with one that was interrupted.
    pub resumes: bool,
    /// Points that stay.
    pub points: u64,
    /// Pruned points of which the last traces go.
    pub gone: u64,
    /// Packs on the destination.
    pub packs: u64,
    /// Their bytes.
    pub stored: u64,
    /// Bytes of them that are referenced.
    pub live: u64,
    /// Packs to remove.
    pub dead_packs: u64,
    /// Packs to compact.
    pub compact_packs: u64,
    /// Packs that would go as well, if the destination did not keep them by a lock.
    pub locked_packs: u64,
    /// Bytes of them that nothing references.
    pub locked_bytes: u64,
    /// When the first and the last of these locks end, in ms since 1970.
    pub locked_until: Option<(u64, u64)>,
    /// Packs that would go as well, and are left to the next collections: a list has an end.
    pub later_packs: u64,
    /// Bytes that would become free.
    pub freed: u64,
    /// Bytes that compaction would read and write.
    pub moved: u64,
    /// What it would ask of the destination from here on.
    pub requests: Requests,
    /// Open sessions it would wait for.
    pub open_sessions: u64,
    /// Memory for the marks, in bytes.
    pub memory: u64,
}

/// The plan with what it was made from.
pub(super) struct Drafted {
    pub(super) plan: CollectionPlan,
    pub(super) marks: Marks,
    pub(super) roots: Roots,
    pub(super) verdicts: Vec<Verdict>,
}

impl Repository {
    /// What a collection would do now. Changes nothing.
    ///
    /// # Errors
    /// [`Damaged`](crate::ErrorKind::Damaged) when a block map cannot be read: nothing may go then,
    /// for it is not known what it names. Or the destination fails.
    pub async fn plan_collection(
        &self,
        options: &CollectOptions,
        progress: &CollectProgress,
    ) -> Result<CollectionPlan> {
        let (number, resumes) = self.shared.next_collection().await?;
        let drafted = self.shared.draft(number, options, progress).await?;
        Ok(CollectionPlan { resumes, ..drafted.plan })
    }
}

impl Shared {
    /// The collection to run: the unfinished one, or the next.
    pub(crate) async fn next_collection(&self) -> Result<(u64, bool)> {
        let found = self.collections().await?;
        found.must_follow(CollectionPart::Condemned, found.condemned)?;
        found.must_follow(CollectionPart::Plan, found.begun)?;
        let begun = found.begun.max(found.condemned);
        Ok(if begun > found.done { (begun, true) } else { (found.done + 1, false) })
    }

    /// Steps C2 to C4, without condemning anything.
    pub(super) async fn draft(
        self: &std::sync::Arc<Self>,
        number: u64,
        options: &CollectOptions,
        progress: &CollectProgress,
    ) -> Result<Drafted> {
        progress.start(CollectPhase::Listing, 0);
        // C2: packs first. A pack seen here has either an open session in what is listed later,
        // or its outcome in what is listed last.
        let marks = self.list_packs().await?;
        let roots = self.roots(number, options.silent).await?;
        // C3
        let marking = Marking::new(self.clone(), marks, progress);
        marking.points(roots.points.iter(), &BTreeSet::new()).await?;
        let marks = marking.into_marks();
        // C4
        let owners = roots.owners();
        let there = marks.rows().iter().filter(|row| !owners.contains(&row.pack.session()));
        let judged = there.filter_map(|row| Some((judge(row, options)?, *row))).collect();
        let (mut verdicts, locked) = self.part_locked(judged).await?;
        let most = options.most_named.min(MAX_VERDICTS);
        let later = budget::fit(&mut verdicts, &self.tainted_before().await?, most);
        let mut plan = self.describe(number, &marks, &roots, &verdicts);
        plan.later_packs = later;
        for (row, until) in locked {
            plan.locked_packs += 1;
            plan.locked_bytes += u64::from(row.size.saturating_sub(row.live));
            let (first, last) = plan.locked_until.unwrap_or((until, until));
            plan.locked_until = Some((first.min(until), last.max(until)));
        }
        Ok(Drafted { plan, marks, roots, verdicts })
    }

    /// Those that may go, and those that the destination would keep, with the end of the lock.
    async fn part_locked(
        &self,
        judged: Vec<(Verdict, Row)>,
    ) -> Result<(Vec<Verdict>, Vec<(Row, u64)>)> {
        let key = |row: &Row| generation_key(row.kind, row.pack, row.generation);
        let keys: Vec<Key> = judged.iter().map(|(_, row)| key(row)).collect();
        let (mut free, mut locked) = (Vec::new(), Vec::new());
        for ((verdict, row), lock) in judged.into_iter().zip(self.live_locks(&keys).await?) {
            match lock {
                None => free.push(verdict),
                Some(lock) => locked.push((row, ms_of(lock.until))),
            }
        }
        Ok((free, locked))
    }

    fn describe(
        &self,
        number: u64,
        marks: &Marks,
        roots: &Roots,
        verdicts: &[Verdict],
    ) -> CollectionPlan {
        let mut plan = CollectionPlan {
            number,
            points: roots.points.len() as u64,
            gone: roots.gone.len() as u64,
            packs: marks.rows().len() as u64,
            stored: marks.rows().iter().map(|row| u64::from(row.size)).sum(),
            live: marks.rows().iter().map(|row| u64::from(row.live)).sum(),
            open_sessions: roots.sessions.len() as u64,
            memory: marks.memory() as u64,
            ..CollectionPlan::default()
        };
        let row_of = |pack: PackId, verdict: &Verdict| {
            let key = (verdict.kind, pack);
            let at = marks.rows().binary_search_by_key(&key, |row| (row.kind, row.pack)).ok()?;
            Some(marks.rows()[at])
        };
        for verdict in verdicts {
            let Some(row) = row_of(verdict.pack, verdict) else { continue };
            plan.freed += u64::from(row.size.saturating_sub(row.live));
            if verdict.sentence == Sentence::Compact {
                plan.compact_packs += 1;
                plan.moved += 2 * u64::from(row.live);
                plan.requests.put += 1;
                plan.requests.delete += 1;
                plan.requests.get += 2 + u64::from(row.live >> 20);
            } else {
                plan.dead_packs += 1;
            }
        }
        let each = self.destination.deletes_per_request().max(1) as u64;
        plan.requests.delete += plan.dead_packs.div_ceil(each) + plan.gone.div_ceil(each);
        plan.requests.put += 4;
        plan.requests.list += 8;
        plan
    }
}

fn judge(row: &Row, options: &CollectOptions) -> Option<Verdict> {
    let Row { kind, pack, generation, size, live, .. } = *row;
    let saving = size.saturating_sub(live).saturating_sub(FRAME);
    let sentence = if live == 0 {
        Sentence::Dead
    } else if next_generation(generation).is_some()
        && f64::from(live) < f64::from(size) * options.compact_below
        && u64::from(saving) >= options.min_saving
    {
        Sentence::Compact
    } else {
        return None;
    };
    Some(Verdict { kind, pack, generation, sentence, day: 0 })
}
