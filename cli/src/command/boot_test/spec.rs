//! What is said of guests that are booted together, as people write it and as nodes do.
//!
//! ```text
//!   people   checks: [{kind: tcp, port: 5432, banner: "^x"}]   as in plans and restore tests
//!   nodes    tcp: ["5432=^x"]                                  as servers order it
//! ```
//!
//! A name that was mistyped is not passed over, wherever it stands: the guest would be tried
//! otherwise than was meant.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use sluice_node_api::{CheckScript, CheckSsh, TestOrder};

use crate::command::control::document;
use crate::error::usage_error;

/// What is to be booted.
pub(super) fn read(spec: &str) -> Result<TestOrder> {
    let mut said: Value = match spec.starts_with('{') {
        true => serde_json::from_str(spec).map_err(|error| usage_error(error.to_string()))?,
        false => document(Path::new(spec))?,
    };
    let guests = match said.as_object_mut().and_then(|said| said.remove("guests")) {
        Some(Value::Array(guests)) => guests,
        None => Vec::new(),
        Some(_) => return Err(usage_error("`guests` is a list")),
    };
    let mut order = guest(said)?;
    order.guests = guests.into_iter().map(guest).collect::<Result<_>>()?;
    Ok(order)
}

/// One of them.
fn guest(mut said: Value) -> Result<TestOrder> {
    known(&said, &full(), "a guest")?;
    for (list, one) in
        [("scripts", json!(CheckScript::default())), ("ssh", json!(CheckSsh::default()))]
    {
        let all = said[list].as_array().into_iter().flatten();
        all.clone().try_for_each(|said| known(said, &one, list))?;
    }
    let checks = said.as_object_mut().and_then(|said| said.remove("checks")).unwrap_or(json!([]));
    let wrong = |error: serde_json::Error| usage_error(error.to_string());
    let mut order: TestOrder = serde_json::from_value(said).map_err(wrong)?;
    sluice_server::add_checks(&mut order, checks).map_err(wrong)?;
    Ok(order)
}

/// A guest of which all is said.
fn full() -> Value {
    let full = TestOrder {
        scripts: vec![CheckScript::default()],
        ssh: vec![CheckSsh::default()],
        ssh_key: "key".to_owned(),
        guests: vec![TestOrder::default()],
        subnet: "subnet".to_owned(),
        stage: 1,
        address: "address".to_owned(),
        ..TestOrder::default()
    };
    let mut full = json!(full);
    full["checks"] = json!([]);
    full
}

/// Refuses what has other names than `full` has.
fn known(said: &Value, full: &Value, of: &str) -> Result<()> {
    let fields = said.as_object().ok_or_else(|| usage_error(format!("{said} is no object")))?;
    match fields.keys().find(|name| full.get(name.as_str()).is_none()) {
        Some(name) => Err(usage_error(format!("nothing of {of} is called {name:?}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_guests_is_read_or_refused() {
        let spec = read(r#"{"guests": [{"point": "db", "stage": 0, "ssh_key": ""}]}"#).unwrap();
        assert_eq!((&*spec.guests[0].point, spec.guests[0].memory_mib), ("db", 0));
        for bad in [
            r#"{"guests": [{"stages": 1}]}"#,
            r#"{"guests": {"point": "db"}}"#,
            r#"{"guests": ["db"]}"#,
            r#"{"guests": [{"scripts": [{"commands": []}]}]}"#,
            r#"{"guests": [{"ssh": [{"user": "root", "key": "k"}]}]}"#,
            r#"{"guests": [{"checks": [{"kind": "tcp", "ports": 22}]}]}"#,
            r#"{"guests": [{"checks": [{"kind": "ping"}]}]}"#,
            r#"{"net": "10.0.2.0/24"}"#,
            "{",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn checks_are_said_as_in_plans_or_as_nodes_do() {
        let people = r#"{"guests": [{"checks": [{"kind": "console", "pattern": "x"},
            {"kind": "tcp", "port": 22, "banner": "^SSH"}, {"kind": "tcp", "port": 80},
            {"kind": "guest-agent"}, {"kind": "ssh", "user": "root", "port": 22},
            {"kind": "script", "command": ["/t"], "ports": [80], "reject": [4]}]}]}"#;
        let nodes = r#"{"guests": [{"console": ["x"], "tcp": ["22=^SSH", "80"],
            "guest_agent": true, "ssh": [{"user": "root", "port": 22}],
            "scripts": [{"command": ["/t"], "ports": [80], "reject": [4],
                "limit_seconds": 60}]}]}"#;
        assert_eq!(read(people).unwrap(), read(nodes).unwrap());
        // What a node types is read as it was meant.
        let order = read(nodes).unwrap();
        assert_eq!(read(&serde_json::to_string(&order).unwrap()).unwrap(), order);
    }
}
