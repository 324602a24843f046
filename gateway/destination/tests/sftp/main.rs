//! The SFTP destination against a real OpenSSH server.

mod lab;
#[path = "../support/start.rs"]
mod start;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lab::Lab;
use sluice_destination::sftp::{SftpConfig, SftpDestination};
use sluice_destination::url::{OpenOptions, open};
use sluice_destination::{
    ByteRange, DestinationError, ErrorKind, Key, conformance, list_all, probe,
};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn large() -> Bytes {
    (0..3_000_000u32).map(|at| (at.wrapping_mul(0x9E37_79B1) >> 11) as u8).collect()
}

async fn refusal(url: &str) -> DestinationError {
    let config = SftpConfig::from_url(&url.parse().unwrap()).unwrap();
    SftpDestination::open(config).await.unwrap_err()
}

/// Every running `ssh` that was started with this key.
fn connections(key: &Path) -> Vec<i32> {
    let option = format!("IdentityFile={}", key.display());
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let ours = all.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.starts_with(b"ssh\0") && line.split(|byte| *byte == 0).any(|a| a == option.as_bytes())
    });
    ours.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn openssh_keeps_the_contract() {
    let Some(lab) = Lab::find() else { return };
    let part = AtomicUsize::new(0);
    conformance::run(|| async {
        let part = part.fetch_add(1, Ordering::Relaxed);
        lab.open(&lab.url(&format!("part-{part}"))).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_without_links_keeps_the_rest_of_it() {
    let Some(lab) = Lab::find() else { return };
    let part = AtomicUsize::new(0);
    conformance::run_without_races(|| async {
        let part = part.fetch_add(1, Ordering::Relaxed);
        lab.open(&lab.url_at("SLUICE_TEST_SFTP_WITHOUT_LINKS", &format!("part-{part}"))).await
    })
    .await;
}

#[tokio::test]
async fn the_probe_says_who_needs_an_arbiter() {
    let Some(lab) = Lab::find() else { return };
    let create = OpenOptions { create: true, ..OpenOptions::default() };
    for (server, atomic) in [("SLUICE_TEST_SFTP", true), ("SLUICE_TEST_SFTP_WITHOUT_LINKS", false)]
    {
        let opened = open(&lab.url_at(server, "probed"), &create).await.unwrap();
        let store = &*opened.destination;
        assert_eq!(store.creates_atomically(), atomic);
        let found = probe::probe(store).await.unwrap();
        assert_eq!((found.put_if_absent, found.can_arbitrate()), (atomic, atomic), "{found:?}");
        assert!(found.read_after_write && found.list_after_write && found.ranged_get, "{found:?}");
        assert!(list_all(store, "").await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn two_connections_see_one_winner() {
    let Some(lab) = Lab::find() else { return };
    let stores = [lab.open(&lab.url("x")).await, lab.open(&lab.url("x")).await];
    for round in 0..8 {
        let name = key(&format!("race/{round}"));
        let puts = stores.iter().zip(["a", "b"]).map(|(store, body)| {
            let name = &name;
            async move { store.put_new(name, Bytes::from(body)).await.map(|()| body) }
        });
        let outcomes = futures::future::join_all(puts).await;
        let winners: Vec<_> = outcomes.iter().flatten().collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        let stored = stores[0].get(&name, ByteRange::Full).await.unwrap();
        assert_eq!(&stored, winners[0]);
    }
}

#[tokio::test]
async fn nothing_stays_but_objects_and_what_a_crash_left_goes_after_a_day() {
    let Some(lab) = Lab::find() else { return };
    let store = lab.open(&lab.url("x")).await;
    store.put_new(&key("a"), large()).await.unwrap();
    store.put_new(&key("a"), large()).await.unwrap_err();
    store.put(&key("a"), large()).await.unwrap();
    let folder = lab.folder().join("x/.tmp");
    // Requests are done in order, so this one comes after all removals.
    store.head(&key("a")).await.unwrap();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    for (name, hours) in [("old", 25), ("new", 1)] {
        let file = std::fs::File::create(folder.join(name)).unwrap();
        let then = file.metadata().unwrap().modified().unwrap() - Duration::from_secs(hours * 3600);
        file.set_modified(then).unwrap();
    }
    let again = lab.open(&lab.url("x")).await;
    assert!(again.get(&key("a"), ByteRange::Full).await.unwrap() == large());
    let left: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["new"]);
    assert_eq!(list_all(&*again, "").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_connection_that_broke_off_is_made_anew() {
    let Some(lab) = Lab::find() else { return };
    // A key of its own, to tell its connections from others.
    let key_file = lab.folder().join("key.own");
    std::fs::copy(lab.setting("SLUICE_SFTP_KEY_FILE"), &key_file).unwrap();
    let url = lab.url("").replace("/?", "?");
    let url = url.replace(lab.setting("SLUICE_SFTP_KEY_FILE"), key_file.to_str().unwrap());
    let opened = open(&url, &OpenOptions::default()).await.unwrap();
    let store = &*opened.destination;
    store.put_new(&key("a"), large()).await.unwrap();
    for _ in 0..3 {
        let before = connections(&key_file);
        assert_eq!(before.len(), 1, "{before:?}");
        let pid = rustix::process::Pid::from_raw(before[0]).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        assert!(store.get(&key("a"), ByteRange::Full).await.unwrap() == large());
    }
}

#[tokio::test]
async fn strangers_on_either_side_are_refused() {
    let Some(lab) = Lab::find() else { return };
    let (ours, theirs) =
        (lab.setting("SLUICE_SFTP_KEY_FILE"), lab.setting("SLUICE_TEST_SFTP_OTHER_KEY"));
    let error = refusal(&lab.url("x").replace(ours, theirs)).await;
    assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
    assert!(error.to_string().contains("key-file="), "{error}");
    let (ours, theirs) =
        (lab.setting("SLUICE_SFTP_KNOWN_HOSTS"), lab.setting("SLUICE_TEST_SFTP_OTHER_HOSTS"));
    let nobody = lab.folder().join("known.nobody");
    std::fs::write(&nobody, "").unwrap();
    for hosts in [theirs, nobody.to_str().unwrap()] {
        let url = lab.url("x").replace(ours, hosts);
        let error = refusal(&url).await;
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains("known-hosts="), "{error}");
    }
}

#[tokio::test]
async fn servers_and_folders_that_do_not_fit_are_told_apart() {
    let Some(lab) = Lab::find() else { return };
    let error = refusal(&lab.url("missing")).await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(error.to_string().contains("create it"), "{error}");
    std::fs::write(lab.folder().join("file"), "").unwrap();
    let error = refusal(&lab.url("file")).await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    let store = lab.open(&lab.url_at("SLUICE_TEST_SFTP_WITHOUT_SYNC", "x")).await;
    let error = store.put_new(&key("a"), Bytes::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unfit, "{error}");
    assert!(error.to_string().contains("fsync@openssh.com"), "{error}");
    // Nobody listens there.
    let error = refusal("sftp://nobody@127.0.0.1:9/srv").await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_server_that_may_only_be_read_is_read() {
    let Some(lab) = Lab::find() else { return };
    lab.open(&lab.url("x")).await.put_new(&key("d/a"), large()).await.unwrap();
    let url = lab.url_at("SLUICE_TEST_SFTP_READ_ONLY", "x");
    let store = open(&url, &OpenOptions::default()).await.unwrap().destination;
    assert!(store.get(&key("d/a"), ByteRange::Full).await.unwrap() == large());
    assert_eq!(list_all(&*store, "d/").await.unwrap().len(), 1);
    for (outcome, kind) in [
        (store.put_new(&key("d/b"), Bytes::new()).await, ErrorKind::Unfit),
        (store.put(&key("d/a"), Bytes::new()).await, ErrorKind::Unfit),
        (store.delete(&key("d/a")).await, ErrorKind::AccessDenied),
    ] {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert!(store.get(&key("d/a"), ByteRange::Full).await.unwrap() == large());
}

#[tokio::test]
async fn the_user_s_own_folder_is_where_a_tilde_leads() {
    let Some(lab) = Lab::find() else { return };
    let name = format!("sluice-test-{:016x}", rand::random::<u64>());
    let url = lab.url("x");
    let (server, rest) = url.split_at(url.find("127.0.0.1:").unwrap());
    let port = &rest[..rest.find('/').unwrap()];
    let url = format!("{server}{port}/~/{name}{}", &url[url.find('?').unwrap()..]);
    let store = lab.open(&url).await;
    store.put_new(&key("a"), large()).await.unwrap();
    assert!(store.location().ends_with(&format!("/~/{name}")), "{}", store.location());
    let home = std::env::home_dir().unwrap().join(&name);
    assert!(home.join("a").is_file());
    std::fs::remove_dir_all(home).unwrap();
}

/// A file system of one MiB in a folder; unmounted when dropped.
struct Small(std::path::PathBuf);

impl Small {
    /// None where nothing may be mounted.
    fn mount(folder: std::path::PathBuf) -> Option<Self> {
        std::fs::create_dir(&folder).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&folder);
        if !mount.status().is_ok_and(|status| status.success()) {
            eprintln!("skipped: mounting a small file system needs root");
            return None;
        }
        Some(Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_server_is_told_from_one_that_refuses() {
    let Some(lab) = Lab::find() else { return };
    let Some(_small) = Small::mount(lab.folder().join("small")) else { return };
    let store = lab.open(&lab.url("small")).await;
    assert!(store.fills_up());
    // A refusal that has nothing to do with room.
    store.put(&key("y"), Bytes::new()).await.unwrap();
    let refused = store.put(&key("y/z"), Bytes::new()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Other, "{refused}");
    store.put(&key("ballast"), Bytes::from(vec![0; 200_000])).await.unwrap();
    let large = store.put_new(&key("d/large"), large()).await.unwrap_err();
    assert_eq!(large.kind(), ErrorKind::NoSpace, "{large}");
    let mut full = None;
    for number in 0..1000 {
        let body = Bytes::from(vec![0; 4096]);
        if let Err(error) = store.put_new(&key(&format!("t/{number:03}/x")), body).await {
            full = Some(error);
            break;
        }
    }
    let full = full.expect("it fills up");
    assert_eq!(full.kind(), ErrorKind::NoSpace, "{full}");
    store.delete(&key("ballast")).await.unwrap();
    store.put_new(&key("g/plan"), Bytes::from_static(b"plan")).await.unwrap();
}
