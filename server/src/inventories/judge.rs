//! What a look means: what is new, what is gone, what is back, and what is only told.
//!
//! Nothing here has a clock or a database: what was known and what was seen come in, a verdict
//! comes out, and a look that is only tried gets the same one.
//!
//! # What is not seen is not gone
//!
//! Being gone ends backups, so it must not be concluded from a look that failed:
//!
//! * of what lies where nothing could be read, nothing is known;
//! * what lay on a file system that is not mounted now is held: somebody must say that it is gone;
//! * so is all of it when more is gone at once than the inventory lets pass.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sluice_catalog::{
    Finding, Instance, InstanceId, Inventory, Looked, Per, Record, Source, SourceImage, lies_in,
};
use sluice_node_api::{FoundDisk, InventoryReport};

/// Lines that are told of one look.
const MOST_LINES: usize = 200;

/// What was known, and what was seen.
pub(super) struct Case<'a> {
    pub(super) inventory: &'a Record<Inventory>,
    pub(super) report: &'a InventoryReport,
    /// What it has found before.
    pub(super) known: &'a [Finding],
    /// All instances of the project.
    pub(super) instances: &'a [Record<Instance>],
    /// Instances of other projects: what they read is not this project's.
    pub(super) strangers: &'a [Record<Instance>],
    /// Folders in which the node that looked keeps snapshots, of whichever project.
    pub(super) snapshot_folders: &'a BTreeSet<String>,
    /// What came of the last look.
    pub(super) last: &'a Looked,
    /// Whether somebody has said that what is not there is gone.
    pub(super) accept_gone: bool,
}

/// Something that is there, and is an instance or becomes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) place: String,
    pub(super) source: Source,
    pub(super) identity: String,
    pub(super) format: String,
    pub(super) size_bytes: u64,
}

/// What follows.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// How many are there.
    pub(super) there: usize,
    /// New ones, with their names.
    pub(super) add: Vec<(String, Unit)>,
    /// Those of which something else is known now, as it is to be noted.
    pub(super) noted: Vec<Finding>,
    /// Those of them with other disks than before.
    pub(super) changed: BTreeSet<InstanceId>,
    /// Those that are there again.
    pub(super) back: Vec<InstanceId>,
    /// Those that are gone.
    pub(super) gone: Vec<Finding>,
    /// Those whose source somebody has changed: they are that person's now.
    pub(super) left: Vec<InstanceId>,
    /// Those that are gone, and are not noted as gone.
    pub(super) held: Vec<InstanceId>,
    /// Where file systems are to be mounted the next time.
    pub(super) mounts: BTreeSet<String>,
    pub(super) mounted_on: String,
    /// What is told: whether it is a warning, and in words.
    pub(super) lines: Vec<(bool, String)>,
}

impl Verdict {
    fn tell(&mut self, text: String) {
        self.lines.push((false, text));
    }

    fn warn(&mut self, text: String) {
        self.lines.push((true, text));
    }

    /// Whether something is told that somebody should see to.
    pub(super) fn warns(&self) -> bool {
        self.lines.iter().any(|(warns, _)| *warns)
    }
}

/// Judges a look.
pub(super) fn judge(case: &Case<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for one in &case.report.unread {
        verdict.warn(format!("nothing is known of {}: {}", one.path, one.why));
    }
    for one in &case.report.passed {
        verdict.warn(format!("{} is passed over: {}", one.path, one.why));
    }
    let units = units(case, &mut verdict);
    verdict.there = units.len();
    let seen = seen(case, units, &mut verdict);
    unseen(case, &seen, &mut verdict);
    renamed(case, &seen, &mut verdict);
    if verdict.lines.len() > MOST_LINES {
        // What somebody should see to comes first.
        verdict.lines.sort_by_key(|(warns, _)| !warns);
        let more = verdict.lines.len() - MOST_LINES;
        verdict.lines.truncate(MOST_LINES);
        verdict.tell(format!("and {more} more"));
    }
    verdict
}

