//! How many restore points are kept of each period.

use clap::Args;
use sluice_repository::retention::Policy;

/// Rules that keep the newest of a period, wherever restore points are pruned.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PeriodArgs {
    /// Keep the newest N points of each instance
    #[arg(long, value_name = "N")]
    pub(crate) keep_last: Option<u32>,
    /// Keep the newest point of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    pub(crate) keep_hourly: Option<u32>,
    /// Keep the newest point of each of the last N days that have one
    #[arg(long, value_name = "N")]
    pub(crate) keep_daily: Option<u32>,
    /// Keep the newest point of each of the last N weeks that have one
    #[arg(long, value_name = "N")]
    pub(crate) keep_weekly: Option<u32>,
    /// Keep the newest point of each of the last N months that have one
    #[arg(long, value_name = "N")]
    pub(crate) keep_monthly: Option<u32>,
    /// Keep the newest point of each of the last N years that have one
    #[arg(long, value_name = "N")]
    pub(crate) keep_yearly: Option<u32>,
}

impl PeriodArgs {
    /// A policy of these rules alone.
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            keep_last: self.keep_last,
            keep_hourly: self.keep_hourly,
            keep_daily: self.keep_daily,
            keep_weekly: self.keep_weekly,
            keep_monthly: self.keep_monthly,
            keep_yearly: self.keep_yearly,
            ..Policy::default()
        }
    }
}
