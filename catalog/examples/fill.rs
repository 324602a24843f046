//! Fills an empty catalog as years would: `fill URL INSTANCES POINTS`.
//!
//! Each instance gets a restore point a day, with its lines in the ledger, and the tasks of the
//! last 30 days, each run by one of some nodes. What is in it follows from the numbers alone.

use std::time::{Instant, UNIX_EPOCH};

use serde_json::json;
use sluice_catalog::{Catalog, Destination, Instance, Node, Policy, Project};
use sqlx::{AnyPool, AssertSqlSafe};

const PROJECTS: u64 = 20;
const DESTINATIONS: u64 = 4;
const POLICIES: u64 = 40;
const NODES: u64 = 8;
const DAY_MS: u64 = 86_400_000;
/// Days of which tasks are kept.
const HISTORY: u64 = 30;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Stands for some of the days.
const DAYS: &str = "SOME-OF-THE-DAYS";

/// How the databases write hexadecimal digits.
struct Words {
    sqlite: bool,
}

impl Words {
    fn hex(&self, value: &str) -> String {
        match self.sqlite {
            true => format!("printf('%012x', {value})"),
            false => format!("lpad(to_hex(CAST({value} AS BIGINT)), 12, '0')"),
        }
    }

    /// An id that sorts by time; `word` keeps those of different tables apart.
    fn id(&self, word: &str, ms: &str, number: &str) -> String {
        let (time, low) = (self.hex(ms), self.hex(number));
        format!("substr({time}, 1, 8) || '-' || substr({time}, 9, 4) || '-7{word}-8000-' || {low}")
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, instances, points] = &args[..] else {
        return Err("usage: fill URL INSTANCES POINTS".into());
    };
    let (instances, points): (u64, u64) = (instances.parse()?, points.parse()?);
    let now = u64::try_from(UNIX_EPOCH.elapsed()?.as_millis())?;
    let catalog = Catalog::open(url).await?;
    records(&catalog, instances, now).await?;
    catalog.close().await;
    let pool = AnyPool::connect(url).await?;
    let words = Words { sqlite: url.starts_with("sqlite:") };
    for (what, statement) in statements(&words, instances, points, now) {
        let begun = Instant::now();
        let mut rows = 0;
        // In parts, so that no transaction is as large as the table.
        let days: Vec<u64> = match statement.contains(DAYS) {
            true => (0..points).step_by(30).collect(),
            false => vec![0],
        };
        for day in days {
            let part = format!("d.n >= {day} AND d.n < {}", day + 30);
            let statement = statement.replace(DAYS, &part);
            rows += sqlx::query(AssertSqlSafe(statement)).execute(&pool).await?.rows_affected();
        }
        eprintln!("{what}: {rows} rows in {:.1} s", begun.elapsed().as_secs_f64());
    }
    pool.close().await;
    Ok(())
}

