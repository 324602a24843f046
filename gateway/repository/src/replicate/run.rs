//! Carrying a plan out: packs, then index segments, then commit records.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use sluice_destination::{Destination, ErrorKind as DestinationKind, Key, probe};

use super::admit::{self, Raise};
use super::bury::Burial;
use super::listing::PackName;
use super::needs::Walker;
use super::plan::{Batch, InsteadOf, PackJob, Plan, damage_of, damaged_record, is_pruned};
use super::select::Wanted;
use super::slots::{self, Slots};
use super::state::{self, Mark, RunState, Underway};
use super::transfer::{Copied, copy_pack, put_same};
use super::{Means, Relation, Report, check, protections, retain};
use crate::bounded::{get_record, get_small};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::header::Kind;
use crate::format::id::{ChainId, PointId, commit_key, descriptor_key, pack_key, tombstone_key};
use crate::points::Pin;
use crate::repository::{parse_error, rfc3339};
use crate::verify::Damage;

/// Records copied and pins put side by side.
const PARALLEL: usize = 8;
/// Points committed between two looks whether others have taken this copy for dead.
const COMMITS: usize = 64;

pub(crate) async fn run(mut plan: Plan, means: Means) -> Result<Report> {
    means.progress.total_bytes.store(plan.bytes(), Ordering::Relaxed);
    if plan.relation == Relation::Empty {
        check_target(&*plan.target).await?;
    }
    let underway = Underway::begin(&*plan.target, &means.clock).await?;
    let mut underway = underway.planned(&*plan.target, &plan.over).await?;
    let mut run = Run {
        report: Report { damage: std::mem::take(&mut plan.damage), ..Report::default() },
        pins: Vec::new(),
        bad: std::mem::take(&mut plan.bad)
            .into_iter()
            .map(|(name, problem)| (name, (problem, BTreeSet::new())))
            .collect(),
        means,
        plan,
    };
    let result = run.go(&mut underway).await;
    for pin in std::mem::take(&mut run.pins) {
        pin.release().await;
    }
    underway.end(&*run.plan.target).await;
    result.map(|()| run.report)
}

/// A replica may become the primary, so it must be able to arbitrate commits.
async fn check_target(target: &dyn Destination) -> Result<()> {
    let capabilities = probe::probe(target).await?;
    if capabilities.can_arbitrate() {
        return Ok(());
    }
    Err(RepositoryError::new(
        ErrorKind::Destination(DestinationKind::Unfit),
        format!(
            "{} cannot hold a replica: it does not keep the promises a commit rests on \
             ({capabilities:?}); use a store with conditional writes",
            target.location()
        ),
    ))
}

struct Run {
    plan: Plan,
    means: Means,
    report: Report,
    pins: Vec<Pin>,
    /// Packs that are not to be had, why, and the points that need them.
    bad: BTreeMap<PackName, (String, BTreeSet<String>)>,
}

impl Run {
    async fn go(&mut self, underway: &mut Underway) -> Result<()> {
        let mark = self.begin().await?;
        self.pin().await?;
        for batch in self.plan.batches() {
            self.batch(batch, underway).await?;
        }
        for ((kind, pack), (problem, points)) in std::mem::take(&mut self.bad) {
            let object = pack_key(kind, pack).to_string();
            self.report.damage.push(Damage::whole(object, problem, points));
        }
        self.report.damage.extend(protections::copy(&self.plan, &self.means).await?);
        self.copy_tombstones().await?;
        if self.plan.options.keep.is_some() {
            retain::retain(&self.plan, &self.means, &mut self.report).await?;
        }
        self.finish(mark).await
    }

