//! The control plane under fire: a server and two nodes that run backups by schedule and on
//! demand, while all of them are killed (SIGKILL) at random instants, nodes are cut off the server
//! (in one direction or both), the database goes away, and the server's disk fills up.
//!
//! The model is outside: each disk says which version it is, and all of its bytes follow from
//! that. At the end each task that was promised has ended in one known way, no task has two
//! restore points, what the catalog lists is what the repository has, each point holds a version
//! that was there while its task was, and the ledger has each backup once.

mod check;
mod database;
mod disks;
mod plane;
mod wire;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::roles::Dice;
use database::Database;
use disks::Disks;
use plane::{Part, Plane};
use wire::Way;

/// Instances, each with one disk.
const INSTANCES: usize = 6;
/// Nodes.
const NODES: usize = 2;
/// How long everything may take to come to rest once nobody is killed any more.
const REST: Duration = Duration::from_secs(420);

/// How to go about it.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) time: Duration,
    pub(super) seed: u64,
    pub(super) postgres: bool,
    pub(super) folder: PathBuf,
    pub(super) sluice: PathBuf,
}

/// What all roles share.
#[derive(Debug)]
struct World {
    plane: Plane,
    disks: Disks,
    /// Tasks that the server has promised to do.
    asked: Mutex<Vec<String>>,
    over: AtomicBool,
    kills: AtomicU64,
    cuts: AtomicU64,
    refused: AtomicU64,
}

impl World {
    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Sleeps, unless it is over before.
    fn sleep(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.over() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Goes on for that long, and checks everything.
pub(super) fn run(options: Options) -> Result<()> {
    let Options { time, seed, postgres, folder, sluice } = options;
    let kind = if postgres { "PostgreSQL" } else { "SQLite" };
    println!("soak: control plane on {kind}, {} s, seed {seed}", time.as_secs());
    let database = match postgres {
        true => Some(Database::start()?),
        false => None,
    };
    let url = database.as_ref().map(Database::url).transpose()?;
    let mut plane = Plane::new(sluice, folder, url)?;
    plane.limit_disk();
    let disks = Disks::new(&plane.folder, INSTANCES)?;
    let world = Arc::new(World {
        plane,
        disks,
        asked: Mutex::default(),
        over: AtomicBool::new(false),
        kills: AtomicU64::new(0),
        cuts: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    });
    world.plane.set_up(&world.disks)?;
    let roles = roles(&world, seed);
    let ended = phases(&world, database.as_ref(), time, &roles);
    world.over.store(true, Ordering::Relaxed);
    for (name, role) in roles {
        let ended = role.join().unwrap_or_else(|_| bail!("it panicked"));
        ended.with_context(|| format!("the {name}"))?;
    }
    ended?;
    world.plane.all_up()?;
    let told = check::everything(&world)?;
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "soak: {} kills, {} partitions, {} requests that got no answer; {told}",
        load(&world.kills),
        load(&world.cuts),
        load(&world.refused)
    );
    world.plane.end();
    Ok(())
}

type Roles = Vec<(&'static str, JoinHandle<Result<()>>)>;

fn roles(world: &Arc<World>, seed: u64) -> Roles {
    type Role = fn(&World, Dice) -> Result<()>;
    let all: [(&'static str, Role); 7] = [
        ("writer of disks", writer),
        ("one who asks", asker),
        ("killer of servers", |world, dice| killer(world, Part::Server, dice)),
        ("killer of node 0", |world, dice| killer(world, Part::Node(0), dice)),
        ("killer of node 1", |world, dice| killer(world, Part::Node(1), dice)),
        ("cutter of node 0", |world, dice| cutter(world, 0, dice)),
        ("cutter of node 1", |world, dice| cutter(world, 1, dice)),
    ];
    let start = |(number, (name, role)): (usize, (&'static str, Role))| {
        let (world, dice) = (world.clone(), Dice::new(seed, number as u64));
        (name, std::thread::spawn(move || role(&world, dice)))
    };
    all.into_iter().enumerate().map(start).collect()
}

/// Waits for the end, and lets the database and the disk fail on the way.
fn phases(world: &World, database: Option<&Database>, time: Duration, roles: &Roles) -> Result<()> {
    let begun = Instant::now();
    let wait = |until: Duration| -> Result<()> {
        while begun.elapsed() < until {
            if roles.iter().any(|(_, role)| role.is_finished()) {
                bail!("a role has given up");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    };
    wait(time / 3)?;
    let outage = (time / 8).min(Duration::from_secs(60));
    if let Some(database) = database {
        println!("soak: the database is gone for {} s", outage.as_secs());
        database.stop()?;
        wait(time / 3 + outage)?;
        database.restart()?;
    }
    wait(time * 2 / 3)?;
    let outage = (time / 10).min(Duration::from_secs(30));
    if world.plane.fill_disk()? {
        println!("soak: the server's disk is full for {} s", outage.as_secs());
        wait(time * 2 / 3 + outage)?;
        world.plane.empty_disk()?;
    }
    wait(time)
}

/// Lets disks change all the time.
fn writer(world: &World, mut dice: Dice) -> Result<()> {
    while !world.over() {
        world.disks.change(dice.below(INSTANCES as u64) as usize)?;
        world.sleep(Duration::from_millis(100 + dice.below(900)));
    }
    Ok(())
}

/// Asks for backups; what it was promised must happen.
fn asker(world: &World, mut dice: Dice) -> Result<()> {
    while !world.over() {
        let instance = Disks::name(dice.below(INSTANCES as u64) as usize);
        let words = ["task", "backup", &format!("lab/{instance}"), "--to", "vault"];
        match world.plane.ask(&words)?["id"].as_str() {
            Some(id) => {
                let mut asked = world.asked.lock().unwrap_or_else(PoisonError::into_inner);
                asked.push(id.to_owned());
            }
            None => {
                world.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        world.sleep(Duration::from_millis(500 + dice.below(2500)));
    }
    Ok(())
}

/// Cuts a node off the server now and then: mostly for longer than a lease, and in one direction
/// or both.
fn cutter(world: &World, node: usize, mut dice: Dice) -> Result<()> {
    let wire = &world.plane.wires[node];
    while !world.over() {
        world.sleep(Duration::from_millis(3000 + dice.below(20_000)));
        if world.over() {
            break;
        }
        wire.cut(Way::ALL[dice.below(3) as usize]);
        world.cuts.fetch_add(1, Ordering::Relaxed);
        let longest = if dice.below(6) == 0 { 60_000 } else { 15_000 };
        world.sleep(Duration::from_millis(1000 + dice.below(longest)));
        wire.mend();
    }
    Ok(())
}

/// Kills a process every few seconds, and starts it again.
fn killer(world: &World, part: Part, mut dice: Dice) -> Result<()> {
    while !world.over() {
        world.sleep(Duration::from_millis(1000 + dice.below(9000)));
        if world.over() {
            break;
        }
        world.plane.kill(part)?;
        world.kills.fetch_add(1, Ordering::Relaxed);
        world.sleep(Duration::from_millis(dice.below(1500)));
        world.plane.start(part)?;
    }
    Ok(())
}
