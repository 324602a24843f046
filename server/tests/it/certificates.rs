//! Nodes and the certificates they show.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use sluice_catalog::Catalog;
use sluice_node_api::{
    CertificateRequest, Certified, Client, ClientError, Hello, Identity, Join, JoinToken, Joined,
    KeyRequest, VERSION,
};

use crate::support::{Lab, status};

fn hello(contract: u32) -> Hello {
    Hello { kinds: vec!["backup".into()], slots: 1, contract, ..Hello::default() }
}

/// Lets a node join through `client`, as its executable does.
async fn join(
    client: &Client,
    made: &Value,
    name: &str,
) -> Result<(String, Identity), ClientError> {
    let token: JoinToken = made["token"].as_str().unwrap().parse().unwrap();
    let asked = KeyRequest::new(name).unwrap();
    let request = Some(asked.request.clone());
    let join = Join { token: token.token, name: name.into(), hello: hello(VERSION), request };
    let joined: Joined = client.post("/api/node/v1/join", &join).await?;
    assert_eq!(joined.token, "", "who has a certificate gets no token");
    Ok((joined.node, asked.with(joined.certified.unwrap())))
}

async fn token(admin: &Client, query: &str) -> Value {
    admin.post(&format!("/api/v1/node-tokens{query}"), &()).await.unwrap()
}

/// A client of its own that shows a certificate.
fn shows(lab: &Lab, identity: &Identity) -> Client {
    let client = lab.anybody.clone().with_token("");
    client.show(identity).unwrap();
    client
}

async fn says_hello(client: &Client) -> Result<Value, ClientError> {
    client.post("/api/node/v1/hello", &hello(VERSION)).await
}

fn code(answer: &Result<Value, ClientError>) -> &str {
    answer.as_ref().err().map(ClientError::code).unwrap_or("")
}

async fn audited(admin: &Client, action: &str) -> usize {
    let entries: Value = admin.get("/api/v1/audit?limit=1000").await.unwrap();
    let items = entries["items"].as_array().unwrap();
    items.iter().filter(|entry| entry["action"] == action).count()
}

#[tokio::test]
async fn a_node_is_known_by_its_certificate_and_by_nothing_else() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let (id, identity) = join(&lab.anybody, &token(&admin, "").await, "mover").await.unwrap();
    let mover = shows(&lab, &identity);
    says_hello(&mover).await.unwrap();
    let nodes: Value = admin.get("/api/v1/nodes").await.unwrap();
    assert_eq!(nodes["items"][0]["id"], id);
    assert_eq!(nodes["items"][0]["certificate_expires_ms"], identity.certified.expires_ms);
    assert_eq!(status(&says_hello(&lab.anybody).await), 401);
    // A certificate is a node's, and opens nothing that is for people.
    assert_eq!(status(&mover.get::<Value>("/api/v1/nodes").await), 401);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (lab, other) = (Lab::new().await, Lab::new().await);
    let (admin, theirs) = (lab.administrator().await, other.administrator().await);
    join(&lab.anybody, &token(&admin, "").await, "mover").await.unwrap();
    let (_, foreign) = join(&other.anybody, &token(&theirs, "").await, "mover").await.unwrap();
    let told = says_hello(&shows(&lab, &foreign)).await;
    assert_eq!((status(&told), code(&told)), (401, "certificate-foreign"));
}

#[tokio::test]
async fn nobody_reports_with_the_certificate_of_another_node() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let (_, one) = join(&lab.anybody, &token(&admin, "").await, "one").await.unwrap();
    let old = lab.node(&admin, "old", &["backup"]).await;
    says_hello(&old).await.unwrap();
    // The certificate of one, and the token of the other.
    let mixed = old.clone();
    mixed.show(&one).unwrap();
    let both = shows(&lab, &one);
    says_hello(&both).await.unwrap();
    let headers = [("authorization", "Bearer node-0")];
    let body = serde_json::to_value(hello(VERSION)).unwrap();
    let told = both.send(Method::POST, "/api/node/v1/hello", Some(&body), &headers).await;
    assert_eq!(status(&told), 401);
}

