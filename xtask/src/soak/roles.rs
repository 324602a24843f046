//! Those who write, prune, collect, copy and read, until they are killed, again and again.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::model::{cat, disk, list, mix, number_of};
use super::{KEEP, World};

/// Longest time a child may take when nobody kills it.
const PATIENCE: Duration = Duration::from_secs(180);

/// The running roles.
pub(super) struct Roles(Vec<(&'static str, JoinHandle<Result<()>>)>);

/// Random choices that can be repeated.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64, role: u64) -> Self {
        Self(mix(seed, role))
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = mix(self.0, 1);
        self.0 % bound
    }
}

impl Roles {
    pub(super) fn start(world: &Arc<World>, seed: u64) -> Self {
        type Role = fn(&World, Dice) -> Result<()>;
        let roles: [(&'static str, Role); 6] = [
            ("writer a", |world, dice| writer(world, "vm-a", dice)),
            ("writer b", |world, dice| writer(world, "vm-b", dice)),
            ("pruner", pruner),
            ("collector", collector),
            ("replicator", replicator),
            ("reader", reader),
        ];
        let start = |(number, (name, role)): (usize, (&'static str, Role))| {
            let (world, dice) = (world.clone(), Dice::new(seed, number as u64));
            (name, std::thread::spawn(move || role(&world, dice)))
        };
        Self(roles.into_iter().enumerate().map(start).collect())
    }

    /// Whether one has given up: then something is wrong.
    pub(super) fn any_ended(&self) -> bool {
        self.0.iter().any(|(_, role)| role.is_finished())
    }

    pub(super) fn end(self, world: &World) -> Result<()> {
        world.over.store(true, Ordering::Relaxed);
        for (name, role) in self.0 {
            let ended = role.join().unwrap_or_else(|_| bail!("it panicked"));
            ended.with_context(|| format!("the {name}"))?;
        }
        Ok(())
    }
}

/// Runs a command to a good end.
pub(super) fn must(command: &mut Command) -> Result<()> {
    let output = command.stdout(Stdio::null()).output().context("cannot start sluice")?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    bail!("{command:?} ended with {}: {error}", output.status)
}

/// Runs a command and perhaps kills it; whether it came to its end. Exit codes in `fine` are
/// good ends.
fn chance(world: &World, dice: &mut Dice, command: &mut Command, fine: &[i32]) -> Result<bool> {
    world.runs.fetch_add(1, Ordering::Relaxed);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start sluice")?;
    let begun = Instant::now();
    let deadline = match dice.below(2) {
        0 => PATIENCE,
        _ => Duration::from_millis(dice.below(1500)),
    };
    while begun.elapsed() < deadline {
        if let Some(status) = child.try_wait()? {
            if status.code().is_some_and(|code| code == 0 || fine.contains(&code)) {
                return Ok(true);
            }
            let output = child.wait_with_output()?;
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("{command:?} ended with {status}: {error}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if deadline == PATIENCE {
        kill(&mut child)?;
        bail!("{command:?} does not come to an end");
    }
    kill(&mut child)?;
    world.kills.fetch_add(1, Ordering::Relaxed);
    Ok(false)
}

fn kill(child: &mut Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn over(world: &World) -> bool {
    world.over.load(Ordering::Relaxed)
}

/// Changes its disk, backs it up, and notes what became of it.
fn writer(world: &World, instance: &str, mut dice: Dice) -> Result<()> {
    let path = world.folder.join(instance);
    let mut version = 0;
    while !over(world) {
        version += 1 + dice.below(3);
        std::fs::write(&path, disk(number_of(instance), version))?;
        // Until it has become a point: killed runs are repeated, which resumes them.
        loop {
            let mut command = world.sluice();
            command.args(["backup", instance, "-q"]).arg(&path);
            if dice.below(4) == 0 {
                command.arg("--rescan");
            }
            let ended = chance(world, &mut dice, &mut command, &[3])?;
            let listed = list(world, &world.repository, instance)?;
            let new = world.model.note(instance, &listed, version);
            if ended && new == 0 {
                bail!("a backup of {instance} ended well and left no point");
            }
            if new > 0 || over(world) {
                break;
            }
        }
    }
    Ok(())
}

fn pruner(world: &World, mut dice: Dice) -> Result<()> {
    while !over(world) {
        let mut command = world.sluice();
        command.args(["prune", "-q", "--keep-last", &KEEP.to_string()]);
        chance(world, &mut dice, &mut command, &[3])?;
        std::thread::sleep(Duration::from_millis(200 + dice.below(2000)));
    }
    Ok(())
}

fn collector(world: &World, mut dice: Dice) -> Result<()> {
    while !over(world) {
        let mut command = world.sluice();
        command.args(["collect", "-q", "--min-saving", "64KiB", "--compact-below", "80%"]);
        // 1: a replication is under way; 3: it gave up waiting for a backup.
        chance(world, &mut dice, command.args(["--wait", "20s"]), &[1, 3])?;
        std::thread::sleep(Duration::from_millis(dice.below(500)));
    }
    Ok(())
}

fn replicator(world: &World, mut dice: Dice) -> Result<()> {
    while !over(world) {
        std::thread::sleep(Duration::from_millis(500 + dice.below(3000)));
        let mut command = world.sluice();
        command.args(["replicate", "-q", "--to", &world.replica()]);
        chance(world, &mut dice, &mut command, &[3])?;
    }
    Ok(())
}

/// Reads whatever point there is. One that is pruned meanwhile may vanish, but never be wrong.
fn reader(world: &World, mut dice: Dice) -> Result<()> {
    while !over(world) {
        let instance = if dice.below(2) == 0 { "vm-a" } else { "vm-b" };
        let listed = list(world, &world.repository, instance)?;
        let Some(id) = listed.get(dice.below(listed.len().max(1) as u64) as usize) else {
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let read = match cat(world, &world.repository, instance, id) {
            Ok(read) => read,
            Err(error) => {
                if list(world, &world.repository, instance)?.contains(id) {
                    return Err(error);
                }
                continue;
            }
        };
        if let Some(version) = world.model.version(instance, id)
            && read != disk(number_of(instance), version)
        {
            bail!("{instance}@{id} read wrong while everything went on");
        }
    }
    Ok(())
}
