//! Several exports, changes since a point, and encryption, as real clients see them.

use std::fs;

use serde_json::Value;

use crate::support::disk::{self, KIB, MIB, assert_same};
use crate::support::repo::Repo;
use crate::support::run::{Cmd, wait_until};
use crate::support::serve::Export;

fn nbdinfo(args: &[&str]) -> Value {
    Cmd::new("nbdinfo").arg("--json").args(args).ok().json()
}

/// What a list of `nbdinfo` calls the exports.
fn names(uri: &str) -> Vec<String> {
    let list = nbdinfo(&["--list", uri]);
    let name = |export: &Value| export["export-name"].as_str().unwrap().to_owned();
    list["exports"].as_array().unwrap().iter().map(name).collect()
}

/// A disk of 4 MiB, three points of it, and what changed between them.
fn history() -> (Repo, [String; 3]) {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, 4 * MIB);
    disk::fill(&image, 0, 2 * MIB, 1);
    let first = repo.backup(&image);
    disk::fill(&image, MIB + 5000, 100, 2);
    let second = repo.backup(&image);
    disk::fill(&image, 3 * MIB, 200 * KIB, 3);
    let third = repo.backup(&image);
    (repo, [first, second, third])
}

/// Offset and length of the runs that `nbdinfo --map` marks.
fn changed(uri: &str, since: &str) -> Vec<(u64, u64)> {
    let map = nbdinfo(&[&format!("--map=sluice:changed-since={since}"), uri]);
    let marked = map.as_array().unwrap().iter().filter(|run| run["type"] == 1);
    marked.map(|run| (run["offset"].as_u64().unwrap(), run["length"].as_u64().unwrap())).collect()
}

fn id(point: &str) -> &str {
    point.split_once('@').unwrap().1
}

#[test]
fn a_client_learns_what_changed_since_a_point() {
    let (repo, [first, second, third]) = history();
    let other = repo.path("other.raw");
    disk::create(&other, 4 * MIB);
    repo.ok(["backup".as_ref(), "other".as_ref(), other.as_os_str()]);
    let export = Export::unix(&repo, &third);
    let contexts = nbdinfo(&[export.uri()])["exports"][0]["contexts"].clone();
    let since = |point: &str| format!("sluice:changed-since={}", id(point));
    let expected = serde_json::json!(["base:allocation", since(&second), since(&first)]);
    assert_eq!(contexts, expected);
    let block = 128 * KIB;
    let late = (3 * MIB, 2 * block);
    assert_eq!(changed(export.uri(), id(&first)), [(MIB, block), late]);
    assert_eq!(changed(export.uri(), &first), [(MIB, block), late], "the whole name");
    assert_eq!(changed(export.uri(), id(&second)), [late]);
    assert_eq!(changed(export.uri(), "latest"), [], "since itself");
    assert_eq!(changed(export.uri(), "latest~2"), [(MIB, block), late]);
    // What `diff` says of the same.
    let diff = repo.json(["diff", &first, &third]);
    let pair = |run: &Value| (run["offset"].as_u64().unwrap(), run["length"].as_u64().unwrap());
    let diff: Vec<_> = diff.as_array().unwrap().iter().map(pair).collect();
    assert_eq!(diff, changed(export.uri(), id(&first)));
    // Points of others, and none at all, are no contexts.
    for nonsense in ["other@latest", "nothing", "0", ""] {
        let map = format!("--map=sluice:changed-since={nonsense}");
        let ran = Cmd::new("nbdinfo").args([&map, export.uri()]).run();
        assert_ne!(ran.code, Some(0), "{nonsense:?} is a point");
    }
    export.stop();
    assert!(repo.objects("p").is_empty(), "a point is still pinned");
}

#[test]
fn several_points_are_exports_of_one_server() {
    let (repo, [first, _, third]) = history();
    let export = Export::nbd(&repo, &[&third, &first]);
    let (newer, older) = (format!("{third}:disk"), format!("{first}:disk"));
    assert_eq!(names(export.uri()), [newer.as_str(), &older]);
    for (name, point) in [(newer.as_str(), &third), (&older, &first), ("", &third)] {
        let copy = repo.path("copy.raw");
        let uri = export.named(&name.replace('@', "%40").replace(':', "%3A"));
        Cmd::new("nbdcopy").arg(uri).arg(&copy).ok();
        repo.assert_restores(point, &copy);
        fs::remove_file(copy).unwrap();
    }
    assert_eq!(repo.objects("p").len(), 2, "both are pinned");
    export.stop();
    assert!(repo.objects("p").is_empty(), "a point is still pinned");
    repo.fails(2, ["export", "nbd", &first, &third, "--name", "x"]).says(&["single image"]);
}

