//! Running a collection.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sluice_destination::{ErrorKind as DestinationKind, Key, list_all};

use crate::collect::mark::Marking;
use crate::collect::marks::Marks;
use crate::collect::plan::{CollectionPlan, Drafted};
use crate::collect::roots::{Open, Roots};
use crate::collect::{CollectOptions, CollectPhase, CollectProgress};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::collection::{Sentence, Verdict};
use crate::format::header::Kind;
use crate::format::id::{
    COLLECTIONS_PREFIX, CollectionPart, PackId, PackKind, SessionId, commit_key, generation_key,
    parse_collection_key, segments_prefix,
};
use crate::host;
use crate::moved::PackNow;
use crate::replicate::state::no_copy_under_way;
use crate::repository::{Repository, Shared};
use crate::session::is_dead;

/// Objects removed with one call.
const BATCH: usize = 1000;

/// A session that has not said yet that it knows what is condemned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// What it backs up.
    pub instance: String,
    /// Where it runs.
    pub host: String,
    /// How long it has shown no sign of life.
    pub silent: Duration,
}

/// What a collection came to.
#[derive(Debug, Clone, Default)]
pub struct CollectReport {
    /// What it set out to do.
    pub plan: CollectionPlan,
    /// Packs removed.
    pub removed_packs: u64,
    /// Packs compacted.
    pub compacted_packs: u64,
    /// Bytes that became free.
    pub freed: u64,
    /// Bytes that compaction read and wrote.
    pub moved: u64,
    /// Condemned packs that turned out to be referenced.
    pub rescued: u64,
    /// Sessions that were declared dead: they can never commit.
    pub fenced: u64,
    /// Packs whose compaction failed, with the reason; they are as they were.
    pub failed: Vec<(String, String)>,
    /// Sessions it still waits for. When there are any, nothing was removed: run it again.
    pub waiting: Vec<Waiting>,
}

impl Repository {
    /// Collects. Backups, restores, mounts and other collections may go on meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when a block map cannot be read: nothing is removed then.
    /// [`ErrorKind::Conflict`] while a replication writes here. [`ErrorKind::Cancelled`] when it
    /// was [stopped](CollectProgress::stop). Or the destination fails. The next collection goes on
    /// from there.
    pub async fn collect(
        &self,
        options: &CollectOptions,
        progress: &CollectProgress,
    ) -> Result<CollectReport> {
        let shared = &self.shared;
        let (number, resumes) = shared.next_collection().await?;
        // Asked twice: before, so as not to leave a plan behind; and after, because a replication
        // that begins now looks for a plan.
        no_copy_under_way(&*shared.destination, &shared.clock).await?;
        // C1
        shared.begin_collection(number).await?;
        no_copy_under_way(&*shared.destination, &shared.clock).await?;
        let mut drafted = shared.draft(number, options, progress).await?;
        drafted.plan.resumes = resumes;
        let part = CollectionPart::Condemned;
        drafted.verdicts = match shared.read_verdicts(number, part).await? {
            Some(theirs) => theirs,
            None => {
                shared.put_verdicts(number, part, std::mem::take(&mut drafted.verdicts)).await?
            }
        };
        let shared = shared.clone();
        let Drafted { plan, marks, roots, verdicts } = drafted;
        let report = CollectReport { plan, ..CollectReport::default() };
        let mut run = Run { shared, number, options, progress, report };
        if !verdicts.is_empty() && !run.quiesce().await? {
            return Ok(run.report);
        }
        run.finish(marks, roots, verdicts).await?;
        Ok(run.report)
    }
}

struct Run<'o> {
    shared: Arc<Shared>,
    number: u64,
    options: &'o CollectOptions,
    progress: &'o CollectProgress,
    report: CollectReport,
}

