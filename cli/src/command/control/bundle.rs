//! What helps others to help: how a server is set up and what went wrong, without secrets.
//!
//! Secrets cannot be read from a server. What may hold one all the same is left out by two rules:
//! values of names that sound like one, and of addresses everything but scheme, host and path;
//! of webhooks the path too, for it often is the secret.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use sluice_node_api::Client;

use super::{profile, word};
use crate::args::SupportBundleArgs;
use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, note};

/// What stands in the place of what is left out.
const LEFT_OUT: &str = "[left out]";
/// Parts of names of what is secret.
const SECRET: [&str; 7] =
    ["secret", "password", "passphrase", "token", "credential", "private", "authorization"];
/// What is asked of the server, by the name of the part.
const PARTS: [(&str, &str); 16] = [
    ("me", "me"),
    ("dashboard", "dashboard"),
    ("nodes", "nodes?limit=1000"),
    ("node-configs", "node-configs?limit=1000"),
    ("projects", "projects?limit=1000"),
    ("destinations", "destinations?limit=1000"),
    ("inventories", "inventories?limit=1000"),
    ("policies", "policies?limit=1000"),
    ("limits", "limits"),
    ("mounts", "mounts?limit=1000"),
    ("snapshots", "snapshots?limit=1000"),
    ("failed tasks", "tasks?state=failed&limit=100"),
    ("running tasks", "tasks?state=running&limit=100"),
    ("missed", "reports/missed"),
    ("self-backup", "self-backup"),
    ("notifications", "notifications"),
];
/// Failed tasks whose logs are in it.
const LOGS: usize = 20;

/// Writes a bundle.
pub(crate) async fn run(context: &Context, args: SupportBundleArgs) -> Result<Exit> {
    let client = profile::client()?;
    let mut bundle = Map::new();
    bundle.insert("made".into(), json!(sluice_repository::rfc3339(context.clock.now_ms())));
    bundle.insert("machine".into(), machine());
    bundle.insert("server".into(), json!(client.server()));
    let mut missing = 0;
    for (name, path) in PARTS {
        let part = match client.get::<Value>(&format!("/api/v1/{path}")).await {
            Ok(part) => part,
            Err(error) => {
                missing += 1;
                json!({"not read": error.to_string()})
            }
        };
        bundle.insert(name.into(), part);
    }
    let logs = logs(&client, &bundle["failed tasks"]).await;
    bundle.insert("logs of failed tasks".into(), logs);
    let mut bundle = Value::Object(bundle);
    redact(&mut bundle, "");
    write(&args.output, &bundle)?;
    if context.global.json {
        output::json(&json!({"file": args.output, "missing": missing}))?;
    } else if !context.global.quiet {
        note(format_args!(
            "{} has no secrets; names of machines and paths are in it",
            args.output.display()
        ));
    }
    Ok(if missing > 0 { Exit::Warnings } else { Exit::Done })
}

fn machine() -> Value {
    let name = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    json!({
        "sluice": env!("CARGO_PKG_VERSION"),
        "kernel": text(name.release()),
        "processor": text(name.machine()),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
    })
}

async fn logs(client: &Client, failed: &Value) -> Value {
    let mut logs = Map::new();
    for task in failed["items"].as_array().into_iter().flatten().take(LOGS) {
        let id = word(task, "id");
        if let Ok(log) = client.get::<Value>(&format!("/api/v1/tasks/{id}/log?limit=200")).await {
            logs.insert(id, log["items"].clone());
        }
    }
    Value::Object(logs)
}

/// Leaves out what may be secret.
fn redact(value: &mut Value, name: &str) {
    let secret = SECRET.iter().any(|part| name.to_ascii_lowercase().contains(part));
    match value {
        // Settings of destinations are named, and what they say is left out.
        Value::Object(fields) => {
            let webhook = fields.get("kind").is_some_and(|kind| kind == "webhook");
            for (own, value) in fields.iter_mut() {
                if name == "environment" {
                    *value = LEFT_OUT.into();
                } else if webhook && own == "url" {
                    *value = value.as_str().map(host).unwrap_or_default().into();
                } else {
                    redact(value, own);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, name)),
        Value::String(text) if secret && !text.is_empty() => *text = LEFT_OUT.to_owned(),
        Value::String(text) => *text = without_secrets(text),
        _ => {}
    }
}

/// A webhook's scheme and host.
fn host(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}/{LEFT_OUT}")
}

/// A text in which addresses have neither users nor parameters with secret names.
fn without_secrets(text: &str) -> String {
    let words: Vec<String> = text.split(' ').map(address).collect();
    words.join(" ")
}

fn address(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (rest, None),
    };
    let (authority, path) = match place.split_once('/') {
        Some((authority, path)) => (authority, format!("/{path}")),
        None => (place, String::new()),
    };
    let authority = match authority.rsplit_once('@') {
        // The name of a user is none; what stands behind its colon is.
        Some((user, host)) => format!("{}@{host}", user.split(':').next().unwrap_or_default()),
        None => authority.to_owned(),
    };
    let query = query.map(|query| {
        let parts = query.split('&').map(|part| match part.split_once('=') {
            Some((name, _)) if !matches!(name, "endpoint" | "region" | "auth" | "account") => {
                format!("{name}={LEFT_OUT}")
            }
            _ => part.to_owned(),
        });
        format!("?{}", parts.collect::<Vec<_>>().join("&"))
    });
    format!("{scheme}://{authority}{path}{}", query.unwrap_or_default())
}

fn write(path: &Path, bundle: &Value) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(failed)?;
    let text = serde_json::to_string_pretty(bundle)? + "\n";
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sounds_secret_is_left_out_and_the_rest_stays() {
        let mut value = json!({
            "apiToken": "t0", "spec": {"environment": {"AWS_ACCESS_KEY_ID": "id0"}},
            "via": {"kind": "webhook", "url": "https://u:p0@hooks.example.org/services/p1?x=p2"},
            "items": [{"message": "cannot reach https://bob:pw0@host/x?sig=s0&region=r1 now"}],
            "secret_names": ["SLUICE_PASSPHRASE"], "count": 7,
        });
        redact(&mut value, "");
        let text = value.to_string();
        for secret in ["t0", "id0", "p0", "p1", "p2", "pw0", "s0"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        for kept in ["AWS_ACCESS_KEY_ID", "hooks.example.org", "bob@host/x", "region=r1", ":7"] {
            assert!(text.contains(kept), "{kept} not in {text}");
        }
    }
}
