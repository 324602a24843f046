use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use sluice_repository::retention::{Candidate, Policy, Reason, Verdict, WAITING, apply};
use sluice_repository::{ErrorKind, Listing, Repository, RepositoryError, RestorePoint};

use super::backup::task_of;
use super::simulate;
use crate::args::{ForgetArgs, OfServerArgs, PruneArgs};
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::output::{self, count, local, note, table, warn};

/// Tombstones put side by side.
const PARALLEL: usize = 8;
/// Points that one prune removes at most whose list is for a server: it is told of each.
const MOST_AT_ONCE: usize = 100_000;
/// Points of which ids are told to a server: some 30 bytes each, of the 16 MiB that it hears.
pub(super) const MOST_TOLD: usize = 400_000;

const LATER: &str = "`sluice collect` gives the space back";

/// When the space of these points comes back.
fn later(context: &Context, locked_until: Option<u64>) -> String {
    match locked_until.map(|until| local(until, &context.zone)) {
        None => LATER.into(),
        Some(until) => format!("the destination locks them until {until}; after that, {LATER}"),
    }
}

/// Until when the destination keeps points that were removed. It does so whether one can ask or
/// not.
async fn locked_until(repository: &Repository, points: &[&RestorePoint]) -> Option<u64> {
    let until = repository.locked_until(points).await;
    until.unwrap_or_else(|error| {
        tracing::debug!(%error, "until when the points are locked is not known");
        None
    })
}

/// When `--keep-until` ends, and when it ends for single points, as they were called.
fn until(context: &Context, args: &PruneArgs) -> Result<(Option<u64>, BTreeMap<String, u64>)> {
    let (mut all, mut named) = (None, BTreeMap::new());
    for text in &args.keep_until {
        let (point, time) = match text.rsplit_once('=') {
            Some((point, time)) => (Some(point), time),
            None => (None, text.as_str()),
        };
        let seconds = time.strip_prefix('@').and_then(|seconds| seconds.parse::<u64>().ok());
        let ends = match (time, seconds) {
            ("event", _) => WAITING,
            (_, Some(seconds)) => seconds.saturating_mul(1000),
            _ => context.moment(time)?,
        };
        let twice = match point {
            Some(point) => named.insert(point.to_owned(), ends).is_some(),
            None => all.replace(ends).is_some(),
        };
        if twice {
            return Err(usage_error(format!("--keep-until {text:?}: another time is given")));
        }
    }
    Ok((all, named))
}

/// The same by names in full, of instances or of points that are looked up as any command does.
/// One that is not there is nothing to keep, and fails: it was mistyped, and what was meant would
/// be removed. Only a server may name what has gone since it wrote the names down.
async fn by_name(
    context: &Context,
    (args, repository): (&PruneArgs, &Repository),
    named: BTreeMap<String, u64>,
    points: &[RestorePoint],
) -> Result<BTreeMap<String, u64>> {
    let mut known = BTreeSet::new();
    for point in points.iter().filter(|_| !named.is_empty()) {
        known.extend([point.to_string(), point.instance.clone()]);
    }
    let mut own = BTreeMap::new();
    for (text, ends) in named {
        let name = match known.contains(&text) {
            true => text.clone(),
            false if args.brief => continue,
            false => meant(context, repository, &text).await?,
        };
        if !known.contains(&name) {
            let text = format!("--keep-until {text}: this prune does not judge {name}");
            return Err(usage_error(text));
        }
        if own.insert(name, ends).is_some() {
            return Err(usage_error(format!("--keep-until {text}: another time is given")));
        }
    }
    Ok(own)
}

/// The full name of the point that is meant.
async fn meant(context: &Context, repository: &Repository, text: &str) -> Result<String> {
    let wrong = |why: String| usage_error(format!("--keep-until {text}: {why}"));
    let spec = context.spec(text)?;
    if !text.contains('@') || spec.image.is_some() {
        let text = "there is no such instance here, and a restore point is named as web-1@0q5g3";
        return Err(wrong(text.to_owned()));
    }
    match repository.resolve(&spec).await {
        Ok(point) => Ok(point.to_string()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Ambiguous) => {
            Err(wrong(error.to_string()))
        }
        Err(error) => Err(error).with_context(|| format!("looking for {text}")),
    }
}

pub(super) fn policy(context: &Context, args: &PruneArgs) -> Result<Policy> {
    let (keep_until_ms, _) = until(context, args)?;
    Ok(Policy {
        keep_within: args.keep_within,
        keep_until_ms,
        min_age: args.min_age,
        ..args.periods.policy()
    })
}