#[tokio::test]
async fn what_is_removed_or_disabled_has_no_access_at_once() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let (id, identity) = join(&lab.anybody, &token(&admin, "").await, "mover").await.unwrap();
    let mover = shows(&lab, &identity);
    says_hello(&mover).await.unwrap();
    let path = format!("/api/v1/nodes/{id}");
    for (state, code_then) in [("disabled", "node-disabled"), ("draining", ""), ("enabled", "")] {
        let change = json!({"state": state});
        admin.send(Method::PUT, &path, Some(&change), &[]).await.unwrap();
        let told = says_hello(&mover).await;
        assert_eq!(code(&told), code_then, "{state}");
        assert_eq!(told.is_ok(), code_then.is_empty(), "{state}");
    }
    admin.send(Method::DELETE, &path, None, &[]).await.unwrap();
    let told = says_hello(&mover).await;
    assert_eq!((status(&told), code(&told)), (403, "node-unknown"));
    // Its key lets it join as a new node only.
    let (new, _) = join(&mover, &token(&admin, "").await, "mover").await.unwrap();
    assert_ne!(new, id);
}

#[tokio::test]
async fn a_node_with_a_token_works_until_it_shows_its_certificate() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let old = lab.node(&admin, "old", &["backup"]).await;
    says_hello(&old).await.unwrap();
    let asked = KeyRequest::new("old").unwrap();
    let request = CertificateRequest { request: asked.request.clone() };
    let made: Certified = old.post("/api/node/v1/certificate", &request).await.unwrap();
    // It may die before it has written that down: the token is good until then.
    says_hello(&old).await.unwrap();
    let new = shows(&lab, &asked.with(made));
    says_hello(&new).await.unwrap();
    assert_eq!(status(&says_hello(&old).await), 401);
    assert_eq!(audited(&admin, "node.certificate").await, 1);
    assert_eq!(audited(&admin, "node.token-ended").await, 1);
}

#[tokio::test]
async fn a_certificate_that_ended_is_told_and_lets_its_node_come_back() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let lab = Lab::start(Arc::clone(&folder), Duration::from_secs(60)).await;
    let admin = lab.administrator().await;
    let (id, identity) = join(&lab.anybody, &token(&admin, "").await, "mover").await.unwrap();
    let mover = shows(&lab, &identity);
    says_hello(&mover).await.unwrap();
    // What follows it was shown long ago.
    let url = format!("sqlite:{}", folder.path().join("catalog.sqlite").display());
    let catalog = Catalog::open(&url).await.unwrap();
    let mut tx = catalog.begin().await.unwrap();
    tx.certificate_used(id.parse().unwrap(), "another", 1, 1).await.unwrap();
    tx.commit().await.unwrap();
    let told = says_hello(&mover).await;
    assert_eq!((status(&told), code(&told)), (401, "certificate-expired"));
    assert!(told.unwrap_err().to_string().contains("sluice node token --for"));
    // With any token, the key shows who it is; not under another's name.
    assert_eq!(status(&join(&mover, &token(&admin, "").await, "other").await), 409);
    let (again, identity) = join(&mover, &token(&admin, "").await, "mover").await.unwrap();
    assert_eq!(again, id);
    says_hello(&shows(&lab, &identity)).await.unwrap();
    assert_eq!(code(&says_hello(&mover).await), "node-unknown");
    // Without the key, it takes a token for that node.
    assert_eq!(status(&join(&lab.anybody, &token(&admin, "").await, "mover").await), 409);
    let bound = token(&admin, &format!("?node={id}")).await;
    let (third, newest) = join(&lab.anybody, &bound, "mover").await.unwrap();
    assert_eq!(third, id);
    let lease = shows(&lab, &newest);
    says_hello(&lease).await.unwrap();
    assert_eq!(code(&says_hello(&shows(&lab, &identity)).await), "node-unknown");
}

#[tokio::test]
async fn a_contract_that_is_not_spoken_is_refused_with_a_word_on_who_is_old() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let (_, identity) = join(&lab.anybody, &token(&admin, "").await, "mover").await.unwrap();
    let mover = shows(&lab, &identity);
    let told = mover.post::<Value>("/api/node/v1/hello", &hello(VERSION + 1)).await;
    assert_eq!((status(&told), code(&told)), (426, "contract"));
    assert!(told.unwrap_err().to_string().ends_with("upgrade the server"));
    says_hello(&mover).await.unwrap();
    // What is asked for with a key of another kind, or not signed, is not made.
    for request in ["", "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n"] {
        let request = CertificateRequest { request: request.into() };
        let told = mover.post::<Certified>("/api/node/v1/certificate", &request).await;
        assert_eq!(status(&told), 422, "{request:?}");
    }
}
