//! Groups of users of a server.

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::approvals::{Done, done};
use super::roles::Roles;
use super::users::id_of;
use super::{all, profile, show_list, word};
use crate::args::GroupCommand;
use crate::context::Context;
use crate::error::{Exit, advise};
use crate::output;

/// Does it.
pub(crate) async fn run(context: &Context, command: GroupCommand) -> Result<Exit> {
    let client = profile::client()?;
    match command {
        GroupCommand::List => {
            let groups = all(&client, "/api/v1/groups").await?;
            let roles = Roles::in_items(&client, &groups).await?;
            let row = |group: &Value| {
                let members = group["members"].as_array().map_or(0, Vec::len);
                vec![word(group, "name"), members.to_string(), roles.text(&group["grants"])]
            };
            show_list(context, &["NAME", ">MEMBERS", "ROLES"], &groups, row)
        }
        GroupCommand::Show { name } => {
            output::json(&one(&client, &name).await?)?;
            Ok(Exit::Done)
        }
        GroupCommand::Set { name, members, roles } => {
            let mut ids = Vec::new();
            for member in &members {
                ids.push(id_of(&client, member).await?);
            }
            let grants = Roles::in_words(&client, &roles).await?.grants(&roles)?;
            let body = json!({"name": name, "members": ids, "grants": grants});
            let groups = all(&client, "/api/v1/groups").await?;
            let known = groups.iter().find(|group| group["name"] == name.as_str());
            let (answer, change) = match known {
                None => {
                    let path = "/api/v1/groups";
                    (client.send(Method::POST, path, Some(&body), &[]).await?, "created")
                }
                Some(group) => {
                    let path = format!("/api/v1/groups/{}", word(group, "id"));
                    let tag = format!("\"{}\"", group["revision"]);
                    let based = [("if-match", tag.as_str())];
                    (client.send(Method::PUT, &path, Some(&body), &based).await?, "changed")
                }
            };
            done(context, &answer, Done { name: &name, change })
        }
        GroupCommand::Remove { name } => {
            let path = format!("/api/v1/groups/{}", word(&one(&client, &name).await?, "id"));
            let answer = client.send(Method::DELETE, &path, None, &[]).await?;
            done(context, &answer, Done { name: &name, change: "removed" })
        }
    }
}

async fn one(client: &Client, name: &str) -> Result<Value> {
    let groups = all(client, "/api/v1/groups").await?;
    let found = groups.into_iter().find(|group| group["name"] == name || group["id"] == name);
    found.ok_or_else(|| {
        advise("not-found", format!("there is no group {name}"), "sluice group list shows all")
    })
}
