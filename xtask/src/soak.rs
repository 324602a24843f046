//! Killing everything at random for a while, and losing nothing.
//!
//! Two writers back up disks that change, a pruner removes points, a collector gives space back, a
//! replicator copies everything to a second place, and a reader reads points from a mount. Each of
//! them runs the built executable, and each is killed (SIGKILL) at random instants. What every
//! point must hold is known from outside: the disk does not change while it is backed up. At the
//! end every point of both places is read back and compared, none may be missing, and `verify
//! --data` must find nothing.

mod control;
mod model;
mod roles;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host;
use model::Model;
use roles::Roles;

const USAGE: &str = "\
usage: cargo xtask soak [--minutes N] [--seed N] [--s3] [--folder DIR]
       cargo xtask soak --control-plane [--postgres] [--minutes N] [--seed N] [--folder DIR]

  --control-plane
                soak a server and two nodes instead: they are killed and cut off each other,
                the server's disk becomes full (where a small one may be mounted), and with
                --postgres the database goes away
  --minutes N   how long to go on (default 3)
  --seed N      the choices to repeat (default: the time)
  --s3          keep the repository on the S3 server of tests/lab/s3 instead of in a folder
  --sluice FILE the executable to test (default: built now)
  --folder DIR  where to work (default: a new folder in the temporary folder, removed after success)
";

/// Newest points of each instance that are never pruned.
const KEEP: usize = 4;

/// What all roles share.
#[derive(Debug)]
struct World {
    sluice: PathBuf,
    folder: PathBuf,
    repository: String,
    model: Model,
    over: AtomicBool,
    runs: AtomicU64,
    kills: AtomicU64,
}

impl World {
    /// The executable, told where everything is.
    fn sluice(&self) -> Command {
        let mut command = Command::new(&self.sluice);
        command
            .env("SLUICE_REPO", &self.repository)
            .env("SLUICE_PASSPHRASE", "soak")
            .env("SLUICE_HEARTBEAT", "1s")
            .env("XDG_CACHE_HOME", self.folder.join("cache"));
        command
    }

    fn replica(&self) -> String {
        self.folder.join("replica").display().to_string()
    }
}

/// `cargo xtask soak`.
pub fn command(args: &[&str]) -> Result<()> {
    let (mut minutes, mut seed, mut s3) = (3.0, None, false);
    let (mut plane, mut postgres) = (false, false);
    let (mut folder, mut sluice) = (None, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().copied().with_context(|| format!("{arg} needs a value"));
        match *arg {
            "--minutes" => minutes = value()?.parse().context("--minutes needs a number")?,
            "--seed" => seed = Some(value()?.parse().context("--seed needs a number")?),
            "--folder" => folder = Some(PathBuf::from(value()?)),
            "--sluice" => sluice = Some(PathBuf::from(value()?)),
            "--s3" => s3 = true,
            "--control-plane" => plane = true,
            "--postgres" => postgres = true,
            "help" | "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(());
            }
            other => bail!("{other:?} is unknown\n\n{USAGE}"),
        }
    }
    let sluice = sluice.map_or_else(build, Ok)?;
    let time = Duration::from_secs_f64(minutes * 60.0);
    match plane {
        true => control_plane(sluice, time, seed, postgres, folder),
        false => run(sluice, time, seed, s3, folder),
    }
}

/// The form of it that fits into the gate.
pub fn short() -> Result<()> {
    run(build()?, Duration::from_secs(180), None, false, None)?;
    let postgres = std::env::var_os("SLUICE_SKIP_POSTGRES").is_none();
    control_plane(build()?, Duration::from_secs(120), None, postgres, None)
}

/// Each state of a hasher is another one.
fn new_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}

fn control_plane(
    sluice: PathBuf,
    time: Duration,
    seed: Option<u64>,
    postgres: bool,
    folder: Option<PathBuf>,
) -> Result<()> {
    let kept = folder.is_some();
    // After a failure it stays, to be looked at.
    let made = || Ok(tempfile::Builder::new().prefix("soak-").tempdir()?.keep());
    let folder = folder.map_or_else(made, anyhow::Ok)?;
    println!("soak: in {}", folder.display());
    let seed = seed.unwrap_or_else(new_seed);
    let own = folder.clone();
    control::run(control::Options { time, seed, postgres, folder, sluice })?;
    if !kept {
        std::fs::remove_dir_all(&own).with_context(|| format!("cannot remove {own:?}"))?;
    }
    Ok(())
}

