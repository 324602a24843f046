use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::json;
use sluice_destination::{Destination, list_all};
use sluice_repository::replicate::state::{self, Mark};
use sluice_repository::{ErrorKind, Repository};

use crate::context::Context;
use crate::error::{Exit, advise};
use crate::output::{self, bytes, count, note, warn};

/// Makes the replica the primary.
pub(super) async fn promote(context: &Context, force: bool) -> Result<Exit> {
    let destination = context.destination(false).await?.destination;
    Repository::peek(&*destination).await?;
    let promoted = state::promote(&*destination, &context.clock, force).await;
    let mark = promoted.map_err(|error| match error.kind() {
        ErrorKind::Conflict => advise(
            "conflict",
            error.to_string(),
            "if the machine that runs it is gone for good, add --force",
        ),
        _ => error.into(),
    })?;
    let (here, old) = (destination.location(), &mark.source);
    if context.global.json {
        output::json_line(&json!({ "primary": here, "was_replica_of": old }))?;
    } else if !context.global.quiet {
        note(format_args!("{here} takes backups from now on"));
        note(format_args!(
            "The old primary, {old}, must take none any more. Point the backups here; when it can \
             be reached, make it follow:\n  \
             sluice --repo OLD replicate demote --to NEW\n  \
             sluice --repo NEW replicate --to OLD"
        ));
    }
    if mark.state != state::RunState::Done {
        warn("the last replication into it did not end well: what it lacked it lacks still");
        return Ok(Exit::Warnings);
    }
    Ok(Exit::Done)
}

/// Makes the repository a replica of the new primary.
pub(super) async fn demote(context: &Context, to: &str) -> Result<Exit> {
    let here = context.destination(false).await?.destination;
    let there = context.destination_at(to, false).await?.destination;
    let (ours, theirs) = (Repository::peek(&*here).await?, Repository::peek(&*there).await?);
    let (place, primary) = (here.location(), there.location());
    if ours.id != theirs.id || place == primary {
        return Err(advise(
            "role",
            format!("{primary} is no copy of {place}"),
            "name the place that was promoted",
        ));
    }
    if state::mark(&*there).await?.is_some() {
        return Err(advise(
            "role",
            format!("{primary} is a replica itself"),
            "promote it first: `sluice --repo NEWPRIMARY replicate promote`",
        ));
    }
    state::demote(&*here, &ours.id, &primary, &context.clock).await?;
    let only = commits(&*here).await?.difference(&commits(&*there).await?).count() as u64;
    if context.global.json {
        let document = json!({ "replica": place, "primary": primary, "only_here": only });
        output::json_line(&document)?;
    } else if !context.global.quiet {
        note(format_args!("{place} is a replica of {primary} now and takes no backups"));
    }
    if only > 0 {
        warn(format_args!(
            "{} only here and stay here; nothing copies them to the primary",
            match only {
                1 => "1 restore point is".into(),
                _ => format!("{} are", count(only, "restore point")),
            }
        ));
        return Ok(Exit::Warnings);
    }
    Ok(Exit::Done)
}

async fn commits(side: &dyn Destination) -> Result<BTreeSet<String>> {
    let objects = list_all(side, "r/").await?;
    Ok(objects.into_iter().map(|object| object.key.as_str().to_owned()).collect())
}

/// Shows the role.
pub(super) async fn status(context: &Context) -> Result<Exit> {
    let destination = context.destination(false).await?.destination;
    Repository::peek(&*destination).await?;
    let mark = state::mark(&*destination).await?;
    if context.global.json {
        let role = if mark.is_some() { "replica" } else { "primary" };
        output::json_line(&json!({
            "location": destination.location(),
            "role": role,
            "replica": mark,
        }))?;
        return Ok(Exit::Done);
    }
    output::print(&text(&destination.location(), mark.as_ref()))?;
    Ok(Exit::Done)
}

fn text(place: &str, mark: Option<&Mark>) -> String {
    let Some(mark) = mark else {
        return output::fields(vec![("place", place.into()), ("role", "primary".into())]);
    };
    let or_never = |time: &Option<String>| time.clone().unwrap_or_else(|| "never".into());
    let state = match mark.state {
        state::RunState::None => "none has run",
        state::RunState::Running => "under way, or interrupted",
        state::RunState::Done => "done",
        state::RunState::Incomplete => "incomplete: damage at the source",
    };
    output::fields(vec![
        ("place", place.into()),
        ("role", "replica".into()),
        ("of", mark.source.clone()),
        ("since", mark.since.clone()),
        ("last run", or_never(&mark.last_run)),
        ("state", state.into()),
        ("last complete", or_never(&mark.last_done)),
        ("brought", format!("{}, {}", count(mark.points, "restore point"), bytes(mark.bytes))),
    ])
}