impl Run<'_> {
    fn check_stop(&self) -> Result<()> {
        if !self.progress.is_stopped() {
            return Ok(());
        }
        let text = "the collection was stopped; run it again to go on";
        Err(RepositoryError::new(ErrorKind::Cancelled, text))
    }

    /// C5: waits until every open session knows what is condemned, or can never commit. Returns
    /// whether that is so.
    async fn quiesce(&mut self) -> Result<bool> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            self.check_stop()?;
            let mut waiting = Vec::new();
            for open in self.shared.sessions(self.number).await? {
                if open.silent > self.options.silent {
                    self.shared.fence(&open).await?;
                    self.report.fenced += 1;
                } else if open.record.seen_gen < self.number && !is_dead(&open.record) {
                    waiting.push(open);
                }
            }
            self.progress.start(CollectPhase::Waiting, waiting.len() as u64);
            if waiting.is_empty() {
                return Ok(true);
            }
            if begun.elapsed() >= self.options.wait {
                self.report.waiting = waiting.iter().map(Waiting::from).collect();
                return Ok(false);
            }
            tokio::time::sleep(pause.min(self.options.wait)).await;
            pause = (pause * 2).min(Duration::from_secs(10));
            self.shared.begin_collection(self.number).await?;
        }
    }

    /// C6 to C9.
    async fn finish(&mut self, marks: Marks, roots: Roots, verdicts: Vec<Verdict>) -> Result<()> {
        // C6: whatever became a root meanwhile. What was one stays one.
        let now = self.shared.roots(self.number, self.options.silent).await?;
        let marking = Marking::new(self.shared.clone(), marks, self.progress);
        marking.points(now.points.difference(&roots.points)).await?;
        let mut marks = marking.into_marks();
        let needs = now.needs();
        // C7: what frees space without needing any comes first.
        let mut tainted = self.shared.still_tainted(&marks).await?;
        let (mut dead, mut compact) = (Vec::new(), Vec::new());
        for verdict in verdicts {
            let Verdict { kind, pack, generation, sentence } = verdict;
            let Some(size) = size_of(&marks, kind, pack, generation) else { continue };
            let live = marks.live(kind, pack);
            // Sessions reference no meta packs but those of points.
            let needed = kind == PackKind::Data && needs.contains(&pack);
            let rescued = needed || (sentence == Sentence::Dead && live > 0);
            if rescued {
                tainted.insert(Verdict { sentence: Sentence::Tainted, ..verdict });
                self.report.rescued += 1;
            } else if live == 0 {
                dead.push((verdict, size));
            } else {
                compact.push((verdict, size));
            }
        }
        let mut removed: HashSet<(PackKind, PackId)> = HashSet::new();
        self.remove_dead(&marks, dead, &mut removed).await?;
        self.compact_all(&mut marks, compact, &mut tainted).await?;
        // C8
        let gone = now.gone.iter().filter(|place| !roots.points.contains(place));
        let mut traces: Vec<Key> = gone.map(|(chain, point)| commit_key(*chain, *point)).collect();
        traces.extend(now.expired_pins.iter().cloned());
        traces.extend(self.empty_segments(&marks, &removed, &now).await?);
        self.remove(&traces).await?;
        // C9
        tainted.retain(|one| !removed.contains(&(one.kind, one.pack)));
        let tainted = tainted.into_iter().collect();
        self.shared.put_verdicts(self.number, CollectionPart::Done, tainted).await?;
        self.tidy_up().await
    }

    async fn remove(&self, keys: &[Key]) -> Result<()> {
        for batch in keys.chunks(BATCH) {
            self.check_stop()?;
            self.shared.destination.delete_many(batch).await?;
        }
        Ok(())
    }

    async fn remove_dead(
        &mut self,
        marks: &Marks,
        dead: Vec<(Verdict, u32)>,
        removed: &mut HashSet<(PackKind, PackId)>,
    ) -> Result<()> {
        self.progress.start(CollectPhase::Removing, dead.len() as u64);
        let replaced = marks.replaced.iter();
        let keys: Vec<Key> =
            replaced.map(|(kind, pack, old)| generation_key(*kind, *pack, *old)).collect();
        self.remove(&keys).await?;
        for batch in dead.chunks(BATCH) {
            let key = |one: &Verdict| generation_key(one.kind, one.pack, one.generation);
            let keys: Vec<Key> = batch.iter().map(|(one, _)| key(one)).collect();
            self.remove(&keys).await?;
            removed.extend(batch.iter().map(|(one, _)| (one.kind, one.pack)));
            self.report.removed_packs += batch.len() as u64;
            self.report.freed += batch.iter().map(|(_, size)| u64::from(*size)).sum::<u64>();
            self.progress.done.fetch_add(batch.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn compact_all(
        &mut self,
        marks: &mut Marks,
        compact: Vec<(Verdict, u32)>,
        tainted: &mut BTreeSet<Verdict>,
    ) -> Result<()> {
        self.progress.start(CollectPhase::Compacting, compact.len() as u64);
        for (verdict, size) in compact {
            self.check_stop()?;
            let Verdict { kind, pack, generation, .. } = verdict;
            let key = generation_key(kind, pack, generation);
            let now = PackNow { generation, key: key.clone(), size: u64::from(size) };
            let live = marks.slots(kind, pack);
            let begun = Instant::now();
            match self.shared.compact(kind, pack, &now, &live).await {
                Ok(None) => {}
                Ok(Some(moved)) => {
                    self.shared.destination.delete(&key).await?;
                    tainted.remove(&Verdict { sentence: Sentence::Tainted, ..verdict });
                    self.report.compacted_packs += 1;
                    self.report.freed += now.size.saturating_sub(moved.written);
                    self.report.moved += moved.read + moved.written;
                    let all = moved.read + moved.written;
                    self.progress.moved.fetch_add(all, Ordering::Relaxed);
                    self.throttle(all, begun).await;
                }
                // A full destination or a damaged pack: it stays as it is, and readable.
                Err(error) => {
                    tracing::warn!(%key, %error, "a pack was not compacted");
                    self.report.failed.push((key.to_string(), error.to_string()));
                    tainted.insert(Verdict { sentence: Sentence::Tainted, ..verdict });
                }
            }
            self.progress.done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn throttle(&self, bytes: u64, begun: Instant) {
        let Some(limit) = self.options.limit.filter(|limit| *limit > 0) else { return };
        let due = Duration::from_secs_f64(bytes as f64 / limit as f64);
        tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
    }

    /// Index segments of sessions that have no pack any more.
    async fn empty_segments(
        &self,
        marks: &Marks,
        removed: &HashSet<(PackKind, PackId)>,
        roots: &Roots,
    ) -> Result<Vec<Key>> {
        let there = marks.rows().iter().filter(|row| !removed.contains(&(row.kind, row.pack)));
        let mut sessions: HashSet<SessionId> = there.map(|row| row.pack.session()).collect();
        sessions.extend(roots.owners());
        // Only sessions older than the listing: the packs of younger ones are not in it.
        let listed: HashSet<SessionId> = removed.iter().map(|(_, pack)| pack.session()).collect();
        let prefix = segments_prefix();
        let segments = list_all(&*self.shared.destination, &prefix).await?;
        let empty = segments.into_iter().map(|object| object.key).filter(|key| {
            let session = key.as_str()[prefix.len()..].split('-').next().unwrap_or_default();
            SessionId::parse(session)
                .is_ok_and(|session| listed.contains(&session) && !sessions.contains(&session))
        });
        Ok(empty.collect())
    }

    /// Removes the records of earlier collections.
    async fn tidy_up(&self) -> Result<()> {
        let objects = list_all(&*self.shared.destination, COLLECTIONS_PREFIX).await?;
        let earlier = objects.into_iter().map(|object| object.key).filter(|key| {
            parse_collection_key(key).is_some_and(|(number, _)| number < self.number)
        });
        self.remove(&earlier.collect::<Vec<_>>()).await
    }
}

fn size_of(marks: &Marks, kind: PackKind, pack: PackId, generation: u32) -> Option<u32> {
    let rows = marks.rows();
    let at = rows.binary_search_by_key(&(kind, pack), |row| (row.kind, row.pack)).ok()?;
    (rows[at].generation == generation).then_some(rows[at].size)
}

impl From<&Open> for Waiting {
    fn from(open: &Open) -> Self {
        let record = &open.record;
        let host = host::display(&record.host);
        Self { instance: record.instance.clone(), host, silent: open.silent }
    }
}

impl Shared {
    /// Makes sure that a session never commits, unless it has: its commit record is taken.
    async fn fence(&self, open: &Open) -> Result<()> {
        let record = &open.record;
        let key = commit_key(record.chain, record.point);
        let abort = self.seal_record(Kind::Abort, record.point.0, &[], b"\xa0")?;
        match self.destination.put_new(&key, abort).await {
            Ok(()) => {}
            Err(error) if error.kind() == DestinationKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.destination.delete(&open.key).await?)
    }

    /// Tainted packs of earlier collections that are still there.
    async fn still_tainted(&self, marks: &Marks) -> Result<BTreeSet<Verdict>> {
        let done = self.collections().await?.done;
        let known = match done {
            0 => None,
            number => self.read_verdicts(number, CollectionPart::Done).await?,
        };
        let there = |one: &Verdict| size_of(marks, one.kind, one.pack, one.generation).is_some();
        Ok(known.unwrap_or_default().into_iter().filter(there).collect())
    }
}
