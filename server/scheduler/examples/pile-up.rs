//! Draws how ten thousand backups that are due at midnight drain over a hundred nodes, and says how
//! long a tick of the scheduler takes.
//!
//! `cargo run --release -p sluice-scheduler --example pile-up -- pile-up.svg`

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Instant;

use jiff::Timestamp;
use sluice_scheduler::calendar::Schedule;
use sluice_scheduler::plan::{Plan, Policy, Resource, Rule};
use sluice_scheduler::queue::{Fairness, Queue};
use sluice_scheduler::time::{Span, TimeOfDay};
use sluice_scheduler::work::{Priority, TaskKind};

#[path = "../tests/scheduler/pile_up_sim.rs"]
mod pile_up_sim;

use pile_up_sim::{Load, Outcome, drain, midnight};

const NAMES: [(u8, &str, &str); 3] = [
    (80, "priority 80", "#b3261e"),
    (50, "priority 50", "#1b6ac9"),
    (20, "priority 20", "#3c7d3c"),
];

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    let load = Load { backups: 10_000, nodes: 100, slots: 20, urgent: 5, step: Span::minutes(1) };
    ticks(&mut out, load)?;
    let outcome = drain(load);
    waits(&mut out, &outcome)?;
    if let Some(path) = std::env::args().nth(1) {
        std::fs::write(&path, svg(&outcome))?;
        writeln!(out, "drawn in {path}")?;
    }
    Ok(())
}

/// How long decisions take: ten thousand instances with four schedules each.
fn ticks(out: &mut impl io::Write, load: Load) -> io::Result<()> {
    let policies: Vec<Policy> = (0..24_u8).map(policy).collect();
    let resources: Vec<Resource> = (0..load.backups).map(resource).collect();
    let start: Timestamp = "2026-11-20T12:00:00Z".parse().map_err(io::Error::other)?;
    let (mut marks, active) = (HashMap::new(), HashSet::new());
    for (what, hours) in [("first", 0), ("idle", 1), ("after a night off", 21), ("next", 21)] {
        let now = Span::hours(hours).after(start);
        let plan =
            Plan { policies: &policies, resources: &resources, marks: &marks, active: &active };
        let begun = Instant::now();
        let decisions = plan.decide(now);
        let took = begun.elapsed();
        writeln!(
            out,
            "plan, {what}: {} slots, {} tasks in {took:.1?}",
            load.backups * 4,
            decisions.tasks.len()
        )?;
        marks.extend(decisions.marks);
    }
    let (waiting, nodes, limits) = midnight(load, start);
    let fairness = Fairness::default();
    let queue = Queue { waiting: &waiting, running: &[], nodes: &nodes, limits: &limits, fairness };
    let begun = Instant::now();
    let started = queue.decide(start).starts.len();
    let took = begun.elapsed();
    writeln!(out, "queue: {} waiting, {started} started in {took:.1?}", waiting.len())
}

/// One of 24 prepared policies: nightly, weekly, monthly, and every few hours.
fn policy(hour: u8) -> Policy {
    let at = || TimeOfDay::new(hour, 0).into_iter().collect();
    let zone = || Some("Europe/Berlin".to_owned());
    let cron = Some(format!("0 {hour} L * *"));
    let schedules = [
        Schedule { at: at(), zone: zone(), ..Schedule::default() },
        Schedule { at: at(), days_of_month: vec![-1], zone: zone(), ..Schedule::default() },
        Schedule { cron, zone: zone(), ..Schedule::default() },
        Schedule { every: Some(Span::hours(6)), zone: zone(), ..Schedule::default() },
    ];
    let schedules = schedules.iter().enumerate().filter_map(|(number, schedule)| {
        Some((number.to_string().into(), schedule.compile().ok()?))
    });
    let rule = Rule {
        id: format!("rule-{hour}").into(),
        kind: TaskKind::Backup,
        destination: Some("vault".into()),
        paused: false,
        priority: Priority::default(),
        time_limit: None,
        schedules: schedules.collect(),
    };
    Policy { id: format!("policy-{hour}").into(), paused: false, rules: vec![rule] }
}

fn resource(number: u64) -> Resource {
    Resource {
        id: format!("instance-{number}").into(),
        source: format!("source-{}", number % 50).into(),
        project: format!("project-{}", number % 40).into(),
        policies: vec![format!("policy-{}", number % 24).into()],
        paused: false,
        present: true,
    }
}

/// Waiting times in minutes.
fn waits(out: &mut impl io::Write, outcome: &Outcome) -> io::Result<()> {
    writeln!(out, "at most {} at a time; minutes until the start:", outcome.most_running)?;
    let mut by_priority: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
    for task in &outcome.started {
        by_priority.entry(task.priority).or_default().push(task.waited.as_seconds() / 60);
    }
    for (priority, mut waits) in by_priority.into_iter().rev() {
        waits.sort_unstable();
        let at = |percent: usize| waits[(waits.len() - 1) * percent / 100];
        let (half, most, last) = (at(50), at(95), at(100));
        let count = waits.len();
        writeln!(
            out,
            "  priority {priority}: {count} tasks, half {half}, 95 % {most}, longest {last}"
        )?;
    }
    Ok(())
}

/// How many wait, over time: one line for each priority.
fn svg(outcome: &Outcome) -> String {
    let (width, height, left, bottom) = (720.0, 320.0, 60.0, 280.0);
    let last = outcome.waiting.last().map_or(1.0, |(minutes, _)| minutes.max(1.0));
    let counts = outcome.waiting.iter().flat_map(|(_, waiting)| waiting.values());
    let most = counts.copied().max().unwrap_or(1).max(1) as f64;
    let x = |minutes: f64| left + minutes / last * (width - left - 20.0);
    let y = |count: f64| bottom - count / most * (bottom - 30.0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"18\">backups waiting, by minutes after midnight</text>\n\
         <path d=\"M{left} 30V{bottom}H{}\" fill=\"none\" stroke=\"#555\"/>\n",
        width - 20.0
    );
    for part in 0..=4 {
        let (minutes, count) = (last * f64::from(part) / 4.0, most * f64::from(part) / 4.0);
        let (across, up) = (x(minutes), y(count));
        let _ = writeln!(
            text,
            "<text x=\"{across:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{minutes:.0}</text>\
             <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{count:.0}</text>",
            bottom + 18.0,
            left - 6.0,
            up + 4.0
        );
    }
    for (number, (priority, name, colour)) in NAMES.into_iter().enumerate() {
        let mut path = String::new();
        for (minutes, waiting) in &outcome.waiting {
            let count = waiting.get(&priority).copied().unwrap_or(0) as f64;
            let letter = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1}", x(*minutes), y(count));
        }
        let row = 44 + 18 * number;
        let _ = writeln!(
            text,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.0}\" y=\"{row}\" fill=\"{colour}\">{name}</text>",
            width - 120.0
        );
    }
    text.push_str("</svg>\n");
    text
}
