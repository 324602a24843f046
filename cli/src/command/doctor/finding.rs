//! What was found, and what can be done about it.

use serde_json::{Value, json};
use sluice_repository::doctor::{Surface, Traces};
use sluice_repository::lock::LockStatus;
use sluice_repository::{ListedSlot, Standing};

use crate::context::Context;
use crate::error::Report;
use crate::output::{count, local};

/// How bad it is; the worst first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// Stored bytes are not what was written.
    Damage,
    /// Something should be done.
    Warning,
    /// Good to know.
    #[default]
    Note,
}

impl Severity {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Damage => "damage",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// The part of an image that needs what is damaged.
#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    pub(super) point: String,
    pub(super) image: String,
    pub(super) bytes: u64,
    pub(super) ranges: Vec<std::ops::Range<u64>>,
    /// Partitions these bytes lie in.
    pub(super) partitions: Vec<String>,
}

/// One thing that was found.
#[derive(Debug, Clone, Default)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) object: String,
    pub(super) what: String,
    /// Points that need it.
    pub(super) points: Vec<String>,
    pub(super) touched: Vec<Part>,
    /// What can be done, commands and words, the best first.
    pub(super) remedies: Vec<String>,
}

impl Finding {
    pub(super) fn document(&self) -> Value {
        let part = |part: &Part| {
            let ranges: Vec<_> = part.ranges.iter().map(|r| [r.start, r.end]).collect();
            json!({
                "point": part.point,
                "image": part.image,
                "bytes": part.bytes,
                "ranges": ranges,
                "partitions": part.partitions,
            })
        };
        json!({
            "severity": self.severity.word(),
            "object": self.object,
            "what": self.what,
            "points": self.points,
            "touched": self.touched.iter().map(part).collect::<Vec<_>>(),
            "remedies": self.remedies,
        })
    }
}

/// The command that brings objects back; where the copy is, only its owner knows.
pub(super) const HEAL: &str = "sluice heal --from COPY";

/// The command that puts damaged records right.
const REPAIR: &str = "sluice doctor --repair";

fn damaged(object: String, what: String, remedies: Vec<String>) -> Finding {
    Finding { severity: Severity::Damage, object, what, remedies, ..Finding::default() }
}

fn note(object: String, what: String, remedies: Vec<String>) -> Finding {
    Finding { severity: Severity::Note, object, what, remedies, ..Finding::default() }
}

/// What shows without a key.
pub(super) fn of_surface(surface: &Surface) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(problem) = &surface.descriptor_problem {
        found.push(damaged("format".into(), problem.clone(), vec![HEAL.into()]));
    }
    for slot in &surface.key_slots {
        if let Some(problem) = &slot.problem {
            let remedies = vec![
                HEAL.into(),
                format!("with another key: sluice key add, then sluice key remove {}", slot.name),
            ];
            found.push(damaged(format!("keys/{}", slot.name), problem.clone(), remedies));
        }
    }
    if surface.key_slots.is_empty() && surface.descriptor.is_some() {
        let what = "there is no key slot: nothing can be opened";
        found.push(damaged("keys/".into(), what.into(), vec![HEAL.into()]));
    }
    found
}

/// Key slots that somebody without the key may have put there.
pub(super) fn of_slots(slots: &[ListedSlot], opened_by: &str, epoch: u32) -> Vec<Finding> {
    let own = slots.iter().find(|listed| listed.name == opened_by);
    let told = own.is_some_and(|own| own.standing == Some(Standing::Vouched));
    let mut found = Vec::new();
    for listed in slots.iter().filter(|listed| listed.name != opened_by) {
        let (Ok(slot), Some(standing)) = (&listed.slot, listed.standing) else { continue };
        let what = match standing {
            Standing::Forged => "it was made by somebody without the key, or changed since",
            Standing::Vouched => continue,
            _ if !told => continue,
            _ => "nothing tells who made it: an earlier version, or somebody who can write here",
        };
        if slot.epoch() < epoch {
            continue; // a rotation left it behind
        }
        found.push(Finding {
            severity: Severity::Warning,
            object: format!("keys/{}", listed.name),
            what: what.into(),
            remedies: vec![
                "sluice key vouch, with its passphrase".into(),
                format!("when nobody knows it: sluice key remove {}", listed.name),
            ],
            ..Finding::default()
        });
    }
    if own.is_some_and(|own| own.standing == Some(Standing::Opened)) {
        let what = "an earlier version made the key slots: they cannot be told from others' yet";
        found.push(note("keys/".into(), what.into(), vec!["sluice key vouch".into()]));
    }
    found
}

