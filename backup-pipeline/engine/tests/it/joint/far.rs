//! A third place, with keys of its own: points come by copies that are written anew.
//!
//! Each point of the source has one copy there, in the order of the points, whenever they were
//! committed; what somebody removes there stays away.

use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt;
use futures::future::BoxFuture;
use proptest::prelude::*;
use sluice_engine::Progress;
use sluice_engine::replicate::plan;
use sluice_repository::replicate::Options;
use sluice_repository::{Clock, Depth, ErrorKind, PointId, RestorePoint};
use tokio_util::sync::CancellationToken;

use super::{Actor, Done, Side, World, blocks, open_at};
use crate::support::*;

/// What one actor does.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    Copy,
    Forget { which: usize },
    Collect,
}

pub(super) fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        2 => Just(Deed::Copy),
        1 => (0usize..6).prop_map(|which| Deed::Forget { which }),
        1 => Just(Deed::Collect),
    ]
}

/// The actors of a round, but one only of those that copy: two side by side would both copy what is
/// missing.
pub(super) fn one_copier(actors: &[Actor]) -> impl Iterator<Item = &Actor> {
    let copies = |actor: &Actor| matches!(actor.deed, super::Deed::Far(Deed::Copy));
    let first = actors.iter().position(copies);
    let fits = move |(at, actor): &(usize, &Actor)| !copies(actor) || Some(*at) == first;
    actors.iter().enumerate().filter(fits).map(|(_, actor)| actor)
}

/// What must be there.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Copies by the names of the points they were made of.
    copies: BTreeMap<String, RestorePoint>,
    /// Points whose copies were removed.
    gone: BTreeSet<String>,
    /// The same, where the answer may have been lost.
    perhaps: BTreeSet<String>,
}

/// A removal that was tried.
pub(super) struct Forgot {
    name: String,
    done: bool,
}

impl Model {
    pub(super) fn act(
        &self,
        deed: &Deed,
        here: Side,
        far: Side,
        clock: Clock,
    ) -> BoxFuture<'static, Done> {
        match *deed {
            Deed::Copy => copy(here, far, clock).boxed(),
            Deed::Collect => super::collect(far, clock).boxed(),
            Deed::Forget { which } => {
                let copy = self.copies.iter().nth(which % self.copies.len().max(1));
                match copy.map(|(name, copy)| (name.clone(), copy.clone())) {
                    Some((name, copy)) => forget(far, clock, name, copy).boxed(),
                    None => async { Done::Else }.boxed(),
                }
            }
        }
    }

    pub(super) fn note(&mut self, forgot: Forgot) {
        if forgot.done {
            self.gone.insert(forgot.name.clone());
        }
        self.perhaps.insert(forgot.name);
    }
}

fn origin(copy: &RestorePoint) -> PointId {
    copy.origin.expect("all that is there is a copy").point
}

async fn copy(here: Side, far: Side, clock: Clock) -> Done {
    let from = open_at(here, clock.clone(), settings(None)).await;
    let to = open_at(far, clock, settings(None)).await;
    if let (Some(from), Some(to)) = (from, to) {
        let how = Options::default();
        if let Ok(plan) = plan(&from, &to, &how).await {
            drop(plan.run(&how, 1, Progress::new(), CancellationToken::new()).await);
        }
    }
    Done::Else
}

async fn forget(far: Side, clock: Clock, name: String, copy: RestorePoint) -> Done {
    let Some(there) = open_at(far, clock, settings(None)).await else { return Done::Else };
    match there.forget(&copy, "test", "test").await {
        Err(error) if error.kind() == ErrorKind::Protected => Done::Else,
        done => Done::Far(Forgot { name, done: done.is_ok() }),
    }
}

impl World {
    /// Every copy reads as its point did, there is one of each, and they stand in order. None goes
    /// but those whose removal was tried.
    pub(super) async fn check_far(&mut self) {
        let fresh = open(self.far.clone()).await;
        let listing = fresh.list(None).await.unwrap();
        assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
        let mut now = BTreeMap::new();
        let far = &self.model.far;
        let mut last: Option<(String, PointId)> = None;
        for copy in listing.points {
            let place = (copy.instance.clone(), origin(&copy));
            assert!(last < Some(place.clone()), "{copy} is out of order");
            last = Some(place);
            let name = format!("{}@{}", copy.instance, origin(&copy));
            let bytes = read_all(&fresh.image(&copy, None).unwrap()).await;
            assert!(bytes == blocks(&self.model.ever[&name]), "{name} at the far place");
            assert!(!far.gone.contains(&name), "{name} was removed and is back");
            now.insert(name, copy);
        }
        for name in far.copies.keys() {
            let is_there = now.contains_key(name) || far.perhaps.contains(name);
            assert!(is_there, "{name} is gone from the far place");
        }
        self.model.far.copies = now;
    }

    /// All that the source has is copied, but for what was removed there.
    pub(super) async fn settle_far(&mut self) {
        let clock = self.clock(0);
        copy(self.source.clone(), self.far.clone(), clock).await;
        self.check_far().await;
        let model = &self.model.far;
        for name in self.model.points.keys().filter(|name| !model.perhaps.contains(*name)) {
            assert!(model.copies.contains_key(name), "{name} was never copied");
        }
        let far = open(self.far.clone()).await;
        let report = far.verify(None, Depth::Data, Default::default()).await.unwrap();
        assert_eq!((report.damage, report.warnings), (vec![], vec![]));
    }
}
