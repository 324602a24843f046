//! Snapshots of instances of a server, at their sources.

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::filter::Filter;
use super::records::Records;
use super::{all, moment, profile, show_list, until, word};
use crate::args::SnapshotCommand;
use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, bytes, note, warn};

/// Does it.
pub(crate) async fn run(context: &Context, command: SnapshotCommand) -> Result<Exit> {
    let client = profile::client()?;
    match command {
        SnapshotCommand::Make { instance, keep, no_hooks, no_wait } => {
            let instances = Records::load(&client, "instances").await?;
            let body = json!({
                "instance": instances.one(&instance)?["id"],
                "keep_seconds": keep.map(|keep| keep.as_secs()),
                "no_hooks": no_hooks,
            });
            let made = client.post("/api/v1/snapshots", &body).await?;
            told(context, &client, made, no_wait, "ready").await
        }
        SnapshotCommand::List { instance, state } => {
            let instances = Records::load(&client, "instances").await?;
            let filter = Filter::new(&client).knowing(&instances).word("state", state);
            let filter = filter.one("instance", "instances", instance.as_ref()).await?;
            let found = all(&client, &filter.path("/api/v1/snapshots")).await?;
            let headings = ["ID", "INSTANCE", "STATE", "TAKEN", "RULE", ">SIZE", "WHY"];
            show_list(context, &headings, &found, |one| row(context, &instances, one))
        }
        SnapshotCommand::Show { id } => {
            output::json(&client.get::<Value>(&path(&id)).await?)?;
            Ok(Exit::Done)
        }
        SnapshotCommand::Remove { id, no_wait } => {
            let ended = client.send(Method::DELETE, &path(&id), None, &[]).await?;
            told(context, &client, ended.body, no_wait, "gone").await
        }
    }
}

fn path(id: &str) -> String {
    format!("/api/v1/snapshots/{id}")
}

fn row(context: &Context, instances: &Records, one: &Value) -> Vec<String> {
    let images = one["images"].as_array().into_iter().flatten();
    let size: u64 = images.filter_map(|image| image["bytes"].as_u64()).sum();
    vec![
        word(one, "id"),
        instances.name_of(&one["instance"]),
        word(one, "state"),
        moment(context, &one["made_ms"]),
        word(one, "rule"),
        bytes(size),
        word(one, "message"),
    ]
}

/// Tells of a snapshot, once it is what it was to be, or will not be.
async fn told(
    context: &Context,
    client: &Client,
    mut one: Value,
    no_wait: bool,
    wanted: &str,
) -> Result<Exit> {
    let id = word(&one, "id");
    let under_way = |one: &Value| ["requested", "removing"].contains(&word(one, "state").as_str());
    // One that could not be made is on its way out.
    let settled =
        |one: &Value| !under_way(one) || wanted == "ready" && word(one, "state") == "removing";
    if !no_wait && !settled(&one) {
        one = until(client, &path(&id), settled).await?;
    }
    let state = word(&one, "state");
    let failed = !no_wait && state != wanted;
    if context.global.json {
        output::json(&one)?;
    } else {
        output::print(&format!("{id}\n"))?;
        match failed {
            true => warn(format_args!("it is {state}: {}", word(&one, "message"))),
            false if !context.global.quiet => note(format_args!("it is {state}")),
            false => {}
        }
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}
