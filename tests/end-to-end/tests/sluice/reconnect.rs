//! An export that can be written is killed while its client lives: the client comes back to the
//! same disk, with all that it was told is durable, and goes on.

use std::fs;
use std::io::{PipeWriter, Write, pipe};
use std::path::PathBuf;

use rustix::process::Signal;

use crate::iscsi::qemu;
use crate::support::repo::Repo;
use crate::support::run::{Cmd, Running, wait_until};
use crate::support::serve::Export;
use crate::vhost_user::sample;

/// A client that stays: `qemu-io`, told one command at a time.
struct Client {
    running: Running,
    commands: PipeWriter,
    log: PathBuf,
    said: usize,
}

impl Client {
    /// Opens what `options` of QEMU say.
    fn open(repo: &Repo, options: &str) -> Self {
        let (input, commands) = pipe().unwrap();
        let log = repo.path("client.log");
        // What it tells comes at once, also what ends no line: its prompt.
        let script = r#"exec stdbuf -o0 "$@" >"$LOG" 2>&1"#;
        let shell = ["sh", "-c", script, "sh"].map(Into::into);
        let client = qemu("qemu-io").args(["--image-opts", options]).behind(&shell);
        let running = client.env("LOG", &log).stdin(input).spawn();
        Self { running, commands, log, said: 0 }
    }

    /// Says a command when those before are done, and does not wait for what becomes of it.
    fn say(&mut self, command: &str) {
        self.answered();
        writeln!(self.commands, "{command}").unwrap();
        self.said += 1;
    }

    /// Waits until everything that was said is done, which it must be without an error.
    fn answered(&self) {
        wait_until("the client has its answer", || {
            let told = fs::read_to_string(&self.log).unwrap_or_default();
            for word in ["rror", "ailed", "an't open"] {
                assert!(!told.contains(word), "{told}");
            }
            // A prompt before the first command, and one after each that is done. It does not
            // see more than one command at a time.
            told.matches("qemu-io> ").count() == self.said + 1
        });
    }

    fn does(&mut self, commands: &[&str]) {
        for command in commands {
            self.say(command);
            self.answered();
        }
    }

    fn quits(mut self) {
        writeln!(self.commands, "quit").unwrap();
        drop(self.commands);
        self.running.wait().ended(0);
    }
}

fn overlay(repo: &Repo) -> Vec<String> {
    let folder = repo.path("overlay").to_str().unwrap().to_owned();
    vec!["--writable".into(), "--overlay".into(), folder]
}

/// The client writes with FUA, flushes, writes without either, and is left alone in the middle of a
/// write; then all of it is there, for this client and for the next.
fn survives(repo: &Repo, start: impl Fn(Option<&str>) -> Export, options: impl Fn(&str) -> String) {
    let mut first = start(None);
    let uri = first.uri().to_owned();
    let mut client = Client::open(repo, &options(&uri));
    // FUA is for itself: nothing flushes after the last one.
    client.does(&[
        "write -f -P 0x5a 1M 64k",
        "write -P 0x11 10M 64k",
        "flush",
        "write -f -P 0x22 12M 4k",
        // Nobody flushes these, and nobody sends them again.
        "write -P 0x33 14M 64k",
        "write -z 3M 64k",
        "write -P 0x44 15M 512",
        "write -P 0x45 1049088 512",
    ]);
    first.running().signal(Signal::KILL);
    wait_until("the export is gone", || first.running().is_over());
    drop(first);
    client.say("write -P 0x77 5M 64k");
    let again = start(Some(&uri));
    assert_eq!(again.uri(), uri, "the client looks where it was");
    client.answered();
    client.does(&[
        "read -P 0x5a 1M 512",
        "read -P 0x45 1049088 512",
        "read -P 0x11 10M 64k",
        "read -P 0x22 12M 4k",
        "read -P 0x33 14M 64k",
        "read -P 0 3M 64k",
        "read -P 0x44 15M 512",
        "read -P 0x77 5M 64k",
        "flush",
    ]);
    client.quits();
    again.stop();
    let expected = repo.path("expected.raw");
    fs::copy(repo.path("disk.raw"), &expected).unwrap();
    let writes = [
        "write -P 0x5a 1M 64k",
        "write -P 0x11 10M 64k",
        "write -P 0x22 12M 4k",
        "write -P 0x33 14M 64k",
        "write -z 3M 64k",
        "write -P 0x44 15M 512",
        "write -P 0x45 1049088 512",
        "write -P 0x77 5M 64k",
    ];
    let commands = writes.iter().flat_map(|write| ["-c", write]);
    Cmd::new("qemu-io").args(["-f", "raw"]).args(commands).arg(&expected).ok();
    let last = start(None);
    let compare = ["compare", "-f", "raw", "-F", "raw", last.uri()];
    qemu("qemu-img").args(compare).arg(&expected).ok();
    last.stop();
}

#[test]
fn an_nbd_client_comes_back_to_an_export_that_was_killed() {
    let (repo, point) = sample();
    let socket = repo.path("nbd.sock").to_str().unwrap().to_owned();
    let mut args = vec!["nbd".to_owned(), point, "--socket".into(), socket.clone()];
    args.extend(overlay(&repo));
    survives(
        &repo,
        |_| Export::start(&repo, &args.iter().map(String::as_str).collect::<Vec<_>>()),
        |_| {
            format!(
                "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={socket},\
                 file.reconnect-delay=120"
            )
        },
    );
}

#[test]
fn an_iscsi_initiator_comes_back_to_the_same_disk_of_a_target_that_was_killed() {
    let (repo, point) = sample();
    let identity = |uri: &str| {
        ["128", "131"]
            .map(|page| Cmd::new("iscsi-inq").args(["-e", "1", "-c", page, uri]).ok().text())
    };
    let known = std::cell::RefCell::new(None);
    let parts = |uri: &str| {
        let rest = uri.strip_prefix("iscsi://").unwrap().to_owned();
        let parts: Vec<_> = rest.split('/').map(str::to_owned).collect();
        <[String; 3]>::try_from(parts).expect("portal, target and unit")
    };
    survives(
        &repo,
        |uri| {
            let portal = uri.map_or("127.0.0.1:0".to_owned(), |uri| parts(uri)[0].clone());
            let mut args = vec!["iscsi".to_owned(), point.clone(), "--listen".into(), portal];
            args.extend(["--target-name".into(), "iqn.2026-01.test:back".into()]);
            args.extend(overlay(&repo));
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            let export = Export::start(&repo, &args);
            let now = identity(export.uri());
            let before = known.borrow_mut().replace(now.clone());
            assert!(before.is_none_or(|before| before == now), "it is the same disk");
            export
        },
        |uri| {
            let [portal, target, unit] = parts(uri);
            format!(
                "driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={portal},\
                 file.target={target},file.lun={unit}"
            )
        },
    );
}
