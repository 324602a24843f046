//! Logging in with the name and password of a directory, by commands alone.

use std::path::Path;

use crate::access::{Person, Server};
use crate::support::port;

#[path = "../../../lab/ldap/directory.rs"]
mod lab;

#[test]
fn somebody_logs_in_with_the_password_of_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/ldap");
    let ports = [port::free(), port::free()];
    let directory = lab::Directory::start(&scripts, folder.path().join("directory"), ports);
    let server = Server::start(&folder.path().join("state"), None);
    let admin = Person { folder: folder.path(), server: &server, name: "admin" };
    admin.set_up();
    admin.ok(&["project", "set", "shop"]);
    let file = folder.path().join("office.json");
    let start_tls = format!("ldap://localhost:{}", directory.port);
    let via = serde_json::json!({"kind": "ldap", "urls": [start_tls, directory.tls()],
        "ca": directory.certificate("ca.pem"),
        "bind_dn": "cn=search,dc=example,dc=org", "user_base": "ou=people,dc=example,dc=org",
        "groups": {"from": "search", "base": "ou=groups,dc=example,dc=org"}});
    let spec = serde_json::json!({"via": via, "create_users": true,
        "mappings": [{"group": "staff", "roles": ["operator@shop"]}]});
    std::fs::write(&file, spec.to_string()).unwrap();
    let file = file.to_str().unwrap();
    admin.ok(&["identity-provider", "set", "office", "--spec", file]);
    let anna = Person { folder: folder.path(), server: &server, name: "anna" };
    let login = |provider: &str, user: &str| {
        let (url, print) = (server.word("url"), server.word("fingerprint"));
        let to = ["login", url, "--fingerprint", print, "--ldap", provider, "--user", user];
        anna.cmd(&to)
    };
    anna.write("password", "secret of anna");
    // Who sets it up is told what is missing.
    let test = ["identity-provider", "test", "office", "--user", "anna", "--password"];
    admin.write("password", "secret of anna");
    admin.cmd(&test).fails(1);
    login("office", "anna").fails(1);
    admin.write("secret", "secret of search");
    let secret = admin.file("secret");
    let secret = ["--secret-file", secret.to_str().unwrap()];
    admin.ok(&[&["identity-provider", "secret", "office"][..], &secret].concat());
    let tried = admin.ok(&test).json();
    assert_eq!(tried["ok"], true, "{tried}");
    admin.ok(&["identity-provider", "test", "office"]);

    assert_eq!(login("office", "anna").ok().json()["user"], "anna");
    assert_eq!(anna.ok(&["project", "list"]).json()["items"][0]["name"], "shop");
    anna.cmd(&["user", "list"]).fails(1);
    anna.cmd(&["user", "token", "add", "mine"]).fails(1);
    login("nowhere", "anna").fails(1);
    login("office", "otto").fails(1);
    let export = admin.ok(&["config", "export"]).json();
    let mapping = &export["identity-providers"]["office"]["mappings"][0];
    assert_eq!(mapping["roles"][0], "operator@shop");
    assert!(!export.to_string().contains("secret of"));
    assert!(
        !admin.ok(&["identity-provider", "show", "office"]).json().to_string().contains("of s")
    );
}
