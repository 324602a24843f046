//! Everything at once over two places: backups, removals, holds, collections on both sides and
//! replication run side by side, with clocks that are days apart, requests that come late, and
//! actors that die anywhere. A plain map says what must be there. A third place, with keys of its
//! own, is fed by copies that are written anew: [`far`].
//!
//! After each round: every point that was committed and not removed reads at the source, a held
//! one is never removed, and what is at the target reads, and stays unless the target's own policy
//! lets it go. In the end the target has all that the policy keeps.

mod far;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use proptest::prelude::*;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::wrap::{Effect, Fault, Operation, Rule};
use sluice_destination::{ByteRange, Destination, ErrorKind as DestinationKind, list_all};
use sluice_engine::{Change, Progress, backup};
use sluice_repository::collect::{CollectOptions, CollectProgress};
use sluice_repository::replicate::{self, Means, Options, Source};
use sluice_repository::retention::Policy;
use sluice_repository::{
    Clock, Depth, ErrorKind, InitOptions, Protection, Repository, RestorePoint, Settings,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::*;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
/// Points of each instance that the target's policy keeps, when it has one.
const KEEP: usize = 2;
const INSTANCES: u8 = 2;

type Side = Arc<dyn Destination>;

/// What one actor does in a round.
#[derive(Debug, Clone)]
enum Deed {
    Save { instance: u8, numbers: Vec<u64> },
    Forget { which: usize },
    Hold { which: usize, on: bool },
    CollectSource,
    CollectTarget,
    Copy { with_key: bool },
    Far(far::Deed),
}

/// What goes wrong with the destination as one actor sees it.
#[derive(Debug, Clone)]
enum Trouble {
    None,
    /// It dies at one of its requests, or right after it.
    Dies {
        at: u64,
        after: bool,
    },
    /// Some of its requests fail, and nothing is tried again.
    Fails {
        at: u64,
        times: u64,
    },
    /// Some of its requests come late.
    Late {
        at: u64,
        times: u64,
    },
}

#[derive(Debug, Clone)]
struct Actor {
    deed: Deed,
    here: Trouble,
    there: Trouble,
    /// Hours its clock is ahead, or behind.
    skew: i64,
}

#[derive(Debug, Clone)]
struct Round {
    actors: Vec<Actor>,
    hours: u64,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0..INSTANCES, proptest::collection::vec(0u64..12, 1..6))
            .prop_map(|(instance, numbers)| Deed::Save { instance, numbers }),
        2 => (0usize..6).prop_map(|which| Deed::Forget { which }),
        1 => (0usize..6, any::<bool>()).prop_map(|(which, on)| Deed::Hold { which, on }),
        2 => Just(Deed::CollectSource),
        1 => Just(Deed::CollectTarget),
        3 => any::<bool>().prop_map(|with_key| Deed::Copy { with_key }),
        4 => far::deed().prop_map(Deed::Far),
    ]
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        3 => Just(Trouble::None),
        1 => (0u64..40, any::<bool>()).prop_map(|(at, after)| Trouble::Dies { at, after }),
        1 => (0u64..40, 1u64..3).prop_map(|(at, times)| Trouble::Fails { at, times }),
        3 => (0u64..30, 1u64..6).prop_map(|(at, times)| Trouble::Late { at, times }),
    ]
}

fn actor() -> impl Strategy<Value = Actor> {
    (deed(), trouble(), trouble(), -120i64..120).prop_map(|(deed, here, there, skew)| Actor {
        deed,
        here,
        there,
        skew,
    })
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let round = (proptest::collection::vec(actor(), 1..5), 1u64..40)
        .prop_map(|(actors, hours)| Round { actors, hours });
    proptest::collection::vec(round, 2..9)
}

/// What must be where.
#[derive(Debug, Default)]
struct Model {
    /// Points at the source with their content, oldest first within an instance.
    points: BTreeMap<String, (RestorePoint, Vec<u64>)>,
    held: BTreeSet<String>,
    /// Every content a point ever had.
    ever: BTreeMap<String, Vec<u64>>,
    /// Contents of backups that failed; one whose last answer was lost may be there.
    perhaps: Vec<(String, Vec<u64>)>,
    target: BTreeSet<String>,
    far: far::Model,
}

/// What became of an actor's deed.
enum Done {
    Saved { instance: String, numbers: Vec<u64>, point: Option<Box<RestorePoint>> },
    Forgot { name: String, done: bool },
    Held { name: String, on: bool, done: bool },
    Far(far::Forgot),
    Else,
}