/// A repository that does not open.
pub(super) fn closed(report: &Report, damaged: bool) -> Finding {
    let mut remedies = vec![format!("{HEAL} (it opens the copy, not this)")];
    if report.kind == "wrong-key" {
        remedies.insert(0, "check the passphrase; --recovery-key-file FILE opens it too".into());
    }
    Finding {
        severity: if damaged { Severity::Damage } else { Severity::Warning },
        object: "repository".into(),
        what: format!("it does not open, so no more can be told: {}", report.line()),
        remedies,
        ..Finding::default()
    }
}

/// What running programs left behind.
pub(super) fn of_traces(traces: &Traces, context: &Context) -> Vec<Finding> {
    let mut found = Vec::new();
    let since = |ms: u64| local(ms, &context.zone);
    for session in traces.sessions.iter().filter(|session| session.dead) {
        found.push(note(
            format!("s/{}", session.session),
            format!(
                "a backup of {} on {} began {} and did not end",
                session.instance,
                session.host,
                since(session.started_ms)
            ),
            vec![format!("run the backup of {} again: it takes over what was stored", {
                &session.instance
            })],
        ));
    }
    for pin in traces.pins.iter().filter(|pin| pin.silent) {
        found.push(note(
            format!("p/{}", pin.pin),
            format!(
                "{} on {} pinned {} and was last heard of {}",
                pin.purpose,
                pin.host,
                pin.point,
                since(pin.heartbeat_ms)
            ),
            vec!["nothing: it expires by itself".into()],
        ));
    }
    if let Some(generation) = traces.unfinished_collection {
        found.push(note(
            format!("g/{generation}/"),
            "a collection began and did not end".into(),
            vec!["nothing: the next collection goes on with it".into()],
        ));
    }
    for one in &traces.damaged {
        let remedy = match one.object.split('/').next() {
            Some("t" | "e") => HEAL,
            Some("h") => "nothing: its point is kept; to let it go, remove this object by hand",
            Some("g") => "it may stop backups and collections",
            Some("s" | "p") => {
                "nothing, while its program lives: that writes it again within minutes. Until then \
                 collections stop"
            }
            _ => "nothing: it is written again or expires",
        };
        // One flipped bit of these can be put back, and what programs leave behind can go.
        let repair =
            matches!(one.object.split('/').next(), Some("s" | "p" | "g" | "t" | "h" | "e"));
        let remedies = repair.then_some(REPAIR).into_iter().chain([remedy]).map(String::from);
        found.push(Finding {
            severity: Severity::Warning,
            object: one.object.clone(),
            what: format!("{}; no restore point needs it", one.problem),
            remedies: remedies.collect(),
            ..Finding::default()
        });
    }
    found
}

/// What the destination should keep and does not.
pub(super) fn of_locks(status: &LockStatus) -> Vec<Finding> {
    let warning = |what: String, points: Vec<String>, remedy: &str| Finding {
        severity: Severity::Warning,
        object: "lock".into(),
        what,
        points,
        remedies: vec![remedy.into()],
        ..Finding::default()
    };
    let mut found = Vec::new();
    if status.setting.now.is_some() && !status.supported {
        let what = "points are to be locked, and the destination has no object lock";
        let remedy = "move the repository to a bucket with object lock, or sluice lock set --off";
        found.push(warning(what.into(), Vec::new(), remedy));
    }
    if status.lost {
        let what = "points are locked, but the setting is gone: somebody removed it";
        found.push(warning(what.into(), Vec::new(), "sluice lock set"));
    }
    let short = status.points.iter().filter(|one| one.short > 0);
    let points: Vec<String> = short.map(|one| one.point.to_string()).collect();
    if !points.is_empty() {
        let what = format!(
            "{} locked for less than the setting says",
            count(points.len() as u64, "restore point")
        );
        found.push(warning(what, points, "sluice lock extend --recheck"));
    }
    found
}

/// Damage that an earlier, deeper look found.
pub(super) fn known_before(packs: usize) -> Finding {
    Finding {
        severity: Severity::Warning,
        object: "b/".into(),
        what: format!("{} recorded as damaged earlier", count(packs as u64, "pack")),
        remedies: vec!["sluice doctor --data".into(), HEAL.into()],
        ..Finding::default()
    }
}
