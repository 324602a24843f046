use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;
use sluice_engine::{BackupOptions, BackupOutcome, Progress, backup};
use sluice_repository::{Defragment, Repository, RestorePoint, rfc3339};

use crate::adapter::source;
use crate::args::BackupArgs;
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::interrupt;
use crate::leash;
use crate::output::progress::{Shower, Shown};
use crate::output::{self, PointDocument, bytes, note, ratio, seconds, warn};

/// Metadata lies in the manifest, which every listing reads.
const LARGEST_META: u64 = 4 << 20;
/// The name of the task in metadata.
const TASK: &str = "task";

/// Backs up images as a new restore point.
pub(crate) async fn run(context: &Context, args: BackupArgs) -> Result<Exit> {
    let started = Instant::now();
    context.repo()?;
    sluice_repository::check_name("instance", &args.instance)
        .map_err(|error| usage_error(error.to_string()))?;
    let metadata = args.meta.as_deref().map(metadata).transpose()?;
    let metadata = tagged(metadata, "project", args.project.as_deref())?;
    let metadata = tagged(metadata, TASK, args.task.as_deref())?;
    let sources = source::plan(&args)?;
    let repository = context.open_with(args.jobs.map_or(0, usize::from)).await?;
    if let Some(task) = args.task.as_deref().filter(|_| args.again)
        && let Some(point) = made_by(&repository, &args.instance, task).await?
    {
        note(format_args!("this task has made {point} already"));
        let outcome = BackupOutcome {
            point,
            others: Vec::new(),
            resumed_packs: 0,
            resumed_bytes: 0,
            together_bytes: 0,
        };
        tell(context, &outcome, started.elapsed())?;
        return Ok(Exit::Done);
    }
    let within = args.within.unwrap_or_default();
    let images = source::open(sources, (args.format, &within), args.task.is_some()).await?;
    let cancel = interrupt::watch("stopping; what is under way is stored (again to stop at once)")?;
    let progress = Progress::new();
    let shower = Shower::start(&context.global, progress.clone(), Shown::Backup);
    let now = context.clock.now_ms();
    let allowance = leash::allowance();
    if let Some(bytes) = args.allowance {
        allowance.begin_with(bytes);
    }
    let options = BackupOptions {
        block_size: args.block_size,
        first_block_size: args.first_block_size,
        level: args.level,
        metadata,
        consistency: args.consistency.word().into(),
        hold: args.hold,
        rescan: args.rescan,
        defragment: args.defragment.map(|above| Defragment { above, limit: args.defragment_limit }),
        retain_until_ms: args.retain.map(|time| now.saturating_add(time.as_millis() as u64)),
        allowance,
        ..BackupOptions::default()
    };
    let done =
        Box::pin(backup(&repository, &args.instance, images, options, progress, cancel)).await;
    drop(shower);
    let outcome =
        done.with_context(|| format!("no restore point of {} was made", args.instance))?;
    tell(context, &outcome, started.elapsed())?;
    Ok(if outcome.others.is_empty() { Exit::Done } else { Exit::Warnings })
}

/// Reads the file of `--meta`; it must be JSON, for other programs will read it back as such.
fn metadata(path: &Path) -> Result<String> {
    let context = || format!("cannot use {} as metadata", path.display());
    if std::fs::metadata(path).with_context(context)?.len() > LARGEST_META {
        let text = format!("{} is larger than {}", path.display(), bytes(LARGEST_META));
        return Err(advise("usage", text, "keep large files elsewhere and their name here"));
    }
    let text = std::fs::read_to_string(path).with_context(context)?;
    serde_json::from_str::<serde::de::IgnoredAny>(&text).with_context(context)?;
    Ok(text)
}

/// The restore point that a task has made, if it got so far: whoever ran it may have died before
/// it could tell.
async fn made_by(
    repository: &Repository,
    instance: &str,
    task: &str,
) -> Result<Option<RestorePoint>> {
    let points = repository.list(Some(instance)).await?.points;
    Ok(points.into_iter().rev().find(|point| task_of(point).as_deref() == Some(task)))
}

