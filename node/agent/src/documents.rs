//! What the server is told of the documents that commands print: of lists which grow with the
//! repository, what it reads and nothing else.

use serde_json::Value;

/// Kinds of tasks, their lists, and what is read of each entry.
const READ: [(&str, &str, &[&str]); 2] = [
    ("stat", "by_instance", &["instance", "stored_bytes"]),
    ("verify", "damage", &["object", "problem", "points"]),
];
/// What nobody reads at the server, of these kinds.
const UNREAD: [(&str, &str); 2] = [("stat", "by_project"), ("stat", "damage")];

/// What the server is told of a document of that kind of task.
pub(crate) fn told(kind: &str, mut document: Value) -> Value {
    for (_, list, fields) in READ.iter().filter(|(of, ..)| *of == kind) {
        let rows = document.get_mut(*list).and_then(Value::as_array_mut);
        for row in rows.into_iter().flatten().filter_map(Value::as_object_mut) {
            row.retain(|name, _| fields.contains(&name.as_str()));
        }
    }
    for (_, name) in UNREAD.iter().filter(|(of, _)| *of == kind) {
        if let Some(fields) = document.as_object_mut() {
            fields.remove(*name);
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_long_lists_the_server_is_told_what_it_reads() {
        let row = json!({"instance": "shop.web", "stored_bytes": 7, "logical_bytes": 9});
        let stat = json!({"damaged_points": 0, "by_instance": [row], "by_project": [row]});
        let short = json!({"instance": "shop.web", "stored_bytes": 7});
        let wanted = json!({"damaged_points": 0, "by_instance": [short]});
        assert_eq!(told("stat", stat.clone()), wanted);
        assert_eq!(told("verify", stat.clone()), stat);
        let prune = json!({"kept": 1, "gone": {"shop.web": ["k1"]}});
        assert_eq!(told("prune", prune.clone()), prune);
        assert_eq!(told("prune", Value::Null), Value::Null);
    }
}
