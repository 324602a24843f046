//! Logging in by an identity provider, by commands alone: the browser is curl.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::access::{Person, Server};
use crate::support::binary;
use crate::support::run::Cmd;

#[path = "../../../lab/oidc/provider.rs"]
mod provider;

/// Logs in as the hint says: what the command prints is opened by `browse`.
fn login(person: &Person<'_>, more: &[&str], browse: impl Fn(&str)) -> Value {
    let (url, print) = (person.server.word("url"), person.server.word("fingerprint"));
    let mut child = Command::new(binary::path())
        .args(["login", url, "--fingerprint", print, "--json", "--oidc", "company"])
        .args(more)
        .env("SLUICE_LOGIN", person.file("login.json"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = said.find_map(|line| line.ok().filter(|line| line.contains("http://127")));
    browse(&line.expect("it says where to go"));
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    let rest: Vec<String> = said.map_while(Result::ok).collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn somebody_logs_in_with_a_browser_here_or_elsewhere() {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/oidc");
    let Some(provider) = provider::Provider::start(&lab, "0") else { return };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("state"), None);
    let admin = Person { folder: folder.path(), server: &server, name: "admin" };
    admin.set_up();
    admin.ok(&["project", "set", "shop"]);
    admin.ok(&["group", "set", "team", "--role", "viewer"]);
    let file = folder.path().join("config.yaml");
    let text = format!(
        "identity-providers:\n  company:\n    \
         via: {{kind: oidc, issuer: '{}', client_id: sluice}}\n    create_users: true\n    \
         mappings:\n    - {{group: shop, roles: [operator@shop], groups: [team]}}\n",
        provider.issuer
    );
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    admin.ok(&["apply", "-f", file]);
    admin.write("secret", "a secret of the lab & more");
    let secret = admin.file("secret");
    let secret = ["--secret-file", secret.to_str().unwrap()];
    admin.ok(&[&["identity-provider", "secret", "company"][..], &secret].concat());
    // What was applied is there, by names, and comes back from an export.
    admin.ok(&["apply", "-f", file, "--check"]);
    let export = admin.ok(&["config", "export"]).json();
    let mapping = &export["identity-providers"]["company"]["mappings"][0];
    assert_eq!(
        (&mapping["roles"][0], &mapping["groups"][0]),
        (&"operator@shop".into(), &"team".into())
    );
    assert!(!export.to_string().contains("lab & more"));

    let anna = Person { folder: folder.path(), server: &server, name: "anna" };
    let jar = folder.path().join("jar");
    let jar = jar.to_str().unwrap();
    let told = login(&anna, &[], |line| {
        let url = format!("{}&login_hint=anna:shop", line.trim());
        let page = Cmd::new("curl").args(["-sSL", "-c", jar, "-b", jar, &url]).ok();
        page.says(&[]);
    });
    assert_eq!(told["user"], "anna");
    assert_eq!(anna.ok(&["project", "list"]).json()["items"][0]["name"], "shop");
    anna.cmd(&["user", "list"]).fails(1);
    anna.cmd(&["user", "token", "add", "mine"]).fails(1);
    let export = anna.ok(&["config", "export"]).json();
    assert!(export.get("identity-providers").is_none() && export["projects"].is_object());

    let otto = Person { folder: folder.path(), server: &server, name: "otto" };
    let told = login(&otto, &["--device"], |line| {
        let code = line.rsplit(' ').next().unwrap();
        let url = format!("{}/lab-device?user_code={code}&hint=otto:", provider.issuer);
        Cmd::new("curl").args(["-sSf", &url]).ok();
    });
    assert_eq!(told["user"], "otto");
    admin.cmd(&["identity-provider", "remove", "company"]).fails(1);
    for name in ["anna", "otto"] {
        admin.ok(&["user", "remove", name]);
    }
    admin.ok(&["identity-provider", "remove", "company"]);
}