#[test]
fn all_points_are_exports_that_open_when_asked_for() {
    let (repo, points) = history();
    let export = Export::nbd(&repo, &["--all"]);
    let expected = points.clone().map(|point| format!("{point}:disk"));
    assert_eq!(names(export.uri()), expected);
    wait_until("nothing is open any more", || repo.objects("p").is_empty());
    // While a client has it open, the point is pinned, and only that one.
    let name = format!("{}%3Adisk", points[1].replace('@', "%40"));
    let script = "import nbd, os, sys; h = nbd.NBD(); h.connect_uri(sys.argv[1]); h.pread(9, 0); \
                  print(len(os.listdir(sys.argv[2]))); h.shutdown()";
    let uri = export.named(&name);
    let pins = repo.folder().join("p");
    let ran = Cmd::new("/usr/bin/python3").args(["-c", script, &uri]).arg(pins).ok();
    assert_eq!(ran.text().trim(), "1");
    wait_until("the pin is released", || repo.objects("p").is_empty());
    // A point that is gone meanwhile is no longer there, and the others are.
    repo.ok(["forget", &points[0]]);
    let gone = export.named(&format!("{}%3Adisk", points[0].replace('@', "%40")));
    assert_ne!(Cmd::new("nbdinfo").args(["--size", &gone]).run().code, Some(0));
    Cmd::new("nbdinfo").args(["--size", &uri]).ok();
    export.stop();
    assert!(repo.objects("p").is_empty(), "a point is still pinned");

    let empty = Repo::new();
    empty.fails(1, ["export", "nbd", "--all"]).says(&["no restore point"]);
}

#[test]
fn a_shared_key_opens_an_encrypted_export() {
    let (repo, [.., third]) = history();
    let key = "6d792d7365637265742d6b65792d3031";
    let (keys, wrong) = (repo.path("keys.psk"), repo.path("wrong.psk"));
    fs::write(&keys, format!("# who may read\nhost-1:{key}\n")).unwrap();
    fs::write(&wrong, format!("host-1:{}\n", key.replace('6', "7"))).unwrap();
    let path = keys.to_str().unwrap();
    let export = Export::nbd(&repo, &[&third, "--tls-psk-file", path]);
    let uri = export.uri();
    assert!(uri.starts_with("nbds://"), "{uri}");
    let with = |file: &str| uri.replacen("//", "//host-1@", 1) + "?tls-psk-file=" + file;
    let copy = repo.path("copy.raw");
    Cmd::new("nbdcopy").arg(with(path)).arg(&copy).ok();
    assert_same(&repo.path("disk.raw"), &copy);
    let plain = uri.replacen("nbds", "nbd", 1);
    for refused in [with(wrong.to_str().unwrap()), plain.clone()] {
        assert_ne!(Cmd::new("nbdinfo").arg(refused).run().code, Some(0), "it was let in");
    }
    let told = export.stop();
    assert!(!format!("{}{}", told.text(), told.err).contains(key), "the key was told");

    let export = Export::nbd(&repo, &[&third, "--tls-psk-file", path, "--tls", "on"]);
    Cmd::new("nbdinfo").arg(export.uri()).ok();
    export.stop();

    for (args, says) in [
        (&["--tls", "require"][..], "--tls-psk-file"),
        (&["--tls", "off", "--tls-psk-file", path], "--tls off"),
    ] {
        let args = [&["export", "nbd", &third], args].concat();
        repo.fails(2, args).says(&[says]);
    }
    fs::write(&keys, format!("host-1:{key}\nhost-2:{}\n", &key[..30])).unwrap();
    let refused = repo.fails(1, ["export", "nbd", &third, "--tls-psk-file", path]);
    let refused = refused.says(&["line 2"]);
    assert!(!refused.err.contains(&key[..30]), "the key was told: {}", refused.err);
}

#[test]
fn certificates_prove_both_sides() {
    let (repo, [.., third]) = history();
    let openssl = |args: &str| {
        let script = format!("cd '{}' && openssl {args}", repo.dir().display());
        Cmd::new("sh").args(["-c", &script]).ok();
    };
    let key = "ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 -newkey {key} -subj /CN=ca -keyout ca.key -out ca-cert.pem"));
    fs::write(repo.path("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for name in ["server", "client"] {
        openssl(&format!("req -newkey {key} -subj /CN={name} -keyout {name}-key.pem -out csr"));
        openssl(&format!(
            "x509 -req -in csr -CA ca-cert.pem -CAkey ca.key -CAcreateserial -extfile ext \
             -out {name}-cert.pem"
        ));
    }
    let path = |name: &str| repo.path(name).to_str().unwrap().to_owned();
    let export = Export::nbd(
        &repo,
        &[
            &third,
            "--tls-certificate",
            &path("server-cert.pem"),
            "--tls-key",
            &path("server-key.pem"),
            "--tls-client-ca",
            &path("ca-cert.pem"),
        ],
    );
    let with = |folder: &str| format!("{}?tls-certificates={folder}", export.uri());
    let copy = repo.path("copy.raw");
    Cmd::new("nbdcopy").arg(with(repo.dir().to_str().unwrap())).arg(&copy).ok();
    assert_same(&repo.path("disk.raw"), &copy);
    fs::create_dir(repo.path("anonymous")).unwrap();
    fs::copy(repo.path("ca-cert.pem"), repo.path("anonymous/ca-cert.pem")).unwrap();
    let anonymous = Cmd::new("nbdinfo").arg(with(&path("anonymous"))).run();
    assert_ne!(anonymous.code, Some(0), "a client without a certificate was let in");
    export.stop();
}