/// What is there: each file once, or each folder with its files.
fn units(case: &Case<'_>, verdict: &mut Verdict) -> Vec<Unit> {
    let known: BTreeSet<&str> = case.known.iter().map(|found| found.place.as_str()).collect();
    let is_kept =
        |disk: &&FoundDisk| case.snapshot_folders.iter().any(|at| lies_in(&disk.path, at));
    let (kept, found): (Vec<&FoundDisk>, Vec<&FoundDisk>) =
        case.report.disks.iter().partition(is_kept);
    if !kept.is_empty() {
        verdict.tell(format!("{} lie in folders for snapshots: they are no sources", kept.len()));
    }
    let mut first: HashMap<&str, &str> = HashMap::new();
    for disk in found.iter().filter(|disk| !which(disk).is_empty()) {
        let one = first.entry(which(disk)).or_insert(&disk.path);
        if known.contains(disk.path.as_str()) && !known.contains(*one) {
            *one = &disk.path;
        }
    }
    let mut disks = Vec::new();
    for disk in found {
        match first.get(which(disk)) {
            Some(one) if *one != disk.path => {
                verdict.tell(format!("{} was found twice: it is {one}, too", disk.path));
            }
            _ => disks.push(disk),
        }
    }
    match case.inventory.body.look.per() {
        Per::File => disks.iter().map(|disk| unit(&disk.path, &[disk], case)).collect(),
        Per::Folder => {
            let mut folders: BTreeMap<&str, Vec<&FoundDisk>> = BTreeMap::new();
            for disk in disks {
                let around = disk.path.rsplit_once('/').map_or("", |(around, _)| around);
                folders.entry(around).or_default().push(disk);
            }
            let root = case.inventory.body.look.folder().trim_end_matches('/');
            if let Some(own) = folders.remove(root) {
                verdict.tell(format!("{} files lie in no folder of their own", own.len()));
            }
            folders.iter().map(|(place, disks)| unit(place, disks, case)).collect()
        }
    }
}

/// Which file it is, among those of one report. What an older node tells may be the same for a disk
/// and for its copy in a mounted snapshot.
fn which(disk: &FoundDisk) -> &str {
    if disk.file.is_empty() { &disk.identity } else { &disk.file }
}

fn unit(place: &str, disks: &[&FoundDisk], case: &Case<'_>) -> Unit {
    let devices = matches!(case.inventory.body.look, sluice_catalog::Look::Devices { .. });
    let source = match devices {
        true => Source::Device { path: place.to_owned() },
        false => Source::DiskFiles { images: images(disks) },
    };
    let formats: BTreeSet<&str> = disks.iter().map(|disk| disk.format.as_str()).collect();
    Unit {
        place: place.to_owned(),
        source,
        // A device that is gone leaves its number to the next one.
        identity: match disks {
            [one] if !devices => one.identity.clone(),
            _ => String::new(),
        },
        format: formats.into_iter().collect::<Vec<_>>().join(" "),
        size_bytes: disks.iter().fold(0, |sum, disk| sum.saturating_add(disk.size_bytes)),
    }
}

/// Images with names that repositories take, each another.
fn images(disks: &[&FoundDisk]) -> Vec<SourceImage> {
    let mut taken = BTreeSet::new();
    let mut named = Vec::new();
    for disk in disks {
        let file = disk.path.rsplit('/').next().unwrap_or_default();
        let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
        let fit = |text: &str| {
            let text: String = text
                .chars()
                .map(|c| if "@:=".contains(c) || c.is_control() { '-' } else { c })
                .collect();
            let text = text.trim_start_matches('.').trim().to_owned();
            Some(text).filter(|text| !text.is_empty() && text.len() <= 200)
        };
        let own = fit(stem).filter(|name| !taken.contains(name));
        let own = own.or_else(|| fit(file).filter(|name| !taken.contains(name)));
        let name = own.unwrap_or_else(|| format!("disk-{}", taken.len() + 1));
        taken.insert(name.clone());
        // The file's own name is what it has anyway.
        let name = Some(name).filter(|name| name != stem);
        named.push(SourceImage { name, path: disk.path.clone() });
    }
    named
}

