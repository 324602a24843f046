//! Mounts and exports that mountd keeps.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::disk::{self, MIB, assert_same};
use crate::support::port;
use crate::support::repo::Repo;
use crate::support::run::{Cmd, Ran, Running, wait_until};
use crate::support::serve::Mount;

fn sample() -> (Repo, String) {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::sample(&image);
    let point = repo.backup(&image);
    (repo, point)
}

/// A mountd with a folder of its own; what it keeps ends with it.
struct Mountd<'a> {
    repo: &'a Repo,
    running: Option<Running>,
}

impl<'a> Mountd<'a> {
    fn start(repo: &'a Repo, more: &[&str]) -> Self {
        let running = repo.sluice([&["mountd"], more].concat()).spawn();
        let mut mountd = Self { repo, running: Some(running) };
        let socket = socket(repo);
        wait_until("mountd listens", || {
            assert!(!mountd.running.as_mut().unwrap().is_over(), "mountd ended");
            UnixStream::connect(&socket).is_ok()
        });
        mountd
    }

    fn kill(&mut self) {
        let running = self.running.take().unwrap();
        running.signal(Signal::KILL);
        running.wait();
    }

    /// Ends it the way an operator does; it must end well.
    fn stop(mut self) -> Ran {
        let running = self.running.take().unwrap();
        running.signal(Signal::TERM);
        running.wait().ended(0)
    }
}

impl Drop for Mountd<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = self.repo.sluice(["unmount", "--all"]).run();
            running.signal(Signal::TERM);
            running.wait();
        }
    }
}

fn socket(repo: &Repo) -> PathBuf {
    repo.path("state/sluice/mountd/mountd.sock")
}

fn mounts(repo: &Repo) -> Vec<Value> {
    repo.json(["mounts"])["mounts"].as_array().unwrap().clone()
}

fn wait_for_state(repo: &Repo, state: &str) -> Value {
    let mut found = Value::Null;
    wait_until("the mount gets into the state", || {
        found = mounts(repo).first().cloned().unwrap_or_default();
        found["state"] == state
    });
    found
}

fn copy(repo: &Repo, uri: &str) {
    let copy = repo.path("copy.raw");
    Cmd::new("nbdcopy").arg(uri).arg(&copy).ok();
    assert_same(&repo.path("disk.raw"), &copy);
    fs::remove_file(copy).unwrap();
}

#[test]
fn an_export_comes_back_at_its_address_with_its_point_when_mountd_is_killed() {
    let (repo, point) = sample();
    let mut mountd = Mountd::start(&repo, &[]);
    let listen = ["export", "nbd", "vm@latest", "--listen", "127.0.0.1:0", "--detach"];
    let export = repo.json(listen);
    let uri = export["place"].as_str().unwrap();
    assert_eq!(export["point"], point.as_str());
    assert_eq!(export["comes_back"], true);
    copy(&repo, uri);

    // A newer point must not take the older one's place.
    let original = repo.path("original.raw");
    fs::copy(repo.path("disk.raw"), &original).unwrap();
    disk::modify(&repo.path("disk.raw"), 1);
    repo.backup(repo.path("disk.raw"));
    fs::rename(&original, repo.path("disk.raw")).unwrap();

    mountd.kill();
    let mountd = Mountd::start(&repo, &[]);
    let back = wait_for_state(&repo, "running");
    assert_eq!(back["id"], export["id"]);
    assert_eq!(back["place"], uri);
    Cmd::new("nbdinfo").args(["--size", uri]).ok();
    copy(&repo, uri);
    repo.ok(["unmount", export["id"].as_str().unwrap()]);
    assert!(mounts(&repo).is_empty());
    Cmd::new("nbdinfo").args(["--size", uri]).fails(1);
    mountd.stop();
}

