//! What scripts and shells rely on: exit codes, JSON, completions, manual pages, pipes.

use std::fs;

use serde_json::Value;

use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;
use crate::support::run::Cmd;
use crate::support::serve::Source;

fn sample() -> Repo {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, 8 * MIB);
    disk::fill(&image, MIB, 2 * MIB, 1);
    repo.backup(&image);
    disk::fill(&image, 2 * MIB, 100_000, 2);
    repo.backup(&image);
    repo
}

#[test]
fn every_command_has_one_json_document() {
    let repo = Repo::without();
    let image = repo.path("disk.raw");
    disk::create(&image, 8 * MIB);
    disk::fill(&image, MIB, 2 * MIB, 1);
    let init = repo.json(["init"]);
    assert!(init.is_object(), "{init}");
    let done = repo.json(["backup", "vm", image.to_str().unwrap()]);
    let first = repo.points("vm").remove(0);
    assert!(done.to_string().contains(first.split_once('@').unwrap().1), "{done}");
    repo.json(["backup", "vm", image.to_str().unwrap()]);
    let target = repo.path("restored.raw");
    for args in [
        &["list"][..],
        &["list", "vm"],
        &["show", &first],
        &["stat"],
        &["diff", &first, "vm@latest"],
        &["verify"],
        &["verify", "--data"],
        &["verify", "vm@latest", "--sample", "50%"],
        &["restore", &first, target.to_str().unwrap()],
        &["key", "list"],
        &["prune", "--keep-last", "1", "--dry-run"],
        &["prune", "--keep-last", "1"],
        &["forget", "vm@latest"],
        &["list", "nobody"],
    ] {
        let document = repo.json(args);
        assert!(document.is_object() || document.is_array(), "{args:?}: {document}");
    }
}

#[test]
fn failures_are_json_too_when_asked() {
    let repo = sample();
    for args in [&["show", "nobody@latest"][..], &["restore", "vm@7777777777", "x.raw"]] {
        let ran = repo.sluice(args).args(["--json", "--no-progress"]).run();
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        let error = &ran.json()["error"];
        assert!(error["message"].is_string() && error["kind"].is_string(), "{}", ran.text());
        assert!(error["help"].is_string(), "{args:?}: {}", ran.text());
    }
}

#[test]
fn progress_is_lines_of_json_before_the_document() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, 500 * MIB);
    disk::fill(&image, 0, 350 * MIB, 1);
    let source = Source::slow(repo.dir(), &image);
    let ran = repo.ok(["backup", "vm", source.uri(), "--json"]);
    let documents = serde_json::Deserializer::from_slice(&ran.out).into_iter::<Value>();
    let documents: Vec<Value> = documents.map(|document| document.unwrap()).collect();
    let (last, progress) = documents.split_last().unwrap();
    assert!(last["type"] != "progress");
    assert!(!progress.is_empty(), "nothing was told for a second and more");
    assert!(progress.iter().all(|line| line["type"] == "progress"), "{progress:?}");
    let done: Vec<_> = progress.iter().map(|line| line["done"].as_u64().unwrap()).collect();
    assert!(done.is_sorted(), "{done:?}");
    assert!(ran.err.is_empty(), "stderr with --json: {}", ran.err);
}

#[test]
fn exit_codes_are_as_documented() {
    let repo = sample();
    assert_eq!(repo.sluice(["list"]).run().code, Some(0));
    assert_eq!(repo.sluice(["--help"]).run().code, Some(0));
    assert_eq!(repo.sluice(["--version"]).run().code, Some(0));
    assert_eq!(repo.sluice(["show", "nobody@latest"]).run().code, Some(1));
    for usage in [
        &["frobnicate"][..],
        &["backup", "vm"],
        &["list", "--no-such-option"],
        &["show", "vm@@@"],
        &["verify", "--sample", "500%"],
    ] {
        let ran = repo.sluice(usage).run();
        assert_eq!(ran.code, Some(2), "{usage:?}: {}", ran.err);
        assert!(ran.out.is_empty(), "{usage:?} printed {}", ran.text());
    }
    let pack = repo.objects("d").remove(0);
    fs::remove_file(pack).unwrap();
    assert_eq!(repo.sluice(["verify"]).run().code, Some(4));
}