/// The paths that a source reads.
fn paths(source: &Source) -> Vec<&str> {
    match source {
        Source::DiskFiles { images } => images.iter().map(|image| image.path.as_str()).collect(),
        Source::Device { path } | Source::Folder { path } => vec![path],
        Source::Command { .. } => Vec::new(),
    }
}

/// What is there; returns the places of known instances that were seen.
fn seen(case: &Case<'_>, units: Vec<Unit>, verdict: &mut Verdict) -> BTreeSet<String> {
    let by_place: HashMap<&str, &Finding> =
        case.known.iter().map(|found| (found.place.as_str(), found)).collect();
    let by_id: HashMap<InstanceId, &Record<Instance>> =
        case.instances.iter().map(|one| (one.id, one)).collect();
    let others = Others::of(case);
    let mut names: BTreeSet<String> = case.instances.iter().map(|one| one.name.clone()).collect();
    let mut seen = BTreeSet::new();
    for unit in units {
        // Of a folder that was read in part, not all disks are known.
        if case.report.unread.iter().any(|at| lies_in(&at.path, &unit.place)) {
            seen.insert(unit.place);
            continue;
        }
        let known = by_place.get(unit.place.as_str());
        if let Some((found, one)) = known.and_then(|f| Some((*f, *by_id.get(&f.instance)?))) {
            seen.insert(unit.place.clone());
            if one.body.source == found.source {
                again(found, one, unit, verdict);
                continue;
            }
            verdict.left.push(found.instance);
            verdict
                .tell(format!("the source of {} was changed by hand: it is left alone", one.name));
        }
        let paths = paths(&unit.source).into_iter().chain([unit.place.as_str()]);
        if let Some(claim) = paths.into_iter().find_map(|path| others.claim(path)) {
            tell_claim(&unit.place, claim, verdict);
            continue;
        }
        let name = case.inventory.body.name_of(&unit.place);
        if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
            verdict.warn(format!("{} makes no name of 1 to 128 bytes: {name:?}", unit.place));
        } else if names.insert(name.clone()) {
            verdict.add.push((name, unit));
        } else {
            verdict.warn(format!(
                "{} would be called {name}, as another instance is: see naming",
                unit.place
            ));
        }
    }
    seen
}

/// Something that was seen is another instance's.
fn tell_claim(place: &str, claim: Claim<'_>, verdict: &mut Verdict) {
    let Claim::Own(other) = claim else {
        // Whose it is, and what it is called there, is not this project's to know.
        return verdict.tell(format!("{place} is a source of another project"));
    };
    let text = format!("{place} is a source of {} already", other.name);
    match other.body.present {
        true => verdict.tell(text),
        // As after a catalog was rebuilt from repositories: it is not backed up.
        false => verdict.warn(format!("{text}, which counts as absent: set it present")),
    }
}

/// A known instance was seen.
fn again(found: &Finding, one: &Record<Instance>, unit: Unit, verdict: &mut Verdict) {
    if !one.body.present {
        verdict.back.push(found.instance);
    }
    let Unit { place, source, identity, format, size_bytes } = unit;
    if source != found.source {
        verdict.changed.insert(found.instance);
    }
    let (instance, inventory) = (found.instance, found.inventory);
    let now =
        Finding { instance, inventory, place, source, identity, format, size_bytes, gone_ms: None };
    if now != *found {
        verdict.noted.push(now);
    }
}

/// Whose something is already.
#[derive(Clone, Copy)]
enum Claim<'a> {
    /// An instance's of the project.
    Own(&'a Record<Instance>),
    /// Another project's.
    Stranger,
}

/// Instances that are not of this inventory, by what they read.
struct Others<'a> {
    by_path: HashMap<&'a str, Claim<'a>>,
    folders: HashMap<&'a str, Claim<'a>>,
}

