//! Requests that wait for a second person, and the rules that make them wait.

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Answer;

use super::filter::Filter;
use super::{all, profile, records, show_list, word};
use crate::args::{AccessCommand, ApprovalCommand};
use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, note};

/// What a request was to do.
pub(crate) struct Done<'w> {
    /// To what.
    pub(crate) name: &'w str,
    /// `created`, `changed`, `removed`, ...
    pub(crate) change: &'static str,
}

/// Tells that something was done, or that it waits.
pub(crate) fn done(context: &Context, answer: &Answer, done: Done<'_>) -> Result<Exit> {
    let Done { name, change } = done;
    let approval = waits(answer);
    if context.global.json {
        let mut told = json!({"name": name, "change": change});
        if let Some(id) = approval {
            told["change"] = "waits".into();
            told["approval"] = id.into();
        }
        output::json(&told)?;
    } else if !context.global.quiet {
        match approval {
            None => note(format_args!("{name}: {change}")),
            Some(id) => note(format_args!(
                "{name}: not {change} yet: a second person decides: sluice approval approve {id}"
            )),
        }
    }
    Ok(Exit::Done)
}

/// The approval that an answer tells of, when the request waits.
pub(crate) fn waits(answer: &Answer) -> Option<&str> {
    let body = &answer.body;
    let waits = answer.status == 202 && body["requester"].is_string() && body["action"].is_string();
    body["id"].as_str().filter(|_| waits)
}

/// Does it.
pub(crate) async fn run(context: &Context, command: ApprovalCommand) -> Result<Exit> {
    let client = profile::client()?;
    let (id, reason, verb) = match command {
        ApprovalCommand::List(args) => {
            let filter = Filter::new(&client).approvals(&args).await?;
            let approvals = all(&client, &filter.path("/api/v1/approvals")).await?;
            let row = |approval: &Value| {
                let text = |name| word(approval, name);
                let end = super::moment(context, &approval["expires_ms"]);
                vec![
                    text("id"),
                    text("state"),
                    text("action"),
                    text("object"),
                    text("requester_login"),
                    end,
                ]
            };
            let headings = ["ID", "STATE", "ACTION", "OBJECT", "ASKED BY", "UNTIL"];
            return show_list(context, &headings, &approvals, row);
        }
        ApprovalCommand::Show { id } => {
            output::json(&client.get::<Value>(&format!("/api/v1/approvals/{id}")).await?)?;
            return Ok(Exit::Done);
        }
        ApprovalCommand::Approve { id, reason } => (id, reason, "approve"),
        ApprovalCommand::Reject { id, reason } => (id, reason, "reject"),
    };
    let path = format!("/api/v1/approvals/{id}/{verb}");
    let told: Value = client.post(&path, &json!({"reason": reason})).await?;
    let state = word(&told, "state");
    if context.global.json {
        output::json(&told)?;
    } else if state == "failed" {
        note(format_args!("{id}: it could not be done: {}", word(&told, "reason")));
    } else if !context.global.quiet {
        note(format_args!("{id}: {state}"));
    }
    Ok(if state == "failed" { Exit::Failed } else { Exit::Done })
}

/// Shows or sets the rules.
pub(crate) async fn access(context: &Context, command: AccessCommand) -> Result<Exit> {
    let client = profile::client()?;
    let path = "/api/v1/access-rules";
    match command {
        AccessCommand::Show => {
            output::json(&client.get::<Value>(path).await?)?;
            Ok(Exit::Done)
        }
        AccessCommand::Set { spec } => {
            let rules: Value = records::document(&spec)?;
            let answer = client.send(Method::PUT, path, Some(&rules), &[]).await?;
            done(context, &answer, Done { name: "access rules", change: "changed" })
        }
    }
}
