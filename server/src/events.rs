//! Retention that waits for events: "seven years after the contract has ended".
//!
//! ```text
//!   rule: keep all, `days` after the event ──┐
//!   event of an instance, or of one point ───┴─► until when each point is kept ──► the prune
//!                                                            │
//!                             the time is over ──► a prune, also when no backup asks for one
//! ```
//!
//! What is kept is judged anew by each prune, by policies or by hand: nothing is written at the
//! restore points, and who changes a rule changes what it keeps, as with all that rules say. As
//! long as an event has not happened, everything is kept. Of an event of the instance and one of
//! the point, the later counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use sluice_catalog::{
    ByHand, CatalogError, Destination, DestinationId, ErrorKind, Having, Instance, InstanceId,
    Keep, Page, Point, PointId, Policy, PolicyId, Record, RetentionEvent, SettledEvent, Tx,
};
use sluice_node_api::{EVENTS, TaskSpec, UntilOrder};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::api::policies::EVERYTHING;
use crate::complaint::{apart, complain, go_on, readable};
use crate::dispatch::periods;
use crate::ledger;
use crate::maintenance::of_instance;
use crate::problem::Result;
use crate::state::Shared;

const DAY_MS: u64 = 86_400_000;
/// How often is looked for times that are over: they are days long.
const LOOK_MS: u64 = 3_600_000;
/// How often the clock is looked at for that.
const PAUSE: Duration = Duration::from_secs(1);
/// Instances whose prunes are added in one transaction: others want to write as well.
const AT_ONCE: usize = 100;
/// Attempts of a prune that no backup asks for again.
const ATTEMPTS: u32 = 10;

/// When an event happened to a restore point; nothing while it has not.
fn happened(events: &[RetentionEvent], event: &str, point: Option<PointId>) -> Option<u64> {
    let of =
        |one: &&RetentionEvent| one.event == event && (one.point.is_none() || one.point == point);
    events.iter().filter(of).map(|one| one.at_ms).max()
}

fn end(at_ms: u64, days: u32) -> u64 {
    at_ms.saturating_add(u64::from(days) * DAY_MS)
}

/// Until when a restore point is kept; nothing while an event is waited for.
fn until(keep: &Keep, events: &[RetentionEvent], point: Option<PointId>) -> Option<u64> {
    let ends = keep.after_event.iter();
    let ends = ends.map(|(event, days)| Some(end(happened(events, event, point)?, *days)));
    // All of them are to be satisfied, and one that is waited for ends last.
    ends.reduce(|a, b| Some(a?.max(b?))).unwrap_or(Some(0))
}