/// Removes points that no rule keeps.
pub(crate) async fn prune(context: &Context, args: &PruneArgs) -> Result<Exit> {
    let policy = policy(context, args)?;
    let (_, named) = until(context, args)?;
    if policy.is_empty() {
        let text = sluice_repository::retention::EmptyPolicy.to_string();
        return Err(usage_error(text));
    }
    if let Some(lasts) = args.simulate {
        if let Some((point, _)) = named.first_key_value() {
            let text = format!("--keep-until {point}=: a simulation knows no restore points");
            return Err(usage_error(text));
        }
        return simulate::run(context, args, lasts);
    }
    let repository = context.open().await?;
    let Listing { points, damaged } = repository.list(args.instance.as_deref()).await?;
    let own = by_name(context, (args, &repository), named, &points).await?;
    let judged = judge(context, &policy, &own, &points)?;
    // Only what was read is judged: a damaged manifest is neither kept by a rule nor removed.
    for one in &damaged {
        warn(format_args!("{} (left alone)", one.error));
    }
    let mut removed: Vec<&RestorePoint> =
        judged.iter().filter(|(_, verdict)| !verdict.keep()).map(|(point, _)| *point).collect();
    match may_remove(&removed, args.of_server) {
        Err(refused) if args.dry_run => warn(format_args!("not without more: {refused}")),
        other => other?,
    }
    let rest = removed.len().saturating_sub(MOST_AT_ONCE);
    if args.brief && rest > 0 {
        removed.truncate(MOST_AT_ONCE);
        warn(format_args!("{rest} more restore points are for the next prune to remove"));
    }
    let mut stay = Vec::new();
    if !args.dry_run {
        let reason = format!("policy: {policy}");
        stay = remove(&repository, &removed, &reason).await?;
    }
    // Protected since it was listed: it stays, and the others go nevertheless.
    stay.iter().for_each(|(_, why)| warn(why));
    let locked = locked_until(&repository, &removed).await;
    match args.brief && context.global.json {
        true => {
            let stays = |point: &RestorePoint| stay.iter().any(|(one, _)| *one == point);
            let gone: Vec<_> = removed.iter().copied().filter(|point| !stays(point)).collect();
            output::json(&brief(&judged, &gone, locked))?;
        }
        false => tell(context, args, &judged, (removed.len() - stay.len(), locked))?,
    }
    let quiet = damaged.is_empty() && stay.is_empty() && !(args.brief && rest > 0);
    Ok(if quiet { Exit::Done } else { Exit::Warnings })
}

/// The ids of points that were removed and of those that are left, instance by instance: a server
/// keeps its list by it. Of more than can be told, those that are left are only counted.
fn brief(
    judged: &[(&RestorePoint, Verdict)],
    removed: &[&RestorePoint],
    locked_until: Option<u64>,
) -> Value {
    let by_instance = |points: &mut dyn Iterator<Item = &RestorePoint>| {
        let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for point in points {
            ids.entry(point.instance.clone()).or_default().push(point.id.to_string());
        }
        ids
    };
    let gone: BTreeSet<String> = removed.iter().map(ToString::to_string).collect();
    let mut left =
        judged.iter().map(|(point, _)| *point).filter(|point| !gone.contains(&point.to_string()));
    json!({
        "kept": judged.len() - removed.len(),
        "removed": removed.len(),
        "locked_until": locked_until.map(sluice_repository::rfc3339),
        "gone": by_instance(&mut removed.iter().copied()),
        "left": (judged.len() <= MOST_TOLD).then(|| by_instance(&mut left)),
    })
}

/// Refuses to remove what tasks of a server have made, unless that was said: policies of the server
/// may keep it because of an event, of which nothing is written down here.
fn may_remove(points: &[&RestorePoint], of_server: OfServerArgs) -> Result<()> {
    let mut theirs = points.iter().filter(|point| task_of(point).is_some());
    let Some(first) = theirs.next().filter(|_| !of_server.even_of_server) else { return Ok(()) };
    let others = match theirs.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Err(advise(
        "of-server",
        format!("{first}{others}: made by tasks of a server, whose policies may keep them"),
        "prune there, with `sluice task prune`, which keeps what events keep; or give \
         --even-of-server to remove them all the same",
    ))
}

/// A verdict for each point; instances are judged apart. `own` has the times of single points, and
/// of instances.
fn judge<'p>(
    context: &Context,
    policy: &Policy,
    own: &BTreeMap<String, u64>,
    points: &'p [RestorePoint],
) -> Result<Vec<(&'p RestorePoint, Verdict)>> {
    let mut instances: BTreeMap<&str, Vec<&RestorePoint>> = BTreeMap::new();
    for point in points {
        instances.entry(&point.instance).or_default().push(point);
    }
    let mut judged = Vec::with_capacity(points.len());
    for points in instances.into_values() {
        let candidate = |point: &&RestorePoint| {
            let own = own.get(&point.to_string()).or_else(|| own.get(&point.instance));
            Candidate { keep_until_ms: own.copied(), ..Candidate::from(*point) }
        };
        let candidates: Vec<Candidate> = points.iter().map(candidate).collect();
        let verdicts = apply(policy, &candidates, context.clock.now_ms(), &context.zone)?;
        judged.extend(points.into_iter().zip(verdicts));
    }
    Ok(judged)
}

pub(super) fn reasons(verdict: &Verdict) -> Vec<String> {
    verdict.reasons.iter().map(ToString::to_string).collect()
}

