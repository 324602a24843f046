//! Destinations that a project's manager makes, of which nothing may be the node's.

use serde_json::json;

use crate::control_plane::{Place, Up, text};
use crate::support::disk;
use crate::support::run::{Cmd, wait_until};
use crate::support::s3;

/// A program that manages the project `shop`, and nothing else.
struct Manager<'p>(&'p Place);

impl<'p> Manager<'p> {
    fn new(place: &'p Place, up: &Up) -> Self {
        place.ok(&["project", "set", "shop"]);
        place.ok(&["user", "add", "ci", "--service", "--role", "manager@shop"]);
        let token = place.ok(&["user", "token", "add", "nightly", "--user", "ci"]).json();
        let login = json!({"server": up.ready["url"], "fingerprint": up.ready["fingerprint"],
            "token": token["token"]});
        place.write("manager.json", &login.to_string());
        Self(place)
    }

    fn cmd(&self, words: &[&str]) -> Cmd {
        self.0.cmd(words).env("SLUICE_LOGIN", self.0.path("manager.json"))
    }
}

#[test]
fn destinations_of_a_project_have_keys_of_their_own_and_nothing_of_the_node() {
    let place = Place::new();
    // Keys that the node could be known by.
    let bucket = s3::prefix();
    let key = |name: &str| bucket.env().into_iter().find(|(own, _)| own == name).unwrap().1;
    let (id, secret) = (key("AWS_ACCESS_KEY_ID"), key("AWS_SECRET_ACCESS_KEY"));
    std::fs::create_dir(place.path(".aws")).unwrap();
    let profile = format!("[default]\naws_access_key_id={id}\naws_secret_access_key={secret}\n");
    place.write(".aws/credentials", &profile);
    let up = Up::start(&place);
    place.log_in(&up);
    wait_until("the first repository", || place.is_idle() && !place.done("init").is_empty());
    let manager = Manager::new(&place, &up);
    let image = place.path("disk.raw");
    disk::sample(&image);
    place.ok(&["instance", "set", "shop/web", "--disk", text(&image)]);

    // The repository of all, with its passphrase from a file of the server.
    let spec = json!({"url": place.state.join("repository"),
        "environment": {"SLUICE_PASSPHRASE_FILE": place.state.join("local-passphrase")}});
    let spec = place.write("spec.json", &spec.to_string());
    let set = ["destination", "set", "shop/own", "--spec", text(&spec)];
    let told = manager.cmd(&set).fails(1).json()["error"]["message"].to_string();
    assert!(told.contains("is not for a project to name"), "{told}");
    let file = text(&place.write("passphrase", "a third passphrase\n")).to_owned();
    let url = bucket.url();
    let own = ["destination", "set", "shop/own", "--url", &url, "--passphrase-file", &file];
    manager.cmd(&own).ok();
    // It has no keys, and those of the node are not taken.
    let failed = || {
        let all = place.ok(&["task", "list", "--state", "failed"]).json();
        all["items"].as_array().unwrap().clone()
    };
    wait_until("the failed look at it", || !failed().is_empty());
    let why = failed()[0]["message"].as_str().unwrap().to_owned();
    assert!(why.contains("AWS_ACCESS_KEY_ID"), "{why}");
    assert!(bucket.objects().is_empty());

    let mut words = own.map(str::to_owned).to_vec();
    for (name, value) in [("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)] {
        let file = place.write(name, &format!("{value}\n"));
        words.extend(["--secret".into(), format!("{name}={}", text(&file))]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    manager.cmd(&words).ok();
    wait_until("the repository in the bucket", || place.done("init").len() > 1);
    manager.cmd(&["task", "backup", "shop/web", "--to", "shop/own"]).ok();
    wait_until("the backup", || !place.done("backup").is_empty());
    assert!(place.state.join("home-of-projects").is_dir(), "it had a home of its own");
    let out = place.path("out.raw");
    place.ok(&["task", "restore", "shop/web", text(&out), "--node", "local"]);
    wait_until("the restore", || !place.done("restore").is_empty());
    disk::assert_same(&image, &out);
    drop(up);
}
