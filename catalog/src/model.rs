//! The domain model: what the records say.

pub(crate) mod access;
pub(crate) mod approval;
pub(crate) mod assign;
pub(crate) mod destination;
pub(crate) mod event;
pub(crate) mod grant;
pub(crate) mod history;
pub(crate) mod hook;
pub(crate) mod instance;
pub(crate) mod inventory;
pub(crate) mod mount;
pub(crate) mod need;
pub(crate) mod node;
pub(crate) mod node_config;
pub(crate) mod notice;
pub(crate) mod overview;
pub(crate) mod passkey;
pub(crate) mod plan;
pub(crate) mod plan_run;
pub(crate) mod point;
pub(crate) mod policy;
pub(crate) mod project;
pub(crate) mod proof;
pub(crate) mod provider;
pub(crate) mod restore_test;
pub(crate) mod serves;
pub(crate) mod snapshot;
pub(crate) mod task;
pub(crate) mod usage;

/// Implements [`crate::Kind`] for a document whose sense is checked by its method `sense`.
macro_rules! kind {
    ($body:ty, $id:ty, $table:literal, $word:literal, shared: $shared:literal) => {
        $crate::model::kind!($body, $id, $table, $word, shared: $shared, renames: true);
    };
    ($body:ty, $id:ty, $table:literal, $word:literal, shared by $field:ident) => {
        impl crate::Kind for $body {
            type Id = $id;
            const TABLE: &'static str = $table;
            const WORD: &'static str = $word;
            const SHARED: bool = true;

            fn visible_to(&self) -> Option<&std::collections::BTreeSet<crate::ProjectId>> {
                self.$field.as_ref()
            }

            fn check(&self) -> crate::Result<()> {
                self.sense()
            }
        }
    };
    (
        $body:ty, $id:ty, $table:literal, $word:literal,
        shared: $shared:literal, renames: $renames:literal
    ) => {
        impl crate::Kind for $body {
            type Id = $id;
            const TABLE: &'static str = $table;
            const WORD: &'static str = $word;
            const SHARED: bool = $shared;
            const RENAMES: bool = $renames;

            fn check(&self) -> crate::Result<()> {
                self.sense()
            }
        }
    };
}
pub(crate) use kind;
