//! The workspace's crates, as cargo sees them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::host;

/// A crate of this workspace.
#[derive(Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its folder, relative to the root, with `/` between parts: `gateway/block`.
    pub folder: String,
    /// Its `Cargo.toml`.
    pub manifest: PathBuf,
    /// The crates of this workspace that it is built from.
    pub uses: Vec<String>,
    /// Those that only its tests are built from.
    pub tests_use: Vec<String>,
}

/// What `cargo metadata` says, without following dependencies.
pub fn metadata() -> Result<Value> {
    let args = ["metadata", "--format-version", "1", "--no-deps", "--locked"];
    let text = host::output(host::cargo().args(args))?;
    serde_json::from_str(&text).context("cargo metadata printed no JSON")
}

/// All crates of the workspace, sorted by folder.
pub fn packages() -> Result<Vec<Package>> {
    let metadata = metadata()?;
    let list = metadata["packages"].as_array().context("no packages in cargo metadata")?;
    let mut packages = list.iter().map(package).collect::<Result<Vec<_>>>()?;
    packages.sort_by(|a, b| a.folder.cmp(&b.folder));
    Ok(packages)
}

fn package(value: &Value) -> Result<Package> {
    let text = |key: &str| value[key].as_str().with_context(|| format!("package without {key}"));
    let name = text("name")?.to_owned();
    let manifest = PathBuf::from(text("manifest_path")?);
    let folder = manifest
        .parent()
        .and_then(|folder| folder.strip_prefix(host::root()).ok())
        .with_context(|| format!("{name} lies outside the workspace"))?
        .to_string_lossy()
        .replace('\\', "/");
    let dependencies = value["dependencies"].as_array().context("package without dependencies")?;
    let named = |for_tests: bool| {
        dependencies
            .iter()
            // Only crates of the workspace are named by path.
            .filter(|dependency| dependency["path"].is_string())
            .filter(|dependency| (dependency["kind"] == "dev") == for_tests)
            .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
            .collect()
    };
    Ok(Package { uses: named(false), tests_use: named(true), name, folder, manifest })
}
