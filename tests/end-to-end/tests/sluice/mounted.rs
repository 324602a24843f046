//! Restore points mounted through a server, on a node that has nothing but a wire to it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::iscsi::qemu;
use crate::support::binary;
use crate::support::disk;
use crate::support::port;
use crate::support::run::{Cmd, Ran, Running, wait_until};

const CHAP: &str = "a-secret-of-twenty-1";

/// Where the second node lives: in a network namespace with one wire to this machine, or, where
/// that may not be done, beside everything else.
pub struct Network {
    name: Option<String>,
    /// This machine, as the node sees it.
    pub here: String,
    /// The node, as this machine sees it.
    pub there: String,
}

/// What stands before the process in the name of its namespace.
const NAMESPACE: &str = "sluice-mounted-";

/// Removes what tests that were killed have left: its addresses may be those of the next.
fn remove_left() {
    let listed = Command::new("ip").args(["netns", "list"]).output().unwrap();
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let Some(process) = name.strip_prefix(NAMESPACE) else { continue };
        if !Path::new("/proc").join(process).exists() {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

impl Network {
    fn new() -> Self {
        remove_left();
        let name = format!("{NAMESPACE}{}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        let made = made.expect("ip, of the package iproute2, is there");
        if !made.status.success() {
            let why = String::from_utf8_lossy(&made.stderr);
            eprintln!("no network namespace of its own (root is needed): {}", why.trim());
            let own = "127.0.0.1".to_owned();
            return Self { name: None, here: own.clone(), there: own };
        }
        // Of the range for benchmarks between devices, which is routed nowhere (RFC 2544): four
        // addresses each, so that two networks at a time are hardly ever the same.
        let own = std::process::id() & 0x3fff;
        let address = |host: u32| format!("198.19.{}.{}", own >> 6, ((own & 63) << 2) | host);
        let wire = format!("sm{}", std::process::id());
        let (here, there) = (address(1), address(2));
        for command in [
            format!("link add {wire} type veth peer name eth0 netns {name}"),
            format!("addr add {here}/30 dev {wire}"),
            format!("link set {wire} up"),
            format!("-n {name} addr add {there}/30 dev eth0"),
            format!("-n {name} link set eth0 up"),
            format!("-n {name} link set lo up"),
        ] {
            Cmd::new("ip").args(command.split(' ')).ok();
        }
        Self { name: Some(name), here, there }
    }

    /// Puts a command on the other end of the wire.
    pub fn far(&self, cmd: Cmd) -> Cmd {
        let Some(name) = &self.name else { return cmd };
        let words = ["ip", "netns", "exec", name].map(OsString::from);
        cmd.behind(&words)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // Its wire goes with it.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// A server with a node of its own; killed when dropped.
pub struct Server {
    child: Child,
    pub ready: Value,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Lab {
    folder: tempfile::TempDir,
    port: u16,
    pub network: Network,
}

impl Lab {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, port: port::free(), network: Network::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    pub fn serve_with(&self, more: &[&str]) -> Server {
        let here = &self.network.here;
        let mut child = Command::new(binary::path())
            .args(["up", "--json", "--lease", "30s", "--name", here, "--state"])
            .arg(self.path("state"))
            .args(["--listen", &format!("{here}:{}", self.port)])
            .args(more)
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).expect("it says that it is ready");
        Server { child, ready }
    }

    pub fn cmd(&self, words: &[&str]) -> Cmd {
        Cmd::new(binary::path())
            .env("HOME", self.folder.path())
            .env("SLUICE_LOGIN", self.path("login.json"))
            .env("SLUICE_PASSWORD_FILE", self.path("password"))
            .arg("--json")
            .args(words)
    }

    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> Ran {
        self.cmd(words).ok()
    }

    /// Logs in, backs up the sample disk on the server's own node, and lets the other one join.
    pub fn set_up(&self, server: &Server) {
        std::fs::write(self.path("password"), "a long enough password\n").unwrap();
        std::fs::write(self.path("chap"), format!("{CHAP}\n")).unwrap();
        let word = |name: &str| server.ready[name].as_str().unwrap();
        let login = ["login", word("url"), "--fingerprint", word("fingerprint"), "--user", "admin"];
        let token = ["--setup-token-file", word("setup_token_file")];
        self.ok(&[&login[..], &token].concat());
        let image = self.path("disk.raw");
        disk::sample(&image);
        self.ok(&["project", "set", "shop"]);
        self.ok(&["instance", "set", "shop/web", "--disk", text(&image)]);
        self.ok(&["task", "backup", "shop/web", "--to", "local"]);
        wait_until("the backup", || {
            let done = self.ok(&["task", "list", "--state", "succeeded"]).json();
            done["items"].as_array().unwrap().iter().any(|task| task["kind"] == "backup")
        });
        let token = self.ok(&["node", "token"]).json();
        std::fs::write(self.path("join"), token["token"].as_str().unwrap()).unwrap();
        let (token, state) = (self.path("join"), self.path("mover"));
        let join = ["node", "join", "mover", "--token-file", text(&token)];
        let join = [&join[..], &["--state", text(&state)]].concat();
        self.network.far(self.cmd(&join)).ok();
    }

    /// Runs the other node.
    pub fn mover(&self) -> Running {
        self.mover_with(&[])
    }

    /// The same, with more words.
    pub fn mover_with(&self, more: &[&str]) -> Running {
        let state = self.path("mover");
        let run = ["node", "run", "--mount-address", &self.network.there, "--state", text(&state)];
        self.network.far(self.cmd(&[&run[..], more].concat())).spawn()
    }

    /// Runs the other node where its folders are those of this process.
    pub fn near_mover(&self, more: &[&str]) -> Running {
        let state = self.path("mover");
        self.cmd(&[&["node", "run", "--state", text(&state)], more].concat()).spawn()
    }

    pub fn mount(&self, more: &[&str]) -> Value {
        let start = ["remote-mount", "start", "shop/web", "--node", "mover"];
        self.ok(&[&start[..], more].concat()).json()
    }

    pub fn shown(&self, mount: &Value) -> Value {
        self.ok(&["remote-mount", "show", mount["id"].as_str().unwrap()]).json()
    }

    /// Whether the disk that is served is the one that was backed up.
    fn is_same(&self, uri: &str) -> bool {
        let compare = qemu("qemu-img")
            .env("LIBISCSI_CHAP_USERNAME", "backup")
            .env("LIBISCSI_CHAP_PASSWORD", CHAP)
            .args(["compare", "-f", "raw", uri])
            .arg(self.path("disk.raw"));
        compare.run().code == Some(0)
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `HOST:PORT` of a URI.
pub fn address(mount: &Value) -> String {
    let uri = mount["uri"].as_str().unwrap();
    uri.split_once("://").unwrap().1.split('/').next().unwrap().to_owned()
}

pub fn listens(address: &str) -> bool {
    TcpStream::connect(address).is_ok()
}

/// Whether a text stands in a file of a folder.
pub fn holds(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).unwrap().flatten().any(|entry| match entry.path() {
        path if path.is_dir() => holds(&path, text),
        path => {
            let bytes = std::fs::read(path).unwrap_or_default();
            bytes.windows(text.len()).any(|part| part == text.as_bytes())
        }
    })
}

/// Whether a text stands in the command line of any process.
pub fn is_typed(text: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| line.windows(text.len()).any(|part| part == text.as_bytes()))
}

#[test]
fn a_point_is_mounted_on_another_node_and_comes_back_after_a_kill() {
    let lab = Lab::new();
    let server = lab.serve();
    lab.set_up(&server);
    let mover = lab.mover();
    let chap = lab.path("chap");
    let only = ["--protocol", "iscsi", "--client", &lab.network.here, "--chap-user", "backup"];
    let mount = lab.mount(&[&only[..], &["--chap-secret-file", text(&chap)]].concat());
    let uri = mount["uri"].as_str().expect("it is ready").to_owned();
    assert!(address(&mount).starts_with(&lab.network.there), "{uri}");
    assert!(lab.is_same(&uri), "{uri} is another disk");
    let stranger = qemu("qemu-img").args(["info", "-f", "raw", &uri]).run();
    assert_ne!(stranger.code, Some(0), "who proves nothing was let in");

    // Secrets are nowhere but in memory.
    let passphrase = std::fs::read_to_string(lab.path("state/local-passphrase")).unwrap();
    for secret in [CHAP, passphrase.trim()] {
        assert!(!holds(&lab.path("mover"), secret), "a secret is stored");
        assert!(!is_typed(secret), "a secret is typed");
        let tasks = lab.ok(&["task", "list"]);
        assert!(!tasks.text().contains(secret), "a secret is told");
    }

    // The node dies, and what it serves with it; it comes back where it was.
    mover.signal(Signal::KILL);
    mover.wait();
    wait_until("the export ends with its node", || !listens(&address(&mount)));
    let mover = lab.mover();
    wait_until("the mount is back", || lab.is_same(&uri));
    wait_until("the server knows", || lab.shown(&mount)["state"] == "ready");
    assert_eq!(lab.shown(&mount)["uri"], mount["uri"]);

    // A node that has lost everything makes it again, at the same place.
    mover.signal(Signal::KILL);
    mover.wait();
    wait_until("the export ends with its node", || !listens(&address(&mount)));
    std::fs::remove_dir_all(lab.path("mover/mounts")).unwrap();
    let mover = lab.mover();
    wait_until("the mount is made again", || lab.is_same(&uri));

    let ended = lab.ok(&["remote-mount", "stop", mount["id"].as_str().unwrap()]).json();
    assert_eq!(ended["state"], "gone");
    assert!(!listens(&address(&mount)), "it is still served");
    let none = lab.ok(&["remote-mount", "list"]).json();
    assert_eq!(none["items"].as_array().unwrap().len(), 0);
    drop(mover);
}

#[test]
fn a_mount_is_for_its_clients_and_ends_with_its_lease_though_the_server_is_gone() {
    let lab = Lab::new();
    let server = lab.serve();
    lab.set_up(&server);
    let mut mover = lab.mover();
    let closed = lab.mount(&["--client", "203.0.113.0/24"]);
    let uri = closed["uri"].as_str().unwrap();
    assert!(listens(&address(&closed)) && !lab.is_same(uri), "others were let in");
    let open = lab.mount(&["--client", &lab.network.here, "--client", "203.0.113.7"]);
    assert!(lab.is_same(open["uri"].as_str().unwrap()));

    let renew = |time: &str| {
        let id = open["id"].as_str().unwrap();
        lab.ok(&["remote-mount", "renew", id, "--lease", time]).json()
    };
    let longer = renew("2h");
    assert!(longer["lease_end_ms"].as_u64() < open["lease_end_ms"].as_u64(), "8 hours are more");
    renew("40s");
    let short = |mount: &Value| mount["lease_end_ms"].as_u64();
    // The other mount has a lease of hours, too.
    let soon = short(&longer).unwrap() - 3_600_000;
    wait_until("the node has heard of it", || {
        let kept = std::fs::read_dir(lab.path("mover/mounts")).unwrap().flatten();
        let kept = kept.filter_map(|entry| std::fs::read(entry.path()).ok());
        let mut kept = kept.filter_map(|text| serde_json::from_slice::<Value>(&text).ok());
        kept.any(|kept| short(&kept).is_some_and(|end| end < soon))
    });
    assert_eq!(lab.shown(&open)["state"], "ready");
    assert!(short(&lab.shown(&open)) < short(&longer));
    drop(server);
    wait_until("the lease ends", || !listens(&address(&open)));
    assert!(listens(&address(&closed)), "the other one has a long lease");
    assert!(!mover.is_over(), "the node runs on");
    let _server = lab.serve();
    wait_until("the server knows", || lab.shown(&open)["state"] == "gone");
    assert_eq!(lab.shown(&closed)["state"], "ready");

    // What cannot be mounted says why.
    let start = ["remote-mount", "start", "shop/web", "--node", "mover", "--client", "203.0.113.7"];
    let failed = lab.cmd(&[&start[..], &["--image", "none"]].concat()).fails(1);
    assert!(failed.text().contains("cannot mount it"), "{}", failed.text());
    wait_until("nothing is left of it", || {
        let all = lab.ok(&["remote-mount", "list", "--state", "failed"]).json();
        let items = all["items"].as_array().unwrap();
        for mount in items {
            lab.ok(&["remote-mount", "stop", mount["id"].as_str().unwrap()]);
        }
        items.is_empty()
    });
}
