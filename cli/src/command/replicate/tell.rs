//! What a copy would do, and what it came to.

use anyhow::Result;
use serde_json::{Value, json};
use sluice_destination::wrap::Snapshot;
use sluice_repository::{Damage, RepositoryId, RestorePoint};

use super::Job;
use crate::error::Exit;
use crate::output::{self, bytes, count, note, warn};

/// Points that are named; the document names all.
const NAMED: usize = 20;

/// What would be done.
pub(super) struct Planned {
    pub(super) mode: &'static str,
    pub(super) points: Vec<String>,
    pub(super) present: u64,
    pub(super) packs: Option<u64>,
    pub(super) bytes: Option<u64>,
    pub(super) damage: Vec<Damage>,
}

/// What was done.
pub(super) struct Outcome {
    pub(super) mode: &'static str,
    pub(super) points: Vec<String>,
    pub(super) present: u64,
    pub(super) gone: Vec<String>,
    pub(super) pruned: Vec<String>,
    /// Points that would have been removed, and that something keeps.
    pub(super) kept: Vec<String>,
    /// Key slots that only the target has.
    pub(super) kept_slots: Vec<String>,
    pub(super) with_key: bool,
    pub(super) packs: Option<u64>,
    pub(super) bytes: Option<u64>,
    pub(super) repaired: u64,
    pub(super) damage: Vec<Damage>,
    /// All copies that the target holds, where they are asked for.
    pub(super) copies: Option<Vec<Value>>,
    pub(super) help: Option<&'static str>,
}

fn damage_document(damage: &[Damage]) -> Vec<Value> {
    let one =
        |one: &Damage| json!({"object": one.object, "problem": one.problem, "points": one.points});
    damage.iter().map(one).collect()
}

/// The copies among points of a target: of what each was made. Points of a replica, which are the
/// same everywhere, have no `of_repository` to be looked for.
pub(super) fn copies(
    points: &[RestorePoint],
    of_repository: Option<RepositoryId>,
    instances: &[String],
) -> Vec<Value> {
    let copy = |point: &RestorePoint| {
        let of = match (point.origin, of_repository) {
            (_, None) => point.id,
            (Some(origin), Some(wanted)) if origin.repository == wanted => origin.point,
            _ => return None,
        };
        let stats = &point.stats;
        Some(json!({
            "point": point.to_string(),
            "of": format!("{}@{of}", point.instance),
            "created_ms": point.created_ms,
            "image_bytes": stats.image_bytes,
            "new_bytes": stats.new_bytes,
            "stored_bytes": stats.stored_bytes,
        }))
    };
    points.iter().filter(|point| instances.contains(&point.instance)).filter_map(copy).collect()
}

fn exit(damage: &[Damage]) -> Exit {
    if damage.is_empty() { Exit::Done } else { Exit::Damaged }
}

fn tell_damage(damage: &[Damage]) {
    for one in damage {
        warn(format_args!("damaged at the source: {}: {}", one.object, one.problem));
        for point in one.points.iter().take(NAMED) {
            note(format_args!("  not copied: {point}"));
        }
        if one.points.len() > NAMED {
            note(format_args!("  and {} more", one.points.len() - NAMED));
        }
    }
}

impl Planned {
    pub(super) fn tell(self, job: &Job<'_>) -> Result<Exit> {
        if job.context.global.json {
            output::json_line(&json!({
                "type": "summary",
                "mode": self.mode,
                "dry_run": true,
                "points": self.points,
                "present": self.present,
                "packs": self.packs,
                "bytes": self.bytes,
                "damage": damage_document(&self.damage),
                "requests": requests(job),
            }))?;
            return Ok(exit(&self.damage));
        }
        output::print(&self.points.iter().map(|point| format!("{point}\n")).collect::<String>())?;
        tell_damage(&self.damage);
        if !job.context.global.quiet {
            let mut text = format!(
                "{} would be copied, {} there already",
                count(self.points.len() as u64, "restore point"),
                self.present
            );
            if let (Some(packs), Some(size)) = (self.packs, self.bytes) {
                text += &format!("; {}, {}", count(packs, "pack"), bytes(size));
            }
            note(format_args!("{text}; nothing was changed"));
        }
        Ok(exit(&self.damage))
    }
}