fn run(
    sluice: PathBuf,
    time: Duration,
    seed: Option<u64>,
    s3: bool,
    folder: Option<PathBuf>,
) -> Result<()> {
    let seed = seed.unwrap_or_else(new_seed);
    let kept = folder.is_some();
    // After a failure it stays, to be looked at.
    let made = || Ok(tempfile::Builder::new().prefix("soak-").tempdir()?.keep());
    let folder = folder.map_or_else(made, anyhow::Ok)?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder:?}"))?;
    println!("soak: {} s, seed {seed}, in {}", time.as_secs(), folder.display());
    let world = Arc::new(World {
        sluice,
        repository: repository(&folder, s3, seed)?,
        folder: folder.clone(),
        model: Model::default(),
        over: AtomicBool::new(false),
        runs: AtomicU64::new(0),
        kills: AtomicU64::new(0),
    });
    roles::must(world.sluice().args(["init", "-q"]))?;
    let begun = Instant::now();
    let roles = Roles::start(&world, seed);
    while begun.elapsed() < time && !roles.any_ended() {
        std::thread::sleep(Duration::from_millis(200));
    }
    roles.end(&world)?;
    settle(&world)?;
    if !kept {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {folder:?}"))?;
    }
    Ok(())
}

/// The executable that the tests use as well, so that nothing is built twice.
fn build() -> Result<PathBuf> {
    host::run(host::cargo().args(["build", "--locked", "--workspace", "--bin", "sluice"]))?;
    let metadata = crate::manifest::metadata()?;
    let folder = metadata["target_directory"].as_str().context("no target folder")?;
    Ok(PathBuf::from(folder).join("debug/sluice"))
}

fn repository(folder: &std::path::Path, s3: bool, seed: u64) -> Result<String> {
    if !s3 {
        return Ok(folder.join("repository").display().to_string());
    }
    let output = Command::new("tests/lab/s3/s3-up").output().context("cannot start the S3 lab")?;
    let env = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let text = std::fs::read_to_string(&env).with_context(|| format!("no lab file {env:?}"))?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| {
            line.trim_start_matches("export ").strip_prefix(name)?.strip_prefix('=')
        });
        line.map(|value| value.trim_matches(['"', '\'']).to_owned())
            .with_context(|| format!("the lab file has no {name}"))
    };
    // Children inherit the keys; nothing else runs in this process yet.
    let keys = folder.join("s3-keys");
    let text = format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        value("AWS_ACCESS_KEY_ID")?,
        value("AWS_SECRET_ACCESS_KEY")?
    );
    std::fs::write(&keys, text)?;
    let url = value("SLUICE_TEST_S3")?;
    let (bucket, parameters) = url.split_once('?').context("the lab names no endpoint")?;
    Ok(format!("{bucket}/soak-{seed}?{parameters}&credentials={}", keys.display()))
}

/// Nobody is killed any more: everything must come to a good end, and hold what it should.
fn settle(world: &World) -> Result<()> {
    let wait = "120s";
    roles::must(world.sluice().args(["collect", "-q", "--min-saving", "64KiB", "--wait", wait]))?;
    roles::must(world.sluice().args(["replicate", "-q", "--to", &world.replica()]))?;
    roles::must(world.sluice().args(["verify", "--data", "-q"]))?;
    let mut replica = world.sluice();
    roles::must(replica.env("SLUICE_REPO", world.replica()).args(["verify", "--data", "-q"]))?;
    let here = world.model.compare(world, &world.repository, true)?;
    let there = world.model.compare(world, &world.replica(), false)?;
    let load = |counter: &AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    println!(
        "soak: {} runs, {} of them killed; {here} points read back here, {there} in the replica; \
         {} points made, none lost, no byte wrong",
        load(&world.runs),
        load(&world.kills),
        world.model.made()
    );
    Ok(())
}