/// The same for people: with the time a retention ends, and why there is a hold.
fn because(context: &Context, point: &RestorePoint, verdict: &Verdict) -> String {
    let words = verdict.reasons.iter().map(|reason| match reason {
        Reason::Hold | Reason::Overlay | Reason::Event | Reason::RetainUntil => {
            let now = context.clock.now_ms();
            let kept = output::kept(&point.protection, now, &context.zone);
            kept.unwrap_or_else(|| reason.to_string())
        }
        _ => reason.to_string(),
    });
    let mut words: Vec<String> = words.collect();
    words.dedup();
    words.join(", ")
}

fn tell(
    context: &Context,
    args: &PruneArgs,
    judged: &[(&RestorePoint, Verdict)],
    (removed, locked_until): (usize, Option<u64>),
) -> Result<()> {
    if context.global.json {
        let points: Vec<_> = judged
            .iter()
            .map(|(point, verdict)| {
                json!({
                    "point": point.to_string(),
                    "id": point.id.to_string(),
                    "instance": point.instance,
                    "created": sluice_repository::rfc3339(point.created_ms),
                    "keep": verdict.keep(),
                    "reasons": reasons(verdict),
                    "retain_until": point.retain_until_ms.map(sluice_repository::rfc3339),
                })
            })
            .collect();
        return output::json(&json!({
            "dry_run": args.dry_run,
            "kept": judged.len() - removed,
            "removed": removed,
            "locked_until": locked_until.map(sluice_repository::rfc3339),
            "points": points,
        }));
    }
    if judged.is_empty() {
        note("there are no restore points to judge");
        return Ok(());
    }
    if args.dry_run || !context.global.quiet {
        let points: Vec<RestorePoint> = judged.iter().map(|(point, _)| (*point).clone()).collect();
        let ids = output::short_ids(&points);
        let row = |((point, verdict), id): (&(&RestorePoint, Verdict), String)| {
            vec![
                format!("{}@{id}", point.instance),
                local(point.created_ms, &context.zone),
                if verdict.keep() { "keep" } else { "remove" }.into(),
                because(context, point, verdict),
            ]
        };
        let rows = judged.iter().zip(ids).map(row).collect();
        output::print(&table(&["POINT", "TIME", "VERDICT", "BECAUSE"], rows))?;
    }
    if !context.global.quiet {
        let points = count(removed as u64, "restore point");
        note(match (args.dry_run, removed) {
            (_, 0) => "nothing to remove".into(),
            (true, _) => format!("{points} would be removed; nothing was changed"),
            (false, _) => format!("removed {points}; {}", later(context, locked_until)),
        });
    }
    Ok(())
}

/// Removes the named points: all of them are found before the first one goes.
pub(crate) async fn forget(context: &Context, args: &ForgetArgs) -> Result<Exit> {
    let repository = context.open().await?;
    let mut points: Vec<RestorePoint> = Vec::new();
    for text in &args.points {
        let spec = context.spec(text)?;
        if !text.contains('@') {
            return Err(usage_error(format!(
                "{text:?} names no restore point; write {text}@ID, or {text}@latest if you mean it"
            )));
        }
        if spec.image.is_some() {
            return Err(usage_error(format!("{text:?} names an image; points are removed whole")));
        }
        let (point, _) = context.point(&repository, text).await?;
        if !points.contains(&point) {
            points.push(point);
        }
    }
    // Nothing goes when one of them has to stay.
    may_remove(&points.iter().collect::<Vec<_>>(), args.of_server)?;
    for point in &points {
        repository.may_forget(point).await?;
    }
    let stay = remove(&repository, &points.iter().collect::<Vec<_>>(), "forget").await?;
    if let Some((_, kept)) = stay.into_iter().next() {
        return Err(kept.into());
    }
    let locked = locked_until(&repository, &points.iter().collect::<Vec<_>>()).await;
    if context.global.json {
        let removed: Vec<String> = points.iter().map(ToString::to_string).collect();
        let locked = locked.map(sluice_repository::rfc3339);
        output::json(&json!({ "removed": removed, "locked_until": locked }))?;
    } else if !context.global.quiet {
        let later = later(context, locked);
        note(format_args!("removed {}; {later}", count(points.len() as u64, "restore point")));
    }
    Ok(Exit::Done)
}

/// Removes points; returns those that have to stay, and what was said of them.
async fn remove<'p>(
    repository: &Repository,
    points: &[&'p RestorePoint],
    reason: &str,
) -> Result<Vec<(&'p RestorePoint, RepositoryError)>> {
    let who = &who();
    let mut removals = stream::iter(points)
        .map(|point| async move { (*point, repository.forget(point, who, reason).await) })
        .buffer_unordered(PARALLEL);
    let mut stay = Vec::new();
    while let Some((point, removed)) = removals.next().await {
        match removed {
            Err(error) if error.kind() == ErrorKind::Protected => stay.push((point, error)),
            other => other.with_context(|| format!("{point} was not removed"))?,
        }
    }
    Ok(stay)
}

/// Who does it, for the record.
pub(crate) fn who() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
