//! Mounted restore points of a server.

mod files;

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::filter::Filter;
use super::records::Records;
use super::{all, profile, show_list, until, word};
use crate::args::{RemoteMountCommand, RemoteMountStartArgs, RemoteProtocol};
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::output::{self, local, note};
use crate::secret;

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
        RemoteMountCommand::Download(args) => files::download(context, &client, &args).await,
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

/// The id of a restore point that is called by its id, by the repository's name for it as far as
/// that is unique, or by the instance whose newest is meant.
///
/// With `from`, what that destination holds of it.
pub(super) async fn point(client: &Client, called: &str, from: Option<&str>) -> Result<Value> {
    let at = match from {
        Some(name) => Some(Records::load(client, "destinations").await?.one(name)?["id"].clone()),
        None => None,
    };
    let (name, beginning) = called.split_once('@').unwrap_or((called, "latest"));
    let instances = Records::load(client, "instances").await?;
    let of = |instance: &Value| Filter::new(client).word("instance", instance.as_str());
    match instances.called(name) {
        Some(instance) if beginning == "latest" => {
            newest(client, of(&instance["id"]), (name, at.as_ref())).await
        }
        Some(instance) => {
            let points = all(client, &of(&instance["id"]).path("/api/v1/points")).await?;
            let fits = |point: &Value| {
                let id = point["point"].as_str().and_then(|point| point.rsplit_once('@'));
                id.is_some_and(|(_, id)| id.starts_with(beginning))
            };
            copy(&points, one(&points, called, fits)?, (called, from, at.as_ref()))
        }
        None if is_id(called) => {
            let point: Value = client.get(&format!("/api/v1/points/{called}")).await?;
            let points = match at {
                Some(_) => all(client, &of(&point["instance"]).path("/api/v1/points")).await?,
                None => Vec::new(),
            };
            copy(&points, &point, (called, from, at.as_ref()))
        }
        // Its instance was called otherwise when it was made.
        None if called.contains('@') => {
            let points = all(client, "/api/v1/points").await?;
            let fits = |point: &Value| point["point"] == called;
            copy(&points, one(&points, called, fits)?, (called, from, at.as_ref()))
        }
        None => Err(instances.one(name).err().unwrap_or_else(|| no_point(called))),
    }
}

/// Whether a word may be the id of a record.
fn is_id(word: &str) -> bool {
    word.len() == 36 && word.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// The newest restore point of an instance; of those of one moment, the original.
async fn newest(
    client: &Client,
    of: Filter<'_>,
    (name, at): (&str, Option<&Value>),
) -> Result<Value> {
    let asked = of.word("destination", at.and_then(Value::as_str)).word("order", Some("newest"));
    // Copies stand beside their original, and there are not many of one.
    let part: Value = client.get(&asked.path("/api/v1/points")).await?;
    let points = part["items"].as_array().into_iter().flatten();
    let newest = points.rev().max_by_key(|one| (one["taken_ms"].as_u64(), is_original(one)));
    newest.map(|point| point["id"].clone()).ok_or_else(|| {
        let text = format!("{name} has no restore point");
        advise("not-found", text, "`sluice task backup` makes one")
    })
}

fn is_original(point: &Value) -> bool {
    point["copy_of"].is_null()
}

/// The restore point of which a restore point is a copy, or itself.
fn original(point: &Value) -> &Value {
    if is_original(point) { &point["id"] } else { &point["copy_of"] }
}

/// The only restore point that fits; copies are the same as their original.
fn one<'p>(points: &'p [Value], called: &str, fits: impl Fn(&Value) -> bool) -> Result<&'p Value> {
    let mut found: Vec<&Value> = points.iter().filter(|point| fits(point)).collect();
    found.sort_by_key(|point| !is_original(point));
    let Some(first) = found.first().copied() else { return Err(no_point(called)) };
    let others = found.iter().filter(|point| point["point"] != first["point"]);
    match others.filter(|point| original(point) != original(first)).count() {
        0 => Ok(first),
        _ => {
            let text = format!("{called} fits several restore points");
            Err(advise("ambiguous", text, "write more of the id; `sluice point list` has them"))
        }
    }
}

fn no_point(called: &str) -> anyhow::Error {
    let text = format!("there is no restore point {called}");
    advise("not-found", text, "`sluice point list` shows what there is")
}

/// The id of what a destination holds of a restore point, where one is named.
fn copy(
    points: &[Value],
    point: &Value,
    (called, from, at): (&str, Option<&str>, Option<&Value>),
) -> Result<Value> {
    let Some(at) = at else { return Ok(point["id"].clone()) };
    let mut there = points.iter().filter(|one| one["destination"] == *at);
    let same = there.find(|one| original(one) == original(point));
    same.map(|one| one["id"].clone()).ok_or_else(|| {
        let text = format!("{called} is not at {}", from.unwrap_or_default());
        advise("not-found", text, "`sluice point show` tells where it is")
    })
}

/// The mount once nothing is under way any more.
async fn settled(client: &Client, id: &str) -> Result<Value> {
    until(client, &path(id), |mount| {
        !["requested", "releasing"].contains(&word(mount, "state").as_str())
    })
    .await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_called_by_what_is_unique_of_its_name() {
        fn point(id: &str, name: &str, of: Value, at: &str) -> Value {
            json!({"id": id, "point": name, "copy_of": of, "destination": at})
        }
        let points = [
            point("c", "shop.web@0q5g3aaa", json!("a"), "far"),
            point("a", "shop.web@0q5g3aaa", Value::Null, "near"),
            point("b", "shop.web@0q5g4bbb", Value::Null, "near"),
        ];
        let begins = |text: &'static str| {
            move |point: &Value| point["point"].as_str().unwrap().starts_with(text)
        };
        let found =
            |text: &'static str| one(&points, text, begins(text)).map(|point| point["id"].clone());
        assert_eq!(found("shop.web@0q5g3").unwrap(), "a", "the original");
        assert_eq!(found("shop.web@0q5g4bbb").unwrap(), "b");
        assert!(found("shop.web@0q5g").unwrap_err().to_string().contains("several"));
        let none = found("shop.web@1").unwrap_err().to_string();
        assert!(none.contains("no restore point"), "{none}");
        let at = |point: &Value, place: &str| {
            copy(&points, point, ("x", Some("x"), Some(&json!(place))))
        };
        assert_eq!(at(&points[1], "far").unwrap(), "c");
        assert_eq!(at(&points[0], "near").unwrap(), "a");
        assert!(at(&points[2], "far").is_err(), "it is not there");
        assert_eq!(copy(&[], &points[0], ("x", None, None)).unwrap(), "c");
        assert!(is_id("0193a2b4-5c6d-7e8f-9012-3456789abcde") && !is_id("web-1"));
    }
}
