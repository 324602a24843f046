//! Repositories whose store does not decide who was first.

use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;
use crate::support::swift;

#[test]
fn swift_with_a_folder_as_arbiter_does_the_main_job() {
    let Some(prefix) = swift::prefix() else { return };
    let url = prefix.url();
    let repo = Repo::without().at(&url, prefix.env());
    let arbiter = repo.path("arbiter");
    let refused = repo.fails(1, ["init"]);
    refused.says(&["cannot hold a repository", "arbiter=", "folder"]);

    let with = format!("{url}?arbiter=file://{}", arbiter.display());
    let repo = repo.at(&with, Vec::new());
    repo.ok(["init"]);
    let image = repo.path("disk.raw");
    disk::create(&image, 16 * MIB);
    disk::fill(&image, MIB, 3 * MIB, 1);
    let first = repo.backup(&image);
    let before = repo.path("before.raw");
    std::fs::copy(&image, &before).unwrap();
    disk::fill(&image, 9 * MIB, MIB, 2);
    let second = repo.backup(&image);
    repo.assert_restores(&first, &before);
    repo.assert_restores(&second, &image);
    repo.assert_sound();

    // Restore points are decided in the folder; the data is not there.
    assert!(arbiter.join("format").exists() && arbiter.join("r").exists());
    assert!(!arbiter.join("d").exists());
    // The store by itself says what is missing.
    let alone = repo.sluice(["list"]).env("SLUICE_REPO", &url).run().ended(1);
    alone.says(&["needs its arbiter", "SLUICE_ARBITER"]);
    let named = repo.sluice(["list"]).env("SLUICE_REPO", &url);
    named.env("SLUICE_ARBITER", arbiter.to_str().unwrap()).ok();
    // Another folder is not the arbiter of this repository, and does not become one.
    let other = format!("{url}?arbiter=file://{}", repo.path("other").display());
    let lost = repo.sluice(["init"]).env("SLUICE_REPO", &other).run().ended(1);
    lost.says(&["holds a repository", "arbiter"]);
}

#[test]
fn a_repository_is_opened_as_it_was_made() {
    let repo = Repo::new();
    let arbiter = repo.path("arbiter");
    std::fs::create_dir(&arbiter).unwrap();
    // A plain repository's restore points are not on any arbiter.
    let cmd = repo.sluice(["list"]).env("SLUICE_ARBITER", arbiter.to_str().unwrap());
    cmd.run().ended(1).says(&["holds a repository", "arbiter"]);
    repo.ok(["list"]);

    let url = format!("file://{}", repo.path("store").display());
    let pair = Repo::without().at(&format!("{url}?arbiter=file://{}", arbiter.display()), vec![]);
    pair.ok(["init"]);
    let image = pair.path("disk.raw");
    disk::create(&image, 4 * MIB);
    disk::fill(&image, MIB, MIB, 3);
    let point = pair.backup(&image);
    pair.assert_restores(&point, &image);
    let alone = pair.sluice(["list"]).env("SLUICE_REPO", &url).run().ended(1);
    alone.says(&["needs its arbiter"]);

    // A copy that failed is made by the next verification, and only then.
    let copies = repo.path("store/keys");
    std::fs::remove_dir_all(&copies).unwrap();
    pair.ok(["verify"]).says(&["copied", "arbiter"]);
    assert!(copies.read_dir().unwrap().next().is_some());
    assert!(!pair.ok(["verify"]).err.contains("copied"));

    // A lost arbiter is made anew from the copies on the store.
    let anew = repo.path("anew");
    std::fs::create_dir(&anew).unwrap();
    for part in ["format", "keys", "r"] {
        let (from, to) = (repo.path("store").join(part), anew.join(part));
        crate::support::run::Cmd::new("cp").arg("-r").arg(from).arg(to).ok();
    }
    let rebuilt = pair.at(&format!("{url}?arbiter=file://{}", anew.display()), vec![]);
    rebuilt.assert_restores(&point, &image);
    rebuilt.assert_sound();
}