struct World {
    source: Side,
    target: Side,
    /// Another repository, with keys of its own.
    far: Side,
    /// Each instance is backed up by a host of its own.
    caches: Vec<TempDir>,
    hand: Arc<AtomicU64>,
    keep: bool,
    model: Model,
}

/// A destination as one actor sees it.
fn troubled(side: &Side, trouble: &Trouble) -> Side {
    let fault = Fault::new(side.clone());
    let rule = |effect, at: u64| Rule::new(effect).skip(at);
    match *trouble {
        Trouble::None => return side.clone(),
        Trouble::Dies { at, after: false } => fault.inject(rule(Effect::Die, at)),
        Trouble::Dies { at, after: true } => fault.inject(rule(Effect::DieAfter, at)),
        Trouble::Fails { at, times } => {
            let effect = Effect::FailAfter(DestinationKind::Unavailable);
            fault.inject(rule(effect, at).on(Operation::WRITES).times(times));
        }
        Trouble::Late { at, times } => {
            fault.inject(rule(Effect::Delay(Duration::from_millis(2)), at).times(times));
        }
    }
    fault
}

fn blocks(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| noise(*number, BLOCK as usize)).collect()
}

fn eager() -> CollectOptions {
    let (wait, silent) = (Duration::ZERO, Duration::from_secs(24 * 3600));
    CollectOptions { min_saving: BLOCK, wait, silent, ..CollectOptions::default() }
}

async fn open_at(side: Side, clock: Clock, settings: Settings) -> Option<Repository> {
    Repository::open(side, clock, passphrase(), settings).await.ok()
}

