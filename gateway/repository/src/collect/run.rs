//! Running a collection.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sluice_destination::{Key, list_all};

use crate::collect::budget;
use crate::collect::compact::Moved;
use crate::collect::mark::Marking;
use crate::collect::marks::Marks;
use crate::collect::plan::{CollectionPlan, Drafted};
use crate::collect::roots::{Open, Roots};
use crate::collect::{CollectOptions, CollectPhase, CollectProgress};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::collection::{MAX_VERDICTS, Sentence, Verdict};
use crate::format::id::{
    COLLECTIONS_PREFIX, CollectionPart, PackId, PackKind, SessionId, commit_key, generation_key,
    next_generation, parse_collection_key, segments_prefix,
};
use crate::format::record::SessionRecord;
use crate::host;
use crate::moved::PackNow;
use crate::replicate::state::no_copy_under_way;
use crate::repository::{Repository, Shared};
use crate::session::is_dead;

/// Objects removed with one call.
const BATCH: usize = 1000;
/// How often a collection that others end is begun again.
const ATTEMPTS: usize = 10;
/// Requests that arrive later than this many days after they were sent are not reckoned with.
const TAINTED_DAYS: u16 = 30;

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
    /// Sessions that were declared dead: they can never commit. What they stored is there for the
    /// next backup until they were silent for long.
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
        for _ in 0..ATTEMPTS {
            if let Some(report) = self.attempt(options, progress).await? {
                return Ok(report);
            }
        }
        let text = "other collections end faster than this one begins; they do what is to be done";
        Err(RepositoryError::new(ErrorKind::Conflict, text))
    }

    /// Returns nothing when another collector ended the collection before this one got to it.
    async fn attempt(
        &self,
        options: &CollectOptions,
        progress: &CollectProgress,
    ) -> Result<Option<CollectReport>> {
        let shared = &self.shared;
        let (number, resumes) = shared.next_collection().await?;
        // Asked twice: before, so as not to leave a plan behind; and after, because a replication
        // that begins now looks for a plan.
        no_copy_under_way(&*shared.destination, &shared.clock).await?;
        // C1
        shared.begin_collection(number).await?;
        no_copy_under_way(&*shared.destination, &shared.clock).await?;
        let Drafted { mut plan, marks, roots, verdicts } =
            shared.draft(number, options, progress).await?;
        plan.resumes = resumes;
        let Some(verdicts) = shared.condemn(number, verdicts).await? else { return Ok(None) };
        let shared = shared.clone();
        let report = CollectReport { plan, ..CollectReport::default() };
        let settled = HashSet::new();
        let mut run = Run { shared, number, options, progress, report, settled };
        if let Some(now) = run.roots_when_quiet(!verdicts.is_empty()).await? {
            run.finish(marks, roots, now, verdicts).await?;
        }
        Ok(Some(run.report))
    }
}

/// What became of a pack that was to be compacted.
enum Compacted {
    Moved(Moved),
    /// Somebody else has removed it.
    Gone,
    /// The destination keeps it as it is.
    Locked,
}

struct Run<'o> {
    shared: Arc<Shared>,
    number: u64,
    options: &'o CollectOptions,
    progress: &'o CollectProgress,
    report: CollectReport,
    /// Sessions that have committed, or never can.
    settled: HashSet<SessionId>,
}