#[test]
fn exports_of_several_points_come_back_with_these_and_at_all_their_ports() {
    let (repo, first) = sample();
    let other = repo.path("other.raw");
    disk::create(&other, MIB);
    disk::fill(&other, 0, MIB, 5);
    let back_up = || repo.ok(["backup".as_ref(), "db".as_ref(), other.as_os_str()]);
    back_up();
    let second = repo.points("db").remove(0);
    let token = repo.path("token");
    fs::write(&token, "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let points = ["vm@latest", "db@latest", "--listen", "127.0.0.1:0", "--detach"];
    let http = ["--plain", "--listen", "127.0.0.1:0", "--token-file", token.to_str().unwrap()];
    let mut mountd = Mountd::start(&repo, &[]);
    let begun = [
        repo.json([&["export", "nbd"], &points[..]].concat()),
        repo.json([&["export", "http"], &points[..], &http].concat()),
    ];
    disk::modify(&repo.path("disk.raw"), 1);
    repo.backup(repo.path("disk.raw"));
    disk::fill(&other, 0, 5000, 6);
    back_up();

    mountd.kill();
    let mountd = Mountd::start(&repo, &[]);
    wait_until("both come back", || {
        let back = mounts(&repo);
        back.len() == 2 && back.iter().all(|one| one["state"] == "running")
    });
    let places = |mounts: &[Value]| {
        let mut all: Vec<_> = mounts.iter().map(|one| one["place"].clone()).collect();
        all.sort_by_key(Value::to_string);
        all
    };
    assert_eq!(places(&mounts(&repo)), places(&begun));
    let uri = begun[0]["place"].as_str().unwrap();
    let list = Cmd::new("nbdinfo").args(["--json", "--list", uri]).ok().json();
    let name = |export: &Value| export["export-name"].as_str().unwrap().to_owned();
    let names: Vec<_> = list["exports"].as_array().unwrap().iter().map(name).collect();
    assert_eq!(names, [format!("{first}:disk"), format!("{second}:other")]);
    let uri = begun[1]["place"].as_str().unwrap();
    let list = Cmd::new("curl").args(["--silent", "--fail", uri]).ok().text();
    for point in [first, second] {
        assert!(list.contains(point.split_once('@').unwrap().1), "{list}");
    }
    mountd.stop();
}

#[test]
fn a_mount_comes_back_when_mountd_and_its_process_are_killed() {
    let (repo, _) = sample();
    let mut mountd = Mountd::start(&repo, &[]);
    let mut mount = Mount::detached(&repo);
    // Stopped, it can neither clean up after the process nor start it again.
    mountd.running.as_ref().unwrap().signal(Signal::STOP);
    mount.kill();
    mountd.kill();
    assert!(mount.is_mounted(), "a dead mount lies there");
    let mountd = Mountd::start(&repo, &[]);
    wait_for_state(&repo, "running");
    assert_same(&repo.path("disk.raw"), &mount.path("vm/latest/disk.raw"));
    // And in good order too.
    mountd.stop();
    assert!(!mount.is_mounted());
    let mountd = Mountd::start(&repo, &[]);
    wait_for_state(&repo, "running");
    repo.ok(["unmount".as_ref(), mount.path("").as_os_str()]);
    assert!(!mount.is_mounted() && mounts(&repo).is_empty());
    mountd.stop();
}

#[test]
fn a_mount_whose_process_breaks_is_started_again_beside_the_others() {
    let (repo, point) = sample();
    let _mountd = Mountd::start(&repo, &[]);
    let export = repo.json(["export", "nbd", &point, "--listen", "127.0.0.1:0", "--detach"]);
    let mut mount = Mount::detached(&repo);
    mount.kill();
    wait_until("the mount is back", || mount.path("vm/latest/disk.raw").exists());
    let other = mounts(&repo).into_iter().find(|mount| mount["id"] == export["id"]).unwrap();
    assert_eq!(other["state"], "running");
    copy(&repo, export["place"].as_str().unwrap());
}

#[test]
fn a_lease_ends_a_mount_unless_it_is_renewed() {
    let (repo, point) = sample();
    let _mountd = Mountd::start(&repo, &[]);
    let dir = repo.path("mnt");
    fs::create_dir_all(&dir).unwrap();
    let mount = Mount::adopt(dir.clone());
    let export = ["export", "nbd", &point, "--listen", "127.0.0.1:0", "--detach", "--lease", "9s"];
    let kept = repo.json(export);
    let id = kept["id"].as_str().unwrap();
    repo.ok(["mounts", "renew", id, "--lease", "8h"]);
    repo.ok(["mount", dir.to_str().unwrap(), "--detach", "--lease", "1s"]);
    wait_until("the lease ends", || mounts(&repo).len() == 1);
    assert!(!mount.is_mounted());
    let end = |mount: &Value| mount["lease_end"].as_str().unwrap().to_owned();
    let left = mounts(&repo).remove(0);
    assert_eq!(left["id"], id);
    assert!(end(&left) > end(&kept), "{left}");
    repo.fails(1, ["mounts", "renew", "nobody", "--lease", "8h"]).says(&["nobody"]);
    repo.ok(["mounts", "renew", id, "--forever"]);
    assert!(mounts(&repo)[0]["lease_end"].is_null());
}

#[test]
fn a_file_that_is_open_is_no_obstacle() {
    let (repo, _) = sample();
    let _mountd = Mountd::start(&repo, &[]);
    let mount = Mount::detached(&repo);
    let mut file = File::open(mount.path("vm/latest/disk.raw")).unwrap();
    file.read_exact(&mut [0; 100]).unwrap();
    repo.ok(["unmount".as_ref(), mount.path("").as_os_str()]);
    assert!(!mount.is_mounted());
    assert!(mounts(&repo).is_empty());
    drop(file);
}

#[test]
fn without_a_mountd_one_is_started_and_ends_with_its_last_mount() {
    let (repo, point) = sample();
    let line = ["export", "nbd", &point, "--listen", "127.0.0.1:0", "--detach"];
    let told = repo.ok(line).says(&["no mountd runs", "sluice unmount"]);
    assert!(told.text().is_empty());
    let uri = mounts(&repo)[0]["place"].as_str().unwrap().to_owned();
    copy(&repo, &uri);
    repo.ok(["unmount", "--all"]);
    wait_until("mountd ends", || UnixStream::connect(socket(&repo)).is_err());
    assert!(mounts(&repo).is_empty(), "one that is not there keeps nothing");
}

#[test]
fn what_cannot_be_started_says_why_and_leaves_nothing() {
    let (repo, point) = sample();
    let _mountd = Mountd::start(&repo, &[]);
    repo.fails(1, ["export", "nbd", "vm@0000", "--detach"]).says(&["0000"]);
    let nowhere = repo.path("nowhere");
    repo.fails(1, ["mount", nowhere.to_str().unwrap(), "--detach"]).says(&["nowhere"]);
    repo.fails(2, ["export", "nbd", &point, "--lease", "1h"]).says(&["--detach"]);
    assert!(mounts(&repo).is_empty());
}

#[test]
fn a_passphrase_in_the_environment_is_never_stored_and_missed_after_a_restart() {
    let (repo, point) = sample();
    let passphrase = fs::read_to_string(repo.path("passphrase")).unwrap();
    let passphrase = passphrase.trim();
    let mut mountd = Mountd::start(&repo, &[]);
    let line = ["export", "nbd", &point, "--listen", "127.0.0.1:0", "--detach"];
    let cmd = repo.sluice(line).without_env("SLUICE_PASSPHRASE_FILE");
    cmd.env("SLUICE_PASSPHRASE", passphrase).run().ended(0).says(&["memory only"]);
    let kept = mounts(&repo).remove(0);
    assert_eq!(kept["comes_back"], false);
    assert!(!kept.to_string().contains(passphrase));
    let state = repo.path("state/sluice/mountd");
    for item in fs::read_dir(&state).unwrap() {
        let path = item.unwrap().path();
        if path.is_file() {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o077, 0, "{path:?}");
            assert!(!fs::read_to_string(&path).unwrap().contains(passphrase), "{path:?}");
        }
    }
    mountd.kill();
    let mountd = Mountd::start(&repo, &[]);
    let failed = wait_for_state(&repo, "failed");
    assert!(failed["reason"].as_str().unwrap().contains("SLUICE_PASSPHRASE"), "{failed}");
    repo.ok(["unmount", "--all"]);
    assert!(mounts(&repo).is_empty());
    mountd.stop();
}

