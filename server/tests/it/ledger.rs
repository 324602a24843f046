//! What the database adds up is what the scheduler's model of the ledger says, line by line.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sluice_catalog::{
    Catalog, Held, InstanceId, Level, PolicyId, ProjectId, TaskId, Transfer, Tx, UsageBy,
    UsageFilter, Visible,
};
use sluice_scheduler::metering::{self, By, Filter, Labels, Ledger, Period, Total, Usage};
use sluice_scheduler::work::TaskKind;

const DAY_MS: u64 = 86_400_000;

/// An id that is the same each time.
fn id<I: std::str::FromStr>(number: u64) -> I {
    let text = format!("00000000-0000-7000-8000-{number:012x}");
    text.parse().unwrap_or_else(|_| panic!("an id"))
}

async fn fill(tx: &mut Tx, random: &mut StdRng) {
    let mut at_ms = 40 * DAY_MS;
    for number in 0..400 {
        at_ms += random.random_range(0..6 * 3_600_000);
        let instance: u64 = random.random_range(0..6);
        let project: ProjectId = id(100 + instance % 2);
        let policy: Option<PolicyId> = random.random_bool(0.7).then(|| id(200 + number % 3));
        let destination = id(300 + random.random_range(0..2));
        let held = Held {
            instance: id(instance),
            destination,
            project: Some(project),
            policy,
            stored_bytes: random.random_range(0..1 << 50),
            front_end_bytes: random.random_range(0..1 << 45),
            last_good_ms: at_ms,
        };
        tx.set_held(&held, at_ms).await.unwrap();
        let transfer = Transfer {
            task: TaskId::new(at_ms),
            at_ms,
            project: Some(project),
            instance: Some(held.instance),
            policy,
            destination: Some(destination),
            kind: if random.random_bool(0.8) { "backup" } else { "restore" }.to_owned(),
            logical_bytes: random.random_range(0..1 << 40),
            unique_bytes: random.random_range(0..1 << 30),
            shared_bytes: random.random_range(0..1 << 30),
            transferred_bytes: random.random_range(0..1 << 30),
        };
        tx.add_transfer(&transfer).await.unwrap();
        // A task is in the ledger once, and in its day too.
        tx.add_transfer(&transfer).await.unwrap();
    }
}

fn moment(ms: u64) -> Timestamp {
    Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap()
}

fn labels(
    project: Option<ProjectId>,
    instance: Option<InstanceId>,
    policy: Option<PolicyId>,
    destination: Option<sluice_catalog::DestinationId>,
) -> Labels {
    let text = |id: Option<String>| id.unwrap_or_default();
    Labels {
        project: text(project.map(|id| id.to_string())).into(),
        instance: text(instance.map(|id| id.to_string())).into(),
        cluster: None,
        policy: policy.map(|id| id.to_string().into()),
        destination: destination.map(|id| id.to_string().into()),
    }
}

/// By the model, from single lines.
async fn expected(tx: &mut Tx, filter: &UsageFilter, by: By) -> BTreeMap<String, Usage> {
    let (from, until) = (filter.from_ms, filter.until_ms);
    let own = |project: Option<ProjectId>, policy: Option<PolicyId>| {
        (filter.project.is_none() || filter.project == project)
            && (filter.policy.is_none() || filter.policy == policy)
    };
    let lines = tx.transfers(&Visible::All, from, until).await.unwrap();
    let transfers: Vec<_> = lines
        .into_iter()
        .filter(|line| own(line.project, line.policy))
        .map(|line| metering::Transfer {
            at: moment(line.at_ms),
            labels: labels(line.project, line.instance, line.policy, line.destination),
            kind: TaskKind::from_name(&line.kind).unwrap(),
            logical_bytes: line.logical_bytes,
            unique_bytes: line.unique_bytes,
            shared_bytes: line.shared_bytes,
            transferred_bytes: line.transferred_bytes,
        })
        .collect();
    let lines = tx.levels(&Visible::All, from, until).await.unwrap();
    let levels: Vec<_> = lines
        .into_iter()
        .filter(|line| own(line.project, line.policy))
        .map(|line: Level| metering::Level {
            at: moment(line.at_ms),
            labels: labels(line.project, Some(line.instance), line.policy, line.destination),
            stored_bytes: line.stored_bytes,
            front_end_bytes: line.front_end_bytes,
        })
        .collect();
    let period = Period { from: moment(from), until: moment(until) };
    Ledger { transfers: &transfers, levels: &levels }.usage(period, by, &Filter::default())
}

/// By the database.
async fn added(tx: &mut Tx, filter: &UsageFilter, by: UsageBy) -> BTreeMap<String, Usage> {
    let mut groups: BTreeMap<String, Usage> = BTreeMap::new();
    for moved in tx.moved(&Visible::All, by, filter).await.unwrap() {
        groups.entry(moved.group).or_default().add(&Total {
            kind: TaskKind::from_name(&moved.kind).unwrap(),
            tasks: moved.tasks,
            logical_bytes: moved.logical_bytes,
            unique_bytes: moved.unique_bytes,
            shared_bytes: moved.shared_bytes,
            transferred_bytes: moved.transferred_bytes,
        });
    }
    for stored in tx.stored(&Visible::All, by, filter).await.unwrap() {
        let usage = groups.entry(stored.group).or_default();
        usage.stored_byte_seconds += stored.byte_seconds;
        usage.stored_bytes += stored.stored_bytes;
        usage.front_end_bytes += stored.front_end_bytes;
    }
    groups
}

#[tokio::test]
async fn sums_of_the_database_are_those_of_the_model_for_any_period_and_group() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("catalog.sqlite").display());
    let catalog = Catalog::open(&url).await.unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let mut tx = catalog.begin().await.unwrap();
    fill(&mut tx, &mut random).await;
    let groups = [
        (By::Project, UsageBy::Project),
        (By::Instance, UsageBy::Instance),
        (By::Policy, UsageBy::Policy),
        (By::Destination, UsageBy::Destination),
    ];
    for round in 0..25 {
        let from_ms = random.random_range(30 * DAY_MS..120 * DAY_MS) / 1000 * 1000;
        let long = random.random_range(1000..60 * DAY_MS) / 1000 * 1000;
        let mut filter = UsageFilter { from_ms, until_ms: from_ms + long, ..Default::default() };
        if round % 3 == 1 {
            filter.project = Some(id(100));
        } else if round % 3 == 2 {
            filter.policy = Some(id(201));
        }
        for (by, group) in groups {
            let (model, told) =
                (expected(&mut tx, &filter, by).await, added(&mut tx, &filter, group).await);
            assert_eq!(told, model, "{by:?} of {filter:?}");
        }
    }
}