#[test]
fn help_has_examples_for_every_command() {
    let repo = Repo::without();
    let overview = repo.ok(["--help"]).text();
    for command in [
        "init",
        "backup",
        "list",
        "show",
        "stat",
        "export",
        "mount",
        "restore",
        "cat",
        "diff",
        "verify",
        "prune",
        "forget",
        "key",
        "completions",
        "man",
    ] {
        assert!(overview.contains(command), "{command} is not in the overview");
        let args: &[&str] = match command {
            "export" => &["export", "nbd", "--help"],
            "key" => &["key", "add", "--help"],
            _ => &[command, "--help"],
        };
        let help = repo.ok(args).text();
        assert!(help.contains("Example"), "{command} has no example:\n{help}");
    }
}

#[test]
fn completions_are_scripts_their_shells_accept() {
    let repo = Repo::without();
    for shell in ["bash", "zsh", "fish"] {
        let script = repo.ok(["completions", shell]).text();
        assert!(script.contains("sluice") && script.contains("backup"), "{shell}");
        assert!(script.lines().count() > 50, "{shell}: {} lines", script.lines().count());
        if shell == "bash" {
            Cmd::new("bash").args(["-n"]).input(script).ok();
        }
    }
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let repo = Repo::without();
    let dir = repo.path("man");
    fs::create_dir(&dir).unwrap();
    repo.ok(["man", dir.to_str().unwrap()]);
    for page in ["sluice.1", "sluice-backup.1", "sluice-restore.1", "sluice-export-nbd.1"] {
        let text =
            fs::read_to_string(dir.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".TH"), "{page} is no manual page");
        assert!(text.contains(".SH"), "{page} has no sections");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let repo = sample();
    // The status of the first command of the pipe, and not of head.
    let script = r#""$@" 2>"$ERR" | head -c 1 >/dev/null; exit "${PIPESTATUS[0]}""#;
    let shell = ["bash", "-c", script, "bash"].map(Into::into);
    for args in [&["list"][..], &["cat", "vm@latest"], &["--help"], &["list", "--json"]] {
        let errors = repo.path("errors");
        repo.sluice(args).env("ERR", &errors).behind(&shell).ok();
        let said = fs::read_to_string(&errors).unwrap();
        assert!(said.is_empty(), "{args:?} into a closed pipe said: {said}");
    }
}

#[test]
fn what_a_command_is_there_for_is_done_without_a_reader_too() {
    let repo = Repo::new();
    let images = ["a.raw", "b.raw"].map(|name| repo.path(name));
    for (number, image) in images.iter().enumerate() {
        disk::create(image, MIB);
        disk::fill(image, 0, MIB, number as u64);
    }
    let words = images.each_ref().map(|image| image.to_str().unwrap());
    repo.ok([&["backup", "vm"][..], &words].concat());
    // The reader is gone before the first word.
    let script = r#"mkfifo "$FIFO" && exec 3<>"$FIFO" 4>"$FIFO" 3<&- && exec "$@" >&4"#;
    let shell = ["bash", "-c", script, "bash"].map(Into::into);
    let silenced = |args: &[&str]| {
        let _ = fs::remove_file(repo.path("fifo"));
        repo.sluice(args).env("FIFO", repo.path("fifo")).behind(&shell)
    };
    let folder = repo.path("restored");
    let target = format!("{}/", folder.display());
    silenced(&["restore", "vm", &target]).ok();
    for (image, name) in images.iter().zip(["a.raw", "b.raw"]) {
        disk::assert_same(image, &folder.join(name));
    }
    fs::remove_file(repo.objects("d").remove(0)).unwrap();
    silenced(&["verify"]).fails(4);
}

#[test]
fn a_standard_output_that_is_full_is_a_failure() {
    let repo = sample();
    let shell = ["sh", "-c", r#"exec "$@" >/dev/full"#, "sh"].map(Into::into);
    for args in [&["list"][..], &["list", "--json"], &["cat", "vm@latest"]] {
        repo.sluice(args).behind(&shell).fails(1).says(&["standard output"]);
    }
}

#[test]
fn results_go_to_stdout_and_everything_else_to_stderr() {
    let repo = sample();
    let quiet = repo.ok(["list", "--json", "-vv"]);
    quiet.json();
    let cat = repo.ok(["cat", "vm@latest", "--offset", "1MiB", "--length", "4096", "-vv"]);
    let image = fs::read(repo.path("disk.raw")).unwrap();
    assert!(cat.out == image[MIB as usize..MIB as usize + 4096]);
    let quiet = repo.ok(["backup", "vm", repo.path("disk.raw").to_str().unwrap(), "-q"]);
    assert!(quiet.err.is_empty(), "{}", quiet.err);
}

#[test]
fn counts_of_the_whole_repository_add_up() {
    let repo = sample();
    let stat = repo.json(["stat"]);
    let text = stat.to_string();
    assert!(text.contains("\"points\":2"), "{text}");
    repo.ok(["stat"]);
}