/// What there is. What cannot be read is there: without its time, it would be pruned.
fn maybe<T>(found: Result<T, CatalogError>) -> Result<Option<T>, CatalogError> {
    match found {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// What a node is told of it; nothing when the rules name no event.
pub(crate) async fn order(
    tx: &mut Tx,
    instance: InstanceId,
    keep: &Keep,
) -> Result<Option<UntilOrder>> {
    if keep.after_event.is_empty() {
        return Ok(None);
    }
    let events = tx.events_of(instance).await?;
    let mut points_ms = BTreeMap::new();
    let named: BTreeSet<PointId> = events.iter().filter_map(|event| event.point).collect();
    for id in named {
        let ends = until(keep, &events, Some(id));
        // A copy has a name of its own.
        let mut points = tx.copies_of(&[id]).await?;
        points.extend(maybe(tx.point(id, &EVERYTHING).await)?);
        points_ms.extend(points.into_iter().map(|point| (point.new.point, ends)));
    }
    let all_ms = until(keep, &events, None);
    Ok(Some(UntilOrder { all_ms, points_ms, ..UntilOrder::default() }))
}

/// All policies of which restore points wait for events. One that cannot be read may be such: it is
/// an error.
async fn waiting(tx: &mut Tx) -> Result<Vec<Record<Policy>>> {
    let (mut found, mut page) = (Vec::new(), Page { after: None, limit: Page::LARGEST });
    loop {
        let part = tx.list::<Policy>(&EVERYTHING, &page).await?;
        let Some(last) = part.last() else { return Ok(found) };
        page.after = Some(last.id.to_string());
        let waits = |policy: &Record<Policy>| {
            policy.body.keeps().any(|(_, keep)| !keep.after_event.is_empty())
        };
        found.extend(part.into_iter().filter(waits));
    }
}

/// What a prune by hand is told: of each instance, what policies keep at the destination because
/// of events; nothing where that is nothing. What else they say, they say for their own prunes.
pub(crate) async fn held(
    tx: &mut Tx,
    destination: DestinationId,
    now: u64,
) -> Result<Option<UntilOrder>> {
    let url = tx.get::<Destination>(destination, &EVERYTHING).await?.body.url;
    let mut keeps: BTreeMap<InstanceId, (Record<Instance>, Keep)> = BTreeMap::new();
    for policy in waiting(tx).await? {
        let mut after_event = BTreeMap::new();
        for (at, keep) in policy.body.keeps().filter(|(_, keep)| !keep.after_event.is_empty()) {
            // The same repository may be known as two destinations.
            if at != destination && tx.get::<Destination>(at, &EVERYTHING).await?.body.url != url {
                continue;
            }
            longest(&mut after_event, keep.after_event);
        }
        if after_event.is_empty() {
            continue;
        }
        for instance in tx.instances_of(&policy, &EVERYTHING).await? {
            let known = keeps.entry(instance.id).or_insert((instance, Keep::default()));
            longest(&mut known.1.after_event, after_event.clone());
        }
    }
    let mut told = UntilOrder { all_ms: Some(0), ..UntilOrder::default() };
    for (instance, keep) in keeps.into_values() {
        let Some(own) = order(tx, instance.id, &keep).await? else { continue };
        if !own.is_over(now) {
            told.instances_ms.insert(ledger::name(tx, &instance).await?, own.all_ms);
            told.points_ms.extend(own.points_ms);
        }
    }
    Ok((!told.instances_ms.is_empty()).then_some(told))
}

/// Adds events with their days; of one that is there already, the longer time counts.
fn longest(all: &mut BTreeMap<String, u32>, more: BTreeMap<String, u32>) {
    for (event, days) in more {
        let most = all.entry(event).or_default();
        *most = days.max(*most);
    }
}

/// What a prune is told: of periods, and of events.
pub(crate) async fn told(
    tx: &mut Tx,
    instance: InstanceId,
    keep: &Keep,
) -> Result<(BTreeMap<String, u32>, Option<UntilOrder>)> {
    let order = order(tx, instance, keep).await?;
    let mut periods = periods(keep);
    if order.is_some() {
        periods.insert(EVENTS.to_owned(), 1);
    }
    Ok((periods, order))
}

/// What a copy is told to keep. While events keep anything, all is copied, and a prune follows.
pub(crate) async fn told_to_copy(
    tx: &mut Tx,
    instance: InstanceId,
    keep: &Keep,
    now: u64,
) -> Result<BTreeMap<String, u32>> {
    match order(tx, instance, keep).await? {
        Some(order) if !order.is_over(now) => Ok(BTreeMap::new()),
        _ => Ok(periods(keep)),
    }
}

/// Adds a prune of an instance at a destination; what it keeps is told when it begins.
pub(crate) async fn prune(
    tx: &mut Tx,
    instance: &Record<Instance>,
    whose: (DestinationId, PolicyId),
    due_key: Option<String>,
    now: u64,
) -> Result<()> {
    let name = ledger::name(tx, instance).await?;
    let spec = TaskSpec::Prune { instance: Some(name), keep: BTreeMap::new(), until: None };
    let task = of_instance(instance, whose, (&spec, ATTEMPTS), due_key);
    tx.add_task(&task, now).await?;
    Ok(())
}

/// The ends of the time after an event that are over, by what is noted once a prune was asked for:
/// where, and by which policy.
fn over<'a>(
    policies: impl Iterator<Item = &'a Record<Policy>>,
    event: &RetentionEvent,
    now: u64,
) -> BTreeMap<String, (DestinationId, PolicyId)> {
    let mut over = BTreeMap::new();
    for policy in policies {
        for (destination, keep) in policy.body.keeps() {
            let Some(days) = keep.after_event.get(&event.event) else { continue };
            let end = end(event.at_ms, *days);
            if end <= now {
                let at = (destination, policy.id);
                over.entry(format!("{destination}/{end}")).or_insert(at);
            }
        }
    }
    over
}

/// Adds a prune wherever the time after an event is over; once for each such time, which is noted
/// at the event.
pub(crate) async fn settle(tx: &mut Tx, instance: InstanceId, now: u64) -> Result<()> {
    let instance = tx.get::<Instance>(instance, &EVERYTHING).await?;
    let policies = tx.policies_of(&instance).await?;
    for SettledEvent { event, settled } in tx.settled_events(instance.id).await? {
        let over = over(policies.iter(), &event, now);
        let new: Vec<_> = over.iter().filter(|(end, _)| !settled.contains(*end)).collect();
        if new.is_empty() {
            continue;
        }
        for (end, at) in new {
            let key = format!("event/{}/{end}", event.id);
            prune(tx, &instance, *at, Some(key), now).await?;
        }
        // Of what no policy asks for any more nothing is remembered.
        tx.set_settled(event.id, over.into_keys()).await?;
    }
    Ok(())
}

/// The instances with an end that is over and was not settled.
async fn unsettled(tx: &mut Tx, now: u64) -> Result<BTreeSet<InstanceId>> {
    let Keepings { policies, by_hand, .. } = Keepings::load(tx).await?;
    let mut found = BTreeSet::new();
    let mut page = Page { after: None, limit: Page::LARGEST };
    while !policies.is_empty() {
        let mut part = tx.events_before(now, &page).await?;
        let next = part.next.take();
        let mut by_instance: BTreeMap<InstanceId, Vec<SettledEvent>> = BTreeMap::new();
        for one in apart("event", part) {
            let due = |end: &String| !one.settled.contains(end);
            if over(policies.iter(), &one.event, now).keys().any(due) {
                by_instance.entry(one.event.instance).or_default().push(one);
            }
        }
        let ids: Vec<InstanceId> = by_instance.keys().copied().collect();
        for instance in apart("instance", tx.get_many::<Instance>(&ids).await?) {
            let own = policies.iter().filter(|one| Having::of(one, &by_hand).has(&instance));
            let own: Vec<&Record<Policy>> = own.collect();
            let events = by_instance.remove(&instance.id).unwrap_or_default();
            let due = |one: &SettledEvent| {
                let over = over(own.iter().copied(), &one.event, now);
                over.keys().any(|end| !one.settled.contains(end))
            };
            if events.iter().any(due) {
                found.insert(instance.id);
            }
        }
        if next.is_none() {
            break;
        }
        page.after = next;
    }
    Ok(found)
}

/// Looks from time to time, until `shutdown`. Nobody waits for it: neither the scheduler, nor
/// longer than for one part whoever writes.
pub(crate) async fn run(shared: Shared, shutdown: CancellationToken) {
    let mut next = 0;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        let now = shared.now();
        // A clock that was set back must not stop it for as long as it was ahead.
        if now < next && next - now <= LOOK_MS {
            continue;
        }
        let swept = tokio::select! {
            () = shutdown.cancelled() => return,
            swept = sweep(&shared, now) => swept,
        };
        match swept {
            Ok(()) => next = now.saturating_add(LOOK_MS),
            Err(problem) => complain("the end of retention after events", &problem.detail),
        }
    }
}

