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
    /// What its tests may use besides: real neighbours instead of imitations of them.
    tests_may_use: &'static [&'static str],
}

const ROOMS: &[Room] = &[
    Room { folder: "gateway/block", may_use: &[], tests_may_use: &[] },
    Room { folder: "gateway/destination", may_use: &["gateway/block"], tests_may_use: &[] },
    Room {
        folder: "gateway/repository",
        may_use: &["gateway/block", "gateway/destination"],
        tests_may_use: &[],
    },
    Room { folder: "protocol", may_use: &[], tests_may_use: &[] },
    // Which connections a server of disks lets in.
    Room { folder: "mountd/door", may_use: &[], tests_may_use: &[] },
    Room {
        folder: "mountd",
        may_use: &["gateway/block", "protocol", "mountd/door"],
        tests_may_use: &[],
    },
    Room {
        folder: "backup-pipeline/connectors",
        // Disk images of foreign formats are read through an NBD server of their own.
        may_use: &["gateway/block", "protocol", "backup-pipeline/connectors/nbd"],
        // The NBD client is tried against our own server, beside those of others.
        tests_may_use: &["mountd/nbd"],
    },
    Room {
        folder: "backup-pipeline/engine",
        may_use: &["gateway/block", "gateway/repository"],
        // A repository for a test lies in the memory destination.
        tests_may_use: &["gateway/destination", "backup-pipeline/connectors"],
    },
    // What the control plane knows needs nobody: not even what time it is.
    Room { folder: "catalog", may_use: &[], tests_may_use: &[] },
    Room { folder: "node/api", may_use: &[], tests_may_use: &[] },
    Room { folder: "node/agent", may_use: &["node/api"], tests_may_use: &[] },
    Room {
        folder: "server",
        // Of the repository it takes the clock only.
        may_use: &[
            "catalog",
            "node/api",
            "server/scheduler",
            "gateway/repository",
            // What browsers bring of passkeys.
            "protocol/webauthn",
        ],
        tests_may_use: &[],
    },
    // Pure functions of state and time; what they decide on, they are told.
    Room { folder: "server/scheduler", may_use: &[], tests_may_use: &[] },
    Room {
        folder: "cli",
        may_use: &["gateway", "mountd", "backup-pipeline", "node", "server"],
        tests_may_use: &["protocol"],
    },
    Room {
        folder: "tests",
        may_use: &["cli", "gateway", "mountd", "backup-pipeline", "protocol"],
        tests_may_use: &[],
    },
    Room { folder: "xtask", may_use: &[], tests_may_use: &[] },
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
        let mut check = |uses: &[String], allowed: &[&[&str]], note: &str| {
            for used in uses {
                let target = folders.get(&**used).copied().unwrap_or(used);
                let fits = allowed.iter().copied().flatten().any(|room| inside(target, room));
                // A crate may name itself, to turn on its own test features.
                if !fits && *used != package.name {
                    problems.push(format!("{}: may not use {target}{note}", package.folder));
                }
            }
        };
        check(&package.uses, &[room.may_use], "");
        check(&package.tests_use, &[room.may_use, room.tests_may_use], ", not even in tests");
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
            tests_use: Vec::new(),
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
    fn tests_may_use_more() {
        let uses = ["mountd/nbd".to_owned()];
        let plain = package("backup-pipeline/connectors/nbd", &["mountd/nbd"]);
        assert_eq!(arrows(&[plain]).len(), 1);
        let mut tested = package("backup-pipeline/connectors/nbd", &[]);
        tested.tests_use = uses.to_vec();
        assert_eq!(arrows(&[tested]), [""; 0]);
        let mut tested = package("gateway/block", &[]);
        tested.tests_use = uses.to_vec();
        assert_eq!(arrows(&[tested]), ["gateway/block: may not use mountd/nbd, not even in tests"]);
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
