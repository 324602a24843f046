use crate::support::{Ended, Place, content};

#[test]
fn each_mistake_says_what_to_do() {
    let place = Place::new();
    place.write("disk.raw", &content(1));
    place.backup("disk.raw", &[]);
    let cases: [(i32, &[&str], &str); 9] = [
        (2, &["list", "--repo", ""], "SLUICE_REPO"),
        (1, &["list", "--repo", "nowhere"], "sluice init"),
        (1, &["init"], "already"),
        (1, &["show", "vm@0000"], "sluice list"),
        (2, &["show", "vm@!"], "INSTANCE@latest"),
        (2, &["prune"], "--keep-daily"),
        (2, &["forget", "vm"], "vm@latest"),
        (1, &["backup", "vm", "nothing.raw"], "nothing.raw"),
        (2, &["cat", "vm", "--offset", "1TiB"], "sluice show"),
    ];
    for (code, args, part) in cases {
        let ended = place.ends(code, args).says("error: ").says("help: ").says(part);
        assert_eq!(ended.err.lines().count(), 2, "{args:?}: {}", ended.err);
    }
}

#[test]
fn errors_are_documents_when_asked() {
    let place = Place::new();
    let mut wrong = place.sluice(&["list", "--json"]);
    wrong.env_remove("SLUICE_PASSPHRASE_FILE").env("SLUICE_PASSPHRASE", "guess");
    let ended = Ended::of(wrong).with(1);
    let document: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(document["error"]["kind"], "wrong-key");
    assert!(document["error"]["help"].is_string() && ended.err.is_empty(), "{}", ended.err);
    assert!(!ended.out.contains("guess"));
    let ended = place.ends(2, &["list", "--json", "--frobnicate"]);
    let document: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(document["error"]["kind"], "usage");
    assert!(document["error"]["message"].as_str().unwrap().contains("--frobnicate"));
}

#[test]
fn a_restore_does_not_write_over_a_file_unasked() {
    let place = Place::new();
    place.write("disk.raw", &content(1));
    place.backup("disk.raw", &[]);
    place.write("precious", b"precious");
    for more in [&[][..], &["--format", "qcow2"], &["--resume"]] {
        let args = [&["restore", "vm", "precious"], more].concat();
        place.ends(1, &args).says("--overwrite");
        assert_eq!(place.read("precious"), b"precious");
    }
}

#[test]
fn damage_ends_with_four_and_names_the_points() {
    let place = Place::new();
    place.write("disk.raw", &content(1));
    let point = place.backup("disk.raw", &[]);
    let packs = walk(&place.path("repository/d"));
    let pack = &packs[0];
    let mut bytes = std::fs::read(pack).unwrap();
    bytes[200] ^= 1;
    std::fs::remove_file(pack).unwrap();
    std::fs::write(pack, bytes).unwrap();
    let ended = place.ends(4, &["verify", "--data"]);
    assert!(ended.out.contains(&point), "{}", ended.out);
    let name = pack.file_name().unwrap().to_str().unwrap();
    let ended = place.ends(4, &["restore", &point, "out.raw"]);
    assert!(ended.err.contains(name), "the object is named: {}", ended.err);
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn metadata_must_be_json() {
    let place = Place::new();
    place.write("disk.raw", &content(1));
    let meta = place.write("meta", b"<domain/>");
    place.ends(1, &["backup", "vm", "disk.raw", "--meta", &meta]).says("metadata");
    let points = place.json(&["list"]);
    assert!(points["points"].as_array().unwrap().is_empty());
}