/// Adds the prunes that are due.
async fn sweep(shared: &Shared, now: u64) -> Result<()> {
    let found: Vec<InstanceId> =
        unsettled(&mut shared.catalog.read().await?, now).await?.into_iter().collect();
    for some in found.chunks(AT_ONCE) {
        let mut tx = shared.catalog.begin().await?;
        for instance in some {
            let part = tx.begin_part().await?;
            let settled = settle(&mut tx, *instance, now).await;
            match go_on(&format!("events of instance {instance}"), settled)? {
                Some(()) => tx.end_part(part).await?,
                None => tx.undo_part(part).await?,
            }
        }
        tx.commit().await?;
        shared.work.notify_one();
    }
    Ok(())
}

/// An event that keeps a restore point, by the policies of its instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Keeping {
    /// What the policies call it.
    event: String,
    /// For how many days after it.
    days: u32,
    /// When it happened, in milliseconds since 1970; nothing while it is waited for.
    at_ms: Option<u64>,
    /// Until when it keeps the restore point, in milliseconds since 1970; nothing while the event
    /// is waited for.
    until_ms: Option<u64>,
}

/// What is kept of an instance where, and the events that have happened to it.
type Known = (Vec<(DestinationId, Keep)>, Vec<RetentionEvent>);

/// Which events keep restore points, and until when.
#[derive(Debug, Default)]
pub(crate) struct Keepings {
    policies: Vec<Record<Policy>>,
    by_hand: BTreeSet<ByHand>,
    known: BTreeMap<InstanceId, Known>,
}

impl Keepings {
    /// What policies say.
    pub(crate) async fn load(tx: &mut Tx) -> Result<Self> {
        let waits = |policy: &Record<Policy>| {
            policy.body.keeps().any(|(_, keep)| !keep.after_event.is_empty())
        };
        let mut policies = readable::<Policy>(tx, &EVERYTHING).await?;
        policies.retain(waits);
        let by_hand = match policies.is_empty() {
            true => BTreeSet::new(),
            false => tx.by_hand().await?,
        };
        Ok(Self { policies, by_hand, known: BTreeMap::new() })
    }

