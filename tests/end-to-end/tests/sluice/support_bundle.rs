//! What is handed to others has no secrets in it.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::control_plane::{Place, Up, text};
use crate::support::run::wait_until;

#[test]
fn a_support_bundle_has_failures_and_setup_and_none_of_the_secrets() {
    let place = Place::new();
    let up = Up::start(&place);
    place.log_in(&up);
    // A repository whose folder cannot be made.
    place.write("gone", "a file");
    let url = place.path("gone/vault");
    let pass = place.write("pass", "hidden-passphrase-1\n");
    let words = ["--url", text(&url), "--passphrase-file", text(&pass)];
    place.ok(&[&["destination", "set", "vault"], &words[..]].concat());
    let spec = json!({"url": "s3://vault/x?endpoint=http://127.0.0.1:1",
        "environment": {"AWS_ACCESS_KEY_ID": "hidden-id-2"}});
    let spec = place.write("s3.json", &spec.to_string());
    place.ok(&["destination", "set", "far", "--spec", text(&spec)]);
    let via = json!({"kind": "webhook", "url": "https://hooks.example.org/hidden-path-3"});
    let wanted = json!({"channels": [{"name": "ops", "via": via}],
        "rules": [{"events": ["task-failed"], "channels": ["ops"]}]});
    let spec = place.write("notify.json", &wanted.to_string());
    place.ok(&["notify", "set", "--spec", text(&spec)]);
    let secret = place.write("key", "hidden-key-4\n");
    place.ok(&["notify", "secret", "ops", "--secret-file", text(&secret)]);
    assert_eq!(place.ok(&["notify", "show"]).json()["wanted"]["channels"][0]["name"], "ops");
    place.ok(&["project", "set", "shop"]);
    place.ok(&["instance", "set", "shop/web", "--disk", "/nowhere/disk.raw"]);
    place.ok(&["task", "backup", "shop/web", "--to", "vault"]);
    wait_until("a task has failed once", || {
        let tasks = place.ok(&["task", "list"]).json();
        let items = tasks["items"].as_array().unwrap().clone();
        items.iter().any(|task| task["kind"] == "backup" && task["message"] != "")
    });
    let file = place.path("bundle.json");
    place.ok(&["support-bundle", "--output", text(&file)]);
    place.cmd(&["support-bundle", "--output", text(&file)]).fails(1);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let bundle = std::fs::read_to_string(&file).unwrap();
    let login: Value =
        serde_json::from_slice(&std::fs::read(place.path("login.json")).unwrap()).unwrap();
    let known = |name: &str| std::fs::read_to_string(place.state.join(name)).unwrap();
    let secrets = [
        "hidden-passphrase-1".to_owned(),
        "hidden-id-2".to_owned(),
        "hidden-path-3".to_owned(),
        "hidden-key-4".to_owned(),
        "a long enough password".to_owned(),
        login["token"].as_str().unwrap().to_owned(),
        known("local-passphrase").trim().to_owned(),
        known("secrets.key").trim().to_owned(),
    ];
    for secret in secrets {
        assert!(!bundle.contains(&secret), "{secret} is in the bundle");
    }
    for wanted in ["hooks.example.org", "AWS_ACCESS_KEY_ID", "\"far\"", "vault", "dashboard"] {
        assert!(bundle.contains(wanted), "{wanted} is not in {bundle}");
    }
}
