//! Files of mounts, as people and nodes see them.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use http::Method;
use serde_json::{Value, json};
use sluice_catalog::Catalog;
use sluice_node_api::{
    Client, FileEntry, FileKind, LARGEST_PIECE, Lease, Look, LookAnswer, LookOrder, Outcome,
    Report, Reported, Unseen, escaped, unescaped,
};
use tokio::task::JoinHandle;

use crate::support::{Lab, config, finish, make, status};

/// A folder of a node that is none: what it answers is made up of this.
fn content(at: u64) -> u8 {
    (at % 251) as u8
}

const SIZE: u64 = 3 * LARGEST_PIECE as u64 + 5;

fn answer(order: &LookOrder) -> LookAnswer {
    let entry = |name: &[u8], kind, size| {
        let (name, version) = (escaped(name), "v1".to_owned());
        FileEntry { name, kind, size, version, ..FileEntry::default() }
    };
    let path = unescaped(&order.path).unwrap();
    match (&path[..], &order.what) {
        (b"", Look::List { after: None, .. }) => LookAnswer::Folder {
            entries: vec![entry(b"a%", FileKind::Folder, 0), entry(b"b\xff", FileKind::File, SIZE)],
            more: true,
        },
        (b"a%", Look::List { after, .. }) => {
            assert_eq!(after.as_deref(), Some("x"));
            LookAnswer::Folder { entries: vec![entry(b"y", FileKind::File, 1)], more: false }
        }
        (b"b\xff", Look::Stat {} | Look::Open {}) => {
            LookAnswer::Entry { entry: entry(b"b\xff", FileKind::File, SIZE) }
        }
        (b"b\xff", Look::Read { offset, length }) => {
            let end = SIZE.min(offset + u64::from(*length));
            let bytes: Vec<u8> = (*offset..end).map(content).collect();
            LookAnswer::Piece { version: "v1".into(), bytes: BASE64.encode(&bytes) }
        }
        (b"changes", Look::Open {}) => {
            LookAnswer::Entry { entry: entry(b"changes", FileKind::File, SIZE) }
        }
        (b"changes", Look::Read { length, .. }) => {
            let bytes = BASE64.encode(&vec![0; *length as usize]);
            LookAnswer::Piece { version: "v2".into(), bytes }
        }
        _ => LookAnswer::Refused { why: Unseen::Missing, message: "nothing".into() },
    }
}

/// Answers what a server asks its node, for as long as it is wanted.
fn answering(node: Client) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let asked = node.post::<Option<LookOrder>>("/api/node/v1/looks", &()).await;
            let Ok(Some(order)) = asked else { continue };
            let path = format!("/api/node/v1/looks/{}", order.id);
            let _: Value = node.post(&path, &answer(&order)).await.unwrap();
        }
    })
}

struct World {
    lab: Lab,
    admin: Client,
    node: Client,
    project: String,
    mount: String,
}

impl World {
    async fn new(protocol: &str) -> Self {
        let lab = Lab::new().await;
        let admin = lab.administrator().await;
        let hello = sluice_node_api::Hello {
            kinds: ["backup", "mount", "unmount"].map(str::to_owned).to_vec(),
            mounts: ["nbd", "fuse"].map(str::to_owned).to_vec(),
            slots: 1,
            ..sluice_node_api::Hello::default()
        };
        let node = lab.node_that(&admin, "mover", hello).await;
        let project = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
        let body = json!({"project": project, "name": "store", "spec": {"url": "/backup"}});
        let destination = make(&admin, "destinations", body).await;
        let spec = json!({"source": {"kind": "device", "path": "/dev/x"}});
        let body = json!({"project": project, "name": "web", "spec": spec});
        let instance = make(&admin, "instances", body).await;
        let tasks: Value = admin.get("/api/v1/tasks").await.unwrap();
        for task in tasks["items"].as_array().unwrap() {
            let path = format!("/api/v1/tasks/{}/cancel", task["id"].as_str().unwrap());
            let _ = admin.send(Method::POST, &path, None, &[]).await;
        }
        let start = json!({"kind": "backup", "instance": instance, "destination": destination});
        let task = make(&admin, "tasks", start).await;
        finish(&node, &task, "shop.web@k3").await;
        let points: Value = admin.get("/api/v1/points").await.unwrap();
        let mut body = json!({"point": points["items"][0]["id"], "protocol": protocol});
        if protocol != "fuse" {
            body["clients"] = json!(["192.0.2.0/24"]);
        }
        let mount = make(&admin, "mounts", body).await;
        let world = Self { lab, admin, node, project, mount };
        world.made().await;
        world
    }

