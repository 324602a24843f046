//! The examination as people read it.

use super::finding::{Finding, Part};
use super::{CLOCK_OFF, Examined};
use crate::command::lock::rule_text;
use crate::context::Context;
use crate::output::{bytes, count, fields};

/// Parts of images told of one object, and runs of bytes of each; the document has more.
const PARTS: usize = 4;
const RANGES: usize = 3;

/// The whole report.
pub(super) fn report(context: &Context, examined: &Examined) -> String {
    let mut text = String::new();
    if !context.global.quiet {
        text += &fields(state(examined));
    }
    for finding in &examined.findings {
        text += &one(finding);
    }
    if examined.findings.is_empty() && !context.global.quiet {
        text += "nothing is wrong\n";
    }
    text
}

fn state(examined: &Examined) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(descriptor) = &examined.surface.descriptor {
        rows.push(("repository", format!("{}, made {}", descriptor.id, descriptor.created)));
        rows.push(("encryption", descriptor.encryption.clone()));
    }
    let slots = &examined.surface.key_slots;
    let sound = slots.iter().filter(|slot| slot.problem.is_none()).count();
    rows.push(("key slots", format!("{} of {} sound", sound, slots.len())));
    if let Some(seen) = &examined.capabilities {
        let when = if examined.probed { "now" } else { "when it was made" };
        let verdict = if seen.can_arbitrate() { "fit" } else { "unfit" };
        rows.push(("destination", format!("{verdict}, as probed {when}")));
        if let Some(offset) = seen.clock_offset_seconds {
            let verdict = if offset.abs() > CLOCK_OFF { "off" } else { "right" };
            rows.push(("clock", format!("{verdict} ({offset} s apart, as probed {when})")));
        }
    }
    if let Some(traces) = &examined.traces {
        let dead = traces.sessions.iter().filter(|session| session.dead).count();
        let sessions = count(traces.sessions.len() as u64, "session");
        rows.push(("backups", format!("{sessions}, {dead} of them dead")));
        rows.push(("readers", count(traces.pins.len() as u64, "pin")));
        rows.push((
            "collection",
            match traces.unfinished_collection {
                Some(generation) => format!("generation {generation} is unfinished"),
                None => "none unfinished".into(),
            },
        ));
    }
    if let Some(locks) = &examined.locks {
        rows.push(("lock", rule_text(locks.setting.now)));
    }
    if let Some(report) = &examined.verified {
        rows.push((
            "looked at",
            format!(
                "{}, {}, {}, {}; {} read back",
                count(report.points, "restore point"),
                count(report.pages, "page"),
                count(report.packs, "pack"),
                count(report.chunks, "chunk"),
                bytes(report.bytes_read),
            ),
        ));
    }
    rows
}

fn one(finding: &Finding) -> String {
    let mut text = format!("\n{}: {}: {}\n", finding.severity.word(), finding.object, finding.what);
    for part in finding.touched.iter().take(PARTS) {
        text += &format!("  touches {}\n", part_text(part));
    }
    if finding.touched.is_empty() {
        for point in finding.points.iter().take(PARTS) {
            text += &format!("  needed by {point}\n");
        }
    }
    let told = finding.touched.len().max(finding.points.len());
    if told > PARTS {
        text += &format!("  and {} more\n", told - PARTS);
    }
    for remedy in &finding.remedies {
        text += &format!("  do: {remedy}\n");
    }
    text
}

fn part_text(part: &Part) -> String {
    let ranges: Vec<String> = part
        .ranges
        .iter()
        .take(RANGES)
        .map(|range| format!("{}-{}", range.start, range.end.saturating_sub(1)))
        .collect();
    let more = if part.ranges.len() > RANGES { ", ..." } else { "" };
    let partitions = match part.partitions.as_slice() {
        [] => String::new(),
        names => format!(", partition {}", names.join(", ")),
    };
    let (point, image, size) = (&part.point, &part.image, bytes(part.bytes));
    format!("{point}:{image}: {size} (bytes {}{more}{partitions})", ranges.join(", "))
}
