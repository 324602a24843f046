use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::collection::vec;
use proptest::prelude::{Strategy, proptest};
use proptest::sample::select;

use super::{By, Filter, Labels, Ledger, Level, Period, Transfer, Unit, Usage};
use crate::work::TaskKind;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn period(from: i64, until: i64) -> Period {
    Period { from: at(from), until: at(until) }
}

fn labels(instance: &str, destination: &str) -> Labels {
    Labels {
        project: "shop".into(),
        instance: instance.into(),
        cluster: None,
        policy: Some("gold".into()),
        destination: Some(destination.into()),
    }
}

fn level(seconds: i64, instance: &str, stored: u64) -> Level {
    let labels = labels(instance, "vault");
    Level { at: at(seconds), labels, stored_bytes: stored, front_end_bytes: 2 * stored }
}

fn transfer(seconds: i64, labels: Labels, bytes: u64) -> Transfer {
    Transfer {
        at: at(seconds),
        labels,
        kind: TaskKind::Backup,
        logical_bytes: 10 * bytes,
        unique_bytes: bytes,
        shared_bytes: 9 * bytes,
        transferred_bytes: bytes / 2,
    }
}

#[test]
fn what_is_stored_counts_for_as_long_as_it_is() {
    let levels = [level(50, "a", 100), level(130, "a", 300), level(160, "a", 0)];
    let ledger = Ledger { transfers: &[], levels: &levels };
    let usage = |from, until| {
        let usage = ledger.usage(period(from, until), By::Instance, &Filter::default());
        usage.get("a").map(|usage| (usage.stored_byte_seconds, usage.stored_bytes))
    };
    assert_eq!(usage(0, 50), None);
    assert_eq!(usage(0, 60), Some((1000, 100)));
    assert_eq!(usage(100, 150), Some((30 * 100 + 20 * 300, 300)));
    assert_eq!(usage(150, 200), Some((10 * 300, 0)));
    assert_eq!(usage(200, 300), None);
    let whole = period(100, 150);
    let usage = &ledger.usage(whole, By::Instance, &Filter::default())["a"];
    assert_eq!((usage.mean_stored(whole), usage.front_end_bytes), (180, 600));
}

#[test]
fn usage_is_grouped_and_filtered() {
    let transfers = [
        transfer(1, labels("a", "vault"), 4),
        transfer(2, labels("a", "free"), 6),
        transfer(3, labels("b", "vault"), 8),
        transfer(9, labels("b", "vault"), 100),
    ];
    let ledger = Ledger { transfers: &transfers, levels: &[] };
    let usage = |by, filter: &str| {
        let filter: Filter = serde_json::from_str(filter).unwrap();
        let usage = ledger.usage(period(0, 9), by, &filter);
        let unique = usage.into_iter().map(|(name, usage)| (name, usage.unique_bytes));
        unique.collect::<Vec<_>>()
    };
    let named = |pairs: &[(&str, u64)]| {
        pairs.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect::<Vec<_>>()
    };
    assert_eq!(usage(By::Instance, "{}"), named(&[("a", 10), ("b", 8)]));
    assert_eq!(usage(By::Destination, "{}"), named(&[("free", 6), ("vault", 12)]));
    assert_eq!(usage(By::Cluster, "{}"), named(&[("", 18)]));
    assert_eq!(usage(By::Policy, r#"{"except_destinations": ["free"]}"#), named(&[("gold", 12)]));
    assert_eq!(usage(By::Project, r#"{"only_instances": ["b"]}"#), named(&[("shop", 8)]));
    assert_eq!(usage(By::Project, r#"{"except_instances": ["b"]}"#), named(&[("shop", 10)]));
    assert_eq!(usage(By::Project, r#"{"only_policies": ["silver"]}"#), named(&[]));
}

#[test]
fn periods_follow_the_calendar_of_their_zone() {
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    let whole = Period {
        from: "2026-03-10T00:00:00Z".parse().unwrap(),
        until: "2026-04-01T00:00:00Z".parse().unwrap(),
    };
    let starts = |unit: Unit| {
        let periods = unit.periods(whole, &zone);
        periods.iter().map(|period| period.from.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(starts(Unit::Month), ["2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"]);
    assert_eq!(starts(Unit::Year), ["2025-12-31T23:00:00Z"]);
    let weeks = ["2026-03-08T23:00:00Z", "2026-03-15T23:00:00Z", "2026-03-22T23:00:00Z"];
    assert_eq!(starts(Unit::Week), [&weeks[..], &["2026-03-29T22:00:00Z"]].concat());
    let days = Unit::Day.periods(whole, &zone);
    assert!(days.windows(2).all(|pair| pair[0].until == pair[1].from));
    let hours = |day: &Period| (day.until.as_second() - day.from.as_second()) / 3600;
    assert_eq!(days.iter().filter(|day| hours(day) == 23).count(), 1);
}

fn any_labels() -> impl Strategy<Value = Labels> {
    (select(vec!["a", "b", "c"]), select(vec!["vault", "free"]))
        .prop_map(|(instance, destination)| labels(instance, destination))
}

fn sum(usage: impl IntoIterator<Item = Usage>) -> (u64, u64, u128) {
    usage.into_iter().fold((0, 0, 0), |(unique, stored, held), usage| {
        let held = held + usage.stored_byte_seconds;
        (unique + usage.unique_bytes, stored + usage.stored_bytes, held)
    })
}

proptest! {
    #[test]
    fn groups_and_periods_add_up_to_the_whole(
        transfers in vec((0_i64..100, any_labels(), 0_u64..100), 0..20),
        levels in vec((0_i64..100, any_labels(), 0_u64..100), 0..20),
        middle in 1_i64..99,
    ) {
        let transfers: Vec<_> =
            transfers.into_iter().map(|(at, labels, bytes)| transfer(at, labels, bytes)).collect();
        let levels: Vec<_> = levels.into_iter().map(|(seconds, labels, stored)| {
            Level { at: at(seconds), labels, stored_bytes: stored, front_end_bytes: 0 }
        }).collect();
        let ledger = Ledger { transfers: &transfers, levels: &levels };
        let total = |from, until, by| {
            sum(ledger.usage(period(from, until), by, &Filter::default()).into_values())
        };
        let whole = total(0, 100, By::Project);
        assert_eq!(whole.0, transfers.iter().map(|line| line.unique_bytes).sum::<u64>());
        assert_eq!(total(0, 100, By::Instance), whole);
        assert_eq!(total(0, 100, By::Destination), whole);
        let (first, second) = (total(0, middle, By::Project), total(middle, 100, By::Project));
        assert_eq!((first.0 + second.0, second.1, first.2 + second.2), whole);
        // Second by second.
        let seconds: u128 = (0..100).map(|at| u128::from(total(0, at + 1, By::Project).1)).sum();
        assert_eq!(seconds, whole.2);
    }
}