impl Outcome {
    pub(super) fn tell(self, job: &Job<'_>) -> Result<Exit> {
        if job.context.global.json {
            output::json_line(&json!({
                "type": "summary",
                "mode": self.mode,
                "dry_run": false,
                "points": self.points,
                "present": self.present,
                "gone": self.gone,
                "pruned": self.pruned,
                "kept": self.kept,
                "kept_key_slots": self.kept_slots,
                "packs": self.packs,
                "bytes": self.bytes,
                "repaired": self.repaired,
                "damage": damage_document(&self.damage),
                "copies": self.copies,
                "requests": requests(job),
            }))?;
            return Ok(exit(&self.damage));
        }
        tell_damage(&self.damage);
        if !job.context.global.quiet {
            self.summary(job);
        }
        if !self.damage.is_empty() {
            note(format_args!(
                "error: {} could not be copied for damage at the source",
                count(self.damage.len() as u64, "object")
            ));
            note(format_args!(
                "help: {}",
                self.help.unwrap_or(
                    "what is not named here was copied; `sluice verify --data` at the source tells \
                     more, and the next replication brings what was put right"
                )
            ));
        }
        Ok(exit(&self.damage))
    }

    fn summary(&self, job: &Job<'_>) {
        for point in self.points.iter().take(NAMED) {
            note(format_args!("copied {point}"));
        }
        if self.points.len() > NAMED {
            note(format_args!("and {} more", self.points.len() - NAMED));
        }
        let points = count(self.points.len() as u64, "restore point");
        let mut text = format!("{points} copied, {} there before", self.present);
        if let Some(packs) = self.packs {
            text += &format!("; {}", count(packs, "pack"));
        }
        if let Some(size) = self.bytes {
            text += &format!(", {}", bytes(size));
        }
        note(text);
        if self.repaired > 0 {
            let packs = count(self.repaired, "damaged pack");
            note(format_args!("{packs} at the target put right"));
        }
        if !self.gone.is_empty() {
            let points = count(self.gone.len() as u64, "restore point");
            note(format_args!("{points} removed at the source meanwhile, and not copied"));
        }
        if !self.pruned.is_empty() {
            let points = count(self.pruned.len() as u64, "restore point");
            note(format_args!("{points} removed at the target"));
        }
        self.kept();
        let (source, target) = (&job.ends.source.counters, &job.ends.target.counters);
        note(format_args!("requests: source {}", by_kind(&source.snapshot())));
        note(format_args!("requests: target {}", by_kind(&target.snapshot())));
    }
}

impl Outcome {
    /// What stays at the target although the source, or a policy, no longer has it.
    fn kept(&self) {
        if !self.kept.is_empty() {
            let points = count(self.kept.len() as u64, "restore point");
            note(format_args!("{points} not removed at the target: on hold or under retention"));
        }
        if !self.kept_slots.is_empty() {
            let slots = self.kept_slots.join(", ");
            let why = match self.with_key {
                true => "no other there is known to open it; see `sluice key list` at the source",
                false => "a replication with the key removes what was removed at the source",
            };
            note(format_args!("key slots that only the target has stay: {slots}; {why}"));
        }
    }
}

fn requests(job: &Job<'_>) -> Value {
    json!({
        "source": job.ends.source.counters.snapshot(),
        "target": job.ends.target.counters.snapshot(),
    })
}

fn by_kind(counts: &Snapshot) -> String {
    let kinds = [
        ("list", counts.list),
        ("head", counts.head),
        ("get", counts.get),
        ("put", counts.put),
        ("delete", counts.delete),
    ];
    let kind = |(name, count): &(&str, sluice_destination::wrap::OperationCount)| {
        format!("{} {name}", count.requests)
    };
    let used: Vec<String> =
        kinds.iter().filter(|(_, count)| count.requests > 0).map(kind).collect();
    if used.is_empty() { "none".into() } else { used.join(", ") }
}
