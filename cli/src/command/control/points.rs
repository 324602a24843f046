//! Restore points that a server knows, and where they are.

use anyhow::Result;
use serde_json::Value;

use super::filter::Filter;
use super::records::Records;
use super::{all, mounts, profile, show_list, word};
use crate::args::PointCommand;
use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, bytes, local};

/// Does it.
pub(crate) async fn run(context: &Context, command: PointCommand) -> Result<Exit> {
    let client = profile::client()?;
    match command {
        PointCommand::List(args) => {
            let instances = Records::load(&client, "instances").await?;
            let destinations = Records::load(&client, "destinations").await?;
            let filter = Filter::new(&client).points(&args).await?;
            let points = all(&client, &filter.path("/api/v1/points")).await?;
            // What is asked of one destination is what it holds.
            let points = match args.destination {
                Some(_) => points,
                None => without_copies(points),
            };
            let headings = ["TAKEN", "INSTANCE", "POINT", ">SIZE", "DESTINATIONS"];
            show_list(context, &headings, &points, |point| {
                let copies = point["copies"].as_array().into_iter().flatten();
                let places = std::iter::once(point).chain(copies);
                let places = places.map(|one| destinations.name_of(&one["destination"]));
                vec![
                    local(point["taken_ms"].as_u64().unwrap_or(0), &context.zone),
                    instances.name_of(&point["instance"]),
                    word(point, "point"),
                    bytes(point["image_bytes"].as_u64().unwrap_or(0)),
                    places.collect::<Vec<_>>().join(", "),
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
