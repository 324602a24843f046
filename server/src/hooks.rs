//! Commands around the backups of a rule: which a task has, and whether its node may run them.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use sluice_catalog::{
    Hook, HookFailure, Instance, Node, NodeConfig, Policy, Project, Record, Task, Tx, lies_in,
};
use sluice_node_api::{HookOrder, HookOrders};

use crate::api::policies::EVERYTHING;
use crate::problem::{Problem, Result};

/// A node of this release can do tasks of this kind. Those before would leave commands out.
const SINCE: &str = "copy";

/// What a node is told of the commands around a backup; nothing when there are none. A backup that
/// was started by hand is of no rule.
pub(crate) async fn orders(
    tx: &mut Tx,
    config: &NodeConfig,
    task: &Task,
    instance: &Record<Instance>,
    node: &Record<Node>,
) -> Result<Option<HookOrders>> {
    // POLICY/RULE/SCHEDULE/INSTANCE/TIME
    let rule = task.new.due_key.as_deref().and_then(|key| key.split('/').nth(1));
    let (Some(rule), Some(policy)) = (rule, task.new.policy) else { return Ok(None) };
    let policy = tx.get::<Policy>(policy, &EVERYTHING).await?;
    let found = policy.body.rules.iter().find(|known| known.name == rule);
    let Some(hooks) = found.map(|rule| &rule.hooks).filter(|hooks| !hooks.is_empty()) else {
        return Ok(None);
    };
    let no = |text: String| Problem::new(StatusCode::CONFLICT, "command-not-allowed", text);
    if !node.body.capabilities.kinds.iter().any(|kind| kind == SINCE) {
        return Err(no(format!("{} runs no commands around backups: upgrade it", node.name)));
    }
    let project = match instance.project {
        Some(id) => tx.get::<Project>(id, &EVERYTHING).await?.name,
        None => String::new(),
    };
    let names =
        |text: &str| text.replace("{instance}", &instance.name).replace("{project}", &project);
    for hook in hooks.before.iter().chain(&hooks.after) {
        allowed(hook, config, names).map_err(|what| {
            no(format!(
                "{what} is not allowed on {}: an administrator allows it in the node's \
                configuration (commands, guest_ssh)",
                node.name
            ))
        })?;
    }
    let order = |hook: &Hook| HookOrder {
        command: hook.command.clone(),
        guest: hook.guest.as_deref().map(names).unwrap_or_default(),
        limit_seconds: hook.limit_seconds,
        accept: hook.accept.iter().copied().collect(),
        warn: hook.warn.iter().copied().collect(),
        go_on: hook.on_failure == HookFailure::Continue,
    };
    let ssh = config.guest_ssh.as_ref();
    Ok(Some(HookOrders {
        before: hooks.before.iter().map(order).collect(),
        after: hooks.after.iter().map(order).collect(),
        variables: BTreeMap::from([
            ("SLUICE_INSTANCE".to_owned(), instance.name.clone()),
            ("SLUICE_PROJECT".to_owned(), project.clone()),
            ("SLUICE_POLICY".to_owned(), policy.name.clone()),
            ("SLUICE_RULE".to_owned(), rule.to_owned()),
            ("SLUICE_TASK".to_owned(), task.id.to_string()),
            ("SLUICE_ATTEMPT".to_owned(), task.attempt.to_string()),
        ]),
        allowed: config.commands.iter().cloned().collect(),
        ssh_key: ssh.map(|ssh| ssh.key_file.clone()).unwrap_or_default(),
        known_hosts: ssh.map(|ssh| ssh.known_hosts.clone()).unwrap_or_default(),
    }))
}

/// Whether a configuration allows a command, by its text: links are looked at on the node. What is
/// not allowed is the error.
fn allowed(
    hook: &Hook,
    config: &NodeConfig,
    names: impl Fn(&str) -> String,
) -> std::result::Result<(), String> {
    let Some(guest) = &hook.guest else {
        let program = hook.command.first().cloned().unwrap_or_default();
        let listed = config.commands.iter().any(|path| lies_in(&program, path));
        return if listed { Ok(()) } else { Err(program) };
    };
    let guest = names(guest);
    // A name must not bring in what the text could not have.
    let odd = guest.chars().any(|c| !(c.is_ascii_alphanumeric() || "._-@:".contains(c)));
    let ssh = config.guest_ssh.iter();
    let mut guests = ssh.flat_map(|ssh| &ssh.guests).map(|text| names(text));
    if !odd && guests.any(|known| known == guest) { Ok(()) } else { Err(guest) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_configuration_names_is_allowed_and_nothing_else() {
        let ssh = json!({"key_file": "/k", "known_hosts": "/h",
            "guests": ["root@{instance}.{project}.test"]});
        let config = json!({"commands": ["/opt/hooks", "/bin/true"], "guest_ssh": ssh});
        let config: NodeConfig = serde_json::from_value(config).unwrap();
        let fits = |config: &NodeConfig, program: &str, guest: Option<&str>| {
            let hook = json!({"command": [program], "guest": guest});
            let names = |text: &str| text.replace("{instance}", "web").replace("{project}", "shop");
            allowed(&serde_json::from_value(hook).unwrap(), config, names).is_ok()
        };
        assert!(fits(&config, "/opt/hooks/quiesce", None) && fits(&config, "/bin/true", None));
        assert!(!fits(&config, "/bin/sh", None) && !fits(&config, "/opt/hooks/../sh", None));
        assert!(!fits(&NodeConfig::default(), "/bin/true", None), "nothing by itself");
        assert!(fits(&config, "sync", Some("root@web.shop.test")));
        assert!(fits(&config, "sync", Some("root@{instance}.{project}.test")));
        assert!(!fits(&config, "sync", Some("root@web.bank.test")));
        assert!(!fits(&NodeConfig::default(), "sync", Some("root@web.shop.test")));
    }
}
