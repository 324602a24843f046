use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex as Lock;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use sluice_node_api::{Fingerprint, Work};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// What a server answers to reports; nothing, when it hangs.
type Answers = fn(&Report) -> Option<u16>;

/// A server that hears reports, and answers as it is told.
struct Server {
    client: Client,
    heard: Arc<Lock<Vec<Report>>>,
}

impl Server {
    async fn start(answers: Answers) -> Self {
        let pair = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = CertificateDer::from(made.self_signed(&pair).unwrap());
        let key = PrivateKeyDer::from_pem_slice(pair.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", socket.local_addr().unwrap());
        let heard: Arc<Lock<Vec<Report>>> = Arc::default();
        let told = Arc::clone(&heard);
        tokio::spawn(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                let (acceptor, told) = (acceptor.clone(), Arc::clone(&told));
                tokio::spawn(async move {
                    let mut stream = BufReader::new(acceptor.accept(stream).await.unwrap());
                    while let Some(report) = read(&mut stream).await {
                        let status = answers(&report);
                        told.lock().unwrap().push(report);
                        let Some(status) = status else { return std::future::pending().await };
                        let body = if status == 200 { "{}" } else { r#"{"code": "no"}"# };
                        let answer = format!(
                            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}",
                            body.len()
                        );
                        stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        let client = Client::new(&url, Fingerprint::of(&certificate)).unwrap();
        Self { client, heard }
    }

    /// A node of this server whose executable is this script.
    fn agent(&self, folder: &tempfile::TempDir, script: &str) -> Agent {
        let executable = folder.path().join("program");
        std::fs::write(&executable, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&executable, PermissionsExt::from_mode(0o700)).unwrap();
        let config = Config {
            executable,
            folder: folder.path().to_owned(),
            hello: Hello::default(),
            folders: None,
            commands: None,
            mounts: None,
            credentials: None,
            abilities: None,
        };
        Agent::new(self.client.clone(), config)
    }

    fn heard(&self) -> Vec<Report> {
        self.heard.lock().unwrap().clone()
    }
}

/// A request's document.
async fn read(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Report> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    serde_json::from_slice(&body).ok()
}

fn lease(spec: TaskSpec, lease_ms: u64) -> Lease {
    let work = Work { spec, ..Work::without_repository() };
    Lease { task: "t".into(), attempt: 1, lease_ms, waited_ms: Some(0), work }
}

fn tenure(spec: TaskSpec, lease_ms: u64) -> Tenure {
    Tenure::new(lease(spec, lease_ms), Instant::now())
}

#[tokio::test]
async fn what_runs_has_ended_before_the_lease_while_reports_hang() {
    let server = Server::start(|_| None).await;
    let folder = tempfile::tempdir().unwrap();
    // It does not end by itself.
    let agent = server.agent(&folder, "echo $$ > pid; exec sleep 1000");
    let asked = Instant::now();
    let tenure = tenure(TaskSpec::Collect {}, 8_000);
    let steps = steps(&TaskSpec::Collect {}, &[], false, folder.path()).unwrap();
    let (mut lines, shutdown) = (Vec::new(), CancellationToken::new());
    let ended = tokio::select! {
        ended = agent.perform_steps(&tenure, steps, &mut lines, &shutdown) => ended,
        () = tokio::time::sleep_until(asked + Duration::from_secs(8)) => {
            panic!("another node has the task, and it still runs here")
        }
    };
    assert_eq!(ended, None, "its end is nobody's business");
    assert!(!server.heard().is_empty());
    let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
    assert!(!std::fs::exists(format!("/proc/{}", pid.trim())).unwrap());
}

#[tokio::test]
async fn a_result_that_is_too_large_is_told_as_a_failure() {
    // As a server answers that takes no large reports.
    let server = Server::start(|report| {
        let size = serde_json::to_string(report).unwrap().len();
        Some(if size > 1_000_000 { 413 } else { 200 })
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let agent = server.agent(&folder, "printf '{\"all\": \"%01500000d\"}' 1; echo bye >&2");
    let tenure = tenure(TaskSpec::Collect {}, 60_000);
    agent.perform(tenure, &CancellationToken::new()).await;
    let heard = server.heard();
    let last = heard.last().unwrap().finished.as_ref().unwrap();
    assert_eq!((last.outcome, last.retryable), (Outcome::Failed, false));
    assert!(last.message.contains("too large"), "{}", last.message);
}

#[tokio::test]
async fn a_log_that_is_too_large_does_not_end_the_task() {
    let server = Server::start(|report| Some(if report.log.len() > 3 { 413 } else { 200 })).await;
    let folder = tempfile::tempdir().unwrap();
    let agent = server.agent(&folder, "");
    let tenure = tenure(TaskSpec::Collect {}, 60_000);
    let entry = |line: &str| LogEntry { level: "info".into(), line: line.into() };
    let mut lines = ["a", "b", "c", "d"].map(entry).to_vec();
    agent.tell(&tenure, &mut None, &mut lines).await.ok().unwrap();
    assert_eq!(lines.len(), 1, "they are not told again");
    agent.tell(&tenure, &mut None, &mut lines).await.ok().unwrap();
    let heard = server.heard();
    assert!(heard.last().unwrap().log[0].line.contains("too large"));
    assert!(lines.is_empty());
}

#[tokio::test]
async fn a_server_is_told_short_documents() {
    let server = Server::start(|_| Some(200)).await;
    let folder = tempfile::tempdir().unwrap();
    let row = r#"{"instance": "shop.web", "stored_bytes": 7, "project": "shop"}"#;
    let agent = server.agent(&folder, &format!("echo '{{\"by_instance\": [{row}]}}'"));
    agent.perform(tenure(TaskSpec::Stat {}, 60_000), &CancellationToken::new()).await;
    let heard = server.heard();
    let told = heard.last().unwrap().finished.as_ref().unwrap();
    let row = json!({"instance": "shop.web", "stored_bytes": 7});
    assert_eq!(told.document, json!({"by_instance": [row]}));
}

#[test]
fn a_log_is_kept_by_lines_and_bytes_and_the_newest_stay() {
    let entry = |line: String| LogEntry { level: "info".into(), line };
    let mut lines = Vec::new();
    for number in 0..600 {
        keep(&mut lines, entry(number.to_string()));
    }
    assert_eq!((lines.len(), &lines[0].line[..]), (LINES, "100"));
    for _ in 0..20 {
        keep(&mut lines, entry("x".repeat(64 << 10)));
    }
    keep(&mut lines, entry("last".into()));
    let bytes: usize = lines.iter().map(|entry| entry.line.len()).sum();
    assert!((128 << 10..=LOG_BYTES).contains(&bytes), "{bytes}");
    assert_eq!(lines.last().unwrap().line, "last");
}

/// A snapshot of a node that was killed, and a command after it.
fn note(name: &str, folders: &[&str]) -> hooks::Note {
    let command = vec!["/bin/true".to_owned()];
    let after = vec![sluice_node_api::HookOrder { command, ..Default::default() }];
    let allowed = vec!["/".to_owned()];
    let orders = sluice_node_api::HookOrders { after, allowed, ..Default::default() };
    let folders = folders.iter().map(|&folder| folder.to_owned()).collect();
    let order = sluice_node_api::SnapshotOrder { name: name.into(), folders, ..Default::default() };
    hooks::Note::new("t", &orders, Some(&order))
}

#[tokio::test]
async fn commands_run_once_while_a_snapshot_cannot_be_removed() {
    let server = Server::start(|_| Some(200)).await;
    let folder = tempfile::tempdir().unwrap();
    // The snapshot goes when there is a file; all that is typed is kept.
    let agent = server.agent(
        &folder,
        r#"echo "$@" >> typed; case "$*" in *snapshot-files*) test -e there ;; esac"#,
    );
    let path = agent.note_of("t-1").unwrap();
    note("t-1", &["/kept"]).write(&path).unwrap();
    let typed = || std::fs::read_to_string(folder.path().join("typed")).unwrap();
    for starts in 1..3 {
        agent.run_what_is_left().await;
        assert!(path.exists(), "the snapshot is still there");
        assert_eq!(typed().matches("run-script").count(), 1, "{}", typed());
        assert_eq!(typed().matches("snapshot-files").count(), starts, "{}", typed());
    }
    std::fs::write(folder.path().join("there"), "").unwrap();
    agent.run_what_is_left().await;
    assert!(!path.exists());
    assert_eq!(typed().matches("run-script").count(), 1);
}

#[tokio::test]
async fn a_note_removes_nothing_where_the_machine_does_not_want_images() {
    let server = Server::start(|_| Some(200)).await;
    let folder = tempfile::tempdir().unwrap();
    let mut agent = server.agent(&folder, r#"echo "$@" >> typed"#);
    agent.config.folders = Some(vec!["/proc".to_owned()]);
    let path = agent.note_of("t-1").unwrap();
    note("t-1", &["/tmp"]).write(&path).unwrap();
    agent.run_what_is_left().await;
    let typed = std::fs::read_to_string(folder.path().join("typed")).unwrap();
    assert!(path.exists() && !typed.contains("snapshot-files"), "{typed}");
}

#[tokio::test]
async fn names_of_the_server_are_no_paths() {
    let server = Server::start(|_| Some(200)).await;
    let folder = tempfile::tempdir().unwrap();
    let agent = server.agent(&folder, "true");
    for bad in ["", ".", "../x", "/etc/x", "a/b", "a.b"] {
        assert!(agent.note_of(bad).is_err(), "{bad}");
    }
    assert!(agent.note_of("0193a2b4-1").unwrap().starts_with(folder.path().join("hooks")));
    // A task that would be noted elsewhere is refused before anything is done.
    let spec = json!({"kind": "backup", "instance": "a", "images": [], "snapshot":
        {"order": {"name": "../../x", "folders": []}}});
    let around = json!({"kind": "backup", "instance": "a", "images": []});
    for (task, spec) in [("t", spec), ("../../x", around)] {
        let spec = serde_json::from_value(spec).unwrap();
        let work = Work { spec, hooks: Some(Default::default()), ..Work::without_repository() };
        let lease = Lease { task: task.into(), attempt: 1, lease_ms: 8_000, waited_ms: None, work };
        let tenure = Tenure::new(lease, Instant::now());
        Box::pin(agent.perform(tenure, &CancellationToken::new())).await;
    }
    let ends: Vec<_> = server.heard().into_iter().filter_map(|report| report.finished).collect();
    assert_eq!(ends.len(), 2);
    for end in ends {
        assert_eq!((end.outcome, end.retryable), (Outcome::Failed, false));
        assert!(end.message.contains("../../x"), "{}", end.message);
    }
}