/// Projects, destinations, policies and instances.
async fn records(catalog: &Catalog, instances: u64, now: u64) -> Result<()> {
    let mut tx = catalog.begin().await?;
    let (mut projects, mut destinations) = (Vec::new(), Vec::new());
    for number in 0..PROJECTS {
        let name = format!("project-{number}");
        projects.push(tx.insert(None, &name, Project::default(), now).await?.id);
    }
    for number in 0..DESTINATIONS {
        let body: Destination = serde_json::from_value(json!({"url": format!("/vault/{number}")}))?;
        let made = tx.insert(None, &format!("vault-{number}"), body, now).await?.id;
        tx.trust_destination(made, true).await?;
        destinations.push(made);
    }
    for number in 0..NODES {
        tx.add_node(&format!("node-{number}"), Node::default(), &format!("hash-{number}"), now)
            .await?;
    }
    for number in 0..POLICIES {
        let destination = destinations[usize::try_from(number % DESTINATIONS)?];
        let calendar = json!({"at": [format!("{:02}:00", number % 24)]});
        let when = json!({"kind": "calendar", "calendar": calendar});
        let rule = json!({"name": "main", "destination": destination, "keep": {"daily": 365},
            "schedules": [{"name": "daily", "when": when}]});
        let assign = json!({"tags": [format!("group-{number}")]});
        let body: Policy = serde_json::from_value(json!({"assign": assign, "rules": [rule]}))?;
        tx.insert(None, &format!("policy-{number}"), body, now).await?;
    }
    for number in 0..instances {
        let image = json!({"path": format!("/images/vm-{number}.qcow2")});
        let body: Instance = serde_json::from_value(json!({
            "description": format!("machine {number}"),
            "source": {"kind": "disk-files", "images": [image]},
            "tags": [format!("group-{}", number % POLICIES)],
            "cluster": format!("cluster-{}", number % 12),
        }))?;
        let project = projects[usize::try_from(number % PROJECTS)?];
        tx.insert(Some(project), &format!("vm-{number:06}"), body, now).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// What fills the other tables, from that.
fn statements(words: &Words, instances: u64, points: u64, now: u64) -> Vec<(&'static str, String)> {
    let begin = now - points * DAY_MS;
    let at = format!("({begin} + d.n * {DAY_MS} + i.n * {DAY_MS} / {instances})");
    let range = |name: &str, many: u64| match words.sqlite {
        true => format!(
            "CREATE TABLE {name} AS WITH RECURSIVE r(n) AS (SELECT 0 UNION ALL SELECT n + 1 \
             FROM r WHERE n + 1 < {many}) SELECT n FROM r"
        ),
        false => format!(
            "CREATE TABLE {name} AS SELECT CAST(n AS BIGINT) AS n FROM \
             generate_series(0, {many} - 1) AS n"
        ),
    };
    let number = "CAST(substr(i.name, 4) AS BIGINT)";
    let task = words.id("aaa", &at, "i.n");
    let point = words.id("bbb", &at, "i.n");
    let from = format!("FROM fill_days d CROSS JOIN fill_instances i WHERE {DAYS}");
    let state = "CASE WHEN (d.n * 7 + i.n) % 100 = 0 THEN 'failed' \
                 WHEN (d.n * 7 + i.n) % 50 = 1 THEN 'warnings' ELSE 'succeeded' END";
    let spec = "'{\"kind\":\"backup\",\"instance\":\"' || i.name || '\",\"images\":[\"/images/' \
                || i.name || '.qcow2\"]}'";
    let stats = "{\"image_bytes\":42949672960,\"read_bytes\":1073741824,\"new_bytes\":209715200,\
                 \"stored_bytes\":104857600,\"meta_bytes\":1048576,\"dedup_bytes\":864026624,\
                 \"unchanged_bytes\":41875931136,\"zero_bytes\":0,\"duration_ms\":61000}";
    let result = format!("'{{\"point\":{{\"instance\":\"' || i.name || '\",\"stats\":{stats}}}}}'");
    let progress = "{\"phase\":\"data\",\"total\":1073741824,\"done\":1073741824,\"rate\":0}";
    let usage = "at_ms / 86400000 * 86400000";
    vec![
        ("days", range("fill_days", points)),
        (
            "numbers of instances",
            format!(
                "CREATE TABLE fill_instances AS SELECT {number} AS n, i.id, i.name, i.project_id, \
                 (SELECT id FROM policies WHERE name = 'policy-' || CAST({number} % {POLICIES} AS \
                 TEXT)) AS policy_id, (SELECT id FROM destinations WHERE name = 'vault-' || \
                 CAST({number} % {DESTINATIONS} AS TEXT)) AS destination_id, \
                 (SELECT id FROM nodes WHERE name = 'node-' || CAST({number} % {NODES} AS TEXT)) \
                 AS node_id FROM instances i ORDER BY {number}"
            ),
        ),
        (
            "tasks",
            format!(
                "INSERT INTO tasks (id, project_id, instance_id, policy_id, destination_id, kind, \
                 state, priority, due_key, wanted_node, node_id, attempt, max_attempts, \
                 lease_until_ms, not_before_ms, created_ms, started_ms, finished_ms, \
                 cancel_requested, revision, spec, progress, result, message) SELECT {task}, \
                 i.project_id, i.id, i.policy_id, i.destination_id, 'backup', {state}, 50, NULL, \
                 '', i.node_id, 1, 3, 0, {at}, {at}, {at} + 5000, {at} + 66000, 0, 3, {spec}, \
                 '{progress}', {result}, '' {from} AND d.n >= {}",
                points.saturating_sub(HISTORY)
            ),
        ),
        (
            "restore points",
            format!(
                "INSERT INTO points (id, project_id, instance_id, destination_id, task_id, point, \
                 taken_ms, image_bytes, new_bytes, stored_bytes, removed_ms) SELECT {point}, \
                 i.project_id, i.id, i.destination_id, {task}, \
                 i.name || '@' || {}, {at}, 42949672960, 209715200, 104857600, \
                 CASE WHEN d.n % 7 = 3 THEN CAST({at} + 86400000 AS BIGINT) END {from}",
                words.hex("d.n")
            ),
        ),
        (
            "transfers",
            format!(
                "INSERT INTO transfers SELECT {task}, {at}, i.project_id, i.id, i.policy_id, \
                 i.destination_id, 'backup', 42949672960, 209715200, 864026624, 105906176 {from}"
            ),
        ),
        (
            "days of usage",
            format!(
                "INSERT INTO usage_days SELECT {usage}, project_id, policy_id, destination_id, \
                 kind, COUNT(*), CAST(SUM(logical_bytes) AS BIGINT), \
                 CAST(SUM(unique_bytes) AS BIGINT), CAST(SUM(shared_bytes) AS BIGINT), \
                 CAST(SUM(transferred_bytes) AS BIGINT) FROM transfers \
                 GROUP BY {usage}, project_id, policy_id, destination_id, kind"
            ),
        ),
        (
            "levels of storage",
            format!(
                "INSERT INTO levels SELECT i.id, i.destination_id, i.policy_id, {at}, \
                 i.project_id, 10737418240 + d.n * 104857600, 0, d.n * 1000, 0 {from}"
            ),
        ),
        (
            "levels of what is protected",
            format!(
                "INSERT INTO levels SELECT i.id, '', '', {at}, i.project_id, 0, 42949672960, 0, 0 \
                 {from}"
            ),
        ),
        (
            "newest levels",
            "INSERT INTO series SELECT l.instance_id, l.destination_id, l.policy_id, \
             l.project_id, l.at_ms, l.stored_bytes, l.sum_high, l.sum_low FROM levels l \
             JOIN (SELECT instance_id, destination_id, policy_id, MAX(at_ms) AS at_ms FROM levels \
             GROUP BY instance_id, destination_id, policy_id) AS b ON l.instance_id = \
             b.instance_id AND l.destination_id = b.destination_id AND l.policy_id = b.policy_id \
             AND l.at_ms = b.at_ms"
                .to_owned(),
        ),
        (
            "held",
            format!(
                "INSERT INTO held SELECT id, destination_id, project_id, policy_id, 48318382080, \
                 42949672960, CAST({now} - (n % 40) * 3600000 AS BIGINT) FROM fill_instances"
            ),
        ),
        ("tidying", "DROP TABLE fill_days".to_owned()),
        ("tidying", "DROP TABLE fill_instances".to_owned()),
        // PostgreSQL makes statistics by itself, before long; SQLite has none unless somebody does.
        ("statistics", if words.sqlite { "SELECT 1" } else { "ANALYZE" }.to_owned()),
    ]
}
