//! Who needs how many bytes, and what commands ask of destinations.

use std::fs;

use serde_json::Value;

use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;

/// `web-1` and `web-2` of a shop share 4 MiB, and `db-1`, of nobody, 2 MiB of them; each has 1 MiB
/// alone. One of `web-1` has two points.
fn three(repo: &Repo) {
    let image = |name: &str, common: u64, alone: u64| {
        let path = repo.path(name);
        disk::create(&path, 16 * MIB);
        disk::fill(&path, 0, common, 7);
        disk::fill(&path, 8 * MIB, MIB, alone);
        path.to_str().unwrap().to_owned()
    };
    let meta = repo.path("meta.json");
    fs::write(&meta, r#"{"cpus": 4}"#).unwrap();
    let meta = meta.to_str().unwrap();
    let (one, two, db) =
        (image("one", 4 * MIB, 1), image("two", 4 * MIB, 2), image("db", 2 * MIB, 3));
    repo.ok(["backup", "web-1", &one]);
    repo.ok(["backup", "web-1", &one, "--project", "shop", "--meta", meta]);
    repo.ok(["backup", "web-2", &two, "--project", "shop"]);
    repo.ok(["backup", "db-1", &db]);
}

fn row<'s>(stat: &'s Value, of: &str, field: &str, name: &Value) -> &'s Value {
    let rows = stat[of].as_array().unwrap();
    rows.iter().find(|row| row[field] == *name).unwrap_or_else(|| panic!("no {name}: {stat}"))
}

fn figure(row: &Value, name: &str) -> u64 {
    row[name].as_u64().unwrap_or_else(|| panic!("no {name}: {row}"))
}

/// Noise does not compress: a MiB of it is a MiB stored, and its seals.
#[track_caller]
fn about(bytes: &Value, mib: u64) {
    let bytes = bytes.as_u64().unwrap();
    assert!((mib * MIB..=mib * MIB + MIB / 16).contains(&bytes), "{bytes} is not {mib} MiB");
}

#[track_caller]
fn prints(repo: &Repo, args: &[&str], words: &[&str]) {
    let text = repo.ok(args).text();
    for word in words {
        assert!(text.contains(word), "{args:?}: no {word} in {text}");
    }
}

fn check(repo: &Repo) {
    three(repo);
    let stat = repo.json(["stat"]);
    let web = row(&stat, "by_instance", "instance", &"web-1".into());
    assert_eq!((figure(web, "points"), &web["project"]), (2, &"shop".into()));
    assert_eq!((figure(web, "logical_bytes"), figure(web, "latest_bytes")), (32 * MIB, 16 * MIB));
    assert_eq!((figure(web, "data_bytes"), figure(web, "content_bytes")), (10 * MIB, 5 * MIB));
    assert_eq!(web["dedup_ratio"], 2.0);
    about(&web["chunks"]["unique_bytes"], 1);
    about(&web["chunks"]["shared_bytes"], 4);
    let db = row(&stat, "by_instance", "instance", &"db-1".into());
    about(&db["chunks"]["unique_bytes"], 1);
    about(&db["chunks"]["shared_bytes"], 2);
    let shop = row(&stat, "by_project", "project", &"shop".into());
    assert_eq!((figure(shop, "instances"), figure(shop, "points")), (2, 3));
    about(&shop["chunks"]["unique_bytes"], 4);
    about(&shop["chunks"]["shared_bytes"], 2);
    let nobody = row(&stat, "by_project", "project", &Value::Null);
    about(&nobody["chunks"]["shared_bytes"], 2);
    about(&stat["chunk_bytes"], 7);
    assert_eq!(stat["content_bytes"], 7 * MIB);
    let quick = repo.json(["stat", "--quick"]);
    for same in ["instances", "points", "logical_bytes", "latest_bytes", "stored_bytes", "data"] {
        assert_eq!(stat[same], quick[same], "{same}");
    }
    let alone = repo.json(["stat", "web-1"]);
    assert_eq!(alone["by_instance"], Value::from(vec![web.clone()]));
    assert_eq!(alone["by_project"].as_array().map(Vec::len), Some(1));
}

#[test]
fn instances_and_projects_have_what_they_do_not_share() {
    let repo = Repo::new();
    check(&repo);
    let on_disk = disk::folder_size(&repo.folder());
    assert_eq!(figure(&repo.json(["stat"]), "stored_bytes"), on_disk);
    prints(&repo, &["stat"], &["PROJECT", "shop", "(none)", "UNIQUE", "web-2"]);
    prints(&repo, &["stat", "web-2"], &["that only it needs"]);
    repo.fails(1, ["stat", "nobody"]).says(&["nobody", "sluice list"]);
    let kept = &repo.json(["show", "web-1@latest"])["metadata"];
    assert_eq!((&kept["cpus"], &kept["project"]), (&4.into(), &"shop".into()));
    let named = repo.json(["stat", "--name-separator", "-"]);
    row(&named, "by_project", "project", &"db".into());
    // What is unique is what goes with an instance.
    let before = repo.json(["stat"]);
    let gone = &row(&before, "by_instance", "instance", &"db-1".into());
    repo.ok(["forget", "db-1@latest"]);
    let after = repo.json(["stat"]);
    let all = |stat: &Value| figure(stat, "chunk_bytes") + figure(stat, "map_bytes");
    assert_eq!(all(&before) - all(&after), figure(gone, "unique_bytes"));
}

#[test]
fn instances_and_projects_have_what_they_do_not_share_on_s3() {
    check(&Repo::on_s3());
}

