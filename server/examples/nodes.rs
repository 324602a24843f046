//! A hundred nodes that do nothing but talk: `nodes LOGIN_FILE NODES TASKS SECONDS`.
//!
//! Joins so many nodes to the server of a login, lets them take so many tasks together, hold them
//! and report on them as real ones do, and tells how long the server took to answer. The tasks are
//! backups that the program asks for itself; nothing is backed up.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{
    Client, Finished, Hello, Join, JoinToken, Joined, Lease, Outcome, Report, Reported,
};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// How often a task is reported on, as real nodes do.
const REPORT: Duration = Duration::from_secs(2);

/// How long answers took.
#[derive(Default)]
struct Times {
    leases: Mutex<Vec<Duration>>,
    reports: Mutex<Vec<Duration>>,
    running: AtomicUsize,
    most: AtomicUsize,
    done: AtomicUsize,
    lost: AtomicUsize,
}

fn note(times: &Mutex<Vec<Duration>>, took: Duration) {
    times.lock().unwrap_or_else(PoisonError::into_inner).push(took);
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [login, nodes, tasks, seconds] = &args[..] else {
        return Err("usage: nodes LOGIN_FILE NODES TASKS SECONDS".into());
    };
    let (nodes, tasks): (usize, usize) = (nodes.parse()?, tasks.parse()?);
    let hold = Duration::from_secs(seconds.parse()?);
    let login: Value = serde_json::from_slice(&std::fs::read(login)?)?;
    let text = |name: &str| login[name].as_str().unwrap_or_default().to_owned();
    let fingerprint = text("fingerprint").parse().map_err(|_| "no fingerprint")?;
    let anybody = Client::new(&text("server"), fingerprint)?;
    let admin = anybody.clone().with_token(&text("token"));
    ask(&admin, tasks).await?;
    let times = Arc::new(Times::default());
    let slots = tasks.div_ceil(nodes);
    let mut running = Vec::new();
    for number in 0..nodes {
        let node = join(&admin, &anybody, number, slots).await?;
        for _ in 0..slots {
            running.push(tokio::spawn(slot(node.clone(), Arc::clone(&times), hold)));
        }
    }
    eprintln!("{nodes} nodes have joined, with {slots} slots each");
    let begun = Instant::now();
    while times.done.load(Ordering::Relaxed) < tasks && begun.elapsed() < hold * 6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tell(&times, tasks, begun.elapsed());
    for slot in running {
        slot.abort();
    }
    Ok(())
}

/// So many backups, of instances of their own.
async fn ask(admin: &Client, tasks: usize) -> Result<(), Failed> {
    let name = format!("load-{}", std::process::id());
    let project: Value = admin.post("/api/v1/projects", &json!({"name": name, "spec": {}})).await?;
    let body = json!({"name": name, "spec": {"url": "/nowhere"}});
    let destination: Value = admin.post("/api/v1/destinations", &body).await?;
    for number in 0..tasks {
        let spec = json!({"source": {"kind": "device", "path": "/dev/none"}});
        let body = json!({"project": project["id"], "name": format!("vm-{number}"), "spec": spec});
        let instance: Value = admin.post("/api/v1/instances", &body).await?;
        let start = json!({"kind": "backup", "instance": instance["id"],
            "destination": destination["id"]});
        let _: Value = admin.post("/api/v1/tasks", &start).await?;
    }
    Ok(())
}

async fn join(
    admin: &Client,
    anybody: &Client,
    number: usize,
    slots: usize,
) -> Result<Client, Failed> {
    let made = admin.send(Method::POST, "/api/v1/node-tokens", None, &[]).await?.body;
    let token: JoinToken = made["token"].as_str().unwrap_or_default().parse()?;
    let kinds = vec!["backup".to_owned()];
    let hello = Hello { kinds, slots: u32::try_from(slots)?, ..Hello::default() };
    let name = format!("load-{}-{number}", std::process::id());
    let join = Join { token: token.token, name, hello, request: None };
    let joined: Joined = anybody.post("/api/node/v1/join", &join).await?;
    Ok(anybody.clone().with_token(&joined.token))
}

/// One slot of a node: takes a task, reports on it, ends it, and takes the next.
async fn slot(node: Client, times: Arc<Times>, hold: Duration) {
    loop {
        let begun = Instant::now();
        let Ok(lease) = node.post::<Option<Lease>>("/api/node/v1/lease", &()).await else {
            tokio::time::sleep(Duration::from_secs(2)).await;
            continue;
        };
        let Some(lease) = lease else { continue };
        note(&times.leases, begun.elapsed());
        let now = times.running.fetch_add(1, Ordering::Relaxed) + 1;
        times.most.fetch_max(now, Ordering::Relaxed);
        let path = format!("/api/node/v1/tasks/{}/report", lease.task);
        let begun = Instant::now();
        let mut kept = true;
        while begun.elapsed() < hold && kept {
            tokio::time::sleep(REPORT).await;
            let done = begun.elapsed().as_millis() as u64;
            let line = json!({"type": "progress", "phase": "data", "total": 1 << 30,
                "done": done, "rate": 1000});
            let report =
                Report { attempt: lease.attempt, progress: Some(line), ..Report::default() };
            let asked = Instant::now();
            let told = node.post::<Reported>(&path, &report).await;
            note(&times.reports, asked.elapsed());
            kept = told.is_ok() || told.is_err_and(|error| error.status() != Some(409));
        }
        let document = json!({"point": {"stats": {"image_bytes": 1}}});
        let (outcome, message, retryable) = (Outcome::Succeeded, String::new(), false);
        let finished = Some(Finished { outcome, document, message, retryable });
        let report = Report { attempt: lease.attempt, finished, ..Report::default() };
        let ended = node.post::<Reported>(&path, &report).await.is_ok();
        let counter = if ended { &times.done } else { &times.lost };
        counter.fetch_add(1, Ordering::Relaxed);
        times.running.fetch_sub(1, Ordering::Relaxed);
    }
}

fn tell(times: &Times, tasks: usize, took: Duration) {
    let part = |all: &Mutex<Vec<Duration>>, of: f64| {
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort();
        let at = (all.len() as f64 * of).ceil() as usize;
        all.get(at.saturating_sub(1)).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    let number = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    eprintln!("| | |\n|---|---|");
    eprintln!("| tasks done, lost | {} of {tasks}, {} |", number(&times.done), number(&times.lost));
    eprintln!("| most at a time | {} |", number(&times.most));
    eprintln!("| all in | {:.1} s |", took.as_secs_f64());
    eprintln!(
        "| a lease, p50, p95 | {:.0} ms, {:.0} ms |",
        part(&times.leases, 0.5),
        part(&times.leases, 0.95)
    );
    eprintln!(
        "| a report, p50, p95 | {:.0} ms, {:.0} ms |",
        part(&times.reports, 0.5),
        part(&times.reports, 0.95)
    );
}
