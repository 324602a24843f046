//! Restore points that a server has mounted as files: over HTTP, and in a folder of a node.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use crate::mounted::{Lab, address, holds, is_typed, listens, text};
use crate::support::run::{Cmd, Ran, wait_until};

/// A part of the sample disk that is no zeroes.
const RANGE: std::ops::RangeInclusive<usize> = 0..=65_535;

impl Lab {
    /// What a client that trusts the node's own certificate gets.
    fn curl(&self, more: &[&str], uri: &str) -> Ran {
        let made = fs::read_dir(self.path("mover/sluice/http")).unwrap().flatten();
        let certificate = made.map(|entry| entry.path()).find(|path| is_certificate(path));
        let certificate = certificate.expect("the node has made a certificate");
        let common = ["-sSf", "--max-time", "60", "--cacert", text(&certificate)];
        Cmd::new("curl").args(common).args(more).arg(uri).run()
    }

    /// Whether the disk at that place is the one that was backed up.
    fn has_disk(&self, uri: &str) -> bool {
        let got = self.path("got");
        let whole = self.curl(&["-o", text(&got)], uri);
        whole.code == Some(0) && fs::read(got).unwrap() == fs::read(self.path("disk.raw")).unwrap()
    }
}

fn is_certificate(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "pem")
}

fn disk_uri(mount: &Value) -> String {
    mount["disks"][0]["uri"].as_str().expect("it is ready").to_owned()
}

#[test]
fn a_point_is_a_file_behind_a_token_and_comes_back_after_a_kill() {
    let lab = Lab::new();
    let server = lab.serve();
    lab.set_up(&server);
    let mover = lab.mover();
    let start = ["remote-mount", "start", "shop/web", "--node", "mover", "--protocol", "http"];
    let start = [&start[..], &["--client", &lab.network.here]].concat();
    let mount = wait_until_ok(|| lab.cmd(&start).run());
    let uri = disk_uri(&mount);
    assert!(uri.starts_with(&format!("https://{}", lab.network.there)), "{uri}");
    assert!(lab.has_disk(&uri), "{uri} is another disk");
    let part = lab.path("part");
    let range = format!("{}-{}", RANGE.start(), RANGE.end());
    assert_eq!(lab.curl(&["-r", &range, "-o", text(&part)], &uri).code, Some(0));
    assert_eq!(fs::read(part).unwrap(), fs::read(lab.path("disk.raw")).unwrap()[RANGE]);

    // The token opens it, and is told to those alone who ask for this mount.
    let token = uri.split('/').nth(3).unwrap().to_owned();
    let guessed = uri.replace(&token, &"x".repeat(token.len()));
    assert_ne!(lab.curl(&[], &guessed).code, Some(0), "who knows nothing was let in");
    assert!(!holds(&lab.path("mover"), &token), "a secret is stored");
    assert!(!is_typed(&token), "a secret is typed");
    for words in [["remote-mount", "list"], ["task", "list"]] {
        assert!(!lab.ok(&words).text().contains(&token), "a secret is told by {words:?}");
    }

    mover.signal(Signal::KILL);
    mover.wait();
    wait_until("the export ends with its node", || !listens(&address(&mount)));
    let mover = lab.mover();
    wait_until("the mount is back", || lab.has_disk(&uri));
    wait_until("the server knows", || lab.shown(&mount)["state"] == "ready");
    assert_eq!(disk_uri(&lab.shown(&mount)), uri);

    let closed = lab.mount(&["--protocol", "http", "--client", "203.0.113.0/24"]);
    assert!(listens(&address(&closed)) && !lab.has_disk(&disk_uri(&closed)), "others were let in");
    let id = mount["id"].as_str().unwrap();
    assert_eq!(lab.ok(&["remote-mount", "stop", id]).json()["state"], "gone");
    assert!(!listens(&address(&mount)), "it is still served");
    drop(mover);
}

/// The only image below a folder where a mount is.
fn image_below(folder: &Path) -> Option<PathBuf> {
    let below = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        // `latest` leads to the same.
        let own = entries.filter(|entry| !entry.file_type().is_ok_and(|kind| kind.is_symlink()));
        own.map(|entry| entry.path()).collect()
    };
    let files = below(folder).iter().flat_map(|one| below(one)).collect::<Vec<_>>();
    let mut files = files.iter().flat_map(|one| below(one));
    files.find(|path| path.extension().is_some_and(|end| end == "raw"))
}