    /// The node makes the mount.
    async fn made(&self) {
        let lease: Option<Lease> = self.node.post("/api/node/v1/lease", &()).await.unwrap();
        let lease = lease.unwrap();
        let finished = Some(sluice_node_api::Finished {
            outcome: Outcome::Succeeded,
            document: json!({"uri": "file:///m", "exports": []}),
            message: String::new(),
            retryable: false,
        });
        let report = Report { attempt: lease.attempt, finished, ..Report::default() };
        let path = format!("/api/node/v1/tasks/{}/report", lease.task);
        let _: Reported = self.node.post(&path, &report).await.unwrap();
    }

    fn path(&self, what: &str) -> String {
        format!("/api/v1/mounts/{}/{what}", self.mount)
    }
}

/// All of `b\xff`, in a query.
const FILE: &str = "content?path=/b%25FF";

async fn fetched(client: &Client, path: &str, range: Option<&str>) -> (Vec<u8>, Value) {
    let headers: Vec<(&str, &str)> = range.map(|range| ("range", range)).into_iter().collect();
    let mut download = client.open(path, &headers).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = download.piece().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    let word = |name: &str| download.headers.get(name).map(|value| value.to_str().unwrap());
    let told = json!({"status": download.status, "range": word("content-range"),
        "length": word("content-length"), "name": word("content-disposition")});
    (bytes, told)
}

fn is_content(bytes: &[u8], from: u64) -> bool {
    bytes.iter().zip(from..).all(|(byte, at)| *byte == content(at))
}

#[tokio::test]
async fn folders_are_listed_and_files_come_in_pieces() {
    let world = World::new("fuse").await;
    let answers = answering(world.node.clone());
    let admin = &world.admin;
    let listed: Value = admin.get(&world.path("files")).await.unwrap();
    assert_eq!(listed["items"][0]["name"], "a%25");
    let second = &listed["items"][1];
    assert_eq!((&second["path"], &second["kind"]), (&json!("/b%FF"), &json!("file")));
    assert_eq!(listed["next"], "b%FF");
    let below = admin.get::<Value>(&world.path("files?path=/a%2525/&after=x")).await.unwrap();
    assert_eq!((&below["items"][0]["path"], &below["next"]), (&json!("/a%25/y"), &Value::Null));
    let one: Value = admin.get(&world.path("file?path=b%25FF")).await.unwrap();
    assert_eq!((&one["path"], &one["size"]), (&json!("/b%FF"), &json!(SIZE)));

    let (bytes, told) = fetched(admin, &world.path(FILE), None).await;
    assert_eq!((bytes.len() as u64, &told["status"]), (SIZE, &json!(200)), "{told}");
    assert!(is_content(&bytes, 0));
    assert_eq!(told["name"], "attachment; filename*=UTF-8''b%25FF");
    let from = u64::from(LARGEST_PIECE) - 3;
    let range = format!("bytes={from}-{}", from + 6);
    let (bytes, told) = fetched(admin, &world.path(FILE), Some(&range)).await;
    assert!(bytes.len() == 7 && is_content(&bytes, from), "{told}");
    let shown = format!("bytes {from}-{}/{SIZE}", from + 6);
    assert_eq!((&told["status"], &told["range"]), (&json!(206), &json!(shown)));
    let outside = format!("bytes={SIZE}-");
    let outside = admin.open(&world.path(FILE), &[("range", &outside)]).await;
    assert_eq!(status(&outside), 416);

    for bad in ["content?path=none", "file?path=none"] {
        assert_eq!(status(&admin.get::<Value>(&world.path(bad)).await), 404, "{bad}");
    }
    for bad in ["content?path=../x", "files?path=%2525zz%25zz", "file?path=a%252F..%252Fb%25"] {
        assert_eq!(status(&admin.get::<Value>(&world.path(bad)).await), 422, "{bad}");
    }
    let audit: Value = admin.get("/api/v1/audit").await.unwrap();
    let did = |action: &str| {
        let all = audit["items"].as_array().unwrap().iter();
        all.filter(|entry| entry["action"] == action).cloned().collect::<Vec<_>>()
    };
    assert_eq!(did("mount.browse").len(), 1, "parts that follow are of the same look");
    assert_eq!(did("mount.download").len(), 2);
    assert_eq!(did("mount.download")[0]["detail"]["path"], "b%FF");
    answers.abort();
}

