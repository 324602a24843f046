//! Projects, destinations, instances and policies: one way for all.

use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result};
use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::{all, profile, show_list, word};
use crate::args::{RecordCommand, SetArgs};
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::output::{self, note};
use crate::secret;

/// Does it.
pub(crate) async fn run(
    context: &Context,
    kind: &'static str,
    command: RecordCommand,
) -> Result<Exit> {
    let client = profile::client()?;
    match command {
        RecordCommand::List => {
            let records = Records::load(&client, kind).await?;
            let row = |record: &Value| {
                vec![records.name(record), word(record, "id"), record["revision"].to_string()]
            };
            return show_list(context, &["NAME", "ID", ">REVISION"], &records.items, row);
        }
        RecordCommand::Show { name } => {
            let records = Records::load(&client, kind).await?;
            output::json(records.one(&name)?)?;
        }
        RecordCommand::Set(args) => {
            let name = args.name.clone();
            let spec = spec_of(kind, &args)?;
            let change = set(&client, kind, &name, spec, false).await?;
            if let Some(file) = &args.passphrase_file {
                passphrase(&client, &name, file).await?;
            }
            if context.global.json {
                output::json(&json!({"name": name, "change": change}))?;
            } else if !context.global.quiet {
                note(format_args!("{name}: {change}"));
            }
        }
        RecordCommand::Remove { name } => {
            let records = Records::load(&client, kind).await?;
            let id = word(records.one(&name)?, "id");
            client.send(Method::DELETE, &format!("/api/v1/{kind}/{id}"), None, &[]).await?;
            if context.global.json {
                output::json(&json!({"name": name, "change": "removed"}))?;
            }
        }
    }
    Ok(Exit::Done)
}

/// All records of a kind, and the projects they belong to.
pub(crate) struct Records {
    kind: &'static str,
    items: Vec<Value>,
    projects: Vec<Value>,
}

impl Records {
    pub(crate) async fn load(client: &Client, kind: &'static str) -> Result<Self> {
        let items = all(client, &format!("/api/v1/{kind}")).await?;
        let projects = all(client, "/api/v1/projects").await?;
        Ok(Self { kind, items, projects })
    }

    /// `PROJECT/NAME`, or the name alone.
    fn name(&self, record: &Value) -> String {
        let own = word(record, "name");
        match self.projects.iter().find(|project| project["id"] == record["project"]) {
            Some(project) => format!("{}/{own}", word(project, "name")),
            None => own,
        }
    }

    /// The name of the record of that id; the id when it is gone.
    pub(crate) fn name_of(&self, id: &Value) -> String {
        let found = self.items.iter().find(|record| record["id"] == *id);
        found.map_or_else(|| id.as_str().unwrap_or_default().to_owned(), |one| self.name(one))
    }

    fn find(&self, name: &str) -> Option<&Value> {
        self.items.iter().find(|record| self.name(record) == name || record["id"] == name)
    }

    /// The record of that name or id.
    pub(crate) fn one(&self, name: &str) -> Result<&Value> {
        self.find(name).ok_or_else(|| {
            let text = format!("{name} is not among the {}", self.kind);
            advise("not-found", text, "names are PROJECT/NAME, or NAME for what is the system's")
        })
    }
}

/// The text of a file, or of standard input.
pub(crate) fn read(path: &Path) -> Result<String> {
    let context = || format!("cannot read {}", path.display());
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).with_context(context)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(context)
}

fn spec_of(kind: &str, args: &SetArgs) -> Result<Value> {
    if let Some(file) = &args.spec {
        let text = read(file)?;
        return serde_json::from_str(&text)
            .with_context(|| format!("{} is not JSON", file.display()));
    }
    match kind {
        "projects" => Ok(json!({})),
        "destinations" => {
            let url = args.url.as_ref();
            let url = url.ok_or_else(|| usage_error("a destination needs --url or --spec"))?;
            Ok(json!({ "url": url }))
        }
        "instances" if !args.disk.is_empty() => {
            let images: Vec<_> = args.disk.iter().map(|path| json!({ "path": path })).collect();
            let source = json!({"kind": "disk-files", "images": images});
            Ok(json!({"source": source, "tags": args.tag}))
        }
        "instances" => Err(usage_error("an instance needs --disk or --spec")),
        _ => Err(usage_error("a policy needs --spec")),
    }
}

