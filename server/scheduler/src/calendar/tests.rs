use jiff::Timestamp;

use super::{Calendar, Schedule};

fn calendar(json: &str) -> Calendar {
    let schedule: Schedule = serde_json::from_str(json).expect(json);
    schedule.compile().expect(json)
}

fn refusal(json: &str) -> String {
    let schedule: Schedule = serde_json::from_str(json).expect(json);
    schedule.compile().map(|calendar| calendar.to_string()).expect_err(json).to_string()
}

fn starts(json: &str, after: &str, count: usize) -> Vec<String> {
    let after: Timestamp = after.parse().expect(after);
    calendar(json).occurrences(after).take(count).map(|time| time.to_string()).collect()
}

#[test]
fn a_skipped_time_happens_at_the_first_moment_after_the_gap() {
    let json = r#"{"at": ["02:30"], "zone": "Europe/Berlin"}"#;
    let expected = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
    assert_eq!(starts(json, "2026-03-27T12:00:00Z", 3), expected);
}

#[test]
fn times_that_fall_on_the_same_moment_are_one() {
    let json = r#"{"at": ["02:00", "02:30", "03:00"], "zone": "Europe/Berlin"}"#;
    let expected = ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"];
    assert_eq!(starts(json, "2026-03-28T12:00:00Z", 2), expected);
}

#[test]
fn a_time_that_comes_twice_happens_once() {
    let json = r#"{"at": ["02:30"], "zone": "Europe/Berlin"}"#;
    let expected = ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
    assert_eq!(starts(json, "2026-10-24T12:00:00Z", 2), expected);
}

