//! What a rule keeps, as configuration files and the API say it.
//!
//! The fields are those of the repository's retention policy, one to one, and mean the same; there
//! is where they are applied. This room knows no repository, so the server translates.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Invalid;
use crate::time::Span;

/// What to keep: a restore point that any of these keeps is kept. At least one is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Retention {
    /// So many of the newest points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<u32>,
    /// The newest point of each of so many hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_hourly: Option<u32>,
    /// The newest point of each of so many days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_daily: Option<u32>,
    /// The newest point of each of so many ISO weeks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_weekly: Option<u32>,
    /// The newest point of each of so many months.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_monthly: Option<u32>,
    /// The newest point of each of so many years.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_yearly: Option<u32>,
    /// Every point not older than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_within: Option<Span>,
    /// Nothing younger than this is dropped; keeps nothing by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_age: Option<Span>,
}

impl Retention {
    fn counts(&self) -> [(&'static str, Option<u32>); 6] {
        [
            ("last", self.keep_last),
            ("hourly", self.keep_hourly),
            ("daily", self.keep_daily),
            ("weekly", self.keep_weekly),
            ("monthly", self.keep_monthly),
            ("yearly", self.keep_yearly),
        ]
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When nothing would be kept.
    pub fn check(&self) -> Result<(), Invalid> {
        let counts = self.counts().iter().any(|(_, count)| count.is_some_and(|count| count > 0));
        if counts || self.keep_within.is_some_and(|within| within > Span::default()) {
            return Ok(());
        }
        Err(Invalid::new("retention", "keeps nothing; say at least one, such as keep_daily: 7"))
    }
}

/// Such as `last 3, daily 7, within 2d`.
impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts().into_iter();
        let counts = counts.filter_map(|(name, count)| Some(format!("{name} {}", count?)));
        let spans = [("within", self.keep_within), ("min-age", self.min_age)].into_iter();
        let spans = spans.filter_map(|(name, span)| Some(format!("{name} {}", span?)));
        f.write_str(&counts.chain(spans).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::Retention;

    #[test]
    fn what_keeps_nothing_is_refused_and_the_rest_describes_itself() {
        let parse = |json| serde_json::from_str::<Retention>(json).unwrap();
        for json in ["{}", r#"{"keep_daily": 0}"#, r#"{"min_age": "7d"}"#] {
            assert!(parse(json).check().is_err(), "{json}");
        }
        let kept = parse(r#"{"keep_last": 3, "keep_daily": 7, "keep_within": "48h"}"#);
        assert_eq!(kept.check(), Ok(()));
        assert_eq!(kept.to_string(), "last 3, daily 7, within 2d");
    }
}
