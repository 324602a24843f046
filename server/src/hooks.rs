//! Commands around the backups and snapshots of a rule: which a task has, and whether its node may
//! run them.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use sluice_catalog::{
    Hook, HookFailure, Hooks, Instance, Node, NodeConfig, Policy, Project, Record, Rule,
    SnapshotRule, Task, Tx, lies_in,
};
use sluice_node_api::{HookOrder, HookOrders};

use crate::api::policies::EVERYTHING;
use crate::problem::{Problem, Result};
use crate::snapshots;

/// A node of this release can do tasks of this kind. Those before would leave commands out.
const SINCE: &str = "copy";

/// The rule whose commands a backup has: the one that made it due; for one that was started by
/// hand, a rule that backs the instance up to the same place, or else to any.
fn rule_of<'a>(policies: &'a [Record<Policy>], task: &Task) -> Option<(&'a str, &'a Rule)> {
    let all = policies.iter().flat_map(|policy| {
        policy.body.rules.iter().map(move |rule| (policy.name.as_str(), policy.id, rule))
    });
    let named = |(policy, _, rule)| (policy, rule);
    // POLICY/RULE/SCHEDULE/INSTANCE/TIME
    if let Some(key) = task.new.due_key.as_deref() {
        let due = key.split('/').nth(1);
        let mut all = all.filter(|(_, id, _)| task.new.policy == Some(*id));
        return all.find(|(_, _, rule)| due == Some(rule.name.as_str())).map(named);
    }
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        all.partition(|(_, _, rule)| Some(rule.destination) == task.new.destination);
    // One that has none for this place is meant so.
    let rules = if here.is_empty() { elsewhere } else { here };
    rules.into_iter().find(|(_, _, rule)| !rule.hooks.is_empty()).map(named)
}

/// The rule for snapshots whose commands a snapshot has: the one that made it due; for one that was
/// asked for by hand, the first that has any.
fn snapshot_rule_of<'a>(
    policies: &'a [Record<Policy>],
    due: Option<&str>,
) -> Option<(&'a str, &'a SnapshotRule)> {
    let mut all = policies.iter().flat_map(|policy| {
        policy.body.snapshots.iter().map(move |rule| (policy.name.as_str(), rule))
    });
    all.find(|(_, rule)| match due {
        Some(due) => rule.name == due,
        None => !rule.hooks.is_empty(),
    })
}

/// The commands around a task, with the names of the policy and the rule that have them.
async fn wanted(
    tx: &mut Tx,
    task: &Task,
    instance: &Record<Instance>,
) -> Result<Option<(String, String, Hooks)>> {
    let snapshot = task.new.kind == snapshots::KIND;
    let due = match snapshot {
        true => {
            let id = task.new.spec["snapshot"]["name"].as_str().unwrap_or_default().parse()?;
            tx.instance_snapshot(id, &EVERYTHING).await?.new.rule
        }
        false => task.new.due_key.clone().unwrap_or_default(),
    };
    let policies = match task.new.policy {
        Some(policy) if !due.is_empty() => vec![tx.get::<Policy>(policy, &EVERYTHING).await?],
        _ => tx.policies_of(instance).await?,
    };
    let due = Some(due.as_str()).filter(|due| !due.is_empty());
    Ok(match snapshot {
        true => snapshot_rule_of(&policies, due)
            .map(|(policy, rule)| (policy.to_owned(), rule.name.clone(), rule.hooks.clone())),
        false => rule_of(&policies, task)
            .map(|(policy, rule)| (policy.to_owned(), rule.name.clone(), rule.hooks.clone())),
    })
}

