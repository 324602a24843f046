//! Policies of a server: which instances they have, or would have.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::approvals::{Done, done};
use super::records::{self, Records, document};
use super::{all, profile, show_list, word};
use crate::args::PolicyCommand;
use crate::context::Context;
use crate::error::Exit;

/// Does it.
pub(crate) async fn run(context: &Context, command: PolicyCommand) -> Result<Exit> {
    match command {
        PolicyCommand::Record(command) => records::run(context, "policies", command).await,
        PolicyCommand::Assign { name, instance } => {
            by_hand(context, Method::PUT, &name, &instance).await
        }
        PolicyCommand::Unassign { name, instance } => {
            by_hand(context, Method::DELETE, &name, &instance).await
        }
        PolicyCommand::Instances { name, spec } => {
            let client = profile::client()?;
            let known = Records::load(&client, "policies").await?;
            match spec {
                Some(file) => {
                    let wanted: Value = document(&file)?;
                    would_have(context, &client, &known, &name, wanted).await
                }
                None => {
                    let has = has(&client, known.one(&name)?).await?;
                    let rows = rows(&client, has.clone(), &has).await?;
                    let row = |row: &Value| vec![word(row, "name"), word(row, "id")];
                    show_list(context, &["NAME", "ID"], &rows, row)
                }
            }
        }
    }
}

/// Assigns an instance by hand, or takes that back.
async fn by_hand(context: &Context, method: Method, name: &str, instance: &str) -> Result<Exit> {
    let client = profile::client()?;
    let policies = Records::load(&client, "policies").await?;
    let instances = Records::load(&client, "instances").await?;
    let change = if method == Method::PUT { "assigned" } else { "unassigned" };
    let (policy, own) = (word(policies.one(name)?, "id"), word(instances.one(instance)?, "id"));
    let path = format!("/api/v1/policies/{policy}/instances/{own}");
    let answer = client.send(method, &path, None, &[]).await?;
    done(context, &answer, Done { name: instance, change })
}

async fn has(client: &Client, policy: &Value) -> Result<Vec<Value>> {
    all(client, &format!("/api/v1/policies/{}/instances", word(policy, "id"))).await
}

/// What the policy would have if it said that, and what it would no longer have.
async fn would_have(
    context: &Context,
    client: &Client,
    known: &Records,
    name: &str,
    mut wanted: Value,
) -> Result<Exit> {
    records::policy_to_ids(client, &mut wanted, false).await?;
    let mut draft = json!({"assign": wanted.get("assign").cloned().unwrap_or_else(|| json!({}))});
    let mut before = Vec::new();
    match known.find(name) {
        Some(policy) => {
            before = has(client, policy).await?;
            draft["policy"] = policy["id"].clone();
        }
        None => {
            if let Some((project, _)) = name.split_once('/') {
                draft["project"] = known.project(project)?["id"].clone();
            }
        }
    }
    let path = "/api/v1/policies/preview";
    let answer = client.send(Method::POST, path, Some(&draft), &[]).await?.body;
    let after = answer["items"].as_array().cloned().unwrap_or_default();
    let rows = rows(client, after, &before).await?;
    let row = |row: &Value| vec![word(row, "change"), word(row, "name"), word(row, "id")];
    show_list(context, &["", "NAME", "ID"], &rows, row)
}

/// Instances by name; `+` where one was not there before, `-` where it is there no longer.
async fn rows(client: &Client, after: Vec<Value>, before: &[Value]) -> Result<Vec<Value>> {
    let names = Records::load(client, "instances").await?;
    let ids = |list: &[Value]| -> BTreeSet<String> {
        list.iter().map(|instance| word(instance, "id")).collect()
    };
    let (old, new) = (ids(before), ids(&after));
    let all = after.iter().chain(before.iter().filter(|one| !new.contains(&word(one, "id"))));
    let named = all.map(|instance| {
        let (id, name) = (word(instance, "id"), names.name_of(&instance["id"]));
        let change = match (old.contains(&id), new.contains(&id)) {
            (true, false) => "-",
            (false, true) => "+",
            _ => "",
        };
        (name.clone(), json!({"id": id, "name": name, "change": change}))
    });
    Ok(named.collect::<BTreeMap<_, _>>().into_values().collect())
}