async fn passphrase(client: &Client, name: &str, file: &Path) -> Result<()> {
    let records = Records::load(client, "destinations").await?;
    let id = word(records.one(name)?, "id");
    let secret = secret::passphrase_in(file)?;
    let body = json!({"secrets": {"SLUICE_PASSPHRASE": *secret}});
    let path = format!("/api/v1/destinations/{id}/secrets");
    client.send(Method::PUT, &path, Some(&body), &[]).await?;
    Ok(())
}

/// Makes a record, or changes what it says; tells which. With `plan` it only tells.
pub(crate) async fn set(
    client: &Client,
    kind: &'static str,
    name: &str,
    mut spec: Value,
    plan: bool,
) -> Result<&'static str> {
    if kind == "policies" {
        with_destinations(client, &mut spec, plan).await?;
    }
    let records = Records::load(client, kind).await?;
    let Some(old) = records.find(name) else {
        let (project, own) = match name.split_once('/').filter(|_| kind != "projects") {
            Some((project, own)) => {
                let found = records.projects.iter().find(|one| one["name"] == project);
                match found {
                    Some(found) => (found["id"].clone(), own),
                    None if plan => (Value::Null, own),
                    None => {
                        let text = format!("there is no project {project}");
                        return Err(advise("not-found", text, "sluice project set NAME makes one"));
                    }
                }
            }
            None => (Value::Null, name),
        };
        if !plan {
            let mut body = json!({"name": own, "spec": spec});
            if !project.is_null() {
                body["project"] = project;
            }
            client.send(Method::POST, &format!("/api/v1/{kind}"), Some(&body), &[]).await?;
        }
        return Ok("created");
    };
    if says(&old["spec"], &spec) {
        return Ok("unchanged");
    }
    if !plan {
        let path = format!("/api/v1/{kind}/{}", word(old, "id"));
        let tag = format!("\"{}\"", old["revision"]);
        let body = json!({"name": old["name"], "spec": spec});
        client.send(Method::PUT, &path, Some(&body), &[("if-match", &tag)]).await?;
    }
    Ok("changed")
}

/// Whether `old` says what `new` says; what `new` leaves out has its default, and an old default
/// is no difference.
fn says(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let same = new.iter().all(|(key, new)| old.get(key).is_some_and(|old| says(old, new)));
            same && old.iter().all(|(key, old)| new.contains_key(key) || is_default(key, old))
        }
        (Value::Array(old), Value::Array(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| says(old, new))
        }
        _ => old == new,
    }
}

/// Whether a field says what it says when it is left out.
fn is_default(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => *set == (key == "present"),
        Value::Number(number) => number.as_u64() == Some(if key == "priority" { 50 } else { 0 }),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.iter().all(|(key, value)| is_default(key, value)),
    }
}

/// Rules name destinations as people do.
async fn with_destinations(client: &Client, spec: &mut Value, plan: bool) -> Result<()> {
    let destinations = Records::load(client, "destinations").await?;
    for rule in spec["rules"].as_array_mut().into_iter().flatten() {
        let Some(name) = rule["destination"].as_str().map(str::to_owned) else { continue };
        match destinations.find(&name) {
            Some(found) => rule["destination"] = found["id"].clone(),
            None if plan => {}
            None => {
                destinations.one(&name)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_no_difference() {
        let old = json!({"url": "/a", "description": "", "environment": {}});
        assert!(says(&old, &json!({"url": "/a"})));
        assert!(!says(&old, &json!({"url": "/b"})));
        assert!(!says(&old, &json!({"url": "/a", "environment": {"OS_X": "1"}})));
        let old = json!({"url": "/a", "description": "mine"});
        assert!(!says(&old, &json!({"url": "/a"})), "a word was taken away");
        assert!(!says(&json!({"rules": [], "paused": true}), &json!({"rules": []})));
        assert!(says(&json!({"rules": [], "priority": 50}), &json!({"rules": []})));
        assert!(!says(&json!({"tags": ["a"]}), &json!({"tags": ["a", "b"]})));
    }
}
