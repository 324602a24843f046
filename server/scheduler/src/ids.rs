//! Names of things the scheduler is told of: opaque text, cheap to copy.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )*};
}

ids! {
    /// A policy.
    PolicyId,
    /// A rule of a policy. Unique among all policies.
    RuleId,
    /// A schedule of a rule. Unique within its rule.
    ScheduleId,
    /// What is protected: an instance, a disk, a folder.
    ResourceId,
    /// Where resources come from: a hypervisor manager, a host, a storage cluster.
    SourceId,
    /// A cluster or availability zone, for accounts.
    ClusterId,
    /// A tenant.
    ProjectId,
    /// Where backups rest.
    DestinationId,
    /// A data mover.
    NodeId,
    /// A set of nodes that share a configuration.
    PoolId,
    /// A task.
    TaskId,
}
