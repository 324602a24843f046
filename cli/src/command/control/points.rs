//! Restore points that a server knows, and where they are.

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::approvals::{Done, done, waits};
use super::filter::Filter;
use super::records::Records;
use super::{all, mounts, profile, show_list, word};
use crate::args::{PointCommand, PointEventArgs};
use crate::context::Context;
use crate::error::{Exit, advise};
use crate::output::{self, bytes, local, note};

/// Does it.
pub(crate) async fn run(context: &Context, command: PointCommand) -> Result<Exit> {
    let client = profile::client()?;
    match command {
        PointCommand::List(args) => {
            let instances = Records::load(&client, "instances").await?;
            let destinations = Records::load(&client, "destinations").await?;
            let filter = Filter::new(&client).knowing(&instances).knowing(&destinations);
            let filter = filter.points(&args).await?;
            let points = all(&client, &filter.path("/api/v1/points")).await?;
            // What is asked of one destination is what it holds.
            let points = match args.whose.destination {
                Some(_) => points,
                None => without_copies(points),
            };
            let headings =
                ["TAKEN", "INSTANCE", "POINT", ">SIZE", "TYPE", "PROOF", "EVENTS", "DESTINATIONS"];
            show_list(context, &headings, &points, |point| {
                let copies = point["copies"].as_array().into_iter().flatten();
                let places = std::iter::once(point).chain(copies);
                let places = places.map(|one| destinations.name_of(&one["destination"]));
                vec![
                    local(point["taken_ms"].as_u64().unwrap_or(0), &context.zone),
                    instances.name_of(&point["instance"]),
                    word(point, "point"),
                    bytes(point["image_bytes"].as_u64().unwrap_or(0)),
                    word(point, "type"),
                    proofs(point, &destinations),
                    events(context, point),
                    places.collect::<Vec<_>>().join(", "),
                ]
            })
        }
        PointCommand::Event(args) => event(context, &client, args).await,
        PointCommand::Events { instance } => {
            let instances = Records::load(&client, "instances").await?;
            let filter = Filter::new(&client).knowing(&instances);
            let filter = filter.one("instance", "instances", instance.as_ref()).await?;
            let events = all(&client, &filter.path("/api/v1/retention-events")).await?;
            show_list(context, &["AT", "EVENT", "INSTANCE", "POINT"], &events, |event| {
                vec![
                    local(event["at_ms"].as_u64().unwrap_or(0), &context.zone),
                    word(event, "event"),
                    instances.name_of(&event["instance"]),
                    word(event, "point"),
                ]
            })
        }
        PointCommand::Show { point } => {
            let id = mounts::point(&client, &point, None).await?;
            let path = format!("/api/v1/points/{}", id.as_str().unwrap_or_default());
            output::json(&client.get::<Value>(&path).await?)?;
            Ok(Exit::Done)
        }
    }
}

/// What verifications found of a restore point, and of its copies where they are.
fn proofs(point: &Value, destinations: &Records) -> String {
    let own = word(&point["proof"], "state");
    let copies = point["copies"].as_array().into_iter().flatten();
    let copies = copies.filter(|copy| copy["proof"].is_object()).map(|copy| {
        let at = destinations.name_of(&copy["destination"]);
        format!("{} at {at}", word(&copy["proof"], "state"))
    });
    let all = Some(own).filter(|own| !own.is_empty()).into_iter().chain(copies);
    all.collect::<Vec<_>>().join(", ")
}

/// Which events keep a restore point, and until when.
fn events(context: &Context, point: &Value) -> String {
    let told = point["events"].as_array().into_iter().flatten().map(|one| {
        let name = word(one, "event");
        match one["until_ms"].as_u64() {
            Some(until) => format!("{name}: until {}", local(until, &context.zone)),
            None => format!("{name}: waits, then {} days", one["days"]),
        }
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Tells that an event has happened, or has not.
async fn event(context: &Context, client: &Client, args: PointEventArgs) -> Result<Exit> {
    let mut told = json!({"event": args.name});
    if let Some(name) = &args.instance {
        told["instance"] = Records::load(client, "instances").await?.one(name)?["id"].clone();
    }
    if let Some(point) = &args.point {
        told["point"] = mounts::point(client, point, None).await?;
    }
    if args.take_back {
        return take_back(context, client, &told).await;
    }
    if let Some(at) = &args.at {
        told["at_ms"] = context.moment(at)?.into();
    }
    let path = "/api/v1/retention-events";
    let answer = client.send(Method::POST, path, Some(&told), &[]).await?;
    if waits(&answer).is_some() {
        return done(context, &answer, Done { name: &args.name, change: "told" });
    }
    if context.global.json {
        output::json(&answer.body)?;
    } else if !context.global.quiet {
        let at = local(answer.body["at_ms"].as_u64().unwrap_or(0), &context.zone);
        note(format_args!("{} happened at {at}", args.name));
    }
    Ok(Exit::Done)
}

/// Removes the event of that name, of the instance or of the restore point.
async fn take_back(context: &Context, client: &Client, told: &Value) -> Result<Exit> {
    let point = &told["point"];
    // An event of a copy is noted with the original.
    let (instance, original) = match point.as_str() {
        Some(id) => {
            let one: Value = client.get(&format!("/api/v1/points/{id}")).await?;
            let original = if one["copy_of"].is_null() { point } else { &one["copy_of"] };
            (one["instance"].clone(), original.clone())
        }
        None => (told["instance"].clone(), Value::Null),
    };
    let filter = Filter::new(client).word("instance", instance.as_str());
    let filter = filter.word("event", told["event"].as_str());
    let known = all(client, &filter.path("/api/v1/retention-events")).await?;
    let found = known.iter().find(|one| {
        let whose = match point.is_null() {
            true => one["instance"] == told["instance"] && one["point"].is_null(),
            false => one["point"] == original,
        };
        whose && one["event"] == told["event"]
    });
    let Some(found) = found else {
        let text = format!("the event {} has not happened there", word(told, "event"));
        return Err(advise("not-found", text, "`sluice point events` lists those that have"));
    };
    let path = format!("/api/v1/retention-events/{}", word(found, "id"));
    let answer = client.send(Method::DELETE, &path, None, &[]).await?;
    let name = word(told, "event");
    done(context, &answer, Done { name: &name, change: "taken back" })
}

/// A copy stands with its original, as long as that is there.
fn without_copies(points: Vec<Value>) -> Vec<Value> {
    let ids: std::collections::BTreeSet<String> =
        points.iter().map(|point| word(point, "id")).collect();
    let mut seen = std::collections::BTreeSet::new();
    let stands = |point: &Value| {
        let original = word(point, "copy_of");
        // Of an original that is gone, the first copy stands for all.
        original.is_empty() || !ids.contains(&original) && seen.insert(original)
    };
    let mut stands = stands;
    points.into_iter().filter(|point| stands(point)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn copies_stand_with_their_originals_while_these_are_there() {
        let point = |id: &str, of: Option<&str>| json!({"id": id, "copy_of": of});
        let all = vec![point("a", None), point("b", Some("a")), point("c", Some("gone"))];
        let left = without_copies(all);
        let ids: Vec<_> = left.iter().map(|point| word(point, "id")).collect();
        assert_eq!(ids, ["a", "c"]);
    }
}