#[test]
fn other_users_are_refused_though_the_socket_lets_them_in() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become somebody else");
        return;
    }
    let (repo, _) = sample();
    let place = tempfile::Builder::new().prefix("sluice-open-").tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = place.path().join("s");
    let running = repo.sluice(["mountd", "--socket"]).arg(&socket).spawn();
    wait_until("mountd listens", || UnixStream::connect(&socket).is_ok());
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
                  s.sendall(b'{\"v\":1,\"do\":\"list\"}\\n'); print(s.recv(4096).decode())";
    let python = |user: &[&str]| {
        let words = [user, &["/usr/bin/python3", "-c", script]].concat();
        Cmd::new(words[0]).args(&words[1..]).arg(&socket).ok().json()
    };
    let refused = python(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    assert_eq!(refused["failure"]["kind"], "access-denied", "{refused}");
    let answered = python(&["env"]);
    assert_eq!(answered["mounts"].as_array().unwrap().len(), 0, "{answered}");
    running.signal(Signal::TERM);
    running.wait().ended(0);
    assert!(!socket.exists());
}

#[test]
fn a_thousand_connections_of_garbage_are_harmless() {
    let (repo, point) = sample();
    let _mountd = Mountd::start(&repo, &[]);
    let export = repo.json(["export", "nbd", &point, "--listen", "127.0.0.1:0", "--detach"]);
    let mut held = Vec::new();
    for number in 0..1000u32 {
        let mut stream = UnixStream::connect(socket(&repo)).unwrap();
        let garbage: &[u8] = match number % 5 {
            0 => b"",
            1 => b"\0\xff\n",
            2 => b"{\"v\":1,\"do\":\"stop\"}\n",
            3 => &[b'x'; 300 << 10],
            _ => b"{\"v\":1,\"do\":\"list\"",
        };
        // It may be refused before it is all there.
        let _ = stream.write_all(garbage);
        if number % 100 == 4 {
            held.push(stream);
        }
    }
    assert_eq!(mounts(&repo)[0]["state"], "running");
    copy(&repo, export["place"].as_str().unwrap());
    assert_eq!(held.len(), 10);
}

