//! Projects, destinations, instances and policies: one way for all.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result};
use http::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice_node_api::Client;
use zeroize::Zeroizing;

use super::approvals::{Done, done, waits};
use super::difference::{Difference, differences};
use super::filter::Filter;
use super::plans::Named;
use super::{all, profile, show_list, word};
use crate::adapter::source;
use crate::args::{Listing, RecordCommand, SetArgs, value};
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::output::{self, note};
use crate::secret;

/// Does it.
pub(crate) async fn run<L: Listing>(
    context: &Context,
    kind: &'static str,
    command: RecordCommand<L>,
) -> Result<Exit> {
    match command {
        RecordCommand::List(args) => {
            let client = profile::client()?;
            let filter = Filter::new(&client).records(&args.into()).await?;
            let records = Records::sought(&client, kind, &filter).await?;
            let row = |record: &Value| {
                vec![records.name(record), word(record, "id"), record["revision"].to_string()]
            };
            show_list(context, &["NAME", "ID", ">REVISION"], &records.items, row)
        }
        RecordCommand::Show { name } => show(kind, &name).await,
        RecordCommand::Set(args) => save(context, kind, &args).await,
        RecordCommand::Remove { name } => remove(context, kind, &name).await,
    }
}

/// Shows a record.
pub(super) async fn show(kind: &'static str, name: &str) -> Result<Exit> {
    output::json(Records::load(&profile::client()?, kind).await?.one(name)?)?;
    Ok(Exit::Done)
}

/// Makes or changes a record by what is said of it.
pub(super) async fn save(context: &Context, kind: &'static str, args: &SetArgs) -> Result<Exit> {
    let (client, name) = (profile::client()?, &args.name);
    let spec = spec_of(kind, args)?;
    let secrets = secrets_of(args)?;
    let change = set(&client, kind, name, spec, false).await?.word;
    if !secrets.is_empty() {
        set_secrets(&client, name, &secrets).await?;
    }
    if context.global.json {
        output::json(&json!({"name": name, "change": change}))?;
    } else if !context.global.quiet {
        note(format_args!("{name}: {change}"));
    }
    Ok(Exit::Done)
}

/// Removes a record.
pub(super) async fn remove(context: &Context, kind: &'static str, name: &str) -> Result<Exit> {
    let client = profile::client()?;
    let id = word(Records::load(&client, kind).await?.one(name)?, "id");
    let path = format!("/api/v1/{kind}/{id}");
    let answer = client.send(Method::DELETE, &path, None, &[]).await?;
    done(context, &answer, Done { name, change: "removed" })
}

/// All records of a kind, and the projects they belong to.
pub(crate) struct Records {
    kind: &'static str,
    items: Vec<Value>,
    projects: Vec<Value>,
}

impl Records {
    pub(crate) async fn load(client: &Client, kind: &'static str) -> Result<Self> {
        Self::sought(client, kind, &Filter::new(client)).await
    }

    /// Those of a kind that are asked for.
    pub(super) async fn sought(
        client: &Client,
        kind: &'static str,
        filter: &Filter<'_>,
    ) -> Result<Self> {
        let items = all(client, &filter.path(&format!("/api/v1/{kind}"))).await?;
        let projects = match kind == "projects" && filter.is_nothing() {
            true => items.clone(),
            false => all(client, "/api/v1/projects").await?,
        };
        Ok(Self { kind, items, projects })
    }

    /// All of them, with their names.
    pub(crate) fn named(&self) -> impl Iterator<Item = (String, &Value)> {
        self.items.iter().map(|record| (self.name(record), record))
    }

    /// `PROJECT/NAME`, or the name alone.
    fn name(&self, record: &Value) -> String {
        let own = word(record, "name");
        // Who has a role on the record alone does not see the project among `self.projects`.
        match record["project_name"].as_str() {
            Some(project) => format!("{project}/{own}"),
            None => own,
        }
    }

