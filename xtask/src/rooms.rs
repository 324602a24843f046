//! Which room may depend on which.
//!
//! The folders of the workspace are rooms, and compile-time arrows point one way: an export does
//! not know what a repository is, a connector does not know who calls it, and the two halves of
//! the product (`mountd`, `backup-pipeline`) do not know each other. `docs/architecture.md` draws
//! the picture; this table is the same picture for a machine. A new arrow is a decision: add it
//! here, with its reason in `docs/decisions/`.
//!
//! The same step checks what keeps manifests uniform: lints and versions come from the root.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::manifest::{self, Package};

/// A room, and the rooms that crates inside it may use. A room covers the folders below it, and
/// the longest match counts. Crates of one room may not use each other unless it names itself.
struct Room {
    folder: &'static str,
    may_use: &'static [&'static str],
}

const ROOMS: &[Room] = &[
    Room { folder: "gateway/block", may_use: &[] },
    Room { folder: "gateway/destination", may_use: &[] },
    Room { folder: "gateway/repository", may_use: &["gateway/block", "gateway/destination"] },
    Room { folder: "protocol", may_use: &[] },
    Room { folder: "mountd", may_use: &["gateway/block", "protocol"] },
    Room { folder: "backup-pipeline/connectors", may_use: &["gateway/block", "protocol"] },
    Room { folder: "backup-pipeline/engine", may_use: &["gateway/block", "gateway/repository"] },
    Room { folder: "cli", may_use: &["gateway", "mountd", "backup-pipeline"] },
    Room { folder: "tests", may_use: &["cli", "gateway", "mountd", "backup-pipeline", "protocol"] },
    Room { folder: "xtask", may_use: &[] },
];

/// Checks every crate of the workspace.
pub fn run() -> Result<()> {
    let packages = manifest::packages()?;
    let mut problems = arrows(&packages);
    for package in &packages {
        let text = std::fs::read_to_string(&package.manifest)
            .with_context(|| format!("cannot read {}", package.manifest.display()))?;
        let found = uniform(&text);
        problems
            .extend(found.into_iter().map(|what| format!("{}/Cargo.toml{what}", package.folder)));
    }
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} problems in the manifests", problems.len());
    }
    println!("{} crates, all arrows allowed", packages.len());
    Ok(())
}

/// The dependencies that no room allows.
fn arrows(packages: &[Package]) -> Vec<String> {
    let folders: BTreeMap<_, _> = packages.iter().map(|p| (&*p.name, &*p.folder)).collect();
    let mut problems = Vec::new();
    for package in packages {
        let Some(room) = room(&package.folder) else {
            problems.push(format!("{}: in no room; add it to xtask/src/rooms.rs", package.folder));
            continue;
        };
        for used in &package.uses {
            let target = folders.get(&**used).copied().unwrap_or(used);
            // A crate may name itself, to turn on its own test features.
            if *used != package.name && !room.may_use.iter().any(|room| inside(target, room)) {
                problems.push(format!("{}: may not use {target}", package.folder));
            }
        }
    }
    problems
}

fn room(folder: &str) -> Option<&'static Room> {
    let rooms = ROOMS.iter().filter(|room| inside(folder, room.folder));
    rooms.max_by_key(|room| room.folder.len())
}

/// Whether `folder` is `room` or lies below it.
fn inside(folder: &str, room: &str) -> bool {
    folder.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Settings that a manifest must take from the root: each problem starts with `:LINE: `.
fn uniform(manifest: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut section = String::new();
    let mut lints = false;
    for (number, line) in manifest.lines().enumerate() {
        let number = number + 1;
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            if section.contains("dependencies.") {
                problems.push(format!(":{number}: write the dependency on one line"));
            }
        } else if section.ends_with("dependencies") {
            let Some((key, value)) = line.split_once('=') else { continue };
            let inherits = key.trim().ends_with(".workspace") || value.contains("workspace = true");
            if !inherits {
                problems.push(format!(":{number}: versions live in the root Cargo.toml"));
            }
        } else if section == "package" {
            let shared = ["version", "edition", "rust-version", "license", "publish"];
            let key = line.split('=').next().unwrap_or_default().trim();
            if shared.contains(&key) {
                problems.push(format!(":{number}: {key} comes from the workspace"));
            }
        } else if section == "lints" {
            lints |= line.replace(' ', "") == "workspace=true";
        }
    }
    if !lints {
        problems.push(": needs [lints] workspace = true".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::{Package, arrows, uniform};

    fn package(folder: &str, uses: &[&str]) -> Package {
        Package {
            name: folder.to_owned(),
            folder: folder.to_owned(),
            manifest: folder.into(),
            uses: uses.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn arrows_down_are_allowed() {
        let packages = [
            package("gateway/block", &[]),
            package("gateway/repository", &["gateway/block", "gateway/repository"]),
            package("protocol/nbd", &[]),
            package("mountd/nbd", &["gateway/block", "protocol/nbd"]),
            package("cli", &["mountd/nbd", "gateway/repository"]),
        ];
        assert_eq!(arrows(&packages), [""; 0]);
    }

    #[test]
    fn an_arrow_up_or_sideways_is_named() {
        let packages = [
            package("gateway/block", &["gateway/repository"]),
            package("gateway/repository", &[]),
            package("mountd/nbd", &["gateway/repository", "mountd/fuse"]),
            package("mountd/fuse", &[]),
        ];
        let expected = [
            "gateway/block: may not use gateway/repository",
            "mountd/nbd: may not use gateway/repository",
            "mountd/nbd: may not use mountd/fuse",
        ];
        assert_eq!(arrows(&packages), expected);
    }

    #[test]
    fn a_folder_that_only_starts_like_a_room_is_outside_it() {
        assert_eq!(arrows(&[package("gateway/blocks", &[])]).len(), 1);
    }

    #[test]
    fn manifests_inherit_from_the_root() {
        let good = "[package]\nname = \"a\"\nversion.workspace = true\n[lints]\nworkspace = true\n\
                    [dependencies]\nx.workspace = true\ny = { workspace = true, features = [] }\n";
        assert_eq!(uniform(good), [""; 0]);

        let bad = "[package]\nversion = \"1\"\n[dev-dependencies]\nx = \"1\"\n[dependencies.y]\n";
        let expected = [
            ":2: version comes from the workspace",
            ":4: versions live in the root Cargo.toml",
            ":5: write the dependency on one line",
            ": needs [lints] workspace = true",
        ];
        assert_eq!(uniform(bad), expected);
    }
}
