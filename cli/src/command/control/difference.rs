//! What is different between two documents of the server.

use serde_json::{Map, Value, json};

/// A value that is not what it was.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Difference {
    /// Where, as `rules[0].keep.daily`.
    pub(crate) path: String,
    /// What it was; nothing where it had its default.
    pub(crate) old: Option<Value>,
    /// What it is to be; nothing where it gets its default.
    pub(crate) new: Option<Value>,
}

impl Difference {
    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({"path": self.path, "old": self.old, "new": self.new})
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let show = |value: &Option<Value>| match value {
            Some(value) => value.to_string(),
            None => "(default)".to_owned(),
        };
        format!("{}: {} -> {}", self.path, show(&self.old), show(&self.new))
    }
}

/// Where `new` says something else than `old`. What either leaves out has its default.
pub(crate) fn differences(old: &Value, new: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", "", Some(old), Some(new), &mut found);
    found
}

/// Fields that do not say their default.
pub(crate) fn without_defaults(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(key, value)| !is_default(key, value));
            let trim = |(key, value): (&String, &Value)| (key.clone(), without_defaults(value));
            Value::Object(fields.map(trim).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_defaults).collect()),
        other => other.clone(),
    }
}

fn compare(
    path: &str,
    key: &str,
    old: Option<&Value>,
    new: Option<&Value>,
    found: &mut Vec<Difference>,
) {
    match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let added = new.keys().filter(|key| !old.contains_key(*key));
            for key in old.keys().chain(added) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, key, old.get(key), new.get(key), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if old.len() == new.len() => {
            for (at, (old, new)) in old.iter().zip(new).enumerate() {
                compare(&format!("{path}[{at}]"), "", Some(old), Some(new), found);
            }
        }
        (Some(old), Some(new)) if old == new => {}
        (Some(value), None) | (None, Some(value)) if is_default(key, value) => {}
        // Of a schedule it is what the rule says when it says nothing.
        (None, Some(value))
            if key == "type" && value == "incremental" && !path.contains(".schedules[") => {}
        _ => {
            let (path, old, new) = (path.to_owned(), old.cloned(), new.cloned());
            found.push(Difference { path, old, new });
        }
    }
}

/// Whether a field says what it says when it is left out.
fn is_default(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => *set == ["present", "enabled"].contains(&key),
        Value::Number(number) => number.as_u64() == Some(default_number(key)),
        Value::String(text) => text == default_text(key),
        Value::Array(list) if key == "modes" => list[..] == ["run"],
        Value::Array(list) if key == "scopes" => list[..] == ["profile", "email"],
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.iter().all(|(key, value)| is_default(key, value)),
    }
}

fn default_number(key: &str) -> u64 {
    match key {
        "priority" => 50,
        "memory_mib" => 1024,
        "cpus" | "attempts" => 1,
        "timeout_seconds" => 300,
        "limit_seconds" => 600,
        "history_days" => 400,
        "lease_seconds" => 28_800,
        "session_minutes" => 720,
        "most_gone_percent" => 50,
        _ => 0,
    }
}

fn default_text(key: &str) -> &'static str {
    match key {
        "firmware" => "bios",
        "disk" | "nic" => "virtio",
        "on_failure" => "stop",
        "depth" => "structure",
        // Of a verification.
        "at" => "primary",
        "name_claim" => "preferred_username",
        "groups_claim" => "groups",
        // Of an inventory.
        "naming" => "{name}",
        "per" => "file",
        // Of a restore point in a plan; nothing else has such a kind.
        "kind" => "latest",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(old: &Value, new: &Value) -> bool {
        differences(old, new).is_empty()
    }

    #[test]
    fn what_is_left_out_is_no_difference() {
        let old = json!({"url": "/a", "description": "", "environment": {}});
        assert!(same(&old, &json!({"url": "/a"})));
        assert!(!same(&old, &json!({"url": "/b"})));
        assert!(!same(&old, &json!({"url": "/a", "environment": {"OS_X": "1"}})));
        let old = json!({"url": "/a", "description": "mine"});
        assert!(!same(&old, &json!({"url": "/a"})), "a word was taken away");
        assert!(!same(&json!({"rules": [], "paused": true}), &json!({"rules": []})));
        assert!(same(&json!({"rules": [], "priority": 50}), &json!({"rules": []})));
        assert!(!same(&json!({"tags": ["a"]}), &json!({"tags": ["a", "b"]})));
        let full = json!({"boot": {"disk": "virtio", "cpus": 1, "timeout_seconds": 300,
            "checks": []}, "point": {"kind": "latest"}, "modes": ["run"]});
        assert!(same(&full, &json!({})));
        let rule = json!({"rules": [{"type": "incremental"}]});
        assert!(same(&json!({"rules": [{}]}), &rule) && !same(&rule, &json!({"rules": []})));
        let one = |schedule| json!({"rules": [{"type": "full", "schedules": [schedule]}]});
        let own = one(json!({"type": "incremental"}));
        assert!(!same(&one(json!({})), &own), "it says something else than its rule");
        assert!(!same(&json!({"modes": []}), &json!({})), "never is not only in runs");
        let full = json!({"enabled": true, "session_minutes": 720, "via": {"ca": "",
            "scopes": ["profile", "email"], "name_claim": "preferred_username",
            "groups_claim": "groups", "acr_values": []}});
        assert!(same(&full, &json!({"via": {}})));
        assert!(!same(&json!({"enabled": false}), &json!({})), "it was switched off");
    }

    #[test]
    fn differences_are_told_with_their_place() {
        let old =
            json!({"rules": [{"name": "main", "keep": {"daily": 7, "last": 0}}], "paused": true});
        let new = json!({"rules": [{"name": "main", "keep": {"daily": 14}}], "tags": ["a"]});
        let told: Vec<String> = differences(&old, &new).iter().map(Difference::text).collect();
        let wanted = [
            "paused: true -> (default)",
            "rules[0].keep.daily: 7 -> 14",
            "tags: (default) -> [\"a\"]",
        ];
        assert_eq!(told, wanted);
    }

    #[test]
    fn a_document_without_defaults_says_the_same() {
        let all = json!({"url": "/a", "description": "", "list": [{"priority": 50, "n": 1}]});
        let short = without_defaults(&all);
        assert_eq!(short, json!({"url": "/a", "list": [{"n": 1}]}));
        assert!(same(&all, &short) && same(&short, &all));
    }
}