/// What a node is told of the commands around a backup or a snapshot; nothing when there are none.
pub(crate) async fn orders(
    tx: &mut Tx,
    config: &NodeConfig,
    task: &Task,
    instance: &Record<Instance>,
    node: &Record<Node>,
) -> Result<Option<HookOrders>> {
    if task.new.spec["no_hooks"] == true {
        return Ok(None);
    }
    let Some((policy, rule, hooks)) = wanted(tx, task, instance).await? else { return Ok(None) };
    if hooks.is_empty() {
        return Ok(None);
    }
    let knows = |kind: &String| kind == SINCE || kind == snapshots::KIND;
    if !node.body.capabilities.kinds.iter().any(knows) {
        return Err(refused(format!("{} runs no commands around backups: upgrade it", node.name)));
    }
    let project = match instance.project {
        Some(id) => tx.get::<Project>(id, &EVERYTHING).await?.name,
        None => String::new(),
    };
    let names =
        |text: &str| text.replace("{instance}", &instance.name).replace("{project}", &project);
    for hook in hooks.before.iter().chain(&hooks.after) {
        allowed(hook, config, names).map_err(|what| not_allowed(&what, &node.name))?;
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
    let snapshot = task.new.spec["snapshot"]["name"].as_str();
    let snapshot = snapshot.map(|name| ("SLUICE_SNAPSHOT".to_owned(), name.to_owned()));
    let variables = BTreeMap::from([
        ("SLUICE_INSTANCE".to_owned(), instance.name.clone()),
        ("SLUICE_PROJECT".to_owned(), project.clone()),
        ("SLUICE_POLICY".to_owned(), policy),
        ("SLUICE_RULE".to_owned(), rule),
        ("SLUICE_TASK".to_owned(), task.id.to_string()),
        ("SLUICE_ATTEMPT".to_owned(), task.attempt.to_string()),
    ]);
    Ok(Some(HookOrders {
        before: hooks.before.iter().map(order).collect(),
        after: hooks.after.iter().map(order).collect(),
        variables: variables.into_iter().chain(snapshot).collect(),
        allowed: config.commands.iter().cloned().collect(),
        ssh_key: ssh.map(|ssh| ssh.key_file.clone()).unwrap_or_default(),
        known_hosts: ssh.map(|ssh| ssh.known_hosts.clone()).unwrap_or_default(),
    }))
}

fn refused(text: String) -> Problem {
    Problem::new(StatusCode::CONFLICT, "command-not-allowed", text)
}

/// Why a program is not run on a node, or a guest not reached from it.
pub(crate) fn not_allowed(what: &str, node: &str) -> Problem {
    refused(format!(
        "{what} is not allowed on {node}: an administrator allows it in the node's configuration \
         (commands, guest_ssh)"
    ))
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
    use sluice_catalog::{DestinationId, NewTask, PolicyId, TaskId, TaskState};

    use super::*;

    fn task(due: Option<(PolicyId, &str)>, destination: DestinationId) -> Task {
        let due_key = due.map(|(policy, rule)| format!("{policy}/{rule}/nightly/i/1"));
        Task {
            id: TaskId::new(1),
            new: NewTask {
                project: None,
                instance: None,
                policy: due.map(|(policy, _)| policy),
                destination: Some(destination),
                wanted_node: None,
                kind: "backup".into(),
                priority: 50,
                due_key,
                max_attempts: 1,
                not_before_ms: 0,
                spec: json!({}),
            },
            from: None,
            state: TaskState::Running,
            node: None,
            attempt: 1,
            lease_until_ms: 0,
            created_ms: 0,
            started_ms: None,
            finished_ms: None,
            cancel_requested: false,
            revision: 1,
            progress: sluice_catalog::Progress::default(),
            result: json!(null),
            message: String::new(),
        }
    }

    #[test]
    fn a_backup_by_hand_has_the_commands_for_its_place_and_a_due_one_those_of_its_rule() {
        let [near, far, bare] =
            [DestinationId::new(1), DestinationId::new(2), DestinationId::new(3)];
        let rule = |name: &str, at: DestinationId, hooks: bool| {
            let before = if hooks { json!([{"command": ["/bin/true"]}]) } else { json!([]) };
            json!({"name": name, "destination": at, "schedules": [], "hooks": {"before": before}})
        };
        let policy = |name: &str, rules: serde_json::Value| Record {
            id: PolicyId::new(1),
            project: None,
            project_name: None,
            name: name.to_owned(),
            revision: 1,
            created_ms: 0,
            updated_ms: 0,
            body: serde_json::from_value::<Policy>(json!({"rules": rules})).unwrap(),
        };
        let one = policy("one", json!([rule("plain", near, false), rule("bare", bare, false)]));
        let two = policy("two", json!([rule("near", near, true), rule("far", far, true)]));
        let all = [one, two];
        let found = |task: &Task| rule_of(&all, task).map(|(policy, rule)| (policy, &*rule.name));
        assert_eq!(found(&task(None, near)), Some(("two", "near")));
        assert_eq!(found(&task(None, far)), Some(("two", "far")));
        assert_eq!(found(&task(None, bare)), None, "its rule has none");
        assert_eq!(found(&task(None, DestinationId::new(4))), Some(("two", "near")));
        let due = |at: usize, rule: &str| task(Some((all[at].id, rule)), near);
        assert_eq!(found(&due(0, "plain")), Some(("one", "plain")));
        assert_eq!(found(&due(1, "far")), Some(("two", "far")));
        assert_eq!(found(&due(1, "plain")), None, "a rule of another policy");
    }

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
