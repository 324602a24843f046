//! What is kept of the documents that commands of tasks printed.
//!
//! What follows from a document follows when it comes. Afterwards it is there for people: a prune
//! that names every restore point of an instance, after each of its backups, would fill the disk
//! within a year and tell nobody anything.

use serde_json::Value;

/// The most that is kept of a document, in bytes.
const LARGEST: usize = 64 << 10;

/// Lists of these kinds of tasks are of everything that is there, and grow with it.
const LONG: [(&str, &[&str]); 4] = [
    ("prune", &["points", "gone", "left"]),
    ("copy", &["copies", "pruned"]),
    ("verify", &["looked"]),
    ("stat", &["by_instance", "by_project", "damage"]),
];

/// What is kept of a document of that kind of task: lists that grow become how long they were.
pub(crate) fn kept(kind: &str, mut document: Value) -> Value {
    for (_, lists) in LONG.iter().filter(|(of, _)| *of == kind) {
        for list in *lists {
            count(&mut document, list);
        }
    }
    if size(&document) <= LARGEST {
        return document;
    }
    let names: Vec<String> =
        document.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default();
    for name in names {
        count(&mut document, &name);
    }
    match size(&document) {
        bytes if bytes <= LARGEST => document,
        bytes => serde_json::json!({ "too_large_bytes": bytes }),
    }
}

/// Puts its length where a list is, or lists by name.
fn count(document: &mut Value, name: &str) {
    let length = |list: &Value| list.as_array().map(Vec::len);
    if let Some(list) = document.get_mut(name)
        && let Some(many) =
            length(list).or_else(|| list.as_object().and_then(|all| all.values().map(length).sum()))
    {
        *list = many.into();
    }
}

fn size(document: &Value) -> usize {
    serde_json::to_string(document).map_or(usize::MAX, |text| text.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_that_grow_are_kept_as_how_long_they_were() {
        let prune = json!({"kept": 1, "removed": 2, "points": [{}, {}, {}]});
        assert_eq!(kept("prune", prune.clone()), json!({"kept": 1, "removed": 2, "points": 3}));
        let brief = json!({"kept": 2, "gone": {"a": [1, 2], "b": [3]}, "left": null});
        let told = json!({"kept": 2, "gone": 3, "left": null});
        assert_eq!(kept("prune", brief), told);
        assert_eq!(kept("backup", prune.clone()), prune, "what is short is kept as it is");
        let copy = json!({"bytes": 7, "copies": [{}], "pruned": []});
        assert_eq!(kept("copy", copy), json!({"bytes": 7, "copies": 1, "pruned": 0}));
        let stat = json!({"stored_bytes": 5, "by_instance": [{}], "by_project": null});
        let told = json!({"stored_bytes": 5, "by_instance": 1, "by_project": null});
        assert_eq!(kept("stat", stat), told);
        let verify = json!({"damage": [], "points": 3, "looked": {"a": ["x", "y"], "b": ["z"]}});
        assert_eq!(kept("verify", verify), json!({"damage": [], "points": 3, "looked": 3}));
        assert_eq!(kept("prune", Value::Null), Value::Null);
    }

    #[test]
    fn no_document_is_kept_that_is_too_large() {
        let long = "x".repeat(LARGEST);
        let document = json!({"damaged": [long], "checked": 5});
        assert_eq!(kept("verify", document), json!({"damaged": 1, "checked": 5}));
        let document = kept("verify", json!({"one": long}));
        assert!(document["too_large_bytes"].as_u64().is_some_and(|bytes| bytes > 65_536));
    }
}