impl World {
    async fn new(keep: bool) -> Self {
        let source: Side = Arc::new(MemoryDestination::new());
        let (clock, hand) = Clock::manual(20_000 * DAY);
        let options = InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP, lock: None };
        Repository::init(source.clone(), clock, options, settings(None)).await.unwrap();
        let caches = (0..INSTANCES).map(|_| tempfile::tempdir().unwrap()).collect();
        let target: Side = Arc::new(MemoryDestination::new());
        let far = new_repository().await.0;
        Self { source, target, far, caches, hand, keep, model: Model::default() }
    }

    fn clock(&self, skew: i64) -> Clock {
        let now = self.hand.load(Ordering::SeqCst);
        Clock::manual(now.saturating_add_signed(skew * HOUR as i64)).0
    }

    fn how(&self) -> Options {
        let policy = Policy { keep_last: Some(KEEP as u32), ..Policy::default() };
        Options { keep: self.keep.then_some(policy), ..Options::default() }
    }

    fn chosen(&self, which: usize) -> Option<(String, RestorePoint)> {
        let points = &self.model.points;
        let (name, (point, _)) = points.iter().nth(which % points.len().max(1))?;
        Some((name.clone(), point.clone()))
    }

    /// The deed of an actor, to be done beside those of others.
    fn act(&self, actor: &Actor) -> BoxFuture<'static, Done> {
        // The policy goes by the times that points have: there, all clocks are right.
        let clock = self.clock(if self.keep { 0 } else { actor.skew });
        let here = troubled(&self.source, &actor.here);
        let there = troubled(&self.target, &actor.there);
        match actor.deed.clone() {
            Deed::Save { instance, numbers } => {
                let settings = settings(Some(self.caches[usize::from(instance)].path()));
                save(here, clock, settings, format!("vm{instance}"), numbers).boxed()
            }
            Deed::Forget { which } => match self.chosen(which) {
                Some((name, point)) => forget(here, clock, name, point).boxed(),
                None => async { Done::Else }.boxed(),
            },
            Deed::Hold { which, on } => match self.chosen(which) {
                Some((name, point)) => hold(here, clock, name, point, on).boxed(),
                None => async { Done::Else }.boxed(),
            },
            Deed::CollectSource => collect(here, clock).boxed(),
            Deed::CollectTarget => collect(there, clock).boxed(),
            Deed::Copy { with_key } => {
                copy(here, there, clock, self.how(), with_key || self.keep).boxed()
            }
            Deed::Far(deed) => {
                let far = troubled(&self.far, &actor.there);
                self.model.far.act(&deed, here, far, clock)
            }
        }
    }

    async fn round(&mut self, round: &Round) {
        let actors = far::one_copier(&round.actors);
        let tasks: Vec<_> = actors.map(|actor| tokio::spawn(self.act(actor))).collect();
        let mut done = Vec::new();
        for task in tasks {
            done.push(task.await.unwrap());
        }
        // What comes last of a hold, a release and a removal side by side is not known: a release
        // that was tried may have been there before a removal, and after a hold.
        for one in &done {
            if let Done::Held { name, on: false, .. } = one {
                self.model.held.remove(name);
            }
        }
        let mut gone = BTreeSet::new();
        let (mut held, mut released) = (BTreeSet::new(), BTreeSet::new());
        for done in done {
            match done {
                Done::Saved { point: Some(point), numbers, .. } => {
                    let name = point.to_string();
                    self.model.ever.insert(name.clone(), numbers.clone());
                    self.model.points.insert(name, (*point, numbers));
                }
                Done::Saved { instance, numbers, point: None } => {
                    self.model.perhaps.push((instance, numbers));
                }
                Done::Forgot { name, done: true } => {
                    assert!(!self.model.held.contains(&name), "{name} was held and is removed");
                    self.model.points.remove(&name);
                    gone.insert(name);
                }
                Done::Forgot { name, done: false } => drop(gone.insert(name)),
                Done::Held { name, on: true, done: true } => drop(held.insert(name)),
                Done::Held { name, on: false, .. } => drop(released.insert(name)),
                Done::Far(forgot) => self.model.far.note(forgot),
                Done::Held { .. } | Done::Else => {}
            }
        }
        self.model.held.extend(held.difference(&released).cloned());
        self.hand.fetch_add(round.hours * HOUR, Ordering::SeqCst);
        self.check_source(&gone).await;
        self.check_target().await;
        self.check_far().await;
    }

    /// Every point reads at the source, but for those whose removal was cut off.
    async fn check_source(&mut self, perhaps_gone: &BTreeSet<String>) {
        let fresh = open(self.source.clone()).await;
        let listing = fresh.list(None).await.unwrap();
        assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
        for point in listing.points {
            let name = point.to_string();
            let bytes = read_all(&fresh.image(&point, None).unwrap()).await;
            if !self.model.ever.contains_key(&name) {
                // A commit whose answer was lost.
                let fits =
                    |one: &&(String, Vec<u64>)| one.0 == point.instance && blocks(&one.1) == bytes;
                let found = self.model.perhaps.iter().find(fits);
                let (_, numbers) = found.expect("a point that nobody saved").clone();
                self.model.ever.insert(name.clone(), numbers.clone());
                self.model.points.insert(name.clone(), (point, numbers));
            }
            // One whose removal failed may be there as well as not.
            assert!(bytes == blocks(&self.model.ever[&name]), "{name} at the source");
        }
        let there = fresh.list(None).await.unwrap().points;
        let there: BTreeSet<String> = there.iter().map(ToString::to_string).collect();
        self.model.points.retain(|name, _| {
            let is_there = there.contains(name);
            assert!(is_there || perhaps_gone.contains(name), "{name} is gone from the source");
            is_there
        });
    }

    /// What is at the target reads, and nothing goes that its policy keeps.
    async fn check_target(&mut self) {
        if self.target.head(&sluice_destination::Key::new("format").unwrap()).await.is_err() {
            assert!(self.model.target.is_empty());
            return;
        }
        let fresh = open(self.target.clone()).await;
        let listing = fresh.list(None).await.unwrap();
        assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
        let mut now = BTreeSet::new();
        for point in listing.points {
            let bytes = read_all(&fresh.image(&point, None).unwrap()).await;
            let name = point.to_string();
            assert!(bytes == blocks(&self.model.ever[&name]), "{name} at the target");
            now.insert(name);
        }
        let before = std::mem::take(&mut self.model.target);
        let kept = if self.keep { newest(before.union(&now)) } else { before };
        for name in kept {
            assert!(now.contains(&name), "{name} is gone from the target");
        }
        self.model.target = now;
    }

    /// Points of the source that the target's policy has pruned.
    async fn pruned_at_target(&self) -> BTreeSet<String> {
        let tombstones = list_all(&*self.target, "t/").await.unwrap();
        let buried = |id: &str| tombstones.iter().any(|object| object.key.as_str().ends_with(id));
        let points = self.model.points.iter();
        let pruned = points.filter(|(_, (point, _))| buried(&format!("/{}", point.id)));
        pruned.map(|(name, _)| name.clone()).collect()
    }

    /// Nothing fails any more: all is collected, and the target catches up.
    async fn settle(mut self) {
        self.hand.fetch_add(30 * DAY, Ordering::SeqCst);
        let (source, target, clock) = (self.source.clone(), self.target.clone(), self.clock(0));
        let repository = open_at(source.clone(), clock.clone(), settings(None)).await.unwrap();
        let report = repository.collect(&eager(), &CollectProgress::default()).await.unwrap();
        assert!(report.waiting.is_empty() && report.failed.is_empty(), "{report:?}");
        let means = Means { clock: clock.clone(), throttle: None, progress: Arc::default() };
        // A collection at the target that died must end before.
        if let Some(there) = open_at(target.clone(), clock, settings(None)).await {
            there.collect(&eager(), &CollectProgress::default()).await.unwrap();
        }
        let pruned_there = self.pruned_at_target().await;
        // Without a key first: of packs that both sides compacted it cannot tell what is missing.
        for key in [None, Some(repository)].into_iter().skip(usize::from(self.keep)) {
            let from = Source { destination: source.clone(), key };
            let with_key = from.key.is_some();
            let plan = replicate::plan(from, target.clone(), self.how(), &means).await.unwrap();
            let mut damage = plan.run(means.clone()).await.unwrap().damage;
            damage
                .retain(|damage| with_key || !damage.problem.contains("only be told with the key"));
            assert_eq!(damage, []);
        }
        let there_before = self.model.target.clone();
        self.check_source(&BTreeSet::new()).await;
        self.check_target().await;
        self.settle_far().await;
        let mut wanted: BTreeSet<String> = self.model.points.keys().cloned().collect();
        if self.keep {
            // The target's policy counts its own points too, also those the source removed, and
            // what it pruned does not come back.
            wanted.retain(|name| !pruned_there.contains(name));
            wanted = newest(wanted.union(&there_before));
        }
        for name in &wanted {
            assert!(self.model.target.contains(name), "{name} did not get to the target");
        }
        for side in [source, target] {
            let report = open(side).await.verify(None, Depth::Data, Arc::default()).await.unwrap();
            assert_eq!((report.damage, report.warnings), (vec![], vec![]));
        }
    }
}

