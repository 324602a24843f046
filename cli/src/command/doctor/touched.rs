//! Damage found by verification, with what it touches and what can be done about it.

use std::collections::{BTreeMap, BTreeSet};

use sluice_block::BlockRead;
use sluice_repository::doctor::partitions::{HEAD, Partition, partitions};
use sluice_repository::{Damage, Repository, RestorePoint, Touched, VerifyReport};

use super::finding::{Finding, HEAL, Part, Severity};

/// Commands of one kind given for one object.
const COMMANDS: usize = 3;

/// The partitions of images, read once each.
struct Tables<'r> {
    repository: &'r Repository,
    points: BTreeMap<String, &'r RestorePoint>,
    known: BTreeMap<(String, String), Vec<Partition>>,
}

/// Findings of a verification.
pub(super) async fn findings(
    repository: &Repository,
    points: &[RestorePoint],
    report: &VerifyReport,
) -> Vec<Finding> {
    let points = points.iter().map(|point| (point.to_string(), point)).collect();
    let mut tables = Tables { repository, points, known: BTreeMap::new() };
    let mut found = Vec::new();
    for one in &report.damage {
        let mut touched = Vec::new();
        for part in &one.touched {
            touched.push(tables.part(part).await);
        }
        let remedies = tables.remedies(one);
        let points = one.points.iter().cloned().collect();
        found.push(Finding {
            severity: Severity::Damage,
            object: one.object.clone(),
            what: one.problem.clone(),
            points,
            touched,
            remedies,
        });
    }
    for one in &report.warnings {
        let remedies = match one.object.starts_with("x/") {
            true => vec![HEAL.into(), "nothing: it costs space only".into()],
            false => vec![format!("{HEAL} --data"), "nothing: no restore point needs it".into()],
        };
        found.push(Finding {
            severity: Severity::Warning,
            object: one.object.clone(),
            what: format!("{}; no restore point needs it", one.problem),
            remedies,
            ..Finding::default()
        });
    }
    found
}

impl Tables<'_> {
    async fn part(&mut self, of: &Touched) -> Part {
        let mut names = BTreeSet::new();
        for partition in self.of_image(&of.point, &of.image).await {
            let within = &partition.bytes;
            let meets = |r: &&std::ops::Range<u64>| r.start < within.end && within.start < r.end;
            if of.ranges.iter().find(meets).is_some() {
                let name = partition.name.as_ref().map(|name| format!(" ({name})"));
                names.insert(format!("{}{}", partition.number, name.unwrap_or_default()));
            }
        }
        Part {
            point: of.point.clone(),
            image: of.image.clone(),
            bytes: of.bytes,
            ranges: of.ranges.clone(),
            partitions: names.into_iter().collect(),
        }
    }

    /// The partitions of an image; none when its head cannot be read.
    async fn of_image(&mut self, point: &str, image: &str) -> Vec<Partition> {
        let key = (point.to_owned(), image.to_owned());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let read = async {
            let reader = self.repository.image(self.points.get(point)?, Some(image)).ok()?;
            let mut head = vec![0; HEAD.min(usize::try_from(reader.size()).ok()?)];
            reader.read_at(0, &mut head).await.ok()?;
            Some(partitions(&head))
        };
        let found = read.await.unwrap_or_default();
        self.known.insert(key, found.clone());
        found
    }

    /// What can be done, the best first.
    fn remedies(&self, damage: &Damage) -> Vec<String> {
        let deep = damage.place.is_some_and(|place| place.slot.is_some());
        let mut remedies = vec![if deep { format!("{HEAL} --data") } else { HEAL.to_owned() }];
        let points: Vec<&&RestorePoint> =
            damage.points.iter().filter_map(|name| self.points.get(name)).collect();
        // The last point of each instance names its sources.
        let mut newest: BTreeMap<&str, &RestorePoint> = BTreeMap::new();
        for point in &points {
            newest.insert(&point.instance, point);
        }
        for point in newest.values().take(COMMANDS) {
            let sources: Vec<String> =
                point.images.iter().map(|one| format!("{}={}", one.name, one.source)).collect();
            remedies.push(format!(
                "sluice backup {} {} (heals new points with what the source still has)",
                point.instance,
                sources.join(" ")
            ));
        }
        if !points.is_empty() {
            let names: Vec<String> =
                points.iter().take(COMMANDS).map(ToString::to_string).collect();
            let more = if points.len() > COMMANDS { " ..." } else { "" };
            remedies.push(format!(
                "sluice forget {}{more} (gives up the points that need it)",
                names.join(" ")
            ));
        }
        remedies
    }
}
