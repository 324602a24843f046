//! Results of tests, the reasons why some are as they are, and how both are shown.

use std::fmt::{self, Write as _};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// What fails when a case breaks off.
const ENDS: &str = "comes to its end";

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Fail,
    Skip,
    /// Failed or skipped, for a reason that is written down.
    Known,
}

impl Verdict {
    const ALL: [Self; 4] = [Self::Pass, Self::Fail, Self::Skip, Self::Known];

    fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
            Self::Known => "known",
        }
    }
}

/// One test of one client.
#[derive(Debug)]
pub(super) struct Row {
    case: String,
    client: String,
    test: String,
    verdict: Verdict,
    reason: String,
    took: Duration,
}

impl Row {
    /// Of a line that a case prints: result, client, test and reason, with tabs between.
    pub(super) fn parse(case: &str, line: &str, took: Duration) -> Result<Self> {
        let parts: Vec<_> = line.split('\t').collect();
        let [verdict, client, test, reason] = parts[..] else {
            bail!("{case} printed no result: {line:?}");
        };
        let verdict = match verdict {
            "pass" => Verdict::Pass,
            "fail" => Verdict::Fail,
            "skip" => Verdict::Skip,
            other => bail!("{case} printed {other:?} as a result"),
        };
        let [case, client, test, reason] = [case, client, test, reason.trim()].map(str::to_owned);
        Ok(Self { case, client, test, verdict, reason, took })
    }

    /// Of a case that did not come to its end.
    pub(super) fn failed(case: &str, reason: &str) -> Self {
        let [client, test] = ["the case", ENDS].map(str::to_owned);
        let (case, reason, took) = (case.to_owned(), reason.to_owned(), Duration::ZERO);
        Self { case, client, test, verdict: Verdict::Fail, reason, took }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, test, verdict, reason, took, .. } = self;
        let seconds = took.as_secs_f64();
        write!(f, "{:<5} {seconds:>7.1} s  {client:<24} {test}", verdict.name())?;
        if !reason.is_empty() {
            write!(f, ": {reason}")?;
        }
        Ok(())
    }
}

/// Why tests that do not pass need not: lines of case, test and reason, with `|` between.
#[derive(Debug)]
pub(super) struct Known(Vec<[String; 3]>);

impl Known {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entry = |line: &str| {
            let parts: Vec<_> = line.splitn(3, '|').map(|part| part.trim().to_owned()).collect();
            let entry: [String; 3] =
                parts.try_into().ok().with_context(|| format!("no reason: {line:?}"))?;
            if entry.iter().any(String::is_empty) {
                bail!("something is missing: {line:?}");
            }
            Ok(entry)
        };
        Ok(Self(lines.map(entry).collect::<Result<_>>()?))
    }

    /// Gives tests their reasons. What remains is wrong: tests without one, and reasons that no
    /// test of these cases needs.
    pub(super) fn judge(&self, cases: &[&str], rows: &mut [Row]) -> Vec<String> {
        let mut problems = Vec::new();
        for row in rows.iter_mut().filter(|row| row.verdict != Verdict::Pass) {
            let mut known = self.0.iter();
            match known.find(|[case, test, _]| *case == row.case && *test == row.test) {
                Some([_, _, reason]) => {
                    row.verdict = Verdict::Known;
                    row.reason.clone_from(reason);
                }
                None => problems.push(format!("{}: {row}", row.case)),
            }
        }
        // A case that broke off says nothing about what it did not come to.
        let whole = |case: &str| {
            cases.contains(&case) && !rows.iter().any(|row| row.case == case && row.test == ENDS)
        };
        for [case, test, _] in self.0.iter().filter(|[case, ..]| whole(case)) {
            let met = |row: &Row| row.verdict == Verdict::Known && row.case == *case;
            if !rows.iter().any(|row| met(row) && row.test == *test) {
                problems.push(format!("{case}: {test}: known.txt excuses it, and it passes"));
            }
        }
        problems
    }
}

/// For people.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut case = "";
    for row in rows {
        if row.case != case {
            case = &row.case;
            let _ = writeln!(text, "\n{case}");
        }
        let _ = writeln!(text, "  {row}");
    }
    let counts = Verdict::ALL.map(|verdict| format!("{} {}", count(rows, verdict), verdict.name()));
    let _ = writeln!(text, "\n{}", counts.join(", "));
    text
}

/// For programs.
pub(super) fn document(rows: &[Row], problems: &[String]) -> Value {
    let tests: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "case": row.case,
                "client": row.client,
                "test": row.test,
                "result": row.verdict.name().to_lowercase(),
                "reason": row.reason,
                "seconds": row.took.as_secs_f64(),
            })
        })
        .collect();
    let mut counts = serde_json::Map::new();
    for verdict in Verdict::ALL {
        counts.insert(verdict.name().to_lowercase(), count(rows, verdict).into());
    }
    json!({ "tests": tests, "counts": counts, "problems": problems })
}

fn count(rows: &[Row], verdict: Verdict) -> usize {
    rows.iter().filter(|row| row.verdict == verdict).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lines: &[&str]) -> Vec<Row> {
        lines.iter().map(|line| Row::parse("case", line, Duration::ZERO).unwrap()).collect()
    }

    #[test]
    fn lines_that_are_no_results_are_refused() {
        for line in ["", "pass", "pass\ta\tb", "well\ta\tb\tc"] {
            assert!(Row::parse("case", line, Duration::ZERO).is_err(), "{line:?}");
        }
    }

    #[test]
    fn what_fails_or_is_skipped_needs_a_reason() {
        let mut rows = rows(&["pass\tc\tone\t", "fail\tc\ttwo\tbroken", "skip\tc\tthree\tabsent"]);
        let none = Known::parse("# nothing\n\n").unwrap().judge(&["case"], &mut rows);
        assert_eq!(none.len(), 2, "{none:?}");
        assert!(none[0].contains("broken") && none[1].contains("absent"), "{none:?}");
        let known =
            Known::parse("case | two | they do it wrong\ncase|three|nobody has it").unwrap();
        assert!(known.judge(&["case"], &mut rows).is_empty());
        assert_eq!(count(&rows, Verdict::Known), 2);
        assert!(table(&rows).contains("they do it wrong"), "{}", table(&rows));
        assert_eq!(document(&rows, &[])["counts"]["known"], 2);
    }

    #[test]
    fn reasons_are_for_one_test_and_go_when_it_passes() {
        let known = Known::parse("case | one | why").unwrap();
        let mut passed = rows(&["pass\tc\tone\t"]);
        assert_eq!(known.judge(&["case"], &mut passed).len(), 1);
        // A run without the case says nothing about it.
        assert!(known.judge(&["other"], &mut []).is_empty());
        assert_eq!(known.judge(&["case"], &mut [Row::failed("case", "killed")]).len(), 1);
        let mut other = vec![Row::parse("other", "fail\tc\tone\t", Duration::ZERO).unwrap()];
        assert_eq!(known.judge(&["other"], &mut other).len(), 1);
    }

    #[test]
    fn reasons_must_be_given() {
        assert!(Known::parse("case | one").is_err());
        assert!(Known::parse("case | one | ").is_err());
    }
}
