use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use super::{Quota, Request, Used, Verdict};
use crate::time::Span;
use crate::work::TaskKind;

const BACKUP: Request = Request { kind: TaskKind::Backup, front_end_bytes: 0, stored_bytes: 0 };

fn quota(json: &str) -> Quota {
    let quota: Quota = serde_json::from_str(json).expect(json);
    quota.check().expect(json);
    quota
}

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_second(minutes * 60).unwrap()
}

fn judge(quota: &Quota, request: Request, used: Used<'_>, now: i64) -> Verdict {
    quota.judge(request, used, Used::default(), at(now))
}

#[test]
fn the_last_one_within_a_limit_begins_and_the_next_does_not() {
    let quota = quota(r#"{"project": {"backups": {"soft": 1, "hard": 2, "window": "1h"}}}"#);
    let verdicts = [&[][..], &[at(0)], &[at(0), at(10)]]
        .map(|backups| judge(&quota, BACKUP, Used { backups, ..Used::default() }, 20));
    assert_eq!(verdicts[0], Verdict::default());
    assert!(verdicts[1].allowed());
    let warning = "the project would have 2 backups within 1h, above its soft limit of 1";
    assert_eq!(verdicts[1].warnings[0].to_string(), warning);
    assert!(!verdicts[2].allowed());
    assert_eq!(
        verdicts[2].refused[0].to_string(),
        "the project would have 3 backups within 1h, above its hard limit of 2; \
         there is room again at 1970-01-01T01:00:00Z"
    );
}

#[test]
fn restores_and_backups_are_counted_apart() {
    let quota = quota(r#"{"project": {"restores": {"hard": 0, "window": "1d"}}}"#);
    assert!(judge(&quota, BACKUP, Used::default(), 0).allowed());
    let restore = Request { kind: TaskKind::Restore, ..BACKUP };
    let verdict = judge(&quota, restore, Used::default(), 0);
    assert_eq!((verdict.allowed(), verdict.again()), (false, None));
}

#[test]
fn sizes_stop_backups_and_not_restores() {
    let quota = quota(
        r#"{"project": {"front_end_bytes": {"soft": 80, "hard": 100},
            "stored_bytes": {"hard": 50}}}"#,
    );
    let used = Used { front_end_bytes: 90, stored_bytes: 50, ..Used::default() };
    let verdict = judge(&quota, BACKUP, used, 0);
    assert_eq!(verdict.refused.len(), 1);
    assert!(verdict.refused[0].to_string().contains("51 stored bytes"));
    assert!(verdict.warnings[0].to_string().contains("90 protected bytes"));
    let used = Used { stored_bytes: 49, ..used };
    assert!(judge(&quota, BACKUP, used, 0).allowed());
    assert!(!judge(&quota, Request { front_end_bytes: 11, ..BACKUP }, used, 0).allowed());
    let restore = Request { kind: TaskKind::Restore, front_end_bytes: 500, stored_bytes: 500 };
    assert_eq!(judge(&quota, restore, used, 0), Verdict::default());
}

#[test]
fn an_instance_has_limits_of_its_own() {
    let quota = quota(r#"{"instance": {"backups": {"hard": 1, "window": "1h"}}}"#);
    let mine = [at(0)];
    let mine = Used { backups: &mine, ..Used::default() };
    assert!(quota.judge(BACKUP, mine, Used::default(), at(1)).allowed());
    assert!(!quota.judge(BACKUP, mine, mine, at(1)).allowed());
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    for json in [
        r#"{"project": {"backups": {"soft": 3, "hard": 2, "window": "1h"}}}"#,
        r#"{"project": {"backups": {"hard": 2, "window": "0s"}}}"#,
        r#"{"instance": {"stored_bytes": {}}}"#,
    ] {
        assert!(serde_json::from_str::<Quota>(json).unwrap().check().is_err(), "{json}");
    }
}

proptest! {
    #[test]
    fn no_window_ever_holds_more_than_the_hard_limit(
        hard in 0_u32..5,
        minutes in 1_u64..120,
        asks in vec((0_i64..40, any::<bool>()), 0..60),
    ) {
        let text = format!(
            r#"{{"project": {{"backups": {{"hard": {hard}, "window": "{minutes}m"}}}}}}"#
        );
        let quota = quota(&text);
        let (mut now, mut began) = (0, Vec::new());
        for (later, patient) in asks {
            now += later;
            let used = |began| Used { backups: began, ..Used::default() };
            let verdict = judge(&quota, BACKUP, used(&began), now);
            if let Some(again) = verdict.again().filter(|_| patient) {
                // Not a second earlier, and then indeed.
                let seconds = again.as_second();
                let early = Timestamp::from_second(seconds - 1).unwrap();
                let judge = |at| quota.judge(BACKUP, used(&began), Used::default(), at);
                assert!(!judge(early).allowed());
                assert!(judge(again).allowed());
                now = seconds / 60;
                began.push(at(now));
            } else if verdict.allowed() {
                began.push(at(now));
            }
        }
        for end in &began {
            let since = Span::minutes(minutes).before(*end);
            let within = began.iter().filter(|at| **at > since && *at <= end).count();
            assert!(within <= hard as usize, "{within} in one window");
        }
    }
}
