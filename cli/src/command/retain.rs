use anyhow::{Context as _, Result};
use serde_json::json;
use sluice_repository::retention::Refused;
use sluice_repository::{Protection, Repository, RestorePoint, rfc3339};

use super::prune::who;
use crate::args::{EventArgs, HoldArgs, ReleaseArgs, RetainArgs};
use crate::context::Context;
use crate::error::{Advice, Exit, usage_error};
use crate::output::{self, PointDocument, count, note, warn};

/// Longest reason and name of an event: they are read with every listing.
const LONGEST: usize = 500;

/// Puts points on hold.
pub(crate) async fn hold(context: &Context, args: &HoldArgs) -> Result<Exit> {
    if let Some(reason) = &args.reason {
        check("reason", reason)?;
    }
    let repository = context.open().await?;
    let points = named(context, &repository, &args.points, false).await?;
    change(context, &repository, points, |_, protection, _| {
        protection.hold(args.reason.clone());
        Ok(())
    })
    .await
}

/// Ends holds.
pub(crate) async fn release(context: &Context, args: &ReleaseArgs) -> Result<Exit> {
    let repository = context.open().await?;
    let points = named(context, &repository, &args.points, false).await?;
    change(context, &repository, points, |_, protection, _| {
        match args.overlays {
            true => protection.overlays = None,
            false => protection.release(),
        }
        Ok(())
    })
    .await
}

/// Makes retention longer, or shorter after a delay.
pub(crate) async fn retain(context: &Context, args: &RetainArgs) -> Result<Exit> {
    if let Some(event) = &args.after_event {
        check("event", event)?;
    }
    let until = args.until.as_deref().map(|text| context.moment(text)).transpose()?;
    let time = args.time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let delay = u64::try_from(args.delay.as_millis()).unwrap_or(u64::MAX);
    let repository = context.open().await?;
    let points = named(context, &repository, &args.points, true).await?;
    change(context, &repository, points, |point, protection, now| {
        let end = until.or_else(|| Some(point.created_ms.saturating_add(time?)));
        match (&args.after_event, end) {
            (Some(event), _) => protection.retain_after(event, time.unwrap_or(0), now),
            (None, end) if args.shorten => protection.shorten(end, now.saturating_add(delay), now),
            (None, Some(end)) => protection.retain(end, now),
            (None, None) => Ok(()), // the grammar asks for one of them
        }
    })
    .await
}

/// Begins the retention of points that wait for an event.
pub(crate) async fn event(context: &Context, args: &EventArgs) -> Result<Exit> {
    check("event", &args.name)?;
    let at = match &args.at {
        Some(text) => context.moment(text)?,
        None => context.clock.now_ms(),
    };
    let repository = context.open().await?;
    let listing = repository.list(args.instance.as_deref()).await?;
    for one in &listing.damaged {
        warn(format_args!("{} (left alone)", one.error));
    }
    let waits = |point: &RestorePoint| point.protection.clone().happened(&args.name, at);
    let points: Vec<RestorePoint> = listing.points.into_iter().filter(waits).collect();
    if points.is_empty() {
        warn(format_args!("no restore point waits for the event {:?}", args.name));
    }
    let clean = listing.damaged.is_empty() && !points.is_empty();
    let done = change(context, &repository, points, |_, protection, _| {
        protection.happened(&args.name, at);
        Ok(())
    });
    done.await?;
    Ok(if clean { Exit::Done } else { Exit::Warnings })
}

fn check(what: &str, text: &str) -> Result<()> {
    if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
        return Err(usage_error(format!(
            "{text:?} is no {what}: use 1 to {LONGEST} bytes without control characters"
        )));
    }
    Ok(())
}

/// The named points; all are found before the first is changed. With `whole` an instance alone
/// means all its points.
async fn named(
    context: &Context,
    repository: &Repository,
    texts: &[String],
    whole: bool,
) -> Result<Vec<RestorePoint>> {
    let mut points: Vec<RestorePoint> = Vec::new();
    for text in texts {
        let spec = context.spec(text)?;
        if spec.image.is_some() {
            return Err(usage_error(format!("{text:?} names an image; points are kept whole")));
        }
        let found = match text.contains('@') {
            true => vec![context.point(repository, text).await?.0],
            false if whole => {
                let listing = repository.list(Some(text)).await?;
                for one in &listing.damaged {
                    warn(format_args!("{} (left alone)", one.error));
                }
                if listing.points.is_empty() {
                    context.point(repository, text).await?; // says that there is none
                }
                listing.points
            }
            false => {
                return Err(usage_error(format!(
                    "{text:?} names no restore point; write {text}@ID, or {text}@latest"
                )));
            }
        };
        for point in found {
            if !points.iter().any(|known| known.id == point.id && known.chain == point.chain) {
                points.push(point);
            }
        }
    }
    Ok(points)
}

/// Changes what keeps these points, and tells what does then.
async fn change(
    context: &Context,
    repository: &Repository,
    points: Vec<RestorePoint>,
    how: impl Fn(&RestorePoint, &mut Protection, u64) -> Result<(), Refused>,
) -> Result<Exit> {
    let mut changed = Vec::with_capacity(points.len());
    for point in &points {
        let change = |protection: &mut Protection, now| how(point, protection, now);
        let done = repository.change_protection(point, &who(), change).await;
        let done = done.map_err(|error| match error.kind() {
            sluice_repository::ErrorKind::Protected => {
                anyhow::Error::from(error).context(Advice::new(
                    "protected",
                    format!("what keeps {point} was not changed"),
                    "`sluice show POINT` tells what keeps it; `sluice retain --shorten` brings \
                     the end of a retention forward",
                ))
            }
            _ => error.into(),
        });
        changed.push(done.with_context(|| {
            format!("{} of {} were changed", changed.len(), count(points.len() as u64, "point"))
        })?);
    }
    // What is kept for longer is locked for longer, where anything is locked.
    let locks = repository.extend_locks_of(changed.clone()).await;
    locks.context("what keeps the points was changed; `sluice lock extend` locks them as long")?;
    if context.global.json {
        let documents: Vec<_> = changed.iter().map(PointDocument::from).collect();
        output::json(&json!({ "points": documents, "now": rfc3339(context.clock.now_ms()) }))?;
    } else if !context.global.quiet {
        for point in &changed {
            let now = context.clock.now_ms();
            let kept = output::kept(&point.protection, now, &context.zone);
            note(match kept {
                Some(kept) => format!("{point} is kept: {kept}"),
                None => format!("nothing but rules keeps {point}"),
            });
        }
    }
    Ok(Exit::Done)
}