#[test]
fn a_point_is_a_folder_of_a_node_whose_administrator_has_named_where() {
    let lab = Lab::new();
    // Beside the node, or the namespace of its network would hide its folders.
    let server = lab.serve();
    lab.set_up(&server);
    let same = |folder: &Path| {
        image_below(folder).is_some_and(|image| {
            fs::read(image).is_ok_and(|got| got == fs::read(lab.path("disk.raw")).unwrap())
        })
    };
    let by = ["remote-mount", "start", "shop/web", "--node", "mover", "--protocol", "fuse"];
    let mover = lab.near_mover(&[]);
    wait_until("the node says what it lacks", || {
        let told = lab.cmd(&by).fails(1);
        told.text().contains("--mount-folder") || told.err.contains("--mount-folder")
    });
    drop(mover);

    let above = lab.path("mounts");
    fs::create_dir_all(above.join("taken")).unwrap();
    fs::write(above.join("taken/file"), "of somebody").unwrap();
    let words = ["--mount-folder", text(&above)];
    let mover = lab.near_mover(&words);
    let named = |name: &str| lab.cmd(&[&by[..], &["--folder", name, "--lease", "2h"]].concat());
    let ready = wait_until_ok(|| named("web-1").run());
    let folder = above.join("web-1");
    assert!(same(&folder), "{ready} is another disk");
    assert!(disk_uri(&ready).starts_with("file:///"), "{ready}");
    // One place is one mount's, and what lies there is not hidden.
    assert!(!named("web-1").run().text().contains("ready"), "two are mounted on one folder");
    named("taken").fails(1);
    assert_eq!(fs::read(above.join("taken/file")).unwrap(), b"of somebody");
    named("../web-2").fails(1);

    mover.signal(Signal::KILL);
    mover.wait();
    let mover = lab.near_mover(&words);
    wait_until("the mount is back", || same(&folder));
    wait_until("the server knows", || lab.shown(&ready)["state"] == "ready");
    let id = ready["id"].as_str().unwrap();
    assert_eq!(lab.ok(&["remote-mount", "stop", id]).json()["state"], "gone");
    assert!(!folder.exists(), "the folder that was made for it is left");

    // What has a lease ends by it.
    let short = lab.ok(&[&by[..], &["--folder", "short", "--lease", "20s"]].concat()).json();
    wait_until("the lease ends", || !above.join("short").exists());
    wait_until("the server knows", || lab.shown(&short)["state"] == "gone");
    drop(mover);
}

/// The document of the command once it succeeds: a node has to tell what it can do before.
fn wait_until_ok(mut run: impl FnMut() -> Ran) -> Value {
    let mut last = None;
    wait_until("it can be mounted", || {
        let ran = run();
        let done = ran.code == Some(0);
        last = done.then(|| ran.json());
        done
    });
    last.unwrap()
}

#[test]
fn files_of_a_mount_are_listed_and_downloaded_through_the_server() {
    let lab = Lab::new();
    let server = lab.serve();
    lab.set_up(&server);
    let above = lab.path("mounts");
    fs::create_dir_all(&above).unwrap();
    let mover = lab.near_mover(&["--mount-folder", text(&above)]);
    let by = ["remote-mount", "start", "shop/web", "--node", "mover", "--protocol", "fuse"];
    let mount = wait_until_ok(|| lab.cmd(&by).run());
    let id = mount["id"].as_str().unwrap();
    let listed = |path: &str| lab.ok(&["remote-mount", "files", id, path]).json()["items"].clone();
    let instance = listed("/")[0]["path"].as_str().unwrap().to_owned();
    let points = listed(&instance);
    let latest = points.as_array().unwrap().iter().find(|one| one["name"] == "latest");
    assert_eq!(latest.expect("there is the newest")["kind"], "link");
    let files = listed(&format!("{instance}/latest"));
    let image = |one: &&Value| one["name"].as_str().unwrap().ends_with(".raw");
    let image = files.as_array().unwrap().iter().find(image).expect("there is the image");
    let size = fs::metadata(lab.path("disk.raw")).unwrap().len();
    assert_eq!(image["size"], size);

    let (path, got) = (image["path"].as_str().unwrap(), lab.path("got"));
    let get = ["--no-progress", "remote-mount", "download", id, path, "--output", text(&got)];
    assert_eq!(lab.ok(&get).json()["bytes"], size);
    assert!(fs::read(&got).unwrap() == fs::read(lab.path("disk.raw")).unwrap());
    // What is there stays unless that is wanted, and a device always.
    lab.cmd(&get).fails(1);
    lab.ok(&[&get[..], &["--overwrite"]].concat());
    let null = ["remote-mount", "download", id, path, "--overwrite", "--output", "/dev/null"];
    lab.cmd(&null).fails(1);
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    // A client that knows nothing of this project, and wants a part.
    let login: Value = serde_json::from_slice(&fs::read(lab.path("login.json")).unwrap()).unwrap();
    let bearer = format!("Authorization: Bearer {}", login["token"].as_str().unwrap());
    let uri =
        format!("{}/api/v1/mounts/{id}/content?path={path}", server.ready["url"].as_str().unwrap());
    let range = format!("{}-{}", RANGE.start(), RANGE.end());
    let part = lab.path("part");
    let words = ["-sSfk", "--max-time", "60", "-H", &bearer, "-r", &range, "-o", text(&part)];
    Cmd::new("curl").args(words).arg(&uri).ok();
    assert_eq!(fs::read(part).unwrap(), fs::read(lab.path("disk.raw")).unwrap()[RANGE]);

    // Nothing of the node beside the mount, and nothing once it has ended.
    for out in ["/..", "/../../etc/passwd", "/%2E%2E"] {
        lab.cmd(&["remote-mount", "files", id, out]).fails(1);
    }
    let none = ["remote-mount", "download", id, "/none", "--overwrite", "--output", text(&got)];
    lab.cmd(&none).fails(1);
    assert_eq!(fs::metadata(&got).unwrap().len(), size, "what was there is still there");
    lab.ok(&["remote-mount", "stop", id]);
    lab.cmd(&["remote-mount", "files", id]).fails(1);
    drop(mover);
}
