//! What is linked in, with versions and licences, as CycloneDX 1.5.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{NAME, Release};
use crate::host;

/// The document: every package that the executable is built of on this machine.
pub fn document(release: &Release) -> Result<String> {
    let mut metadata = host::cargo();
    metadata.args(["metadata", "--format-version", "1", "--locked", "--filter-platform"]);
    metadata.arg(triple()?);
    let metadata: Value = serde_json::from_str(&host::output(&mut metadata)?)?;
    let components = components(&metadata)?;
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application", "name": NAME, "version": release.version,
            "bom-ref": format!("pkg:cargo/{NAME}@{}", release.version),
            "licenses": [{"expression": "Apache-2.0"}],
        }},
        "components": components,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn triple() -> Result<String> {
    let text = host::output(host::command("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say what it builds for")?.to_owned())
}

/// Packages from elsewhere that are reached without those that only build or test.
fn components(metadata: &Value) -> Result<Vec<Value>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let nodes: BTreeMap<String, Value> = list(&metadata["resolve"]["nodes"])
        .into_iter()
        .filter_map(|node| Some((node["id"].as_str()?.to_owned(), node)))
        .collect();
    let packages = list(&metadata["packages"]);
    let root = packages.iter().find(|package| package["name"] == NAME);
    let root = root.and_then(|package| package["id"].as_str()).context("no package sluice")?;
    let (mut seen, mut left) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(id) = left.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        for dependency in nodes.get(&id).map(|node| list(&node["deps"])).unwrap_or_default() {
            let linked = list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            if let (true, Some(id)) = (linked, dependency["pkg"].as_str()) {
                left.push(id.to_owned());
            }
        }
    }
    let linked = packages.iter().filter(|package| {
        package["id"].as_str().is_some_and(|id| seen.contains(id)) && !package["source"].is_null()
    });
    let mut components: Vec<Value> = linked.map(component).collect();
    components.sort_by_key(|one| one["bom-ref"].as_str().unwrap_or_default().to_owned());
    Ok(components)
}

fn component(package: &Value) -> Value {
    let word = |name: &str| package[name].as_str().unwrap_or_default();
    let url = format!("pkg:cargo/{}@{}", word("name"), word("version"));
    // The older way to write "or".
    let licence = word("license").replace('/', " OR ");
    let licences = if licence.is_empty() { json!([]) } else { json!([{"expression": licence}]) };
    json!({"type": "library", "name": word("name"), "version": word("version"), "purl": url,
        "bom-ref": url, "licenses": licences})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_tests_need_is_not_listed() {
        let package = |name: &str, source: Value| {
            json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0",
                "source": source})
        };
        let needs = |pkg: &str, kind: Value| json!({"pkg": pkg, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [package(NAME, Value::Null), package("own", Value::Null),
                package("far", json!("registry")), package("test", json!("registry")),
                package("other", json!("registry"))],
            "resolve": {"nodes": [
                {"id": NAME, "deps": [needs("own", Value::Null), needs("test", json!("dev"))]},
                {"id": "own", "deps": [needs("far", Value::Null)]},
            ]},
        });
        let found = components(&metadata).unwrap();
        let names: Vec<_> = found.iter().map(|one| one["purl"].as_str().unwrap()).collect();
        assert_eq!(names, ["pkg:cargo/far@1.0.0"]);
        assert_eq!(found[0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
    }
}