    /// Makes the target a replica that can be opened, and says that a replication runs.
    async fn begin(&mut self) -> Result<Mark> {
        let (source, target) = (&self.plan.source.destination, &self.plan.target);
        let now = rfc3339(self.means.clock.now_ms());
        let known = state::mark(&**target).await?;
        let mut mark = known.unwrap_or_else(|| Mark { since: now.clone(), ..Mark::default() });
        mark.source = source.location();
        mark.repository = self.plan.id.hex();
        mark.last_run = Some(now);
        mark.state = RunState::Running;
        // Before the descriptor: no backup may come in between.
        state::put_mark(&**target, &mark).await?;
        let (is_fresh, slots) = (self.plan.slots.is_some(), self.plan.slots.clone());
        let Slots { added, extra } = slots.unwrap_or_default();
        // What opens comes before what has to be opened, and what no longer may goes last.
        for key in &added {
            let body = get_small(&**source, key).await?;
            put_same(target, key, body).await?;
        }
        let (epochs, refused) = admit::epochs(&self.plan).await?;
        self.report.damage.extend(refused);
        for (key, body) in epochs {
            put_same(target, &key, body).await?;
        }
        if self.plan.relation == Relation::Empty
            && !put_same(target, &descriptor_key(), self.plan.descriptor.clone()).await?
        {
            let text = format!("somebody else made a repository at {}", target.location());
            return Err(RepositoryError::new(ErrorKind::Conflict, text));
        }
        // It is replaced at the source when it asks more of readers than before.
        if self.plan.relation == Relation::Replica && is_fresh {
            let key = descriptor_key();
            let theirs = get_small(&**target, &key).await?;
            let judged = admit::descriptor(&self.plan.descriptor, &theirs);
            match judged.map_err(|error| parse_error(&key, error))? {
                Raise::Keep => {}
                Raise::To(raised) => target.put(&key, raised).await?,
                Raise::Refuse => self.report.damage.push(admit::another_descriptor()),
            }
        }
        self.report.kept_slots = slots::withdraw(&self.plan, &extra).await?;
        Ok(mark)
    }

    async fn finish(&mut self, mut mark: Mark) -> Result<()> {
        let report = &self.report;
        mark.points = report.points.len() as u64;
        (mark.packs, mark.bytes) = (report.packs, report.bytes);
        mark.state = if report.damage.is_empty() { RunState::Done } else { RunState::Incomplete };
        if mark.state == RunState::Done {
            mark.last_done = mark.last_run.clone();
        }
        state::put_mark(&*self.plan.target, &mark).await
    }