/// The newest points of each instance. Names are INSTANCE@ID, and ids ascend.
fn newest<'n>(names: impl Iterator<Item = &'n String>) -> BTreeSet<String> {
    let mut by_instance: BTreeMap<&str, BTreeSet<&String>> = BTreeMap::new();
    for name in names {
        let instance = name.split('@').next().unwrap();
        by_instance.entry(instance).or_default().insert(name);
    }
    by_instance.values().flat_map(|all| all.iter().rev().take(KEEP)).copied().cloned().collect()
}

async fn save(
    side: Side,
    clock: Clock,
    settings: Settings,
    instance: String,
    numbers: Vec<u64>,
) -> Done {
    let mut point = None;
    if let Some(repository) = open_at(side, clock, settings).await {
        let images = vec![image("disk", &blocks(&numbers), Change::Regions)];
        let (progress, cancel) = (Progress::new(), CancellationToken::new());
        let done = backup(&repository, &instance, images, options(), progress, cancel).await;
        point = done.ok().map(|done| Box::new(done.point));
    }
    Done::Saved { instance, numbers, point }
}

async fn forget(side: Side, clock: Clock, name: String, point: RestorePoint) -> Done {
    let Some(repository) = open_at(side, clock, settings(None)).await else { return Done::Else };
    match repository.forget(&point, "test", "test").await {
        Err(error) if error.kind() == ErrorKind::Protected => Done::Else,
        done => Done::Forgot { name, done: done.is_ok() },
    }
}

async fn hold(side: Side, clock: Clock, name: String, point: RestorePoint, on: bool) -> Done {
    let Some(repository) = open_at(side, clock, settings(None)).await else { return Done::Else };
    let change = move |protection: &mut Protection, _| {
        match on {
            true => protection.hold(Some("case 7".into())),
            false => protection.release(),
        }
        Ok(())
    };
    let done = repository.change_protection(&point, "test", change).await.is_ok();
    Done::Held { name, on, done }
}

async fn collect(side: Side, clock: Clock) -> Done {
    if let Some(repository) = open_at(side, clock, settings(None)).await {
        // On a thread of its own: the future is not known to be one that can change threads.
        let runtime = tokio::runtime::Handle::current();
        let run = move || {
            let (options, progress) = (eager(), CollectProgress::default());
            drop(runtime.block_on(repository.collect(&options, &progress)));
        };
        tokio::task::spawn_blocking(run).await.unwrap();
    }
    Done::Else
}

async fn copy(here: Side, there: Side, clock: Clock, how: Options, with_key: bool) -> Done {
    let key = open_at(here.clone(), clock.clone(), settings(None)).await;
    if with_key && key.is_none() {
        return Done::Else;
    }
    let from = Source { destination: here, key: key.filter(|_| with_key) };
    let means = Means { clock, throttle: None, progress: Arc::default() };
    if let Ok(plan) = replicate::plan(from, there, how, &means).await {
        drop(plan.run(means).await);
    }
    Done::Else
}

