use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use sluice_destination::LockMode;
use sluice_repository::lock::{ExtendReport, LockCounts, LockProgress, LockStatus, LockedPoint};
use sluice_repository::{DamagedPoint, LockRule, LockSetting, Repository, RestorePoint, rfc3339};
use tokio::task::JoinHandle;

use crate::args::{LockCommand, LockSetArgs, ObjectLock};
use crate::context::Context;
use crate::error::{Exit, usage_error};
use crate::output::{self, count, fields, local, note, seconds, table, warn};

/// How often people are told how far it is.
const PERIOD: Duration = Duration::from_secs(10);

/// Manages locks.
pub(crate) async fn run(context: &Context, command: LockCommand) -> Result<Exit> {
    let repository = context.open().await?;
    match command {
        LockCommand::Set(args) => set(context, &repository, &args).await,
        LockCommand::Status { recheck } => status(context, &repository, recheck).await,
        LockCommand::Extend { plan: true, recheck } => plan(context, &repository, recheck).await,
        LockCommand::Extend { plan: false, recheck } => extend(context, &repository, recheck).await,
    }
}

/// The rule that two options name.
pub(crate) fn rule(mode: Option<ObjectLock>, days: Option<u32>) -> Option<LockRule> {
    let mode = match mode? {
        ObjectLock::Governance => LockMode::Governance,
        ObjectLock::Compliance => LockMode::Compliance,
    };
    let keep = Duration::from_secs(u64::from(days?) * 86_400);
    Some(LockRule { mode, keep })
}

async fn set(context: &Context, repository: &Repository, args: &LockSetArgs) -> Result<Exit> {
    let rule = rule(args.object_lock, args.lock_days);
    if rule.is_none() && !args.off {
        return Err(usage_error("give --object-lock MODE with --lock-days N, or --off"));
    }
    let setting = repository.set_lock(rule).await?;
    if context.global.json {
        output::json(&setting_document(&setting))?;
    } else if !context.global.quiet {
        output::print(&fields(setting_fields(context, &setting)))?;
        if setting.later.is_none() && rule.is_some() {
            note("it holds from the next backup on; `sluice lock extend` locks older points");
        }
    }
    Ok(Exit::Done)
}

async fn look(context: &Context, repository: &Repository, recheck: bool) -> Result<LockStatus> {
    let progress = Arc::new(LockProgress::default());
    let teller = tell_progress(context, &progress);
    let status = repository.lock_status(recheck, &progress).await;
    teller.inspect(JoinHandle::abort);
    Ok(status?)
}

async fn status(context: &Context, repository: &Repository, recheck: bool) -> Result<Exit> {
    let status = look(context, repository, recheck).await?;
    let now = context.clock.now_ms();
    if context.global.json {
        output::json(&status_document(&status, now))?;
    } else {
        let mut rows = setting_fields(context, &status.setting);
        if !status.supported {
            rows.push(("destination", "has no object lock: nothing here is locked".into()));
        }
        rows.push(("next backup", format!("extends {}", count(status.next_backup, "lock"))));
        rows.push(("lock extend", format!("extends {}", count(status.next_extend, "lock"))));
        output::print(&fields(rows))?;
        if !status.points.is_empty() {
            output::print(&format!("\n{}", points_table(context, &status.points, now)))?;
        }
    }
    if status.lost {
        warn("points are locked, but the setting is gone: run `sluice lock set`");
    }
    let short = short_points(&status);
    if short > 0 {
        let points = count(short, "restore point");
        warn(format_args!("{points} locked for less than the setting says: `sluice lock extend`"));
    }
    Ok(match tell_damaged(&status.damaged) {
        Exit::Done if status.lost || short > 0 => Exit::Warnings,
        exit => exit,
    })
}

fn short_points(status: &LockStatus) -> u64 {
    status.points.iter().filter(|one| one.short > 0).count() as u64
}

/// Tells what extending would do.
async fn plan(context: &Context, repository: &Repository, recheck: bool) -> Result<Exit> {
    let status = look(context, repository, recheck).await?;
    let packs = status.packs;
    if context.global.json {
        output::json(&json!({
            "plan": true,
            "points": status.points.len(),
            "packs": packs,
            "would_extend": status.next_extend,
            "requests": counts_document(status.counts),
            "damaged": damaged_document(&status.damaged),
        }))?;
    } else {
        let points = count(status.points.len() as u64, "restore point");
        let (locks, packs) = (count(status.next_extend, "lock"), count(packs, "pack"));
        output::print(&format!("would extend {locks} on {packs} of {points}\n"))?;
        note("nothing was changed; manifests, key slots and the descriptor come on top");
        if !status.supported {
            warn("the destination has no object lock");
        }
    }
    Ok(tell_damaged(&status.damaged))
}

async fn extend(context: &Context, repository: &Repository, recheck: bool) -> Result<Exit> {
    let progress = Arc::new(LockProgress::default());
    let teller = tell_progress(context, &progress);
    let report = repository.extend_locks(recheck, &progress).await;
    teller.inspect(JoinHandle::abort);
    let ExtendReport { points, packs, counts, damaged } = report?;
    if context.global.json {
        output::json(&json!({
            "points": points,
            "packs": packs,
            "requests": counts_document(counts),
            "damaged": damaged_document(&damaged),
        }))?;
    } else if !context.global.quiet {
        note(format_args!(
            "extended {} of {} with {}",
            count(counts.extended, "lock"),
            count(points, "restore point"),
            count(packs, "pack"),
        ));
    }
    if counts.missing > 0 {
        let missing = count(counts.missing, "pack");
        warn(format_args!("missing: {missing}; `sluice doctor` tells what that touches"));
    }
    let exit = tell_damaged(&damaged);
    Ok(if counts.missing > 0 { Exit::Damaged } else { exit })
}

