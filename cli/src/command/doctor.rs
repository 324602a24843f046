use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use serde_json::{Value, json};
use sluice_destination::{Capabilities, Destination, probe};
use sluice_repository::doctor::{Surface, Traces, examine};
use sluice_repository::lock::{LockProgress, LockStatus};
use sluice_repository::{Depth, Repository, VerifyProgress, VerifyReport};

use crate::args::DoctorArgs;
use crate::command::lock::setting_document;
use crate::command::verify::{snapshot, tell_recorded};
use crate::context::Context;
use crate::error::{Exit, Report};
use crate::output;
use crate::output::progress::{Shower, Shown};

mod finding;
mod repair;
mod text;
mod touched;

use finding::{Finding, Severity};

/// A clock further off than this many seconds is worth a word.
const CLOCK_OFF: i64 = 300;

/// All that was looked at.
pub(super) struct Examined {
    surface: Surface,
    /// What the destination was seen to do, now or when the repository was made.
    capabilities: Option<Capabilities>,
    probed: bool,
    traces: Option<Traces>,
    locks: Option<LockStatus>,
    verified: Option<VerifyReport>,
    findings: Vec<Finding>,
}

/// Explains the state of the repository.
pub(crate) async fn run(context: &Context, args: &DoctorArgs) -> Result<Exit> {
    if args.repair {
        return repair::run(context, args).await;
    }
    let destination = context.destination(false).await?.destination;
    let surface = examine(&*destination).await?;
    let mut findings = finding::of_surface(&surface);
    let mut examined = Examined {
        capabilities: surface.descriptor.as_ref().map(|known| known.capabilities.clone()),
        surface,
        probed: args.probe,
        traces: None,
        locks: None,
        verified: None,
        findings: Vec::new(),
    };
    if args.probe {
        probe_again(&*destination, &mut examined, &mut findings).await?;
    }
    match context.open().await {
        Ok(repository) => {
            inside(context, args, &repository, &mut examined, &mut findings).await?;
        }
        // What keeps it closed is damage that was found, or a mistake to be told as ever.
        Err(error) => {
            let damaged = findings.iter().any(|finding| finding.severity == Severity::Damage);
            let report = Report::of(&error);
            if !damaged && report.kind != "wrong-key" {
                return Err(error);
            }
            findings.push(finding::closed(&report, damaged));
        }
    }
    findings.sort_by(|a, b| (a.severity, &a.object).cmp(&(b.severity, &b.object)));
    examined.findings = findings;
    if context.global.json {
        output::json_line(&document(&examined))?;
    } else {
        output::print(&text::report(context, &examined))?;
    }
    let worst = examined.findings.iter().map(|finding| finding.severity).min();
    Ok(match worst {
        Some(Severity::Damage) => Exit::Damaged,
        Some(Severity::Warning) => Exit::Warnings,
        Some(Severity::Note) | None => Exit::Done,
    })
}

async fn probe_again(
    destination: &dyn Destination,
    examined: &mut Examined,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let seen = probe::probe(destination).await?;
    if !seen.can_arbitrate() {
        findings.push(Finding {
            severity: Severity::Damage,
            object: destination.location(),
            what: format!("the destination does not keep the promises commits rest on: {seen:?}"),
            remedies: vec!["move the repository to a store with conditional writes".into()],
            ..Finding::default()
        });
    }
    if let Some(offset) = seen.clock_offset_seconds.filter(|offset| offset.abs() > CLOCK_OFF) {
        findings.push(Finding {
            severity: Severity::Warning,
            object: "clock".into(),
            what: format!("the destination's clock and this one differ by {offset} seconds"),
            remedies: vec!["set the clocks: retention counts days by this machine's".into()],
            ..Finding::default()
        });
    }
    examined.capabilities = Some(seen);
    Ok(())
}

/// What only the key shows.
async fn inside(
    context: &Context,
    args: &DoctorArgs,
    repository: &Repository,
    examined: &mut Examined,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let traces = repository.traces().await?;
    findings.extend(finding::of_traces(&traces, context));
    let slots = repository.key_slots().await?;
    findings.extend(finding::of_slots(&slots, repository.opened_by(), repository.data_epoch()));
    let depth = if args.data { Depth::Data } else { Depth::Structure };
    let progress = Arc::new(VerifyProgress::default());
    let watched = progress.clone();
    let shower = Shower::watch(&context.global, Shown::Plain, move || snapshot(&watched));
    let report = repository.verify(None, depth, progress).await;
    drop(shower);
    let report = report?;
    let recorded = repository.record_findings(&report).await?;
    if !context.global.json {
        tell_recorded(context, recorded);
    }
    let points =
        if report.damage.is_empty() { Vec::new() } else { repository.list(None).await?.points };
    findings.extend(touched::findings(repository, &points, &report).await);
    let known: BTreeSet<&str> = report.damage.iter().map(|one| one.object.as_str()).collect();
    if known.is_empty() && traces.known_bad > recorded.healed && !args.data {
        findings.push(finding::known_before(traces.known_bad - recorded.healed));
    }
    let locks = repository.lock_status(true, &LockProgress::default()).await?;
    findings.extend(finding::of_locks(&locks));
    examined.traces = Some(traces);
    examined.locks = Some(locks);
    examined.verified = Some(report);
    Ok(())
}

fn document(examined: &Examined) -> Value {
    let slots: Vec<Value> = examined
        .surface
        .key_slots
        .iter()
        .map(|slot| {
            json!({
                "id": slot.name,
                "kind": slot.kind.as_ref().map(|(kind, _)| kind),
                "label": slot.kind.as_ref().map(|(_, label)| label),
                "checksum": slot.checked,
                "problem": slot.problem,
            })
        })
        .collect();
    let traces = examined.traces.as_ref();
    let sessions = traces.map(|traces| {
        let session = |one: &sluice_repository::doctor::SessionTrace| {
            json!({
                "session": one.session,
                "instance": one.instance,
                "host": one.host,
                "started_ms": one.started_ms,
                "heartbeat_ms": one.heartbeat_ms,
                "dead": one.dead,
            })
        };
        traces.sessions.iter().map(session).collect::<Vec<_>>()
    });
    let pins = traces.map(|traces| {
        let pin = |one: &sluice_repository::doctor::PinTrace| {
            json!({
                "pin": one.pin,
                "point": one.point,
                "host": one.host,
                "purpose": one.purpose,
                "heartbeat_ms": one.heartbeat_ms,
                "silent": one.silent,
            })
        };
        traces.pins.iter().map(pin).collect::<Vec<_>>()
    });
    json!({
        "type": "summary",
        "opened": examined.verified.is_some(),
        "descriptor": examined.surface.descriptor,
        "key_slots": slots,
        "capabilities": examined.capabilities,
        "probed": examined.probed,
        "sessions": sessions,
        "pins": pins,
        "unfinished_collection": traces.and_then(|traces| traces.unfinished_collection),
        "lock": examined.locks.as_ref().map(|locks| setting_document(&locks.setting)),
        "points": examined.verified.as_ref().map(|report| report.points),
        "damaged": examined.findings.iter().any(|one| one.severity == Severity::Damage),
        "findings": examined.findings.iter().map(Finding::document).collect::<Vec<_>>(),
    })
}
