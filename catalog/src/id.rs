//! Names of records: UUIDs of version 7, which sort by the time they were made.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::CatalogError;

/// The one made last.
static LAST: Mutex<Guid> = Mutex::new(Guid(0));

/// A UUID of version 7.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(u128);

impl Guid {
    /// A new one, made at `now_ms`. Those that this process makes in the same millisecond sort in
    /// the order in which they were made.
    pub fn new(now_ms: u64) -> Self {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Self::random(now_ms);
        let follows = Self(last.0.saturating_add(1 + u128::from(rand::random::<u32>())));
        let same = last.0 >> 80 == fresh.0 >> 80 && follows.0 >> 62 == last.0 >> 62;
        let new = if same { follows } else { fresh };
        *last = new;
        new
    }

    fn random(now_ms: u64) -> Self {
        let random: u128 = rand::random();
        let time = u128::from(now_ms & 0xffff_ffff_ffff) << 80;
        let low = random & ((1 << 80) - 1);
        // Version 7 in bits 76 to 79, variant 2 in bits 62 and 63.
        let marked = (low & !(0xf << 76) & !(0x3 << 62)) | (0x7 << 76) | (0x2 << 62);
        Self(time | marked)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Guid {
    type Err = CatalogError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || CatalogError::invalid("an id is a UUID in small letters");
        let dashes = [8, 13, 18, 23];
        let shaped = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match byte {
                b'-' => dashes.contains(&at),
                b'0'..=b'9' | b'a'..=b'f' => !dashes.contains(&at),
                _ => false,
            });
        if !shaped {
            return Err(bad());
        }
        u128::from_str_radix(&text.replace('-', ""), 16).map(Self).map_err(|_| bad())
    }
}

/// What the typed names have in common.
pub trait Name: fmt::Display + FromStr<Err = CatalogError> + Copy + Send + Sync {
    /// A new one, made at `now_ms`.
    fn new(now_ms: u64) -> Self;
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, format = "uuid")]
        pub struct $name(Guid);

        impl $name {
            /// A new one, made at `now_ms`.
            pub fn new(now_ms: u64) -> Self {
                Self(Guid::new(now_ms))
            }
        }

        impl Name for $name {
            fn new(now_ms: u64) -> Self {
                Self(Guid::new(now_ms))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = CatalogError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = CatalogError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
    )* };
}

names! {
    /// Names a project.
    ProjectId;
    /// Names a user.
    UserId;
    /// Names an API token.
    TokenId;
    /// Names a destination.
    DestinationId;
    /// Names a node.
    NodeId;
    /// Names an instance: what is protected.
    InstanceId;
    /// Names a policy.
    PolicyId;
    /// Names a task.
    TaskId;
    /// Names the catalog's record of a restore point.
    PointId;
    /// Names a mounted restore point.
    MountId;
    /// Names a restore test.
    RestoreTestId;
    /// An event that retention was waiting for.
    RetentionEventId;
    /// Names a snapshot at its source.
    SnapshotId;
    /// Names a recovery plan.
    PlanId;
    /// Names a run of a recovery plan.
    PlanRunId;
    /// Names a session, without being one.
    SessionId;
    /// Names a group of users.
    GroupId;
    /// Names a request that waits for a second person.
    ApprovalId;
    /// Names a configuration of nodes.
    NodeConfigId;
    /// Names an identity provider.
    ProviderId;
    /// Names an inventory.
    InventoryId;
    /// Names a passkey, without being what authenticators call it.
    PasskeyId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_come_back_from_text() {
        let (early, late) = (ProjectId::new(1_000), ProjectId::new(1_001));
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(early.to_string().parse::<ProjectId>().unwrap(), early);
        assert_eq!(&early.to_string()[14..15], "7");
        assert!("89ab".contains(&early.to_string()[19..20]));
        assert_ne!(ProjectId::new(1_000), early);
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        let good = Guid::new(7).to_string();
        for bad in ["", "x", &good[1..], &good.to_uppercase(), &good.replace('-', "+")] {
            assert!(bad.parse::<Guid>().is_err(), "{bad}");
        }
    }
}
