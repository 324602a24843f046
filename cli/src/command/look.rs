//! Which disks lie in a folder: what a node tells the server of an inventory.

use anyhow::{Context as _, Result};
use sluice_connector_disk::look::{Disk, LookError, Trouble, Wanted, look};
use sluice_node_api::{FoundDisk, InventoryReport, InventoryTrouble};

use crate::args::LookArgs;
use crate::context::Context;
use crate::error::{Exit, usage_error};
use crate::output::{self, bytes};

/// Lists them.
pub(crate) async fn run(context: &Context, args: LookArgs) -> Result<Exit> {
    let wanted = Wanted {
        folder: args.folder,
        devices: args.devices,
        names: args.name,
        except: args.except,
        depth: args.depth,
        most: args.most as usize,
    };
    let listed = tokio::task::spawn_blocking(move || look(&wanted)).await;
    let listing = match listed.context("the look did not end well")? {
        Ok(listing) => listing,
        // To try again does not help: somebody must say what is meant.
        Err(error @ (LookError::TooMany(..) | LookError::TooLarge(..))) => {
            return Err(usage_error(error.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    for Trouble { path, why } in listing.unread.iter().chain(&listing.passed) {
        output::warn(format_args!("{path}: {why}"));
    }
    let unread = !listing.unread.is_empty();
    if context.global.json {
        output::json(&InventoryReport {
            order: args.order,
            disks: listing.disks.into_iter().map(disk).collect(),
            unread: listing.unread.into_iter().map(trouble).collect(),
            passed: listing.passed.into_iter().map(trouble).collect(),
            mounts: listing.mounts,
            mounted_on: listing.mounted_on,
        })?;
    } else {
        let row = |one: &Disk| vec![one.path.clone(), one.format.clone(), bytes(one.size_bytes)];
        let rows = listing.disks.iter().map(row).collect();
        output::print(&output::table(&["PATH", "FORMAT", ">SIZE"], rows))?;
    }
    Ok(if unread { Exit::Warnings } else { Exit::Done })
}

fn disk(disk: Disk) -> FoundDisk {
    let Disk { path, size_bytes, format, identity, file } = disk;
    FoundDisk { path, size_bytes, format, identity, file }
}

fn trouble(trouble: Trouble) -> InventoryTrouble {
    let Trouble { path, why } = trouble;
    InventoryTrouble { path, why }
}