#[test]
fn metrics_count_what_is_read() {
    let (repo, point) = sample();
    let port = port::free();
    let _mountd = Mountd::start(&repo, &["--metrics", &port.to_string()]);
    let export = repo.json(["export", "nbd", &point, "--listen", "127.0.0.1:0", "--detach"]);
    let id = export["id"].as_str().unwrap();
    let labels = format!("{{id=\"{id}\",kind=\"nbd\",export=\"disk\",operation=\"read\"}}");
    // A mount that does not say in time what it has done is left out.
    let figure = |name: &str, labels: &str| -> Option<f64> {
        let mut found = None;
        wait_until("the figure is told", || {
            let text = scrape(port);
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}{labels} ")));
            found = line.map(|value| value.parse().unwrap());
            found.is_some()
        });
        found
    };
    assert_eq!(figure("sluice_mount_requests_total", &labels), Some(0.0));
    copy(&repo, export["place"].as_str().unwrap());
    let bytes = figure("sluice_mount_bytes_total", &labels).unwrap();
    // Not less than the data of the sample, and no more than the disk.
    assert!((MIB as f64..=(50 * MIB + 12_345) as f64).contains(&bytes), "{bytes}");
    let count = figure("sluice_mount_request_seconds_count", &labels).unwrap();
    assert!(count > 0.0);
    assert_eq!(figure("sluice_mount_requests_total", &labels), Some(count));
    let statistics = statistics(&repo);
    let read = &statistics["exports"][0]["read"];
    assert_eq!(read["bytes"].as_u64().unwrap() as f64, bytes);
    assert!(statistics["cache"]["misses"].as_u64().unwrap() > 0, "{statistics}");
    assert_eq!(figure("sluice_mounts", "{state=\"running\"}"), Some(1.0));
    assert!(get(port, "/else").starts_with("HTTP/1.1 404 "));
}

