//! A server with its first administrator.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{
    Client, ClientError, Finished, Hello, Join, JoinToken, Joined, Lease, Outcome, Report, Reported,
};
use sluice_server::{Config, Server};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const PASSWORD: &str = "a long enough password";

/// A server of this folder, on any port.
pub fn config(folder: &std::path::Path, lease: Duration) -> Config {
    Config {
        state: folder.to_owned(),
        database: None,
        listen: "127.0.0.1:0".parse().unwrap(),
        names: vec!["127.0.0.1".into()],
        public_url: None,
        lease,
        certificates: Duration::from_secs(90 * 86_400),
        new_setup_token: false,
    }
}

/// A running server.
pub struct Lab {
    pub folder: Arc<TempDir>,
    pub anybody: Client,
    pub setup: Option<String>,
    /// Where metrics are told.
    pub metrics: String,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Lab {
    pub async fn start(folder: Arc<TempDir>, lease: Duration) -> Self {
        let config = config(folder.path(), lease);
        Self::run(folder, config).await
    }

    pub async fn run(folder: Arc<TempDir>, config: Config) -> Self {
        let server = Server::open(config).await.unwrap();
        let server = server.with_metrics("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let metrics = server.metrics_address().unwrap().to_string();
        let local = server.local();
        let anybody = Client::new(&local.url, local.fingerprint).unwrap();
        let setup = server.setup_token().map(str::to_owned);
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.serve(shutdown.clone()));
        Self { folder, anybody, setup, metrics, shutdown, serving }
    }

    pub async fn new() -> Self {
        Self::start(Arc::new(tempfile::tempdir().unwrap()), Duration::from_secs(60)).await
    }

    /// Ends it; its folder stays.
    pub async fn stop(self) -> Arc<TempDir> {
        self.shutdown.cancel();
        self.serving.await.unwrap();
        self.folder
    }

    /// Makes the first administrator and logs in.
    pub async fn administrator(&self) -> Client {
        let token = self.setup.as_ref().expect("nobody was set up before");
        let setup = json!({"token": token, "login": "admin", "password": PASSWORD});
        self.anybody.send(Method::POST, "/api/v1/setup", Some(&setup), &[]).await.unwrap();
        self.login("admin").await
    }

    /// A node that runs tasks of these kinds.
    pub async fn node(&self, admin: &Client, name: &str, kinds: &[&str]) -> Client {
        let kinds = kinds.iter().map(|&kind| kind.to_owned()).collect();
        self.node_that(admin, name, Hello { kinds, slots: 1, ..Hello::default() }).await
    }

    /// A node that tells this of itself.
    pub async fn node_that(&self, admin: &Client, name: &str, hello: Hello) -> Client {
        self.node_with_token(admin, name, hello).await.1
    }

    /// The same, with what it shows.
    pub async fn node_with_token(
        &self,
        admin: &Client,
        name: &str,
        hello: Hello,
    ) -> (String, Client) {
        let made: Value = admin.post("/api/v1/node-tokens", &()).await.unwrap();
        let token: JoinToken = made["token"].as_str().unwrap().parse().unwrap();
        let join = Join { token: token.token, name: name.into(), hello, request: None };
        let joined: Joined = self.anybody.post("/api/node/v1/join", &join).await.unwrap();
        let client = self.anybody.clone().with_token(&joined.token);
        (joined.token, client)
    }

    pub async fn login(&self, login: &str) -> Client {
        let body = json!({"login": login, "password": PASSWORD});
        let session: Value = self.anybody.post("/api/v1/sessions", &body).await.unwrap();
        self.anybody.clone().with_token(session["token"].as_str().unwrap())
    }

    /// A user with one role somewhere.
    pub async fn user(&self, admin: &Client, role: &str, project: Option<&str>) -> Client {
        let login = format!("{role}-{}", project.unwrap_or("system"));
        let grants = json!([{"role": role, "project": project}]);
        let keep = true;
        let user = json!({"login": login, "password": PASSWORD, "keep_password": keep,
            "grants": grants});
        let _: Value = admin.post("/api/v1/users", &user).await.unwrap();
        self.login(&login).await
    }
}

impl Lab {
    /// A user with these grants.
    pub async fn user_with(&self, admin: &Client, login: &str, grants: Value) -> Client {
        let user = json!({"login": login, "password": PASSWORD, "keep_password": true,
            "grants": grants});
        let _: Value = admin.post("/api/v1/users", &user).await.unwrap();
        self.login(login).await
    }
}

/// A grant on one resource.
pub fn on(role: &str, kind: &str, id: &str) -> Value {
    json!({"role": role, "resource": {"kind": kind, "id": id}})
}

/// Takes the next task, which must be this one, and reports that it has made a restore point.
pub async fn finish(node: &Client, task: &str, point: &str) {
    let lease: Option<Lease> = node.post("/api/node/v1/lease", &()).await.unwrap();
    let lease = lease.unwrap();
    assert_eq!(lease.task, task);
    let document = json!({"point": {"point": point, "created_ms": 5, "stats": {}}});
    let outcome = Outcome::Succeeded;
    let finished = Some(Finished { outcome, document, message: "".into(), retryable: false });
    let report = Report { attempt: lease.attempt, finished, ..Report::default() };
    let path = format!("/api/node/v1/tasks/{task}/report");
    let _: Reported = node.post(&path, &report).await.unwrap();
}

/// Makes a record and returns its id.
pub async fn make(client: &Client, kind: &str, body: Value) -> String {
    let made: Value = client.post(&format!("/api/v1/{kind}"), &body).await.unwrap();
    made["id"].as_str().unwrap().to_owned()
}

/// The status of an answer.
pub fn status<T>(answer: &Result<T, ClientError>) -> u16 {
    match answer {
        Ok(_) => 200,
        Err(error) => error.status().unwrap_or_else(|| panic!("no answer: {error:?}")),
    }
}