    /// Pins the points at the source. Without a key this cannot be; a pack that goes away is
    /// then noticed while it is copied.
    async fn pin(&mut self) -> Result<()> {
        let Some(repository) = self.plan.source.key.clone() else { return Ok(()) };
        let mut pins = stream::iter(self.plan.wanted.clone())
            .map(|wanted| {
                let repository = repository.clone();
                async move {
                    match &wanted.read {
                        Some(read) => repository.pin(read, "replicate").await.map(Some),
                        None => Ok(None),
                    }
                }
            })
            .buffer_unordered(PARALLEL);
        while let Some(pin) = pins.next().await {
            match pin {
                Ok(pin) => self.pins.extend(pin),
                // Pruned or damaged: told when it is its turn to be copied.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Damaged) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn batch(&mut self, batch: Batch, underway: &mut Underway) -> Result<()> {
        self.copy_packs(&batch.packs, underway).await?;
        self.copy_segments().await?;
        let points = self.without_pruned(batch.points).await?;
        let points = self.without_damage(points).await?;
        underway.beat(&*self.plan.target, &self.means.clock).await?;
        let mut points = points.into_iter();
        loop {
            let part: Vec<Wanted> = points.by_ref().take(COMMITS).collect();
            if part.is_empty() {
                return Ok(());
            }
            // It may have slept since the last sign of life.
            underway.beat_if_due(&*self.plan.target, &self.means.clock).await?;
            self.commit_all(part).await?;
        }
    }

    async fn commit_all(&mut self, points: Vec<Wanted>) -> Result<()> {
        let run = &*self;
        let mut commits = stream::iter(points)
            .map(|wanted| async move {
                let committed = run.commit(&wanted).await;
                (wanted, committed)
            })
            .buffered(PARALLEL);
        let (mut done, mut gone, mut damage) = (Vec::new(), Vec::new(), Vec::new());
        while let Some((wanted, committed)) = commits.next().await {
            match committed? {
                Committed::Yes => done.push(wanted.name),
                Committed::Abort => {}
                Committed::Gone => gone.push(wanted.name),
                Committed::Damaged(problem) => damage.push(damaged_record(&wanted, problem)),
            }
        }
        drop(commits);
        self.means.progress.points.fetch_add(done.len() as u64, Ordering::Relaxed);
        self.report.points.extend(done);
        self.report.gone.extend(gone);
        self.report.damage.extend(damage);
        Ok(())
    }

    /// Copies packs side by side.
    async fn copy_packs(&mut self, names: &[PackName], underway: &mut Underway) -> Result<()> {
        let jobs: Vec<PackJob> =
            names.iter().filter_map(|name| self.plan.jobs.get(name)).cloned().collect();
        let (plan, means) = (&self.plan, &self.means);
        let parallel = plan.options.parallel.clamp(1, 64);
        let mut copies = stream::iter(jobs)
            .map(|job| async move {
                let copied = copy_pack(plan, means, &job).await;
                (job, copied)
            })
            .buffer_unordered(parallel);
        while let Some((job, copied)) = copies.next().await {
            means.progress.bytes.fetch_add(job.source.size, Ordering::Relaxed);
            match copied? {
                Copied::Bytes(bytes) => {
                    means.progress.packs.fetch_add(1, Ordering::Relaxed);
                    self.report.packs += 1;
                    self.report.bytes += bytes;
                    self.report.repaired += u64::from(job.instead_of == InsteadOf::Damaged);
                }
                Copied::Damaged(problem) => {
                    self.bad.insert(job.name, (problem, BTreeSet::new()));
                }
                // Collected: no point without a tombstone needs it.
                Copied::Vanished => {}
            }
            underway.beat_if_due(&*plan.target, &means.clock).await?;
        }
        Ok(())
    }

    /// Leaves out the points that were pruned at the source since the listing. While a point has
    /// no tombstone, every pack it needs is there; so after this, packs that went away, or were
    /// gone before they were listed, are none that a point needs.
    async fn without_pruned(&mut self, points: Vec<Wanted>) -> Result<Vec<Wanted>> {
        let source = &self.plan.source.destination;
        let mut looks = stream::iter(points)
            .map(|wanted| async move {
                let pruned = is_pruned(source, &wanted).await;
                (wanted, pruned)
            })
            .buffered(PARALLEL);
        let mut left = Vec::new();
        while let Some((wanted, pruned)) = looks.next().await {
            if pruned? {
                self.report.gone.push(wanted.name);
            } else {
                left.push(wanted);
            }
        }
        Ok(left)
    }

    /// Leaves out the points that need a pack that is not to be had.
    async fn without_damage(&mut self, points: Vec<Wanted>) -> Result<Vec<Wanted>> {
        if self.bad.is_empty() {
            return Ok(points);
        }
        let mut sound = Vec::new();
        let mut walker = Walker::default();
        for wanted in points {
            let needs = match self.needs(&wanted, &mut walker).await {
                Ok(needs) => needs,
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    self.report.damage.push(damage_of(&error, Some(&wanted.name)));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut missing = false;
            for (name, (_, points)) in &mut self.bad {
                // Without a key nobody knows: the safe answer is all.
                if needs.as_ref().is_none_or(|needs| needs.contains(name)) {
                    points.insert(wanted.name.clone());
                    missing = true;
                }
            }
            if !missing {
                sound.push(wanted);
            }
        }
        Ok(sound)
    }

    /// The packs a point needs; nothing when that cannot be told.
    async fn needs(
        &self,
        wanted: &Wanted,
        walker: &mut Walker,
    ) -> Result<Option<BTreeSet<PackName>>> {
        let Some(repository) = &self.plan.source.key else { return Ok(None) };
        let shared = &repository.shared;
        let read = match &wanted.read {
            Some(read) => Some(read.clone()),
            None => shared.read_point(wanted.chain, wanted.point).await?,
        };
        match read {
            Some(read) => walker.packs(shared, &read).await.map(Some),
            None => Ok(Some(BTreeSet::new())), // an ABORT needs nothing
        }
    }

    async fn copy_segments(&mut self) -> Result<()> {
        let keys = std::mem::take(&mut self.plan.segments);
        self.copy_records(keys, Kind::Segment).await
    }

    async fn copy_tombstones(&mut self) -> Result<()> {
        let places = std::mem::take(&mut self.plan.tombstones);
        let run = &*self;
        let mut copies = stream::iter(places)
            .map(|(chain, point)| async move {
                (format!("{chain}@{point}"), run.copy_tombstone(chain, point).await)
            })
            .buffered(PARALLEL);
        let (mut pruned, mut kept) = (Vec::new(), Vec::new());
        while let Some((name, copied)) = copies.next().await {
            match copied? {
                Mirrored::Yes => pruned.push(name),
                Mirrored::Kept => kept.push(name),
                Mirrored::Gone => {}
            }
        }
        drop(copies);
        self.report.pruned.extend(pruned);
        self.report.kept.extend(kept);
        Ok(())
    }

    async fn copy_tombstone(&self, chain: ChainId, point: PointId) -> Result<Mirrored> {
        let key = tombstone_key(chain, point);
        let Some(body) = self.record(&key, Kind::Tombstone).await? else {
            return Ok(Mirrored::Gone);
        };
        let burial = Burial::new(&self.plan, &self.means);
        Ok(match burial.bury(chain, point, body).await? {
            None => Mirrored::Yes,
            Some(keeper) => {
                tracing::info!(%key, ?keeper, "what is kept is not removed at the target");
                Mirrored::Kept
            }
        })
    }

    /// Copies records that nothing depends on. One that is gone or damaged is left out.
    async fn copy_records(&self, keys: Vec<Key>, kind: Kind) -> Result<()> {
        let mut copies = stream::iter(keys)
            .map(|key| async move {
                if let Some(body) = self.record(&key, kind).await? {
                    put_same(&self.plan.target, &key, body).await?;
                }
                Ok::<_, RepositoryError>(())
            })
            .buffer_unordered(PARALLEL);
        while let Some(copied) = copies.next().await {
            copied?;
        }
        Ok(())
    }

    /// A record of the source; nothing when it is gone or damaged.
    async fn record(&self, key: &Key, kind: Kind) -> Result<Option<Bytes>> {
        let (plan, means) = (&self.plan, &self.means);
        let body = match get_record(&*plan.source.destination, key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => return Ok(None),
            other => other?,
        };
        if let Err(error) = check::record(&body, plan.id, kind) {
            tracing::warn!(%key, %error, "not copying a damaged record");
            return Ok(None);
        }
        if let Some(throttle) = &means.throttle {
            throttle.take(body.len() as u64, || means.progress.is_stopped()).await;
        }
        Ok(Some(body))
    }

    /// Copies a commit record, if the point is still there.
    async fn commit(&self, wanted: &Wanted) -> Result<Committed> {
        let (source, target) = (&self.plan.source.destination, &self.plan.target);
        let (chain, point) = (wanted.chain, wanted.point);
        let key = commit_key(chain, point);
        let bytes = match get_record(&**source, &key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => return Ok(Committed::Gone),
            other => other?,
        };
        let checked = match &self.plan.source.key {
            Some(repository) => match repository.shared.parse_point(&key, chain, point, &bytes) {
                Ok(read) => Ok(read.is_some()),
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    Err(damage_of(&error, None).problem)
                }
                Err(error) => return Err(error),
            },
            None => check::commit(&bytes, self.plan.id, chain, point)
                .map(|plain| plain.is_some())
                .map_err(|error| error.to_string()),
        };
        let is_point = match checked {
            Ok(is_point) => is_point,
            Err(problem) => return Ok(Committed::Damaged(problem)),
        };
        if !put_same(target, &key, bytes).await? {
            return Ok(Committed::Damaged("the target has another record in its place".into()));
        }
        Ok(if is_point { Committed::Yes } else { Committed::Abort })
    }
}

/// What became of a commit record.
enum Committed {
    Yes,
    /// It is an ABORT, copied like the others.
    Abort,
    Gone,
    Damaged(String),
}

/// What became of a tombstone.
enum Mirrored {
    Yes,
    /// Something keeps the point.
    Kept,
    /// It was taken back at the source, or is damaged there.
    Gone,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_destination::memory::MemoryDestination;
    use sluice_destination::{ByteRange, list_all};

    use super::*;
    use crate::clock::Clock;
    use crate::replicate::{Options, Source, plan};
    use crate::repository::{InitOptions, Repository, Settings, Unlock};

    #[tokio::test]
    async fn aborts_are_copied_and_are_no_points() {
        let source: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
        let kdf = crate::KdfCost { memory_kib: 64, passes: 1, lanes: 1 };
        let options = InitOptions { unlock: Unlock::Open, recovery: false, kdf, lock: None };
        let (clock, settings) = (Clock::system(), Settings::default());
        let made = Repository::init(source.clone(), clock.clone(), options, settings).await;
        let repository = made.unwrap().0;
        let (chain, point) = (ChainId([4; 16]), PointId::new(7, [1; 10]));
        let sealed = repository.shared.seal_record(Kind::Abort, point.0, &[], &[]).unwrap();
        let key = commit_key(chain, point);
        source.put(&key, sealed.clone()).await.unwrap();
        for key_given in [None, Some(repository)] {
            let target: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
            let means = Means { clock: clock.clone(), throttle: None, progress: Arc::default() };
            let from = Source { destination: source.clone(), key: key_given };
            let plan = plan(from, target.clone(), Options::default(), &means).await.unwrap();
            let report = plan.run(means).await.unwrap();
            assert_eq!((report.points.len(), report.damage.len()), (0, 0));
            assert_eq!(target.get(&key, ByteRange::Full).await.unwrap(), sealed);
            assert_eq!(list_all(&*target, "p/").await.unwrap(), []);
        }
        assert_eq!(list_all(&*source, "p/").await.unwrap(), []);
    }
}
