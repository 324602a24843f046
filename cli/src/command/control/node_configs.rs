//! Configurations of nodes.

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};

use super::records::{self, Records};
use super::{nodes, profile, show_list, word};
use crate::args::NodeConfigCommand;
use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, note};

/// The records.
pub(super) const KIND: &str = "node-configs";

/// Does something with configurations of nodes.
pub(super) async fn run(context: &Context, command: NodeConfigCommand) -> Result<Exit> {
    let client = profile::client()?;
    let (name, change) = match command {
        NodeConfigCommand::List => {
            let records = Records::load(&client, KIND).await?;
            let all: Vec<Value> = records.named().map(|(_, record)| record.clone()).collect();
            let row = |record: &Value| {
                let text = word(&record["spec"], "description");
                vec![word(record, "name"), record["revision"].to_string(), text]
            };
            return show_list(context, &["NAME", ">REVISION", "DESCRIPTION"], &all, row);
        }
        NodeConfigCommand::Show { name } => {
            let records = Records::load(&client, KIND).await?;
            output::json(records.one(&name)?)?;
            return Ok(Exit::Done);
        }
        NodeConfigCommand::Set { name, spec } => {
            let spec: Value = records::document(&spec)?;
            let change = records::set(&client, KIND, &name, spec, false).await?;
            (name, change.word)
        }
        NodeConfigCommand::Assign { node, config } => {
            let id = match &config {
                Some(name) => Records::load(&client, KIND).await?.one(name)?["id"].clone(),
                None => Value::Null,
            };
            nodes::change(&client, &node, &[("config", id)]).await?;
            (node, "assigned")
        }
        NodeConfigCommand::Remove { name } => {
            let records = Records::load(&client, KIND).await?;
            let id = word(records.one(&name)?, "id");
            client.send(Method::DELETE, &format!("/api/v1/{KIND}/{id}"), None, &[]).await?;
            (name, "removed")
        }
    };
    if context.global.json {
        output::json(&json!({"name": name, "change": change}))?;
    } else if !context.global.quiet {
        note(format_args!("{name}: {change}"));
    }
    Ok(Exit::Done)
}
