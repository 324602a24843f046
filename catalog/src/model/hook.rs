use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{CatalogError, Result};

/// The longest that a command may take, in seconds.
const LONGEST: u64 = 86_400;
/// The most commands before, and after, a backup or snapshot.
const MOST: usize = 16;

/// Commands around the backups, or the snapshots, of a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// Before it, one after the other.
    pub before: Vec<Hook>,
    /// After it, whatever became of it: also when it failed or was cancelled, and when the node was
    /// started again meanwhile.
    pub after: Vec<Hook>,
}

/// A command on the node, or on a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The program and its arguments, without a shell. On a node it must be one that the node's
    /// configuration allows.
    pub command: Vec<String>,
    /// On this guest by SSH, `USER@HOST` or `USER@HOST:PORT`, which the node's configuration must
    /// allow; `{instance}` and `{project}` stand for names. On the node when it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// It is ended after so long, in seconds, and has failed.
    #[serde(default = "ten_minutes")]
    pub limit_seconds: u64,
    /// Exit codes that mean success; 0 when nothing is said.
    #[serde(default)]
    pub accept: BTreeSet<i32>,
    /// Exit codes that mean success with a warning.
    #[serde(default)]
    pub warn: BTreeSet<i32>,
    /// What follows when it fails before a backup or snapshot.
    #[serde(default)]
    pub on_failure: HookFailure,
}

fn ten_minutes() -> u64 {
    600
}

/// What follows when a command before a backup or snapshot fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HookFailure {
    /// There is none, and the task has failed.
    #[default]
    Stop,
    /// It is made all the same, with a warning.
    Continue,
}

impl Hooks {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }

    pub(crate) fn sense(&self) -> Result<()> {
        let no = |text: &str| Err(CatalogError::invalid(text));
        if self.before.len() > MOST || self.after.len() > MOST {
            return no("there are 16 commands before and after each at most");
        }
        for hook in self.before.iter().chain(&self.after) {
            let Some(program) = hook.command.first() else {
                return no("a command names a program");
            };
            if hook.command.iter().any(|word| word.contains('\0') || word.len() > 4096) {
                return no("a word of a command has 4096 bytes at most, and no zero byte");
            }
            if hook.guest.is_none() && !program.starts_with('/') {
                return no("a command on a node is an absolute path");
            }
            if !(1..=LONGEST).contains(&hook.limit_seconds) {
                return no("a command may take 1 second to a day");
            }
            if !hook.guest.as_deref().is_none_or(is_guest) {
                return no("a guest is USER@HOST or USER@HOST:PORT");
            }
        }
        Ok(())
    }
}

/// Whether this is `USER@HOST[:PORT]`, with names that no option begins with.
pub(crate) fn is_guest(text: &str) -> bool {
    let name = |text: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-{}".contains(c);
        !text.is_empty() && !text.starts_with('-') && text.chars().all(fits)
    };
    let Some((user, place)) = text.split_once('@') else { return false };
    let (host, port) = place.split_once(':').unwrap_or((place, "22"));
    name(user) && name(host) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_users_at_hosts() {
        for good in ["root@web-1", "backup@{instance}.{project}.test:2222", "a@192.0.2.1"] {
            assert!(is_guest(good), "{good}");
        }
        for bad in ["web", "@web", "root@", "-o@web", "root@-o", "a@b:0", "a@b c", "a@b:x", "a;b@c"]
        {
            assert!(!is_guest(bad), "{bad}");
        }
    }

    #[test]
    fn commands_make_sense_or_are_refused() {
        let fits = |text: &str| serde_json::from_str::<Hooks>(text).unwrap().sense().is_ok();
        assert!(fits(r#"{"before": [{"command": ["/usr/bin/true"]}]}"#));
        assert!(fits(r#"{"after": [{"command": ["fstrim", "-a"], "guest": "root@a"}]}"#));
        for bad in [
            r#"{"before": [{"command": []}]}"#,
            r#"{"before": [{"command": ["true"]}]}"#,
            r#"{"before": [{"command": ["/bin/true"], "limit_seconds": 0}]}"#,
            r#"{"after": [{"command": ["true"], "guest": "root"}]}"#,
        ] {
            assert!(!fits(bad), "{bad}");
        }
    }
}