#[test]
fn damaged_block_maps_are_told_and_the_rest_is_counted() {
    let repo = Repo::new();
    three(&repo);
    let session = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    // The newest session is the one of db-1: names begin with the time.
    let pack = repo.objects("m").into_iter().max_by_key(|path| session(path)).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[64..].iter_mut().for_each(|byte| *byte ^= 1);
    fs::write(&pack, bytes).unwrap();
    let ran = repo.sluice(["stat", "--json", "--no-progress"]).run().ended(4);
    let stat = ran.json();
    assert_eq!(row(&stat, "by_instance", "instance", &"db-1".into())["damaged"], true);
    let web = row(&stat, "by_instance", "instance", &"web-2".into());
    assert_eq!(web["damaged"], false);
    about(&web["chunks"]["unique_bytes"], 1);
    assert!(!stat["damage"].as_array().unwrap().is_empty());
}

#[test]
fn every_document_tells_the_requests_by_kind() {
    let repo = Repo::without();
    let kinds = ["put", "get", "list", "delete", "head"];
    let ask = |args: &[&str]| {
        let document = repo.json(args);
        for kind in kinds {
            let count = &document["requests"][kind];
            assert!(count["requests"].is_u64() && count["bytes"].is_u64(), "{args:?}: {document}");
        }
        document["requests"].clone()
    };
    let of = |requests: &Value, kind: &str, what: &str| requests[kind][what].as_u64().unwrap();
    ask(&["init"]);
    let image = repo.path("disk.raw");
    disk::create(&image, 8 * MIB);
    disk::fill(&image, 0, 4 * MIB, 5);
    let image = image.to_str().unwrap();
    let backup = ask(&["backup", "vm", image]);
    // The data, its map, the manifest, the session, and the session's end.
    assert!(of(&backup, "put", "bytes") > 4 * MIB && of(&backup, "put", "requests") >= 4);
    assert!(of(&backup, "delete", "requests") >= 1, "{backup}");
    let target = repo.path("restored.raw");
    let restore = ask(&["restore", "vm@latest", target.to_str().unwrap()]);
    assert!(of(&restore, "get", "bytes") > 4 * MIB, "{restore}");
    for args in [
        &["list"][..],
        &["show", "vm@latest"],
        &["stat"],
        &["stat", "--quick"],
        &["verify", "--data"],
        &["scrub"],
        &["scrub", "--status"],
        &["doctor"],
        &["key", "list"],
        &["hold", "vm@latest"],
        &["release", "vm@latest"],
        &["prune", "--keep-last", "1"],
        &["collect", "--plan"],
        &["collect"],
        &["forget", "vm@latest"],
    ] {
        let requests = ask(args);
        let all: u64 = kinds.iter().map(|kind| of(&requests, kind, "requests")).sum();
        assert!(all > 0, "{args:?}: {requests}");
    }
    // A failure costs too.
    let failed = repo.sluice(["show", "vm@latest", "--json"]).run().ended(1).json();
    assert!(failed["requests"]["get"]["requests"].as_u64().is_some_and(|n| n > 0), "{failed}");
    // Both ends, each for itself.
    let copy = repo.path("copy");
    let copied = repo.json(["replicate", "--to", copy.to_str().unwrap()]);
    assert!(copied["requests"]["source"]["get"]["requests"].is_u64(), "{copied}");
    assert!(copied["requests"]["target"]["put"]["requests"].is_u64(), "{copied}");
}

#[test]
fn requests_become_costs_by_a_price_table() {
    let repo = Repo::new();
    three(&repo);
    assert_eq!(repo.json(["list"])["costs"], Value::Null);
    let prices = repo.path("prices.toml");
    fs::write(&prices, "put = 0\nhead = 0\ndelete = 0\nlist = 2e6 # two each\nget = 3e6\n")
        .unwrap();
    let prices = prices.to_str().unwrap();
    let list = repo.json(["list", "--costs", "--prices", prices]);
    let of = |kind: &str| list["requests"][kind]["requests"].as_u64().unwrap();
    assert_eq!(list["costs"]["requests"], (2 * of("list") + 3 * of("get")) as f64);
    let told = repo.sluice(["list", "--costs"]).env("SLUICE_PRICES", prices).run().ended(0);
    assert!(told.err.contains("estimated costs") && told.err.contains("in all"), "{}", told.err);
    assert!(!told.text().contains("estimated"), "{}", told.text());
    fs::write(prices, "puts = 1").unwrap();
    repo.fails(2, ["list", "--costs", "--prices", prices]).says(&["puts"]);
    fs::write(prices, r#"{"gib_month": 1024, "mib_s": 50}"#).unwrap();
    repo.ok(["forget", "web-2@latest"]);
    let plan = repo.json(["collect", "--plan", "--prices", prices, "--limit", "1MiB"]);
    let estimate = &plan["estimate"];
    let freed = plan["freed_bytes"].as_u64().unwrap();
    assert!(freed > MIB, "{plan}");
    let saved = estimate["saved_month"].as_f64().unwrap();
    assert!((saved - freed as f64 / MIB as f64).abs() < 1e-9, "{plan}");
    for kind in ["put", "get", "list", "delete"] {
        let all = estimate["requests"][kind]["requests"].as_u64().unwrap();
        assert!(all >= plan["planned_requests"][kind].as_u64().unwrap(), "{plan}");
    }
    assert!(estimate["costs"].as_f64().is_some_and(|costs| costs > 0.0), "{plan}");
    assert!(estimate["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{plan}");
    prints(&repo, &["collect", "--plan"], &["estimate:", "less each month"]);
}
