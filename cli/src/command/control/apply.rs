//! Configuration as a file.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::{profile, records};
use crate::args::ApplyArgs;
use crate::context::Context;
use crate::error::{Exit, usage_error};
use crate::output;

/// What comes later refers to what comes earlier.
const ORDER: [&str; 4] = ["projects", "destinations", "instances", "policies"];

/// Makes the server's configuration what the file says.
pub(crate) async fn run(context: &Context, args: ApplyArgs) -> Result<Exit> {
    let text = records::read(&args.file)?;
    let file: Map<String, Value> = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a JSON object", args.file.display()))?;
    if let Some(odd) = file.keys().find(|key| !ORDER.contains(&key.as_str())) {
        return Err(usage_error(format!("{odd}: a file has {}", ORDER.join(", "))));
    }
    let client = profile::client()?;
    let mut changes = Vec::new();
    for kind in ORDER {
        let wanted = file.get(kind).and_then(Value::as_object);
        for (name, spec) in wanted.into_iter().flatten() {
            let change = records::set(&client, kind, name, spec.clone(), args.plan)
                .await
                .with_context(|| format!("{kind}: {name}"))?;
            changes.push(json!({"kind": kind, "name": name, "change": change}));
        }
    }
    if context.global.json {
        output::json(&json!({"plan": args.plan, "changes": changes}))?;
    } else {
        for change in &changes {
            let part = |name: &str| change[name].as_str().unwrap_or_default();
            output::print(&format!("{} {} {}\n", part("change"), part("kind"), part("name")))?;
        }
    }
    Ok(Exit::Done)
}
