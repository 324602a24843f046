//! What every point must hold, known from outside.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::Stdio;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use super::{KEEP, World};

/// Points by name, in order, with the version of the disk each must hold.
#[derive(Debug, Default)]
pub(super) struct Model {
    points: Mutex<BTreeMap<String, Vec<(String, u64)>>>,
}

/// A disk is a seed and a size: every version can be made again.
pub(super) const DISK: usize = 24 << 20;
const BLOCK: usize = 128 << 10;

/// The content of a version of an instance's disk. A block changes in one of four versions, so
/// that neighbours share most of their blocks, and both instances share some.
pub(super) fn disk(instance: u64, version: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; DISK];
    for (number, block) in bytes.chunks_mut(BLOCK).enumerate() {
        let number = number as u64;
        let since = version.saturating_sub(mix(number, 77) % 4) / 4;
        let owner = if number.is_multiple_of(3) { 9 } else { instance };
        let mut state = mix(mix(number, since), owner) | 1;
        if state.is_multiple_of(7) {
            continue; // a hole
        }
        // Half noise, half pattern: compresses about two to one.
        for (at, word) in block.chunks_exact_mut(8).enumerate() {
            if at % 2 == 0 {
                state = mix(state, at as u64);
            }
            word.copy_from_slice(&state.to_le_bytes());
        }
    }
    bytes
}

/// A mix of two numbers (the finaliser of SplitMix64).
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(b);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Model {
    /// Notes the points an instance has now; new ones hold this version.
    pub(super) fn note(&self, instance: &str, listed: &[String], version: u64) -> usize {
        let mut points = self.points.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = points.entry(instance.to_owned()).or_default();
        let new: Vec<&String> =
            listed.iter().filter(|id| known.iter().all(|(one, _)| one != *id)).collect();
        let count = new.len();
        known.extend(new.into_iter().map(|id| (id.clone(), version)));
        count
    }

    pub(super) fn made(&self) -> usize {
        let points = self.points.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        points.values().map(Vec::len).sum()
    }

    /// The version a point must hold; nothing when nobody has noted it yet.
    pub(super) fn version(&self, instance: &str, id: &str) -> Option<u64> {
        let points = self.points.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = points.get(instance)?.iter().find(|(one, _)| one == id)?;
        Some(known.1)
    }

    /// Reads every listed point back. With `complete`, the newest ones must be there.
    pub(super) fn compare(&self, world: &World, place: &str, complete: bool) -> Result<usize> {
        let points = self.points.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let mut compared = 0;
        for (instance, known) in &points {
            let listed = list(world, place, instance)?;
            let newest = known.iter().rev().take(KEEP).map(|(id, _)| id);
            if let Some(lost) = newest.into_iter().find(|id| complete && !listed.contains(id)) {
                bail!("point {instance}@{lost} is lost from {place}");
            }
            for id in &listed {
                let version = known.iter().find(|(one, _)| one == id);
                let (_, version) =
                    version.with_context(|| format!("{instance}@{id} came from nowhere"))?;
                if cat(world, place, instance, id)? != disk(number_of(instance), *version) {
                    bail!("{instance}@{id} in {place} does not hold version {version}");
                }
                compared += 1;
            }
        }
        Ok(compared)
    }
}

pub(super) fn number_of(instance: &str) -> u64 {
    instance.bytes().last().map_or(0, u64::from)
}

/// The points of an instance, oldest first.
pub(super) fn list(world: &World, place: &str, instance: &str) -> Result<Vec<String>> {
    let mut command = world.sluice();
    let output = command.env("SLUICE_REPO", place).args(["list", instance, "--json"]).output()?;
    if !output.status.success() {
        bail!("list failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let value: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let points = value["points"].as_array().context("list has no points")?;
    let ids = points.iter().filter_map(|point| Some(point["id"].as_str()?.to_owned()));
    Ok(ids.collect())
}

/// The content of a point.
pub(super) fn cat(world: &World, place: &str, instance: &str, id: &str) -> Result<Vec<u8>> {
    let mut command = world.sluice();
    let mut child = command
        .env("SLUICE_REPO", place)
        .args(["cat", &format!("{instance}@{id}")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut bytes = Vec::with_capacity(DISK);
    child.stdout.take().context("no output")?.read_to_end(&mut bytes)?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("reading {instance}@{id} failed: {error}");
    }
    Ok(bytes)
}