impl<'a> Others<'a> {
    fn of(case: &Case<'a>) -> Self {
        let by_id: HashMap<InstanceId, &Finding> =
            case.known.iter().map(|found| (found.instance, found)).collect();
        let mut others = Self { by_path: HashMap::new(), folders: HashMap::new() };
        for one in case.strangers {
            others.add(case, one, Claim::Stranger);
        }
        // Of what both read, the project's own is told.
        for one in case.instances {
            let own = by_id.get(&one.id).is_some_and(|found| found.source == one.body.source);
            if !own {
                others.add(case, one, Claim::Own(one));
            }
        }
        others
    }

    fn add(&mut self, case: &Case<'a>, one: &'a Record<Instance>, claim: Claim<'a>) {
        let node = case.inventory.body.node;
        if one.body.node.is_some_and(|id| node.is_some_and(|own| own != id)) {
            return;
        }
        for path in paths(&one.body.source) {
            self.by_path.insert(path, claim);
        }
        if let Source::Folder { path } = &one.body.source {
            self.folders.insert(path.trim_end_matches('/'), claim);
        }
    }

    fn claim(&self, path: &str) -> Option<Claim<'a>> {
        let around = path.rsplit_once('/').map_or("", |(around, _)| around);
        self.by_path.get(path).or_else(|| self.folders.get(around)).copied()
    }
}

/// What is known and was not seen.
fn unseen(case: &Case<'_>, seen: &BTreeSet<String>, verdict: &mut Verdict) {
    let by_id: HashMap<InstanceId, &Record<Instance>> =
        case.instances.iter().map(|one| (one.id, one)).collect();
    let lost: Vec<&String> = case.last.mounts.difference(&case.report.mounts).collect();
    let moved = !case.last.mounted_on.is_empty() && case.last.mounted_on != case.report.mounted_on;
    let (mut gone, mut off, mut present) = (Vec::new(), Vec::new(), 0);
    for found in case.known {
        let Some(one) = by_id.get(&found.instance) else { continue };
        present += usize::from(one.body.present);
        if seen.contains(&found.place) {
            continue;
        }
        let within = |place: &str| lies_in(&found.place, place);
        if one.body.source != found.source {
            verdict.left.push(found.instance);
        } else if !one.body.present || case.report.unread.iter().any(|at| within(&at.path)) {
            // It was gone before, or nothing is known of it.
        } else if !case.accept_gone && (moved || lost.iter().any(|at| within(at))) {
            off.push(found.clone());
        } else {
            gone.push(found.clone());
        }
    }
    (verdict.mounts, verdict.mounted_on) =
        (case.report.mounts.clone(), case.report.mounted_on.clone());
    if !off.is_empty() {
        verdict.mounts.extend(lost.iter().map(|at| (*at).clone()));
        verdict.mounted_on.clone_from(&case.last.mounted_on);
        verdict.warn(format!(
            "{} are not there, on a file system that is not mounted as it was: they are not noted \
             as gone until somebody agrees (--accept-gone)",
            off.len()
        ));
    }
    let most = case.inventory.body.most_gone_percent as usize;
    if !case.accept_gone && gone.len() * 100 > most * present {
        verdict.warn(format!(
            "{} of {present} are gone at once, which is more than {most} %: they are not noted as \
             gone until somebody agrees (--accept-gone)",
            gone.len()
        ));
        off.append(&mut gone);
    }
    verdict.held = off.iter().map(|found| found.instance).collect();
    verdict.gone = gone;
}

/// Tells which new ones are known files under another name: what is there by the old one, too, is
/// not, as a disk beside a mounted snapshot of it.
fn renamed(case: &Case<'_>, seen: &BTreeSet<String>, verdict: &mut Verdict) {
    let was: HashMap<&str, &Finding> = (case.known.iter())
        .filter(|found| !found.identity.is_empty() && !seen.contains(&found.place))
        .map(|found| (found.identity.as_str(), found))
        .collect();
    let lines: Vec<String> = (verdict.add.iter())
        .filter_map(|(name, unit)| {
            let before = was.get(unit.identity.as_str())?;
            Some(format!(
                "{} was {} before: {name} is a new instance, and restore points of the one before \
                 stay with that",
                unit.place, before.place
            ))
        })
        .collect();
    verdict.lines.extend(lines.into_iter().map(|line| (false, line)));
}

#[cfg(test)]
mod tests;