#[test]
fn what_is_read_again_comes_from_as_much_memory_as_is_allowed() {
    let (repo, point) = sample();
    let _mountd = Mountd::start(&repo, &[]);
    for (memory, kept) in [("64MiB", true), ("0", false)] {
        let line = ["export", "nbd", &point, "--listen", "127.0.0.1:0", "--detach"];
        let export = repo.json([&line[..], &["--cache-memory", memory]].concat());
        let uri = export["place"].as_str().unwrap();
        for _ in 0..2 {
            copy(&repo, uri);
        }
        let cache = &statistics(&repo)["cache"];
        assert_eq!(cache["hits"].as_u64().unwrap() > 0, kept, "{cache}");
        repo.ok(["unmount", "--all"]);
    }
}

/// What the first mount has done, once it says so.
fn statistics(repo: &Repo) -> Value {
    let mut told = Value::Null;
    wait_until("the mount says what it has done", || {
        told = mounts(repo)[0]["statistics"].clone();
        !told.is_null()
    });
    told
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn scrape(port: u16) -> String {
    let answer = get(port, "/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    body.to_owned()
}

#[test]
fn a_service_manager_is_told_when_it_is_ready() {
    let repo = Repo::without();
    let folder = repo.path("notify");
    fs::DirBuilder::new().mode(0o700).create(&folder).unwrap();
    let place = folder.join("s");
    let notified = std::os::unix::net::UnixDatagram::bind(&place).unwrap();
    let running = repo.sluice(["mountd"]).env("NOTIFY_SOCKET", &place).spawn();
    let mut said = [0; 64];
    let length = notified.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"READY=1");
    assert!(UnixStream::connect(socket(&repo)).is_ok(), "it can be asked when it says so");
    let second = repo.fails(1, ["mountd"]);
    second.says(&["another mountd"]);
    running.signal(Signal::TERM);
    running.wait().ended(0);
    let length = notified.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"STOPPING=1");
}

#[test]
fn the_units_are_what_systemd_understands() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd");
    let there = Cmd::new("sh").args(["-c", "command -v systemd-analyze"]).run().code == Some(0);
    assert!(there, "systemd-analyze is missing; install the package systemd");
    let copy = tempfile::tempdir().unwrap();
    for (path, user) in [("sluice-mountd.service", false), ("user/sluice-mountd.service", true)] {
        // It looks for the executable, which need not be installed here.
        let text = fs::read_to_string(folder.join(path)).unwrap();
        assert!(text.contains("ExecStart=/usr/bin/sluice mountd"), "{text}");
        let unit = copy.path().join("sluice-mountd.service");
        fs::write(&unit, text.replace("/usr/bin/sluice", "/bin/true")).unwrap();
        let mode: &[&str] = if user { &["--user"] } else { &[] };
        let verify = Cmd::new("systemd-analyze").arg("verify").args(mode).arg("--man=no");
        let ran = verify.arg(&unit).env("XDG_RUNTIME_DIR", copy.path()).run();
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(!ran.err.contains("sluice-mountd"), "{}", ran.err);
    }
}