#[test]
fn what_repeats_every_hour_happens_in_both_turns_of_the_hour() {
    let expected = ["2026-10-25T00:10:00Z", "2026-10-25T01:10:00Z", "2026-10-25T02:10:00Z"];
    for json in [
        r#"{"cron": "10 * * * *", "zone": "Europe/Berlin"}"#,
        r#"{"every": "1h", "from": "00:10", "zone": "Europe/Berlin"}"#,
    ] {
        assert_eq!(starts(json, "2026-10-25T00:00:00Z", 3), expected);
    }
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_it_begins_on() {
    let json = r#"{"every": "3h", "from": "22:00", "until": "04:00", "days": ["fri"]}"#;
    let expected = [
        "2026-11-20T22:00:00Z",
        "2026-11-21T01:00:00Z",
        "2026-11-21T04:00:00Z",
        "2026-11-27T22:00:00Z",
    ];
    assert_eq!(starts(json, "2026-11-20T00:00:00Z", 4), expected);
}

#[test]
fn a_day_that_a_zone_left_out_is_made_up_for_when_the_next_begins() {
    let json = r#"{"at": ["12:00"], "days_of_month": [30], "zone": "Pacific/Apia"}"#;
    assert_eq!(starts(json, "2011-12-20T00:00:00Z", 1), ["2011-12-30T10:00:00Z"]);
}

#[test]
fn days_are_counted_from_the_one_it_starts_on_however_far_that_is() {
    let json = r#"{"every": "2w", "from": "01:00", "starting": "2126-11-21"}"#;
    let expected = ["2126-11-21T01:00:00Z", "2126-12-05T01:00:00Z"];
    assert_eq!(starts(json, "2026-11-21T00:00:00Z", 2), expected);
    assert_eq!(calendar(json).previous("2126-11-21T00:59:00Z".parse().unwrap()), None);
}

#[test]
fn cron_knows_names_ranges_and_occurrences() {
    let after = "2026-11-21T00:00:00Z";
    let pairs = [
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
        ("30 4 L * *", "2026-11-30T04:30:00Z"),
        ("0 3 * * FRI#2", "2026-12-11T03:00:00Z"),
        ("0 3 ? jan friL", "2027-01-29T03:00:00Z"),
        ("5-20/10 1,13 * * *", "2026-11-21T01:05:00Z"),
        ("0 0 13 * fri", "2026-11-27T00:00:00Z"),
        ("0 0 * * 7", "2026-11-22T00:00:00Z"),
        ("0 0 * * sat-sun", "2026-11-22T00:00:00Z"),
        ("@monthly", "2026-12-01T00:00:00Z"),
        ("50/5 * * * *", "2026-11-21T00:50:00Z"),
    ];
    for (cron, expected) in pairs {
        assert_eq!(starts(&format!(r#"{{"cron": "{cron}"}}"#), after, 1), [expected], "{cron}");
    }
}

#[test]
fn calendars_describe_themselves() {
    let pairs = [
        (r#"{"at": ["02:00"], "zone": "Europe/Berlin"}"#, "every day at 02:00 Europe/Berlin"),
        (
            r#"{"at": ["02:00", "14:00"], "days": ["thursday", "mon"], "months": ["jan"]}"#,
            "on Monday and Thursday in January at 02:00 and 14:00 UTC",
        ),
        (
            r#"{"at": ["03:00"], "days": ["sun"], "occurrence": ["last", "first"]}"#,
            "on the first and last Sunday of the month at 03:00 UTC",
        ),
        (
            r#"{"at": ["03:00"], "days_of_month": [1, 22, -1, -2]}"#,
            "on the 1st, 22nd, last day and 2nd last day of the month at 03:00 UTC",
        ),
        (r#"{"at": ["00:00"], "months": ["dec"]}"#, "every day in December at 00:00 UTC"),
        (
            r#"{"every": "15m", "from": "08:00", "until": "18:00",
                "days": ["mon", "tue", "wed", "thu", "fri"]}"#,
            "every 15 minutes Monday to Friday from 08:00 to 18:00 UTC",
        ),
        (r#"{"every": "1h"}"#, "every hour UTC"),
        (
            r#"{"every": "2h", "from": "22:00", "until": "06:00"}"#,
            "every 2 hours from 22:00 to 06:00 the next day UTC",
        ),
        (
            r#"{"every": "3d", "from": "01:00", "starting": "2026-11-21"}"#,
            "every 3 days from 2026-11-21 on at 01:00 UTC",
        ),
        (r#"{"every": "1d", "days": ["sat"]}"#, "every Saturday at 00:00 UTC"),
        (r#"{"cron": "0 2 * * *", "zone": "Asia/Tokyo"}"#, r#"cron "0 2 * * *" Asia/Tokyo"#),
    ];
    for (json, expected) in pairs {
        assert_eq!(calendar(json).to_string(), expected);
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_what_to_write() {
    let pairs = [
        ("{}", "at: say when"),
        (r#"{"at": ["02:00"], "every": "1h"}"#, "exclude each other"),
        (r#"{"at": ["02:00", "2:00"]}"#, "02:00 is there twice"),
        (r#"{"at": ["02:00"], "from": "01:00"}"#, "from: goes with every"),
        (r#"{"at": ["02:00"], "occurrence": ["last"]}"#, "such as days: [sun]"),
        (r#"{"at": ["02:00"], "days_of_month": [0]}"#, "write 1 to 31, or -1"),
        (r#"{"at": ["02:00"], "days_of_month": [30], "months": ["feb"]}"#, "no day is like that"),
        (r#"{"at": ["02:00"], "zone": "Europe/Bern"}"#, "such as Europe/Berlin"),
        (r#"{"at": ["02:00"], "start_window": "30s"}"#, "within 1m to 7d"),
        (r#"{"at": ["02:00"], "starting": "2026-01-01"}"#, "starting: goes with every"),
        (r#"{"every": "90s"}"#, "whole number of minutes"),
        (r#"{"every": "0s"}"#, "whole number of minutes"),
        (r#"{"every": "36h"}"#, "write whole days"),
        (r#"{"every": "2h", "from": "08:00", "until": "08:00"}"#, "leave until out"),
        (r#"{"every": "2d", "until": "08:00"}"#, "less than a day"),
        (r#"{"cron": "0 2 * *"}"#, "4 fields where five are needed"),
        (r#"{"cron": "0 2 * * *", "days": ["mon"]}"#, "days: does not go with cron"),
        (r#"{"cron": "60 2 * * *"}"#, "minute \"60\" is not understood"),
        (r#"{"cron": "0 22-5 * * *"}"#, "22-23,0-5"),
        (r#"{"cron": "0 0 15W * *"}"#, "day of month \"15w\""),
        (r#"{"cron": "0 0 30 2 *"}"#, "no day is like that"),
        (r#"{"cron": "0 0 * * fri#6"}"#, "#1 to #5"),
        (r#"{"cron": "*/0 0 * * *"}"#, "minute \"*/0\""),
        (r#"{"cron": "@reboot"}"#, "\"@reboot\" is not known"),
    ];
    for (json, expected) in pairs {
        let message = refusal(json);
        assert!(message.contains(expected), "{json}: {message}");
    }
}

#[test]
fn unknown_settings_are_refused() {
    let error = serde_json::from_str::<Schedule>(r#"{"att": ["02:00"]}"#).unwrap_err();
    assert!(error.to_string().contains("`att`"), "{error}");
}
