//! What must hold in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{REST, World};

/// Checks everything, and tells what there was.
pub(super) fn everything(world: &World) -> Result<String> {
    let plane = &world.plane;
    // Nothing becomes due any more, and what waits is done.
    plane.must(&["policy", "remove", "lab/often"])?;
    rest(world)?;
    let tasks = plane.list("tasks")?;
    let ended = promises(world, &tasks)?;
    tell_failures(&tasks);
    let points = repository(world)?;
    let made = one_point_each(world, &tasks, &points)?;
    content(world, &tasks, &points)?;
    plane.repository(&["verify", "--data", "-q"])?;
    mirror(world, &tasks, &points)?;
    ledger(world, &tasks)?;
    let states: Vec<String> = ended.iter().map(|(state, many)| format!("{many} {state}")).collect();
    Ok(format!(
        "{} tasks ({}), {made} backups each with its one point, {} points read back; the catalog \
         and the ledger agree",
        tasks.len(),
        states.join(", "),
        points.len()
    ))
}

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// Waits until nothing waits or runs.
fn rest(world: &World) -> Result<()> {
    let begun = Instant::now();
    loop {
        let tasks = world.plane.list("tasks")?;
        let open: Vec<_> = tasks
            .iter()
            .filter(|task| ["queued", "running"].contains(&word(task, "state")))
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > REST {
            bail!("{} tasks do not end, such as {}", open.len(), open[0]);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Every task that was promised is there, and ended.
fn promises(world: &World, tasks: &[Value]) -> Result<BTreeMap<String, usize>> {
    let known: BTreeSet<&str> = tasks.iter().map(|task| word(task, "id")).collect();
    let asked = world.asked.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(lost) = asked.iter().find(|id| !known.contains(id.as_str())) {
        bail!("task {lost} was promised and is lost");
    }
    let mut states = BTreeMap::new();
    for task in tasks {
        if !task["finished_ms"].is_u64() {
            bail!("a task has ended at no time: {task}");
        }
        *states.entry(word(task, "state").to_owned()).or_insert(0) += 1;
    }
    Ok(states)
}

/// Prints why tasks failed: each reason once, however many had it. That they may is no defect, for
/// a task whose every attempt is killed ends as failed; what it says is for whoever reads this.
fn tell_failures(tasks: &[Value]) {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for task in tasks.iter().filter(|task| task["state"] == "failed") {
        let (kind, message) = (word(task, "kind"), word(task, "message"));
        let (attempt, most) = (&task["attempt"], &task["max_attempts"]);
        let reason = format!("{kind}, attempt {attempt} of {most}: {message}");
        *reasons.entry(reason).or_default() += 1;
    }
    for (reason, many) in reasons {
        println!("soak: {many} failed: {reason}");
    }
}

/// The points of the repository, by `INSTANCE@ID`.
fn repository(world: &World) -> Result<BTreeMap<String, Value>> {
    let listed: Value = serde_json::from_slice(&world.plane.repository(&["list"])?)?;
    let points = listed["points"].as_array().context("no points")?;
    Ok(points.iter().map(|point| (word(point, "point").to_owned(), point.clone())).collect())
}

fn good(task: &Value) -> bool {
    ["succeeded", "warnings"].contains(&word(task, "state"))
}

/// A backup that was done made one point, that no other made; no task made two.
fn one_point_each(
    world: &World,
    tasks: &[Value],
    points: &BTreeMap<String, Value>,
) -> Result<usize> {
    let mut makers: BTreeMap<String, &str> = BTreeMap::new();
    let mut made = 0;
    for task in tasks.iter().filter(|task| task["kind"] == "backup" && good(task)) {
        // Lists leave out what came of tasks.
        let shown = world.plane.get(&format!("tasks/{}", word(task, "id")))?;
        let point = shown["result"]["point"]["point"].as_str();
        let point = point.with_context(|| format!("a backup made no point: {shown}"))?;
        if let Some(other) = makers.insert(point.to_owned(), word(task, "id")) {
            bail!("{point} is of two tasks, {other} and {}", word(task, "id"));
        }
        made += 1;
    }
    let mut by_task: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, point) in points {
        let task = point["metadata"]["task"].as_str();
        let task = task.with_context(|| format!("{name} is of no task"))?;
        if let Some(other) = by_task.insert(task, name) {
            bail!("task {task} made two points, {other} and {name}");
        }
    }
    Ok(made)
}

/// Each point holds a version that was there while its task was.
fn content(world: &World, tasks: &[Value], points: &BTreeMap<String, Value>) -> Result<()> {
    let by_id: BTreeMap<&str, &Value> = tasks.iter().map(|task| (word(task, "id"), task)).collect();
    for (name, point) in points {
        let task = by_id.get(word(&point["metadata"], "task"));
        let task = task.with_context(|| format!("{name} is of a task that is not known"))?;
        let number = word(point, "instance").rsplit('-').next().and_then(|n| n.parse().ok());
        let disk = number.with_context(|| format!("{name} is of no instance of ours"))?;
        let bytes = world.plane.repository(&["cat", name])?;
        let time = |name: &str| task[name].as_u64().unwrap_or_default();
        let checked = world.disks.check(disk, &bytes, time("created_ms"), time("finished_ms"));
        checked.with_context(|| format!("restore point {name}"))?;
    }
    Ok(())
}

/// The catalog lists what the repository has. What a task made that was given up is not listed.
fn mirror(world: &World, tasks: &[Value], points: &BTreeMap<String, Value>) -> Result<()> {
    let listed = world.plane.list("points")?;
    let listed: BTreeSet<&str> = listed.iter().map(|point| word(point, "point")).collect();
    if let Some(gone) = listed.iter().find(|name| !points.contains_key(**name)) {
        bail!("the catalog lists {gone}, which is not there");
    }
    let done: BTreeSet<&str> =
        tasks.iter().filter(|task| good(task)).map(|task| word(task, "id")).collect();
    for (name, point) in points {
        let told = done.contains(word(&point["metadata"], "task"));
        if told && !listed.contains(name.as_str()) {
            bail!("the catalog does not list {name}");
        }
    }
    Ok(())
}

/// Every backup that was done stands in the ledger once.
fn ledger(world: &World, tasks: &[Value]) -> Result<()> {
    let usage = world.plane.must(&["usage", "--by", "instance"])?;
    let mut booked = BTreeMap::new();
    for row in usage["items"].as_array().context("no usage")? {
        let many = row["usage"]["tasks"]["backup"].as_u64().unwrap_or(0);
        booked.insert(word(row, "id").to_owned(), many);
    }
    let mut done: BTreeMap<String, u64> = BTreeMap::new();
    for task in tasks.iter().filter(|task| task["kind"] == "backup" && good(task)) {
        *done.entry(word(task, "instance").to_owned()).or_default() += 1;
    }
    booked.retain(|id, many| *many > 0 && !id.is_empty());
    if booked != done {
        bail!("the ledger has {booked:?} where {done:?} were done");
    }
    let report = world.plane.must(&["report", "protection"])?;
    if report["total"] != world.disks.len() || report["late"] != 0 {
        bail!("not every instance is protected: {report}");
    }
    Ok(())
}
