//! Mounted restore points of a server.

mod files;

use std::time::Duration;

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::filter::Filter;
use super::records::Records;
use super::{all, profile, show_list, word};
use crate::args::{RemoteMountCommand, RemoteMountStartArgs, RemoteProtocol};
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::output::{self, local, note};
use crate::secret;

/// How often a mount that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// Does it.
pub(crate) async fn run(context: &Context, command: RemoteMountCommand) -> Result<Exit> {
    let client = profile::client()?;
    match command {
        RemoteMountCommand::List(args) => {
            let filter = Filter::new(&client).mounts(&args).await?;
            let mounts = all(&client, &filter.path("/api/v1/mounts")).await?;
            let headings = ["ID", "POINT", "STATE", "ENDS", "WHERE"];
            show_list(context, &headings, &mounts, |mount| row(context, mount))
        }
        RemoteMountCommand::Show { id } => {
            output::json(&client.get::<Value>(&path(&id)).await?)?;
            Ok(Exit::Done)
        }
        RemoteMountCommand::Start(args) => start(context, &client, args).await,
        RemoteMountCommand::Renew { id, lease } => {
            let body = json!({"lease_seconds": lease.as_secs()});
            tell(context, &client.post(&format!("{}/renew", path(&id)), &body).await?)?;
            Ok(Exit::Done)
        }
        RemoteMountCommand::Commit { id } => {
            let task: Value = client.post(&format!("{}/commit", path(&id)), &()).await?;
            if context.global.json {
                output::json(&task)?;
            } else {
                output::print(&format!("{}\n", word(&task, "id")))?;
            }
            Ok(Exit::Done)
        }
        RemoteMountCommand::Files { id, path } => files::list(context, &client, &id, &path).await,
        RemoteMountCommand::Download { id, path, output } => {
            files::download(context, &client, (&id, &path), output.as_deref()).await
        }
        RemoteMountCommand::Stop { id, no_wait } => {
            let ended = client.send(Method::DELETE, &path(&id), None, &[]).await?;
            let mount = if no_wait { ended.body } else { settled(&client, &id).await? };
            tell(context, &mount)?;
            Ok(Exit::Done)
        }
    }
}

fn path(id: &str) -> String {
    format!("/api/v1/mounts/{id}")
}

async fn start(context: &Context, client: &Client, args: RemoteMountStartArgs) -> Result<Exit> {
    if args.client.is_empty() && args.protocol != RemoteProtocol::Fuse {
        return Err(usage_error("say with --client which networks may connect"));
    }
    let mut body = json!({
        "point": point(client, &args.point, args.from.as_deref()).await?,
        "protocol": args.protocol.word(),
        "clients": args.client.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "initiators": args.initiator,
        "image": args.image,
        "folder": args.folder,
        "writable": args.writable,
        "lease_seconds": args.lease.as_secs(),
    });
    if let Some(name) = &args.node {
        let nodes = Records::load(client, "nodes").await?;
        body["node"] = nodes.one(name)?["id"].clone();
    }
    if let Some(user) = &args.chap_user {
        let secret = match &args.chap_secret_file {
            Some(file) => secret::chap_secret(file)?,
            None => return Err(usage_error("--chap-user needs --chap-secret-file")),
        };
        body["chap_user"] = Value::from(user.as_str());
        body["chap_secret"] = Value::from(secret.as_str());
    }
    let mut mount: Value = client.post("/api/v1/mounts", &body).await?;
    if !args.no_wait {
        mount = settled(client, &word(&mount, "id")).await?;
    }
    if word(&mount, "state") == "failed" {
        let text = format!("the node cannot mount it: {}", word(&mount, "message"));
        let help = format!("`sluice remote-mount stop {}` removes it", word(&mount, "id"));
        return Err(advise("failed", text, help));
    }
    tell(context, &mount)?;
    Ok(Exit::Done)
}

/// The id of a restore point that is called by its id, by the repository's name for it, or by the
/// instance whose newest is meant.
///
/// With `from`, what that destination holds of it.
pub(super) async fn point(client: &Client, called: &str, from: Option<&str>) -> Result<Value> {
    let mut points = all(client, "/api/v1/points").await?;
    let named = |point: &&Value| point["id"] == called || point["point"] == called;
    let named = points.iter().find(named).cloned();
    if let Some(name) = from {
        let destinations = Records::load(client, "destinations").await?;
        let destination = destinations.one(name)?["id"].clone();
        points.retain(|point| point["destination"] == destination);
    }
    if let Some(point) = named {
        let original = if point["copy_of"].is_null() { &point["id"] } else { &point["copy_of"] };
        let same = |one: &&Value| {
            from.is_none() && one["id"] == point["id"]
                || from.is_some() && (one["id"] == *original || one["copy_of"] == *original)
        };
        return points.iter().find(same).map(|one| one["id"].clone()).ok_or_else(|| {
            let text = format!("{called} is not at {}", from.unwrap_or_default());
            advise("not-found", text, "`sluice point show` tells where it is")
        });
    }
    let name = called.strip_suffix("@latest").unwrap_or(called);
    let instances = Records::load(client, "instances").await?;
    let instance = instances.one(name)?["id"].clone();
    let own = points.iter().filter(|point| point["instance"] == instance);
    // Of those of one moment, the original.
    let newest = own.max_by_key(|point| (point["taken_ms"].as_u64(), point["copy_of"].is_null()));
    newest.map(|point| point["id"].clone()).ok_or_else(|| {
        let text = format!("{name} has no restore point");
        advise("not-found", text, "`sluice task backup` makes one")
    })
}

/// The mount once nothing is under way any more.
async fn settled(client: &Client, id: &str) -> Result<Value> {
    loop {
        let mount: Value = client.get(&path(id)).await?;
        if !["requested", "releasing"].contains(&word(&mount, "state").as_str()) {
            return Ok(mount);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn tell(context: &Context, mount: &Value) -> Result<()> {
    if context.global.json {
        return output::json(mount);
    }
    let id = word(mount, "id");
    output::print(&format!("{id}\n"))?;
    if context.global.quiet {
        return Ok(());
    }
    let ends = local(mount["lease_end_ms"].as_u64().unwrap_or(0), &context.zone);
    match word(mount, "state").as_str() {
        "ready" => {
            note(format_args!("{} is ready, until {ends}", word(mount, "point_name")));
            if let Some(fingerprint) = mount["fingerprint"].as_str() {
                note(format_args!("  certificate: SHA-256 {fingerprint}"));
            }
            for disk in mount["disks"].as_array().into_iter().flatten() {
                note(format_args!("  {}: {}", word(disk, "name"), word(disk, "uri")));
            }
        }
        state => note(format_args!("it is {state}")),
    }
    Ok(())
}

fn row(context: &Context, mount: &Value) -> Vec<String> {
    let ends = local(mount["lease_end_ms"].as_u64().unwrap_or(0), &context.zone);
    let mut place = word(mount, "uri");
    if word(mount, "state") != "ready" {
        place = word(mount, "message");
    }
    vec![word(mount, "id"), word(mount, "point_name"), word(mount, "state"), ends, place]
}