impl Run<'_> {
    /// The roots once every open session knows what is condemned (C5 and the beginning of C6).
    /// Nothing when the time to wait is over.
    async fn roots_when_quiet(&mut self, anything: bool) -> Result<Option<Roots>> {
        loop {
            if anything && !self.quiesce().await? {
                return Ok(None);
            }
            let now = self.shared.roots(self.number, self.options.silent).await?;
            // A record may have come late, over a newer one that said what the session needs.
            if !anything || !now.sessions.iter().any(|open| self.lags(open)) {
                return Ok(Some(now));
            }
        }
    }

    fn lags(&self, open: &Open) -> bool {
        open.record.seen_gen < self.number && !self.settled.contains(&open.record.session)
    }

    /// C5: waits until every open session knows what is condemned, or can never commit. Returns
    /// whether that is so.
    async fn quiesce(&mut self) -> Result<bool> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            self.progress.check_stop()?;
            let mut waiting = Vec::new();
            for open in self.shared.sessions(self.number).await? {
                if open.silent > self.options.silent {
                    self.shared.fence(&open.record).await?;
                    self.shared.destination.delete(&open.key).await?;
                    self.report.fenced += 1;
                } else if self.lags(&open) && !self.settle(&open.record).await? {
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

    /// Whether a session has committed or never can. One whose process is gone is fenced, for its
    /// commit may be under way; its record stays, so that the next backup goes on with its packs.
    async fn settle(&mut self, record: &SessionRecord) -> Result<bool> {
        if !self.shared.is_settled(record).await? {
            if !is_dead(record) {
                return Ok(false);
            }
            self.shared.fence(record).await?;
            self.report.fenced += 1;
        }
        self.settled.insert(record.session);
        Ok(true)
    }

    /// C6 to C9.
    async fn finish(
        &mut self,
        marks: Marks,
        roots: Roots,
        now: Roots,
        verdicts: Vec<Verdict>,
    ) -> Result<()> {
        // C6: whatever became a root meanwhile. What was one stays one.
        let marking = Marking::new(self.shared.clone(), marks, self.progress);
        marking.points(now.points.difference(&roots.points), &roots.points).await?;
        let mut marks = marking.into_marks();
        let needs = now.needs();
        let tainted = self.tainted(&marks, &verdicts).await?;
        // C7: what frees space without needing any comes first.
        let (mut dead, mut compact) = (Vec::new(), Vec::new());
        for verdict in verdicts {
            let Verdict { kind, pack, generation, sentence, .. } = verdict;
            let Some(size) = size_of(&marks, kind, pack, generation) else { continue };
            let live = marks.live(kind, pack);
            // Sessions reference no meta packs but those of points.
            let needed = kind == PackKind::Data && needs.contains(&pack);
            let rescued = needed || (sentence == Sentence::Dead && live > 0);
            if rescued {
                self.report.rescued += 1;
            } else if live == 0 {
                dead.push((verdict, size));
            } else {
                compact.push((verdict, size));
            }
        }
        let mut removed: HashSet<(PackKind, PackId)> = HashSet::new();
        self.remove_dead(&mut marks, dead, &mut removed).await?;
        self.compact_all(&mut marks, compact).await?;
        // C8
        let gone = now.gone.iter().filter(|place| !roots.points.contains(place));
        let gone = gone.map(|(chain, point)| commit_key(*chain, *point)).collect();
        let mut traces = self.unlocked(gone).await?;
        traces.extend(now.expired_pins.iter().cloned());
        traces.extend(self.empty_segments(&marks, &removed, &now).await?);
        self.remove(&traces).await?;
        // C9
        self.shared.put_verdicts(self.number, CollectionPart::Done, tainted).await?;
        self.tidy_up().await?;
        self.shared.load_ballast().await;
        Ok(())
    }

    /// Those of the objects that the destination lets go.
    async fn unlocked(&self, keys: Vec<Key>) -> Result<Vec<Key>> {
        let locks = self.shared.live_locks(&keys).await?;
        Ok(keys.into_iter().zip(locks).filter(|(_, l)| l.is_none()).map(|(key, _)| key).collect())
    }

    async fn remove(&self, keys: &[Key]) -> Result<()> {
        for batch in keys.chunks(BATCH) {
            self.progress.check_stop()?;
            self.shared.destination.delete_many(batch).await?;
        }
        Ok(())
    }

    /// Generations that a later one has replaced: what a crash left of a compaction.
    async fn replaced(&self, marks: &mut Marks) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        for (kind, pack, older) in marks.replaced.clone() {
            self.progress.check_stop()?;
            let key = generation_key(kind, pack, older);
            let Some(newer) = generation_of(marks, kind, pack) else { continue };
            let live = marks.slots(kind, pack);
            if self.shared.replaces(kind, pack, (older, newer), &live).await? {
                keys.push(key);
            } else {
                let newer = generation_key(kind, pack, newer);
                tracing::warn!(%key, %newer, "it stays: the later one is no compaction of it");
            }
        }
        Ok(keys)
    }

    async fn remove_dead(
        &mut self,
        marks: &mut Marks,
        dead: Vec<(Verdict, u32)>,
        removed: &mut HashSet<(PackKind, PackId)>,
    ) -> Result<()> {
        self.progress.start(CollectPhase::Removing, dead.len() as u64);
        let keys = self.replaced(marks).await?;
        self.remove(&self.unlocked(keys).await?).await?;
        for batch in dead.chunks(BATCH) {
            let key = |one: &Verdict| generation_key(one.kind, one.pack, one.generation);
            let keys: Vec<Key> = batch.iter().map(|(one, _)| key(one)).collect();
            // A backup that never committed may have locked some since they were condemned.
            let locks = self.shared.live_locks(&keys).await?;
            let free = keys.into_iter().zip(&locks).filter(|(_, lock)| lock.is_none());
            self.remove(&free.map(|(key, _)| key).collect::<Vec<_>>()).await?;
            for ((one, size), _) in batch.iter().zip(&locks).filter(|(_, lock)| lock.is_none()) {
                removed.insert((one.kind, one.pack));
                self.report.removed_packs += 1;
                self.report.freed += u64::from(*size);
            }
            self.progress.done.fetch_add(batch.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn compact_all(&mut self, marks: &mut Marks, compact: Vec<(Verdict, u32)>) -> Result<()> {
        self.progress.start(CollectPhase::Compacting, compact.len() as u64);
        for (verdict, size) in compact {
            self.progress.check_stop()?;
            let Verdict { kind, pack, generation, .. } = verdict;
            let key = generation_key(kind, pack, generation);
            let now = PackNow { generation, key: key.clone(), size: u64::from(size) };
            let live = marks.slots(kind, pack);
            let begun = Instant::now();
            match self.compact_one(&verdict, &now, &live).await {
                Ok(Compacted::Gone | Compacted::Locked) => {}
                Ok(Compacted::Moved(moved)) => {
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
                }
            }
            self.progress.done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What nothing may reference from now on: all that is condemned, also what is removed, for
    /// a late request may bring it back and another remove it again; and what was tainted before,
    /// while it is there, or such requests may come.
    async fn tainted(&self, marks: &Marks, verdicts: &[Verdict]) -> Result<Vec<Verdict>> {
        let (today, sentence) = (self.shared.today(), Sentence::Tainted);
        let mut tainted = self.shared.tainted_before().await?;
        tainted.extend(verdicts.iter().map(|one| Verdict { sentence, day: today, ..*one }));
        budget::once(&mut tainted);
        let is_new = |one: &Verdict| today.saturating_sub(one.day) <= TAINTED_DAYS;
        let (mut tainted, mut old): (Vec<_>, Vec<_>) = tainted.into_iter().partition(is_new);
        old.retain(|one| is_there(marks, one));
        // Old ones may be there for ever. They leave room, or nothing could be condemned any more.
        let most = self.options.most_named.min(MAX_VERDICTS);
        if old.len() > most / 2 {
            old = budget::shorten(old, most / 4);
        }
        tainted.append(&mut old);
        // Longer only by lists of before there was a budget.
        Ok(budget::shorten(tainted, most))
    }

    /// Puts the next generation of a pack and removes this one. A backup may have locked it since
    /// it was condemned, also while it was copied: then it stays.
    async fn compact_one(
        &self,
        verdict: &Verdict,
        now: &PackNow,
        live: &[u16],
    ) -> Result<Compacted> {
        let Verdict { kind, pack, .. } = *verdict;
        if self.shared.live_lock(&now.key).await?.is_some() {
            return Ok(Compacted::Locked);
        }
        let Some(moved) = self.shared.compact(kind, pack, now, live).await? else {
            return Ok(Compacted::Gone);
        };
        if let Some(lock) = self.shared.live_lock(&now.key).await? {
            // Whoever locked it did so for what references it, which is read from the new one now.
            let next = next_generation(now.generation).unwrap_or(now.generation);
            let next = generation_key(kind, pack, next);
            self.shared.lock_like(Some(lock), &next).await?;
        } else {
            self.shared.destination.delete(&now.key).await?;
        }
        Ok(Compacted::Moved(moved))
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

    /// Removes the records of earlier collections, but for the end of the one before: should that
    /// of this one be damaged, it tells what was tainted before, unless it is damaged itself.
    async fn tidy_up(&self) -> Result<()> {
        let objects = list_all(&*self.shared.destination, COLLECTIONS_PREFIX).await?;
        let read = self.shared.read_verdicts(self.number - 1, CollectionPart::Done).await;
        let useful = read.is_ok();
        let earlier = objects.into_iter().filter_map(|object| {
            let (number, part) = parse_collection_key(&object.key)?;
            let is_end = part == CollectionPart::Done;
            let before = number + 1 == self.number && is_end;
            (number < self.number && !(before && useful)).then_some((is_end, object.key))
        });
        let (ends, others): (Vec<_>, Vec<_>) = earlier.partition(|(is_end, _)| *is_end);
        // Ends go last: what is left of a collection without its end looks as if it were under way.
        for part in [others, ends] {
            self.remove(&part.into_iter().map(|(_, key)| key).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }
}

fn generation_of(marks: &Marks, kind: PackKind, pack: PackId) -> Option<u32> {
    let rows = marks.rows();
    let at = rows.binary_search_by_key(&(kind, pack), |row| (row.kind, row.pack)).ok()?;
    Some(rows[at].generation)
}

fn size_of(marks: &Marks, kind: PackKind, pack: PackId, generation: u32) -> Option<u32> {
    let rows = marks.rows();
    let at = rows.binary_search_by_key(&(kind, pack), |row| (row.kind, row.pack)).ok()?;
    (rows[at].generation == generation).then_some(rows[at].size)
}

/// Whether anything is there that a verdict names.
fn is_there(marks: &Marks, one: &Verdict) -> bool {
    if one.sentence != Sentence::TaintedUpTo {
        return size_of(marks, one.kind, one.pack, one.generation).is_some();
    }
    let at = marks.rows().partition_point(|row| row.kind < one.kind);
    marks.rows().get(at).is_some_and(|row| row.kind == one.kind && row.pack <= one.pack)
}

impl From<&Open> for Waiting {
    fn from(open: &Open) -> Self {
        let record = &open.record;
        let host = host::display(&record.host);
        Self { instance: record.instance.clone(), host, silent: open.silent }
    }
}
