//! How many tests ran: added up over test runners, and printed as the gate's last line.

use std::fmt;
use std::ops::AddAssign;

/// Numbers of tests by outcome.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Ran and held.
    pub passed: u64,
    /// Ran and did not hold.
    pub failed: u64,
    /// Marked to be left out.
    pub skipped: u64,
}

impl Counts {
    /// Reads one `test result: ok. 3 passed; 0 failed; 1 ignored; ...` line of `cargo test`.
    pub fn from_libtest_line(line: &str) -> Option<Self> {
        let rest = line.trim_start().strip_prefix("test result: ")?;
        let number = |label: &str| {
            let before = rest.split(label).next().filter(|before| before.len() < rest.len())?;
            before.trim_end().rsplit(' ').next()?.parse().ok()
        };
        Some(Self {
            passed: number("passed")?,
            failed: number("failed")?,
            skipped: number("ignored")?,
        })
    }

    /// Reads the totals at the head of a JUnit report, as nextest writes it.
    pub fn from_junit(report: &str) -> Option<Self> {
        let head = report.split("<testsuites ").nth(1)?.split('>').next()?;
        let number = |label: &str| {
            let value = head.split(&format!(" {label}=\"")).nth(1)?.split('"').next()?;
            value.parse::<u64>().ok()
        };
        let failed = number("failures")? + number("errors")?;
        // Older releases of nextest leave skipped tests out.
        let skipped = number("skipped").unwrap_or(0);
        let passed = number("tests")?.saturating_sub(failed + skipped);
        Some(Self { passed, failed, skipped })
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn libtest_summary_is_read() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 4 ignored; 0 measured; 0 filtered out";
        let counts = Counts::from_libtest_line(line);
        assert_eq!(counts, Some(Counts { passed: 12, failed: 3, skipped: 4 }));
        assert_eq!(Counts::from_libtest_line("test foo ... ok"), None);
    }

    #[test]
    fn junit_head_is_read() {
        let report = r#"<?xml version="1.0"?>
<testsuites name="nextest-run" tests="9" failures="1" errors="2" uuid="x" time="0.1">
<testsuite tests="1">"#;
        let counts = Counts::from_junit(report);
        assert_eq!(counts, Some(Counts { passed: 6, failed: 3, skipped: 0 }));
        let report = r#"<testsuites name="n" tests="9" skipped="2" failures="0" errors="0">"#;
        let counts = Counts::from_junit(report);
        assert_eq!(counts, Some(Counts { passed: 7, failed: 0, skipped: 2 }));
        assert_eq!(Counts::from_junit("<html>"), None);
    }

    #[test]
    fn skipped_tests_are_shown_only_when_there_are_some() {
        let mut counts = Counts { passed: 2, failed: 0, skipped: 0 };
        assert_eq!(counts.to_string(), "2 passed, 0 failed");
        counts += Counts { passed: 1, failed: 1, skipped: 5 };
        assert_eq!(counts.to_string(), "3 passed, 1 failed, 5 skipped");
    }
}