/// The task of a server that has made a restore point, or the one that it is a copy of.
pub(super) fn task_of(point: &RestorePoint) -> Option<String> {
    let metadata: serde_json::Value = serde_json::from_str(point.metadata.as_deref()?).ok()?;
    metadata[TASK].as_str().map(str::to_owned)
}

/// The metadata with a word in it: the project, as [`RestorePoint::project`] finds it, or the task.
fn tagged(metadata: Option<String>, name: &str, word: Option<&str>) -> Result<Option<String>> {
    let Some(word) = word else { return Ok(metadata) };
    let tag = format!("\"{name}\": {}", json!(word));
    let Some(text) = metadata else { return Ok(Some(format!("{{{tag}}}"))) };
    let fields = serde_json::from_str::<BTreeMap<String, serde::de::IgnoredAny>>(&text).ok();
    let fields = fields.filter(|fields| !fields.contains_key(name));
    // Everything else stays as it was written.
    match (fields, text.trim_start().strip_prefix('{')) {
        (Some(fields), Some(rest)) if fields.is_empty() => Ok(Some(format!("{{{tag}{rest}"))),
        (Some(_), Some(rest)) => Ok(Some(format!("{{{tag},{rest}"))),
        _ => Err(usage_error(format!(
            "--{name} needs metadata that is a JSON object and has no \"{name}\" of its own"
        ))),
    }
}

fn tell(context: &Context, outcome: &BackupOutcome, elapsed: Duration) -> Result<()> {
    for other in &outcome.others {
        warn(format_args!(
            "another backup of this instance runs on {} since {}; both become restore points",
            other.host,
            rfc3339(other.started_ms)
        ));
    }
    let point = &outcome.point;
    if context.global.json {
        let others: Vec<_> = (outcome.others.iter())
            .map(|other| json!({"host": other.host, "started": rfc3339(other.started_ms)}))
            .collect();
        return output::json_line(&json!({
            "type": "summary",
            "point": PointDocument::from(point),
            "resumed_packs": outcome.resumed_packs,
            "resumed_bytes": outcome.resumed_bytes,
            "defragmented_bytes": outcome.together_bytes,
            "concurrent": others,
        }));
    }
    if context.global.quiet {
        return Ok(());
    }
    let stats = &point.stats;
    output::print(&format!("{point}\n"))?;
    let rate = (stats.read_bytes as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    note(format_args!(
        "{} backup of {} in {}: read {} ({}/s)",
        point.method,
        bytes(stats.image_bytes),
        seconds(elapsed),
        bytes(stats.read_bytes),
        bytes(rate),
    ));
    note(format_args!(
        "new {}, stored as {} ({}); known {}; unchanged {}; zero {}",
        bytes(stats.new_bytes),
        bytes(stats.stored_bytes),
        ratio(stats.new_bytes, stats.stored_bytes),
        bytes(stats.dedup_bytes),
        bytes(stats.unchanged_bytes),
        bytes(stats.zero_bytes),
    ));
    if outcome.together_bytes > 0 {
        let size = bytes(outcome.together_bytes);
        note(format_args!("{size} that lay scattered were stored once more, in order"));
    }
    if outcome.resumed_packs > 0 {
        let packs = output::count(outcome.resumed_packs, "pack");
        note(format_args!("{packs} of an interrupted backup did not have to be sent again"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_added_to_metadata_and_the_rest_stays() {
        let with =
            |text: Option<&str>| tagged(text.map(str::to_owned), "project", Some("a \"b\"")).ok();
        let tag = r#""project": "a \"b\"""#;
        assert_eq!(with(None), Some(Some(format!("{{{tag}}}"))));
        assert_eq!(with(Some("{ }")), Some(Some(format!("{{{tag} }}"))));
        let long = "12345678901234567890123";
        let text = format!(" {{\"n\": {long}}}\n");
        assert_eq!(with(Some(&text)), Some(Some(format!("{{{tag},\"n\": {long}}}\n"))));
        for bad in ["[]", "7", r#"{"project": "x"}"#] {
            assert_eq!(with(Some(bad)), None, "{bad}");
        }
        assert_eq!(tagged(Some("[]".into()), "project", None).ok(), Some(Some("[]".into())));
    }
}
