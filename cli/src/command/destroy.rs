use std::io::{IsTerminal, Write};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use sluice_repository::{DestroyRequest, Destroyed, Repository, rfc3339};

use super::prune::who;
use crate::args::DestroyArgs;
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::output::{self, bytes, count, local, note, warn};

/// Asks for the repository to be destroyed, or does it when its time has come.
pub(crate) async fn run(context: &Context, args: &DestroyArgs) -> Result<Exit> {
    let destination = context.destination(false).await?.destination;
    if let Some(id) = Repository::destroy_begun(&*destination).await? {
        // There may be no key left to open it with.
        if args.cancel {
            return Err(advise(
                "conflict",
                "destroying has begun; what was removed does not come back",
                "run `sluice destroy` to bring it to its end",
            ));
        }
        confirm(args, &id.hex(), "Its destruction has begun and will be brought to its end.")?;
        let bar = bar(context);
        let done = Repository::resume_destroy(&*destination, id, |at, of| show(&bar, at, of)).await;
        bar.finish_and_clear();
        return gone(context, &id.hex(), done?);
    }
    let repository = context.open().await?;
    let id = repository.descriptor().id.clone();
    if args.cancel {
        return cancel(context, &repository, &id).await;
    }
    let now = context.clock.now_ms();
    match repository.destroy_request().await? {
        None => {
            confirm(args, &id, "It will be possible to destroy it when the delay is over.")?;
            let request = repository.request_destroy(args.delay, &who()).await?;
            asked(context, &id, &request)
        }
        Some(request) if now < request.effective_ms => Err(advise(
            "protected",
            format!(
                "it was asked for on {} and can be done from {} on",
                local(request.requested_ms, &context.zone),
                local(request.effective_ms, &context.zone)
            ),
            "run the command again then; `sluice destroy --cancel` takes it back",
        )),
        Some(_) => {
            confirm(args, &id, "It will be destroyed now, with everything in it.")?;
            let bar = bar(context);
            let done = repository.destroy(&who(), |at, of| show(&bar, at, of)).await;
            bar.finish_and_clear();
            let done = done.context("the repository was not destroyed, or not all of it")?;
            gone(context, &id, done)
        }
    }
}

async fn cancel(context: &Context, repository: &Repository, id: &str) -> Result<Exit> {
    let was = repository.cancel_destroy().await?;
    if context.global.json {
        let state = if was { "cancelled" } else { "none" };
        output::json(&json!({ "repository": id, "state": state }))?;
    } else if !context.global.quiet {
        note(match was {
            true => "the repository stays",
            false => "nobody had asked for it to be destroyed",
        });
    }
    Ok(Exit::Done)
}

/// Makes sure that this repository is meant.
fn confirm(args: &DestroyArgs, id: &str, what: &str) -> Result<()> {
    let differs = || usage_error(format!("that is not the id of this repository, which is {id}"));
    if let Some(yes) = &args.yes {
        return if yes == id { Ok(()) } else { Err(differs()) };
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(usage_error(format!(
            "nobody is there to type the repository's id; give --yes {id} if you mean it"
        )));
    }
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "Repository {id}. {what}\nType its id to go on: ")?;
    stderr.flush()?;
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed)?;
    if typed.trim() == id { Ok(()) } else { Err(differs()) }
}

fn bar(context: &Context) -> ProgressBar {
    let global = &context.global;
    let hidden = global.quiet || global.json || global.no_progress;
    let bar = ProgressBar::new(0);
    bar.set_draw_target(match hidden || !std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    });
    let template = "removing {wide_bar} {pos}/{len} objects, {per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, at: u64, of: u64) {
    bar.set_length(of);
    bar.set_position(at);
}

fn asked(context: &Context, id: &str, request: &DestroyRequest) -> Result<Exit> {
    if context.global.json {
        output::json(&json!({
            "repository": id,
            "state": "requested",
            "effective": rfc3339(request.effective_ms),
            "approved_by": request.approved_by,
        }))?;
    } else if !context.global.quiet {
        let from = local(request.effective_ms, &context.zone);
        note(format_args!(
            "nothing was removed yet; from {from} on, `sluice destroy` again destroys the \
             repository, and until then `sluice destroy --cancel` takes it back"
        ));
    }
    Ok(Exit::Done)
}

fn gone(context: &Context, id: &str, done: Destroyed) -> Result<Exit> {
    if done.left > 0 {
        let files = count(done.left, "object");
        warn(format_args!("{files} at this place are none of a repository, and stay"));
    }
    if context.global.json {
        output::json(&json!({
            "repository": id,
            "state": "destroyed",
            "objects": done.objects,
            "bytes": done.bytes,
            "left": done.left,
        }))?;
    } else if !context.global.quiet {
        let objects = count(done.objects, "object");
        note(format_args!("destroyed repository {id}: {objects}, {}", bytes(done.bytes)));
    }
    Ok(Exit::Done)
}