fn tell_damaged(damaged: &[DamagedPoint]) -> Exit {
    for one in damaged {
        warn(format_args!("{} (its locks are as they were)", one.error));
    }
    if damaged.is_empty() { Exit::Done } else { Exit::Damaged }
}

/// Tells people now and then how far it is.
fn tell_progress(context: &Context, progress: &Arc<LockProgress>) -> Option<JoinHandle<()>> {
    let global = &context.global;
    if global.no_progress || global.quiet || global.json {
        return None;
    }
    let progress = progress.clone();
    Some(tokio::spawn(async move {
        let mut begun: Option<Instant> = None;
        loop {
            tokio::time::sleep(PERIOD).await;
            let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
            let (done, total) = (load(&progress.done), load(&progress.total));
            if total == 0 {
                let (points, all) = (load(&progress.points), load(&progress.all_points));
                note(format_args!("reading block maps: {points} of {all} restore points"));
                continue;
            }
            let spent = begun.get_or_insert_with(Instant::now).elapsed().as_secs_f64();
            let rate = done as f64 / spent.max(PERIOD.as_secs_f64());
            let left = (total - done.min(total)) as f64 / rate.max(0.001);
            let left = seconds(Duration::from_secs_f64(left.min(1e9)));
            note(format_args!("locks: {done} of {total}, {rate:.0}/s, {left} left"));
        }
    }))
}

fn mode(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Governance => "governance",
        LockMode::Compliance => "compliance",
    }
}

/// The rule in words.
pub(crate) fn rule_text(rule: Option<LockRule>) -> String {
    match rule {
        None => "off".into(),
        Some(LockRule { mode: how, keep }) => {
            let days = keep.as_secs() / 86_400;
            let rest = Duration::from_secs(keep.as_secs() % 86_400);
            let keep = match (days, rest.is_zero()) {
                (0, _) => seconds(rest),
                (_, true) => count(days, "day"),
                (_, false) => format!("{} {}", count(days, "day"), seconds(rest)),
            };
            format!("{}, {keep} from the time of each backup", mode(how))
        }
    }
}

fn setting_fields(context: &Context, setting: &LockSetting) -> Vec<(&'static str, String)> {
    let mut rows = vec![("lock", rule_text(setting.now))];
    if let Some((from, rule)) = setting.later {
        rows.push(("later", format!("{}: {}", local(from, &context.zone), rule_text(rule))));
    }
    rows
}

fn points_table(context: &Context, points: &[LockedPoint], now_ms: u64) -> String {
    let named: Vec<RestorePoint> = points.iter().map(|one| one.point.clone()).collect();
    let row = |(one, id): (&LockedPoint, String)| {
        let until = one.until_ms(now_ms);
        vec![
            format!("{}@{id}", one.point.instance),
            local(one.point.created_ms, &context.zone),
            until.map_or_else(|| "not locked".into(), |until| local(until, &context.zone)),
            one.lock.map_or("", |lock| mode(lock.mode)).into(),
            one.packs.to_string(),
            one.unlocked.to_string(),
            one.short.to_string(),
        ]
    };
    let rows = points.iter().zip(output::short_ids(&named)).map(row).collect();
    table(&["POINT", "TIME", "LOCKED UNTIL", "MODE", "PACKS", "NOT LOCKED", "TOO SHORT"], rows)
}

fn rule_document(rule: Option<LockRule>) -> Value {
    rule.map_or(
        Value::Null,
        |LockRule { mode: how, keep }| json!({ "mode": mode(how), "for_seconds": keep.as_secs() }),
    )
}

/// The setting as a document.
pub(crate) fn setting_document(setting: &LockSetting) -> Value {
    let later = setting.later.map_or(
        Value::Null,
        |(from, rule)| json!({ "from": rfc3339(from), "lock": rule_document(rule) }),
    );
    json!({ "lock": rule_document(setting.now), "later": later })
}

fn counts_document(counts: LockCounts) -> Value {
    let LockCounts { asked, extended, missing } = counts;
    json!({ "asked": asked, "extended": extended, "missing_packs": missing })
}

fn damaged_document(damaged: &[DamagedPoint]) -> Vec<Value> {
    let document =
        |one: &DamagedPoint| json!({ "object": one.key.as_str(), "error": one.error.to_string() });
    damaged.iter().map(document).collect()
}

fn status_document(status: &LockStatus, now_ms: u64) -> Value {
    let point = |one: &LockedPoint| {
        json!({
            "point": one.point.to_string(),
            "created": rfc3339(one.point.created_ms),
            "locked_until": one.until_ms(now_ms).map(rfc3339),
            "mode": one.lock.map(|lock| mode(lock.mode)),
            "packs": one.packs,
            "objects_without_lock": one.unlocked,
            "objects_locked_too_short": one.short,
        })
    };
    let mut document = setting_document(&status.setting);
    document["supported"] = status.supported.into();
    document["setting_lost"] = status.lost.into();
    document["points"] = status.points.iter().map(point).collect();
    document["next_backup_extends"] = status.next_backup.into();
    document["next_extend_extends"] = status.next_extend.into();
    document["requests"] = counts_document(status.counts);
    document["damaged"] = damaged_document(&status.damaged).into();
    document
}