    /// The same, and what is kept of the instances of these restore points, with their events. Of
    /// an instance that cannot be read nobody knows, and no policy takes it.
    pub(crate) async fn load_of(tx: &mut Tx, points: &[Point]) -> Result<Self> {
        let mut keepings = Self::load(tx).await?;
        if keepings.policies.is_empty() {
            return Ok(keepings);
        }
        let named: BTreeSet<InstanceId> = points.iter().map(|point| point.instance).collect();
        let ids: Vec<InstanceId> = named.iter().copied().collect();
        for instance in apart("instance", tx.get_many::<Instance>(&ids).await?) {
            let own = keepings.policies.iter();
            let own = own.filter(|policy| Having::of(policy, &keepings.by_hand).has(&instance));
            let keeps = own.flat_map(|policy| policy.body.keeps()).collect();
            keepings.known.insert(instance.id, (keeps, Vec::new()));
        }
        for event in apart("event", tx.events_of_many(&named).await?) {
            if let Some((_, events)) = keepings.known.get_mut(&event.instance) {
                events.push(event);
            }
        }
        Ok(keepings)
    }

    /// Those of a restore point.
    pub(crate) fn of(&self, point: &Point) -> Vec<Keeping> {
        let Some((keeps, events)) = self.known.get(&point.instance) else { return Vec::new() };
        let mut longest: BTreeMap<&String, u32> = BTreeMap::new();
        let here = keeps.iter().filter(|(at, _)| *at == point.new.destination);
        for (event, days) in here.flat_map(|(_, keep)| &keep.after_event) {
            let most = longest.entry(event).or_default();
            *most = (*days).max(*most);
        }
        let original = point.copy_of.unwrap_or(point.id);
        let keeping = |(event, days): (&String, u32)| {
            let at_ms = happened(events, event, Some(original));
            let until_ms = at_ms.map(|at| end(at, days));
            Keeping { event: event.clone(), days, at_ms, until_ms }
        };
        longest.into_iter().map(keeping).collect()
    }
}

#[cfg(test)]
mod tests {
    use sluice_catalog::RetentionEventId;

    use super::*;

    fn event(name: &str, point: Option<PointId>, at_ms: u64) -> RetentionEvent {
        RetentionEvent {
            id: RetentionEventId::new(1),
            project: None,
            instance: InstanceId::new(1),
            point,
            event: name.into(),
            at_ms,
        }
    }

    fn keep(events: &[(&str, u32)]) -> Keep {
        let after_event = events.iter().map(|(name, days)| ((*name).to_owned(), *days)).collect();
        Keep { after_event, ..Keep::default() }
    }

    #[test]
    fn only_what_is_not_there_is_passed_over() {
        let failed = |kind| maybe::<()>(Err(CatalogError::new(kind, "a restore point")));
        assert_eq!(maybe(Ok(7)).unwrap(), Some(7));
        assert_eq!(failed(ErrorKind::NotFound).unwrap(), None);
        for kind in [ErrorKind::Damaged, ErrorKind::Unavailable] {
            assert_eq!(failed(kind).unwrap_err().kind(), kind);
        }
    }

    #[test]
    fn what_waits_for_any_event_is_kept_and_else_the_last_end_counts() {
        let rule = keep(&[("sold", 2), ("over", 5)]);
        assert_eq!(until(&rule, &[], None), None);
        let sold = event("sold", None, 7 * DAY_MS);
        assert_eq!(until(&rule, std::slice::from_ref(&sold), None), None);
        let all = [sold, event("over", None, DAY_MS)];
        assert_eq!(until(&rule, &all, None), Some(9 * DAY_MS));
        assert_eq!(until(&keep(&[("over", 5)]), &all, None), Some(6 * DAY_MS));
        assert_eq!(until(&keep(&[]), &all, None), Some(0), "nobody asks for more");
    }

    #[test]
    fn of_an_event_of_the_instance_and_one_of_the_point_the_later_counts() {
        let (one, two) = (PointId::new(1), PointId::new(2));
        let rule = keep(&[("sold", 2)]);
        let own = [event("sold", Some(one), 7 * DAY_MS)];
        assert_eq!(until(&rule, &own, Some(one)), Some(9 * DAY_MS));
        assert_eq!((until(&rule, &own, Some(two)), until(&rule, &own, None)), (None, None));
        let both = [own[0].clone(), event("sold", None, DAY_MS)];
        assert_eq!(until(&rule, &both, Some(one)), Some(9 * DAY_MS));
        assert_eq!(until(&rule, &both, Some(two)), Some(3 * DAY_MS));
    }
}
