//! Points that only the replica has.
//!
//! # Order
//!
//! From the moment its record is there a point exists, and backups build on it without asking
//! whether the rest is there. So the record comes last, as in a backup: what the point needs is
//! brought first, and its block maps are read from here and compared with the packs here. What is
//! on its way is needed by no point yet; so this is a copy under way, beside which no collection
//! goes on.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::{ByteRange, ErrorKind as DestinationKind, Key, list_all};

use super::records::read;
use super::{HealedObject, Healing, MOST_ROUNDS};
use crate::error::{ErrorKind, Result};
use crate::format::id::{
    ChainId, PointId, commit_key, commits_prefix, parse_point_key, tombstones_prefix,
};
use crate::points::RestorePoint;
use crate::replicate::state::Underway;
use crate::verify::{Depth, PackName};

/// What a point that comes back is told as.
const MISSING: &str = "it is missing";

/// A point that is to come back.
struct Missing {
    key: Key,
    bytes: Bytes,
    /// What it says; nothing for an ABORT.
    point: Option<RestorePoint>,
}

impl Healing {
    /// Brings back points that are only there, or names them: lost here, or pruned and long
    /// forgotten.
    pub(super) async fn missing_points(&mut self) -> Result<()> {
        let mut missing = Vec::new();
        for (chain, point) in self.only_there().await? {
            match self.options.missing_points {
                true => missing.extend(self.sound_record(chain, point).await?),
                false => self.report.only_there.push(commit_key(chain, point).to_string()),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        if self.options.dry_run {
            missing.iter().for_each(|one| self.came_back(&one.key));
            return Ok(());
        }
        let (place, clock) = (self.here().destination.clone(), self.here().clock.clone());
        match Underway::begin(&*place, &clock).await {
            Ok(underway) => self.underway = Some(underway),
            // The rest can be healed all the same.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let keys = missing.iter().map(|one| one.key.to_string());
                self.report.only_there.extend(keys);
                self.report.notes.push(format!("no restore point was brought back: {error}"));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        let brought = self.bring_points(missing).await;
        if let Some(underway) = self.underway.take() {
            underway.end(&*place).await;
        }
        brought
    }

    async fn only_there(&self) -> Result<Vec<(ChainId, PointId)>> {
        let here = &*self.here().destination;
        let places = async |prefix: String| -> Result<HashSet<(ChainId, PointId)>> {
            let objects = list_all(here, &prefix).await?;
            Ok(objects.iter().filter_map(|object| parse_point_key(&object.key)).collect())
        };
        let (ours, pruned) = (places(commits_prefix()).await?, places(tombstones_prefix()).await?);
        let mut theirs = self.there.shared.live_points(None).await?;
        theirs.retain(|place| !ours.contains(place) && !pruned.contains(place));
        Ok(theirs)
    }

    /// The replica's record of a point, when it is sound.
    async fn sound_record(&mut self, chain: ChainId, point: PointId) -> Result<Option<Missing>> {
        let key = commit_key(chain, point);
        let there = self.there.shared.clone();
        let Some(bytes) = read(&*there.destination, &key).await? else { return Ok(None) };
        if let Some(flaw) = there.record_flaw(&key, &bytes)? {
            let why = format!("{MISSING}; the replica's is not sound either: {flaw}");
            self.fail(&key, &why);
            return Ok(None);
        }
        let point = there.parse_point(&key, chain, point, &bytes)?;
        Ok(Some(Missing { key, bytes, point }))
    }

    /// Brings what the points need, and commits those that have all of it.
    async fn bring_points(&mut self, missing: Vec<Missing>) -> Result<()> {
        let points: Vec<RestorePoint> =
            missing.iter().filter_map(|one| one.point.clone()).collect();
        let lacking = self.bring_needs(points).await?;
        // The last look before the records: what was brought may have been collected.
        if let Some(underway) = &mut self.underway {
            let here = &self.here.shared;
            underway.beat(&*here.destination, &here.clock).await?;
        }
        for one in missing {
            let name = one.point.as_ref().map(ToString::to_string);
            if let Some(problem) = name.and_then(|name| lacking.get(&name)) {
                let why = format!("{MISSING}; not all that it needs is here: {problem}");
                self.fail(&one.key, &why);
                continue;
            }
            self.beat().await?;
            self.commit(one).await?;
        }
        Ok(())
    }

    /// Brings the packs that points need and that are missing or damaged here, from the top of
    /// the block maps down. Returns the points that still lack something, and what.
    async fn bring_needs(&mut self, points: Vec<RestorePoint>) -> Result<BTreeMap<String, String>> {
        for _ in 0..MOST_ROUNDS {
            let found = self.here.verify(Some(points.clone()), Depth::Structure, Arc::default());
            let found = found.await?;
            let mut lacking = BTreeMap::new();
            let mut suspects: BTreeMap<PackName, String> = BTreeMap::new();
            for one in &found.damage {
                let problem = || format!("{}: {}", one.object, one.problem);
                lacking.extend(one.points.iter().map(|point| (point.clone(), problem())));
                let Some(place) = one.place else { continue };
                if !self.hopeless.contains(&(place.kind, place.pack)) {
                    suspects.insert((place.kind, place.pack), one.problem.clone());
                }
            }
            if suspects.is_empty() {
                return Ok(lacking);
            }
            for (key, problem) in self.bring(suspects, true).await? {
                self.fail(&key, &problem);
            }
        }
        let left = |point: &RestorePoint| (point.to_string(), "heal once more".to_owned());
        Ok(points.iter().map(left).collect())
    }

    async fn commit(&mut self, missing: Missing) -> Result<()> {
        let Missing { key, bytes, .. } = missing;
        let here = self.here().destination.clone();
        match here.put_new(&key, bytes.clone()).await {
            Ok(()) => self.came_back(&key),
            Err(error) if error.kind() == DestinationKind::AlreadyExists => {
                match here.get(&key, ByteRange::Full).await? == bytes {
                    true => self.came_back(&key),
                    false => self.fail(&key, "another record came in its place meanwhile"),
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn came_back(&mut self, key: &Key) {
        let (object, problem) = (key.to_string(), MISSING.to_owned());
        self.report.healed.push(HealedObject { object, problem });
    }

    /// Shows that the copy is alive, if there is one.
    pub(super) async fn beat(&mut self) -> Result<()> {
        let here = self.here().clone();
        match &mut self.underway {
            Some(underway) => underway.beat_if_due(&*here.destination, &here.clock).await,
            None => Ok(()),
        }
    }
}
