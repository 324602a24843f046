//! Who is told what.

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};

use super::{profile, records, word};
use crate::args::NotifyCommand;
use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, note};
use crate::secret;

const PATH: &str = "/api/v1/notifications";

/// Does it.
pub(crate) async fn run(context: &Context, command: NotifyCommand) -> Result<Exit> {
    let client = profile::client()?;
    match command {
        NotifyCommand::Show => shown(context, &client.get::<Value>(PATH).await?),
        NotifyCommand::Set { spec } => {
            let wanted: Value = records::document(&spec)?;
            shown(context, &client.send(Method::PUT, PATH, Some(&wanted), &[]).await?.body)
        }
        NotifyCommand::Secret { channel, secret_file } => {
            let secret = secret::token_or_stdin(&secret_file)?;
            let body = json!({ "secret": *secret });
            let path = format!("{PATH}/{channel}/secret");
            client.send(Method::PUT, &path, Some(&body), &[]).await?;
            told(context, &format!("the secret of {channel} is set"))
        }
        NotifyCommand::Test { channel } => {
            client.send(Method::POST, &format!("{PATH}/{channel}/test"), None, &[]).await?;
            told(
                context,
                "a message is sent within seconds; see `sluice notify show` if none comes",
            )
        }
        NotifyCommand::Report { name } => {
            client.send(Method::POST, &format!("{PATH}/reports/{name}/send"), None, &[]).await?;
            told(context, "it is sent within seconds; see `sluice notify show` if none comes")
        }
    }
}

fn told(context: &Context, text: &str) -> Result<Exit> {
    if context.global.json {
        output::json(&json!({"done": true}))?;
    } else if !context.global.quiet {
        note(text);
    }
    Ok(Exit::Done)
}

fn shown(context: &Context, view: &Value) -> Result<Exit> {
    if context.global.json {
        output::json(view)?;
        return Ok(Exit::Done);
    }
    let channels = view["wanted"]["channels"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |channel: &Value| {
        let name = word(channel, "name");
        let waiting = view["waiting"].as_array().into_iter().flatten();
        let own = waiting.clone().find(|one| one["channel"] == name.as_str());
        let rules = view["wanted"]["rules"].as_array().into_iter().flatten();
        let told = rules.filter(|rule| {
            rule["channels"].as_array().into_iter().flatten().any(|own| own == name.as_str())
        });
        let mut events: Vec<&str> = told
            .flat_map(|rule| rule["events"].as_array().into_iter().flatten())
            .filter_map(Value::as_str)
            .collect();
        events.sort_unstable();
        events.dedup();
        let number = own.map_or(0, |own| own["waiting"].as_u64().unwrap_or(0));
        let failure = own.map(|own| word(own, "failure")).unwrap_or_default();
        let kind = word(&channel["via"], "kind");
        vec![name, kind, events.join(","), number.to_string(), failure]
    };
    let headings = ["CHANNEL", "BY", "EVENTS", ">WAITING", "FAILURE"];
    output::print(&output::table(&headings, channels.iter().map(row).collect()))?;
    Ok(Exit::Done)
}