#[tokio::test]
async fn a_file_that_changes_is_not_handed_out_as_one() {
    let world = World::new("fuse").await;
    let answers = answering(world.node.clone());
    let mut download = world.admin.open(&world.path("content?path=changes"), &[]).await.unwrap();
    let mut got = 0;
    let ended = loop {
        match download.piece().await {
            Ok(Some(piece)) => got += piece.len() as u64,
            other => break other,
        }
    };
    assert!(ended.is_err() && got < SIZE, "{got} bytes, and {ended:?}");
    answers.abort();
}

#[tokio::test]
async fn two_servers_with_one_database_find_the_node_wherever_it_waits() {
    let world = World::new("fuse").await;
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let name = "secrets.key";
    std::fs::copy(world.lab.folder.path().join(name), folder.path().join(name)).unwrap();
    let mut config = config(folder.path(), Duration::from_secs(60));
    let database = world.lab.folder.path().join("catalog.sqlite");
    config.database = Some(format!("sqlite:{}", database.display()));
    let second = Lab::run(folder, config).await;
    // The node is at the first, and who asks is at the second.
    let answers = answering(world.node.clone());
    let there = second.login("admin").await;
    let (bytes, _) = fetched(&there, &world.path(FILE), None).await;
    assert!(bytes.len() as u64 == SIZE && is_content(&bytes, 0));
    answers.abort();
    // Nothing is left of what was asked, nor of what somebody asked who has gone away.
    let catalog = Catalog::open(&format!("sqlite:{}", database.display())).await.unwrap();
    let left = async |wanted: bool| loop {
        let mut tx = catalog.read().await.unwrap();
        if tx.has_old_looks(u64::MAX).await.unwrap() == wanted {
            break;
        }
        drop(tx);
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    left(false).await;
    let path = world.path("files");
    let asking = tokio::spawn(async move { there.get::<Value>(&path).await });
    left(true).await;
    asking.abort();
    left(false).await;
    catalog.close().await;
    second.stop().await;
}

#[tokio::test]
async fn only_a_mount_with_files_is_looked_at_and_only_by_its_node() {
    let world = World::new("nbd").await;
    let told = world.admin.get::<Value>(&world.path("files")).await;
    assert_eq!(status(&told), 409);
    let world = World::new("fuse").await;
    let stranger = world.lab.node(&world.admin, "other", &["backup"]).await;
    let (admin, path) = (world.admin.clone(), world.path("file?path=b%25FF"));
    let asking = tokio::spawn(async move { admin.get::<Value>(&path).await });
    let order: Option<LookOrder> = world.node.post("/api/node/v1/looks", &()).await.unwrap();
    let order = order.unwrap();
    let answered = format!("/api/node/v1/looks/{}", order.id);
    let lie = LookAnswer::Refused { why: Unseen::Missing, message: "hush".into() };
    let _: Value = stranger.post(&answered, &lie).await.unwrap();
    let _: Value = world.node.post(&answered, &answer(&order)).await.unwrap();
    assert_eq!(asking.await.unwrap().unwrap()["size"], SIZE);
    // Whoever may only see does not read.
    let viewer = world.lab.user(&world.admin, "viewer", Some(&world.project)).await;
    assert_eq!(status(&viewer.get::<Value>(&world.path("files")).await), 403);
    let own = format!("/api/v1/mounts/{}", world.mount);
    world.admin.send(Method::DELETE, &own, None, &[]).await.unwrap();
    assert_eq!(status(&world.admin.get::<Value>(&world.path("files")).await), 409);
}
