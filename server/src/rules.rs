//! What the system asks of everybody: of passwords, of second factors, and of a second person.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sluice_catalog::{Grant, Role, Tx};
use utoipa::ToSchema;

use crate::problem::{Problem, Result};

/// The setting that holds them.
const SETTING: &str = "access-rules";
/// No rule makes passwords shorter than this, in characters.
const SHORTEST: u32 = 12;
/// No password is longer than this, in bytes.
pub(crate) const LONGEST: usize = 1024;
/// The most passwords that are remembered: each is a slow hash to compare with.
const MOST_REMEMBERED: u32 = 24;
/// How long a request waits for a second person, in hours: usually, and at most.
const WAIT: u32 = 72;
const LONGEST_WAIT: u32 = 24 * 30;

/// What the system asks of everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AccessRules {
    /// Of passwords.
    pub(crate) passwords: PasswordRules,
    /// Whoever has this role anywhere, or a stronger one, logs in with a second factor.
    pub(crate) second_factor_from: Option<Role>,
    /// Of what cannot be undone.
    pub(crate) approvals: ApprovalRules,
}

/// What is asked of passwords.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PasswordRules {
    /// How many characters they have at least: 12 to 128.
    pub(crate) shortest: u32,
    /// A new one is none of the last so many: 0 to 24.
    pub(crate) remembered: u32,
}

impl Default for PasswordRules {
    fn default() -> Self {
        Self { shortest: SHORTEST, remembered: 0 }
    }
}

/// What waits for a second person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ApprovalRules {
    /// What waits. Where there is anything, changes of these rules wait too.
    pub(crate) actions: BTreeSet<Action>,
    /// For how many hours: 1 to 720.
    pub(crate) hours: u32,
}

impl Default for ApprovalRules {
    fn default() -> Self {
        Self { actions: BTreeSet::new(), hours: WAIT }
    }
}

/// What can be made to wait for a second person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    /// Removing a project.
    RemoveProject,
    /// Removing a destination.
    RemoveDestination,
    /// Removing an instance.
    RemoveInstance,
    /// Removing a policy.
    RemovePolicy,
    /// Removing a node.
    RemoveNode,
    /// Removing a recovery plan.
    RemovePlan,
    /// Removing a user.
    RemoveUser,
    /// Making and changing users, groups and identity providers: what they may do, and how they get
    /// in.
    ChangeUsers,
    /// Changing policies, or which instances they have, so that restore points are kept for a
    /// shorter time.
    ShortenRetention,
    /// Changing where and how often the server itself is backed up.
    ChangeSelfBackup,
    /// Removing restore points by hand.
    Prune,
    /// Freeing what no restore point needs.
    Collect,
    /// Changing these rules; never named, for it follows from the others.
    ChangeRules,
}

impl Action {
    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::RemoveProject => "remove-project",
            Self::RemoveDestination => "remove-destination",
            Self::RemoveInstance => "remove-instance",
            Self::RemovePolicy => "remove-policy",
            Self::RemoveNode => "remove-node",
            Self::RemovePlan => "remove-plan",
            Self::RemoveUser => "remove-user",
            Self::ChangeUsers => "change-users",
            Self::ShortenRetention => "shorten-retention",
            Self::ChangeSelfBackup => "change-self-backup",
            Self::Prune => "prune",
            Self::Collect => "collect",
            Self::ChangeRules => "change-rules",
        }
    }
}

impl AccessRules {
    pub(crate) async fn load(tx: &mut Tx) -> Result<Self> {
        let text = tx.setting(SETTING).await?;
        let read = |text: String| serde_json::from_str(&text);
        // Rules that cannot be read must not be taken for none.
        text.map(read).transpose().map(Option::unwrap_or_default).map_err(|error| {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Problem::new(status, "damaged", format!("the access rules are unreadable: {error}"))
        })
    }

    pub(crate) async fn store(&self, tx: &mut Tx) -> Result<()> {
        let text = serde_json::to_string(self).unwrap_or_default();
        Ok(tx.set_setting(SETTING, &text).await?)
    }

    /// Refuses rules that make no sense.
    pub(crate) fn check(&self) -> Result<()> {
        if !(SHORTEST..=128).contains(&self.passwords.shortest) {
            return Err(Problem::invalid("passwords have at least 12 to 128 characters"));
        }
        if self.passwords.remembered > MOST_REMEMBERED {
            return Err(Problem::invalid("at most 24 passwords are remembered"));
        }
        if !(1..=LONGEST_WAIT).contains(&self.approvals.hours) {
            return Err(Problem::invalid("a request waits 1 to 720 hours"));
        }
        if self.approvals.actions.contains(&Action::ChangeRules) {
            let text = "that changes of rules wait follows from the other actions";
            return Err(Problem::invalid(text));
        }
        Ok(())
    }

    /// Whether an action waits for a second person.
    pub(crate) fn waits(&self, action: Action) -> bool {
        let actions = &self.approvals.actions;
        actions.contains(&action) || (action == Action::ChangeRules && !actions.is_empty())
    }

    /// Whether whoever has these grants logs in with a second factor.
    pub(crate) fn wants_second_factor(&self, grants: &[Grant]) -> bool {
        self.second_factor_from.is_some_and(|from| grants.iter().any(|grant| grant.role >= from))
    }

    /// Refuses passwords that are too easy to guess or too long to hash.
    pub(crate) fn check_password(&self, password: &str) -> Result<()> {
        let shortest = self.passwords.shortest.max(SHORTEST) as usize;
        if password.chars().count() < shortest || password.len() > LONGEST {
            let text = format!("a password has at least {shortest} characters");
            return Err(Problem::invalid(text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_protect_themselves_once_there_are_any() {
        let mut rules = AccessRules::default();
        assert!(!rules.waits(Action::ChangeRules) && !rules.waits(Action::Collect));
        rules.approvals.actions.insert(Action::Collect);
        assert!(rules.waits(Action::ChangeRules) && rules.waits(Action::Collect));
        assert!(!rules.waits(Action::Prune));
    }

    #[test]
    fn a_second_factor_is_wanted_from_a_role_on() {
        let grant = |role| [Grant::system(role)];
        let mut rules = AccessRules::default();
        assert!(!rules.wants_second_factor(&grant(Role::Admin)));
        rules.second_factor_from = Some(Role::Manager);
        assert!(rules.wants_second_factor(&grant(Role::Admin)));
        assert!(rules.wants_second_factor(&grant(Role::Manager)));
        assert!(!rules.wants_second_factor(&grant(Role::Operator)));
    }
}