    /// The name of the record of that id; the id when it is gone.
    pub(crate) fn name_of(&self, id: &Value) -> String {
        let found = self.items.iter().find(|record| record["id"] == *id);
        found.map_or_else(|| id.as_str().unwrap_or_default().to_owned(), |one| self.name(one))
    }

    /// The project of that name.
    pub(crate) fn project(&self, name: &str) -> Result<&Value> {
        self.projects.iter().find(|one| one["name"] == name).ok_or_else(|| {
            let text = format!("there is no project {name}");
            advise("not-found", text, "sluice project set NAME makes one")
        })
    }

    /// Which records these are.
    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    /// The record of that name or id, or of the name that its restore points have in repositories.
    pub(super) fn called(&self, name: &str) -> Option<&Value> {
        let dotted = |record: &&Value| self.name(record).replacen('/', ".", 1) == name;
        self.find(name).or_else(|| self.items.iter().find(dotted))
    }

    /// The record of that name or id, if there is one.
    pub(crate) fn find(&self, name: &str) -> Option<&Value> {
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

/// What a file of YAML or JSON says, or standard input.
pub(crate) fn document<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read(path)?;
    serde_saphyr::from_str(&text)
        .map_err(|error| anyhow::anyhow!("{} cannot be read: {error}", path.display()))
}

fn spec_of(kind: &str, args: &SetArgs) -> Result<Value> {
    if let Some(file) = &args.spec {
        return document(file);
    }
    match kind {
        "projects" => Ok(json!({})),
        "destinations" => {
            let url = args.url.as_ref();
            let url = url.ok_or_else(|| usage_error("a destination needs --url or --spec"))?;
            Ok(json!({ "url": url }))
        }
        "instances" => {
            let source = match &args.output_of {
                _ if !args.disk.is_empty() => {
                    let images = args.disk.iter().map(|path| json!({ "path": path }));
                    json!({"kind": "disk-files", "images": images.collect::<Vec<_>>()})
                }
                Some(text) => {
                    let (name, command) = source::words_of(text)?;
                    json!({"kind": "command", "command": command, "name": name})
                }
                None => {
                    return Err(usage_error("an instance needs --disk, --output-of or --spec"));
                }
            };
            let block_size = args.block_size.map(value::block_word);
            Ok(json!({"source": source, "tags": args.tag, "block_size": block_size}))
        }
        _ => Err(usage_error("a policy needs --spec")),
    }
}

/// The secrets of a destination that are given, by their variables.
fn secrets_of(args: &SetArgs) -> Result<BTreeMap<String, Zeroizing<String>>> {
    let mut secrets = BTreeMap::new();
    if let Some(file) = &args.passphrase_file {
        secrets.insert("SLUICE_PASSPHRASE".to_owned(), secret::passphrase_in(file)?);
    }
    for given in &args.secret {
        let (name, file) =
            given.split_once('=').ok_or_else(|| usage_error("a secret is NAME=FILE"))?;
        let secret = secret::passphrase_in(Path::new(file));
        secrets.insert(name.to_owned(), secret.with_context(|| format!("{name} is not set"))?);
    }
    Ok(secrets)
}

async fn set_secrets(
    client: &Client,
    name: &str,
    secrets: &BTreeMap<String, Zeroizing<String>>,
) -> Result<()> {
    let records = Records::load(client, "destinations").await?;
    let id = word(records.one(name)?, "id");
    let told: BTreeMap<&str, &str> =
        secrets.iter().map(|(name, secret)| (name.as_str(), secret.as_str())).collect();
    let body = json!({ "secrets": told });
    let path = format!("/api/v1/destinations/{id}/secrets");
    client.send(Method::PUT, &path, Some(&body), &[]).await?;
    Ok(())
}

/// What becomes of a record.
#[derive(Debug)]
pub(crate) struct Change {
    /// `created`, `changed`, `unchanged`, or `waits` when a second person decides.
    pub(crate) word: &'static str,
    /// What is different from before.
    pub(crate) differences: Vec<Difference>,
}

impl Change {
    fn of(word: &'static str) -> Self {
        Self { word, differences: Vec::new() }
    }
}

/// Makes a record, or changes what it says; tells which. With `plan` it only tells.
pub(crate) async fn set(
    client: &Client,
    kind: &'static str,
    name: &str,
    mut spec: Value,
    plan: bool,
) -> Result<Change> {
    if kind == "policies" {
        with_destinations(client, &mut spec, plan).await?;
        projects_to_ids(client, &mut spec, plan).await?;
    }
    if kind == "destinations" {
        projects_to_ids(client, &mut spec, plan).await?;
    }
    nodes_to_ids(client, kind, &mut spec).await?;
    if kind == "node-configs" {
        with_destinations(client, &mut spec, plan).await?;
    }
    if kind == super::providers::KIND {
        super::providers::Names::load(client).await?.to_ids(&mut spec, plan)?;
    }
    if kind == "plans" {
        Named::load(client).await?.to_ids(name, &mut spec, plan)?;
    }
    let records = Records::load(client, kind).await?;
    let Some(old) = records.find(name) else {
        let (project, own) = match name.split_once('/').filter(|_| kind != "projects") {
            Some((project, own)) => match records.project(project) {
                Ok(found) => (found["id"].clone(), own),
                Err(_) if plan => (Value::Null, own),
                Err(error) => return Err(error),
            },
            None => (Value::Null, name),
        };
        if !plan {
            let mut body = json!({"name": own, "spec": spec});
            if !project.is_null() {
                body["project"] = project;
            }
            client.send(Method::POST, &format!("/api/v1/{kind}"), Some(&body), &[]).await?;
        }
        return Ok(Change::of("created"));
    };
    let differences = differences(&old["spec"], &spec);
    if differences.is_empty() {
        return Ok(Change::of("unchanged"));
    }
    if !plan {
        let path = format!("/api/v1/{kind}/{}", word(old, "id"));
        let tag = format!("\"{}\"", old["revision"]);
        let body = json!({"name": old["name"], "spec": spec});
        let answer = client.send(Method::PUT, &path, Some(&body), &[("if-match", &tag)]).await?;
        if let Some(id) = waits(&answer) {
            note(format_args!("{name}: a second person decides: sluice approval approve {id}"));
            return Ok(Change { word: "waits", differences });
        }
    }
    Ok(Change { word: "changed", differences })
}

/// Names in a policy become ids.
pub(crate) async fn policy_to_ids(client: &Client, spec: &mut Value, plan: bool) -> Result<()> {
    nodes_to_ids(client, "policies", spec).await?;
    with_destinations(client, spec, plan).await?;
    projects_to_ids(client, spec, plan).await
}

/// Where policies and destinations name projects.
pub(crate) const PROJECTS: [&str; 2] = ["/assign/projects", "/visible_to"];

/// Names of projects become ids.
async fn projects_to_ids(client: &Client, spec: &mut Value, plan: bool) -> Result<()> {
    for place in PROJECTS {
        let named = spec.pointer_mut(place).and_then(Value::as_array_mut);
        let Some(named) = named.filter(|named| !named.is_empty()) else { continue };
        let projects = Records::load(client, "projects").await?;
        for named in named {
            let Some(name) = named.as_str().map(str::to_owned) else { continue };
            match projects.find(&name) {
                Some(found) => *named = found["id"].clone(),
                None if plan => {}
                None => projects.one(&name).map(drop)?,
            }
        }
    }
    Ok(())
}

/// Where a record of a kind names nodes: instances and inventories by themselves, policies in
/// tests.
fn nodes_in<'a>(kind: &str, spec: &'a mut Value) -> Vec<&'a mut Value> {
    let holders: Vec<&mut Value> = match kind {
        "instances" | super::inventories::KIND => vec![spec],
        "policies" => {
            let tests = spec.get_mut("tests").and_then(Value::as_array_mut);
            tests.into_iter().flatten().collect()
        }
        _ => Vec::new(),
    };
    let named = holders.into_iter().filter_map(|holder| holder.get_mut("node"));
    named.filter(|node| node.is_string()).collect()
}