/// A world with a copied point and one that is not, and what brings the second one.
async fn half_copied() -> World {
    let actor = |deed| Actor { deed, here: Trouble::None, there: Trouble::None, skew: 0 };
    let alone = |deed| Round { actors: vec![actor(deed)], hours: 1 };
    let mut world = World::new(false).await;
    world.round(&alone(Deed::Save { instance: 0, numbers: vec![1, 2] })).await;
    world.round(&alone(Deed::Copy { with_key: false })).await;
    world.round(&alone(Deed::Save { instance: 0, numbers: vec![3, 4] })).await;
    world
}

/// A copy that has brought all packs, and sleeps with its commit records under way.
async fn asleep(world: &World) -> tokio::task::JoinHandle<Done> {
    let fault = Fault::new(world.target.clone());
    fault.inject(Rule::new(Effect::Stall).on(Operation::PUTS).below("r/"));
    let (here, there) = (world.source.clone(), fault as Side);
    let asleep = tokio::spawn(copy(here, there, world.clock(0), world.how(), false));
    let packs = async |side: &Side| {
        let mut packs = list_all(&**side, "d/").await.unwrap();
        packs.extend(list_all(&**side, "m/").await.unwrap());
        packs
    };
    let wanted = packs(&world.source).await.len();
    while packs(&world.target).await.len() < wanted {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    asleep
}

/// What a sleeping copy sent last arrives late.
async fn arrives(world: &mut World, asleep: tokio::task::JoinHandle<Done>) {
    asleep.abort();
    for record in list_all(&*world.source, "r/").await.unwrap() {
        let bytes = world.source.get(&record.key, ByteRange::Full).await.unwrap();
        world.target.put(&record.key, bytes).await.unwrap();
    }
    world.check_target().await;
    assert_eq!(world.model.target.len(), 2);
}

/// Nothing at the target says that the packs are needed but the record of the copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_at_the_target_leaves_what_a_sleeping_copy_brought() {
    let mut world = half_copied().await;
    let asleep = asleep(&world).await;
    let there = open_at(world.target.clone(), world.clock(0), settings(None)).await.unwrap();
    let refused = there.collect(&eager(), &CollectProgress::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(list_all(&*world.target, "g/").await.unwrap().is_empty(), "it did not even begin");
    arrives(&mut world, asleep).await;
}

/// Both looked for the other and found nobody: the collection looks once more.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_begins_beside_the_plan_of_a_collection_is_seen() {
    let mut world = half_copied().await;
    let held = Fault::new(world.target.clone());
    held.inject(Rule::new(Effect::Hold).on(Operation::PUTS).below("g/"));
    let there = open_at(held.clone(), world.clock(0), settings(None)).await.unwrap();
    let runtime = tokio::runtime::Handle::current();
    let collecting = tokio::task::spawn_blocking(move || {
        let (options, progress) = (eager(), CollectProgress::default());
        runtime.block_on(there.collect(&options, &progress)).map(drop).map_err(|error| error.kind())
    });
    while held.injected() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asleep = asleep(&world).await;
    held.heal();
    assert_eq!(collecting.await.unwrap().unwrap_err(), ErrorKind::Conflict);
    arrives(&mut world, asleep).await;
}

/// It brings packs that no point needs yet, sleeps for a day, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_slept_while_a_collection_took_it_for_dead_commits_nothing() {
    let mut world = half_copied().await;
    let held = Fault::new(world.target.clone());
    held.inject(Rule::new(Effect::Hold).on(Operation::PUTS).below("m/").once());
    let (here, side) = (world.source.clone(), held.clone() as Side);
    let copying = tokio::spawn(copy(here, side, world.clock(0), world.how(), false));
    let data = async |side: &Side| list_all(&**side, "d/").await.unwrap().len();
    while held.injected() == 0 || data(&world.target).await < data(&world.source).await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let before = data(&world.target).await;
    collect(world.target.clone(), world.clock(25)).await;
    assert!(data(&world.target).await < before, "it was taken for dead");
    held.heal();
    copying.await.unwrap();
    world.check_target().await;
    assert_eq!(world.model.target.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn whatever_runs_side_by_side_and_dies_nothing_that_is_kept_is_lost(
        rounds in rounds(),
        keep in any::<bool>(),
    ) {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2).enable_all().build().unwrap().block_on(async {
            let mut world = World::new(keep).await;
            for round in &rounds {
                world.round(round).await;
            }
            world.settle().await;
        });
    }
}