/// Names of nodes become ids.
async fn nodes_to_ids(client: &Client, kind: &str, spec: &mut Value) -> Result<()> {
    let named = nodes_in(kind, spec);
    if named.is_empty() {
        return Ok(());
    }
    // Who may see no nodes writes their ids.
    let Ok(nodes) = Records::load(client, "nodes").await else { return Ok(()) };
    for node in named {
        *node = nodes.one(node.as_str().unwrap_or_default())?["id"].clone();
    }
    Ok(())
}

/// Ids of nodes become names.
pub(super) fn nodes_to_names(nodes: &Records, kind: &str, spec: &mut Value) {
    for node in nodes_in(kind, spec) {
        *node = nodes.name_of(node).into();
    }
}

/// Rules name destinations as people do.
async fn with_destinations(client: &Client, spec: &mut Value, plan: bool) -> Result<()> {
    let destinations = Records::load(client, "destinations").await?;
    // Looking is not to add what is not there.
    let named = spec.get_mut("destinations").and_then(Value::as_array_mut);
    for named in named.into_iter().flatten() {
        to_id(&destinations, named, plan)?;
    }
    let mut rules = Vec::new();
    if let Some(fields) = spec.as_object_mut() {
        for (name, value) in fields {
            if name == "rules" || name == "tests" {
                rules.extend(value.as_array_mut().into_iter().flatten());
            }
        }
    }
    for rule in rules {
        for place in destinations_of(rule) {
            to_id(&destinations, place, plan)?;
        }
        // A server tells them in the order of ids, which nobody who writes names can know.
        let verify = rule.get_mut("verify").and_then(Value::as_array_mut);
        let at = verify.into_iter().flatten().filter_map(|one| one.get_mut("at"));
        for at in at.filter_map(Value::as_array_mut) {
            at.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
    }
    Ok(())
}

/// Where a rule or a test names destinations: for its backups, its copies and its verifications.
pub(crate) fn destinations_of(rule: &mut Value) -> Vec<&mut Value> {
    let mut places = Vec::new();
    for (field, value) in rule.as_object_mut().into_iter().flatten() {
        let inner = match field.as_str() {
            "destination" => {
                places.push(value);
                continue;
            }
            "copies" => "destination",
            "verify" => "at",
            _ => continue,
        };
        let named = value.as_array_mut().into_iter().flatten();
        for named in named.filter_map(|one| one.get_mut(inner)) {
            match named {
                Value::Array(several) => places.extend(several),
                // A word stands for destinations of the rule.
                one if inner == "destination" => places.push(one),
                _ => {}
            }
        }
    }
    places
}

/// Puts the id of a destination where its name stands.
fn to_id(destinations: &Records, place: &mut Value, plan: bool) -> Result<()> {
    let Some(name) = place.as_str().map(str::to_owned) else { return Ok(()) };
    match destinations.find(&name) {
        Some(found) => *place = found["id"].clone(),
        None if plan => {}
        None => destinations.one(&name).map(drop)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_names_its_nodes_by_their_names() {
        let nodes = Records {
            kind: "nodes",
            items: vec![json!({"id": "id-1", "name": "mover"})],
            projects: Vec::new(),
        };
        let named = |kind: &str, spec: Value| {
            let mut spec = spec;
            nodes_to_names(&nodes, kind, &mut spec);
            spec
        };
        for kind in ["instances", "inventories"] {
            assert_eq!(named(kind, json!({"node": "id-1"})), json!({"node": "mover"}));
            // What was removed has no name, and what names none stays so.
            assert_eq!(named(kind, json!({"node": "gone"})), json!({"node": "gone"}));
            assert_eq!(named(kind, json!({"node": null})), json!({"node": null}));
        }
        let tests = json!({"tests": [{"name": "a", "node": "id-1"}, {"name": "b"}]});
        let told = json!({"tests": [{"name": "a", "node": "mover"}, {"name": "b"}]});
        assert_eq!(named("policies", tests), told);
        assert_eq!(named("projects", json!({"node": "id-1"})), json!({"node": "id-1"}));
    }
}
