//! Passkeys: made, used beside a password and without, refused, removed.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{Client, ClientError};
use sluice_server::{Config, Server};

use crate::device::{Device, PUBLIC};
use crate::support::{Lab, PASSWORD, config, status};

const LEASE: Duration = Duration::from_secs(60);

async fn lab() -> Lab {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let public = Config { public_url: Some(PUBLIC.into()), ..config(folder.path(), LEASE) };
    Lab::run(folder, public).await
}

/// A status, with a word, and the document.
async fn ask(client: &Client, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let path = format!("/api/v1/{path}");
    match client.send(method, &path, Some(body), &[]).await {
        Ok(answer) => (answer.status, answer.body),
        Err(ClientError::Refused { status, code, .. }) => (status, json!(code)),
        Err(error) => panic!("{path}: {error:?}"),
    }
}

async fn post(client: &Client, path: &str, body: Value) -> (u16, Value) {
    ask(client, Method::POST, path, &body).await
}

/// Makes a passkey; what is told of it.
async fn make(client: &Client, device: &mut Device, name: &str) -> (u16, Value) {
    let begun = post(client, "me/passkeys", json!({"password": PASSWORD})).await.1;
    let credential = device.make(&begun["options"]);
    let end = json!({"registration": begun["registration"], "name": name,
        "credential": credential});
    post(client, "me/passkeys/finish", end).await
}

/// Begins a login with name and password, or without.
async fn begin(lab: &Lab, login: Option<&str>) -> Value {
    let body = match login {
        Some(login) => json!({"login": login, "password": PASSWORD}),
        None => json!({}),
    };
    let (told, begun) = post(&lab.anybody, "passkey-logins", body).await;
    assert_eq!(told, 201, "{begun}");
    begun
}

async fn log_in(lab: &Lab, device: &mut Device, login: Option<&str>) -> (u16, Value) {
    let begun = begin(lab, login).await;
    let credential = device.show(&begun["options"]);
    let end = json!({"login": begun["login"], "credential": credential});
    post(&lab.anybody, "passkey-logins/finish", end).await
}

fn with(lab: &Lab, session: &Value) -> Client {
    lab.anybody.clone().with_token(session["token"].as_str().unwrap())
}

async fn by_password(lab: &Lab, login: &str, code: Option<&Value>) -> (u16, Value) {
    let mut body = json!({"login": login, "password": PASSWORD});
    if let Some(code) = code {
        body["code"] = code.clone();
    }
    post(&lab.anybody, "sessions", body).await
}

async fn get(client: &Client, path: &str) -> Value {
    client.get(&format!("/api/v1/{path}")).await.unwrap()
}

/// What the log has of an action: the details.
async fn logged(admin: &Client, action: &str) -> Vec<Value> {
    let audit = get(admin, "audit?limit=1000").await;
    let rows = audit["items"].as_array().unwrap().iter();
    rows.filter(|row| row["action"] == action).map(|row| row["detail"].clone()).collect()
}

#[tokio::test]
async fn there_are_none_without_a_name_of_the_server() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let off = (409, json!("passkeys-off"));
    assert_eq!(post(&admin, "me/passkeys", json!({"password": PASSWORD})).await, off);
    assert_eq!(post(&lab.anybody, "passkey-logins", json!({})).await, off);
    assert_eq!(get(&admin, "me/passkeys").await, json!([]));
    let folder = lab.stop().await;
    let with = |url: &str| Config { public_url: Some(url.into()), ..config(folder.path(), LEASE) };
    for url in ["backup.example.org", "http://backup.example.org", "https://a.example/path"] {
        let told = Server::open(with(url)).await.unwrap_err();
        assert_eq!(told.to_string(), "cannot use the public URL", "{url}");
    }
    let lab = Lab::run(Arc::clone(&folder), with("https://192.0.2.7:9390")).await;
    assert_eq!(post(&lab.anybody, "passkey-logins", json!({})).await, off);
}

#[tokio::test]
async fn a_passkey_is_a_second_factor() {
    let lab = lab().await;
    let admin = lab.administrator().await;
    let mut device = Device::new();
    let wrong = post(&admin, "me/passkeys", json!({"password": "not this one"})).await;
    assert_eq!(wrong, (403, json!("wrong-password")));
    let (told, made) = make(&admin, &mut device, "blue key").await;
    assert_eq!((told, &made["passkey"]["name"]), (201, &json!("blue key")));
    assert_eq!(made["passkey"]["transports"], json!(["internal"]));
    let codes = made["recovery_codes"].as_array().unwrap();
    assert_eq!(codes.len(), 10);
    let me = get(&admin, "me").await;
    assert_eq!((&me["second_factor"], &me["passkeys"]), (&json!(true), &json!(1)));
    assert_eq!(by_password(&lab, "admin", None).await, (401, json!("passkey-needed")));
    let (told, session) = log_in(&lab, &mut device, Some("admin")).await;
    assert_eq!((told, &session["first"]), (201, &Value::Null));
    let again = with(&lab, &session);
    let known = get(&again, "me/passkeys").await;
    assert!(known[0]["used_ms"].is_u64() && known[0]["created_ms"].is_u64());
    assert_eq!((&known[0]["backed_up"], &known[0]["passwordless"]), (&json!(false), &json!(true)));
    // A recovery code is typed instead, once.
    assert_eq!(by_password(&lab, "admin", Some(&codes[0])).await.0, 201);
    assert_eq!(by_password(&lab, "admin", Some(&codes[0])).await, (401, json!("wrong-code")));
    assert_eq!(get(&again, "me").await["recovery_codes"], 9);
    // The second one brings no more codes.
    let (told, more) = make(&again, &mut Device::new(), "red key").await;
    assert_eq!((told, &more["recovery_codes"]), (201, &json!([])));
    let by: Vec<_> = logged(&again, "session.begin").await;
    let by: Vec<_> = by.iter().filter_map(|detail| detail["second_factor"].as_str()).collect();
    assert_eq!(by, ["passkey", "recovery-code"]);
    assert_eq!(logged(&again, "passkey.add").await.len(), 2);
    let names: Vec<Value> = begin(&lab, Some("admin")).await["options"]["allowCredentials"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].clone())
        .collect();
    assert_eq!(names.len(), 2);
    assert_eq!(names[0], device.name());
}

#[tokio::test]
async fn a_passkey_that_knows_its_owner_needs_no_password() {
    let lab = lab().await;
    let admin = lab.administrator().await;
    let mut device = Device::new();
    make(&admin, &mut device, "laptop").await;
    assert_eq!(begin(&lab, None).await["options"]["userVerification"], "required");
    let (told, session) = log_in(&lab, &mut device, None).await;
    assert_eq!(told, 201);
    assert_eq!(get(&with(&lab, &session), "me").await["login"], "admin");
    let wrong = (401, json!("wrong-passkey"));
    device.verifies = false;
    assert_eq!(log_in(&lab, &mut device, None).await, wrong, "nobody was verified");
    device.verifies = true;
    let owner = device.owner.take();
    assert_eq!(log_in(&lab, &mut device, None).await, wrong, "it tells no name");
    device.owner = Some("b3R0bw".into());
    assert_eq!(log_in(&lab, &mut device, None).await, wrong, "it tells another name");
    device.owner = owner;
    assert_eq!(log_in(&lab, &mut Device::new(), None).await, wrong, "nobody knows it");
    assert_eq!(log_in(&lab, &mut device, None).await.0, 201);
    let why: Vec<_> = logged(&admin, "session.refused").await;
    assert_eq!(why.len(), 4);
    assert!(why.iter().all(|detail| detail["why"].is_string()), "{why:?}");
}

#[tokio::test]
async fn one_that_was_made_without_knowing_its_owner_is_good_beside_a_password_first() {
    let lab = lab().await;
    let admin = lab.administrator().await;
    let mut device = Device::new();
    device.verifies = false;
    make(&admin, &mut device, "found in the street").await;
    assert_eq!(get(&admin, "me/passkeys").await[0]["passwordless"], false);
    assert_eq!(log_in(&lab, &mut device, Some("admin")).await.0, 201);
    // Somebody sets a PIN on it.
    device.verifies = true;
    assert_eq!(log_in(&lab, &mut device, None).await, (401, json!("wrong-passkey")));
    // Its owner does.
    assert_eq!(log_in(&lab, &mut device, Some("admin")).await.0, 201);
    assert_eq!(log_in(&lab, &mut device, None).await.0, 201);
}

#[tokio::test]
async fn an_answer_counts_once_and_for_what_was_asked() {
    let lab = lab().await;
    let admin = lab.administrator().await;
    let otto = lab.user(&admin, "viewer", None).await;
    let (mut device, mut other) = (Device::new(), Device::new());
    make(&admin, &mut device, "a").await;
    make(&otto, &mut other, "a").await;
    let over = (403, json!("passkey-over"));
    // Shown twice.
    let begun = begin(&lab, None).await;
    let end = json!({"login": begun["login"], "credential": device.show(&begun["options"])});
    assert_eq!(post(&lab.anybody, "passkey-logins/finish", end.clone()).await.0, 201);
    assert_eq!(post(&lab.anybody, "passkey-logins/finish", end).await, over);
    // The answer to another question.
    let (first, second) = (begin(&lab, None).await, begin(&lab, None).await);
    let end = json!({"login": first["login"], "credential": device.show(&second["options"])});
    assert_eq!(post(&lab.anybody, "passkey-logins/finish", end).await.0, 401);
    // Somebody else's passkey beside a password.
    let begun = begin(&lab, Some("admin")).await;
    let end = json!({"login": begun["login"], "credential": other.show(&begun["options"])});
    assert_eq!(post(&lab.anybody, "passkey-logins/finish", end).await.0, 401);
    // What one session was asked, another one answers.
    let begun = post(&admin, "me/passkeys", json!({"password": PASSWORD})).await.1;
    let end = json!({"registration": begun["registration"], "name": "b",
        "credential": Device::new().make(&begun["options"])});
    assert_eq!(post(&otto, "me/passkeys/finish", end.clone()).await, over);
    assert_eq!(post(&admin, "me/passkeys/finish", end).await, over, "it was used up");
    // A question about a login is none about a new passkey.
    let begun = begin(&lab, None).await;
    let options = post(&admin, "me/passkeys", json!({"password": PASSWORD})).await.1;
    let end = json!({"registration": begun["login"], "name": "b",
        "credential": Device::new().make(&options["options"])});
    assert_eq!(post(&admin, "me/passkeys/finish", end).await, over);
    // Half of a name and a password.
    let half = post(&lab.anybody, "passkey-logins", json!({"login": "admin"})).await;
    assert_eq!(half, (422, json!("invalid")));
    let wrong = json!({"login": "admin", "password": "not this one"});
    let wrong = post(&lab.anybody, "passkey-logins", wrong).await;
    assert_eq!(wrong, (401, json!("wrong-password")));
}

#[tokio::test]
async fn a_copy_is_noticed_by_its_counter() {
    let lab = lab().await;
    let admin = lab.administrator().await;
    let mut device = Device::new();
    device.counter = Some(1);
    make(&admin, &mut device, "key").await;
    assert_eq!(log_in(&lab, &mut device, Some("admin")).await.0, 201);
    device.counter = Some(2);
    assert_eq!(log_in(&lab, &mut device, Some("admin")).await, (401, json!("wrong-passkey")));
    device.counter = Some(1);
    assert_eq!(log_in(&lab, &mut device, None).await, (401, json!("wrong-passkey")));
    let alarms = logged(&admin, "passkey.copied").await;
    assert_eq!(alarms.len(), 2);
    assert_eq!((&alarms[0]["name"], &alarms[0]["counter"]), (&json!("key"), &json!(2)));
    device.counter = Some(3);
    assert_eq!(log_in(&lab, &mut device, None).await.0, 201);
}

#[tokio::test]
async fn what_a_page_elsewhere_has_asked_for_is_refused() {
    let lab = lab().await;
    let admin = lab.administrator().await;
    let mut device = Device::new();
    for origin in ["https://backup.example.org", "https://evil.example", "http://localhost:9390"] {
        device.origin = origin.into();
        let told = make(&admin, &mut device, "key").await;
        assert_eq!(told, (403, json!("wrong-passkey")), "{origin}");
    }
    assert_eq!(logged(&admin, "passkey.refused").await.len(), 3);
    device.origin = PUBLIC.into();
    assert_eq!(make(&admin, &mut device, "key").await.0, 201);
    device.origin = "https://backup.example.org.evil.example:9390".into();
    assert_eq!(log_in(&lab, &mut device, None).await, (401, json!("wrong-passkey")));
    // Each is somebody's, once, and by one name.
    device.origin = PUBLIC.into();
    let otto = lab.user(&admin, "viewer", None).await;
    assert_eq!(make(&otto, &mut device, "mine").await, (409, json!("conflict")));
    assert_eq!(make(&admin, &mut Device::new(), "key").await, (409, json!("conflict")));
    let long = "x".repeat(129);
    assert_eq!(make(&admin, &mut Device::new(), &long).await, (422, json!("invalid")));
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let lab = lab().await;
    let admin = lab.administrator().await;
    make(&admin, &mut Device::new(), "key").await;
    let mut stranger = Device::new();
    let mut told = Vec::new();
    for _ in 0..5 {
        told.push(log_in(&lab, &mut stranger, Some("admin")).await.0);
    }
    let body = json!({"login": "admin", "password": PASSWORD});
    told.push(post(&lab.anybody, "passkey-logins", body).await.0);
    assert_eq!(told, [401, 401, 401, 401, 401, 429]);
    for _ in 0..5 {
        log_in(&lab, &mut stranger, None).await;
    }
    let told = post(&lab.anybody, "passkey-logins", json!({})).await;
    assert_eq!(told, (429, json!("slow-down")));
}

#[tokio::test]
async fn a_role_that_takes_a_second_factor_takes_a_passkey() {
    let lab = lab().await;
    let admin = lab.administrator().await;
    let second = lab.user(&admin, "admin", None).await;
    make(&admin, &mut Device::new(), "key").await;
    let rules = json!({"second_factor_from": "admin"});
    assert_eq!(ask(&admin, Method::PUT, "access-rules", &rules).await.0, 200);
    let session = by_password(&lab, "admin-system", None).await.1;
    assert_eq!(session["first"], "enrol-totp");
    let incomplete = with(&lab, &session);
    assert_eq!(status(&incomplete.get::<Value>("/api/v1/users").await), 403);
    let mut device = Device::new();
    let codes = make(&incomplete, &mut device, "key").await.1["recovery_codes"].clone();
    assert_eq!(status(&incomplete.get::<Value>("/api/v1/users").await), 200);
    let session = log_in(&lab, &mut device, None).await.1;
    assert_eq!(session["first"], Value::Null);
    // The last one may go; then there must be another.
    let id = get(&second, "me/passkeys").await[0]["id"].as_str().unwrap().to_owned();
    let remove = json!({"password": PASSWORD, "code": codes[0]});
    let gone = post(&second, &format!("me/passkeys/{id}/remove"), remove).await;
    assert_eq!(gone.0, 204);
    assert_eq!(get(&second, "me").await["first"], "enrol-totp");
    assert_eq!(get(&second, "me").await["recovery_codes"], 0);
}

#[tokio::test]
async fn passkeys_are_renamed_and_removed_by_their_owner() {
    let lab = lab().await;
    let admin = lab.administrator().await;
    let otto = lab.user(&admin, "viewer", None).await;
    let mut device = Device::new();
    make(&admin, &mut device, "one").await;
    make(&admin, &mut Device::new(), "two").await;
    let known = get(&admin, "me/passkeys").await;
    let path = format!("me/passkeys/{}", known[0]["id"].as_str().unwrap());
    let name = |name: &str| json!({"name": name});
    assert_eq!(ask(&otto, Method::PUT, &path, &name("mine")).await.0, 404);
    assert_eq!(ask(&admin, Method::PUT, &path, &name("two")).await.0, 409);
    assert_eq!(ask(&admin, Method::PUT, &path, &name(" ")).await.0, 422);
    assert_eq!(ask(&admin, Method::PUT, &path, &name("first")).await.0, 204);
    assert_eq!(get(&admin, "me/passkeys").await[0]["name"], "first");
    let remove = format!("{path}/remove");
    assert_eq!(post(&admin, &remove, json!({"password": PASSWORD})).await.0, 422);
    let wrong = json!({"password": PASSWORD, "code": "000000"});
    assert_eq!(post(&admin, &remove, wrong).await, (403, json!("wrong-code")));
    let asked = post(&admin, "me/passkeys/challenge", json!({})).await.1;
    let shown = json!({"challenge": asked["challenge"],
        "credential": device.show(&asked["options"])});
    let wrong = json!({"password": "not this one", "passkey": shown});
    assert_eq!(post(&admin, &remove, wrong).await, (403, json!("wrong-password")));
    let right = json!({"password": PASSWORD, "passkey": shown});
    assert_eq!(post(&admin, &remove, right.clone()).await.0, 204);
    assert_eq!(post(&admin, &remove, right).await, (403, json!("passkey-over")));
    assert_eq!(get(&admin, "me/passkeys").await.as_array().unwrap().len(), 1);
    let none = post(&otto, "me/passkeys/challenge", json!({})).await;
    assert_eq!(none, (404, json!("not-found")));
    assert_eq!(logged(&admin, "passkey.remove").await, [json!({"name": "first"})]);
    assert_eq!(log_in(&lab, &mut device, None).await.0, 401);
}

#[tokio::test]
async fn an_administrator_resets_them_and_programs_have_none() {
    let lab = lab().await;
    let admin = lab.administrator().await;
    let otto = lab.user(&admin, "viewer", None).await;
    let token: Value = otto.post("/api/v1/tokens", &json!({"name": "ci"})).await.unwrap();
    let program = with(&lab, &token);
    let told = post(&program, "me/passkeys", json!({"password": PASSWORD})).await;
    assert_eq!(told, (403, json!("login-needed")));
    let mut device = Device::new();
    make(&otto, &mut device, "key").await;
    let users = get(&admin, "users").await;
    let user = users["items"].as_array().unwrap().iter().find(|user| user["passkeys"] == 1);
    let path = format!("users/{}/passkeys", user.unwrap()["id"].as_str().unwrap());
    assert_eq!(ask(&otto, Method::DELETE, &path, &json!({})).await.0, 403);
    assert_eq!(ask(&admin, Method::DELETE, &path, &json!({})).await.0, 204);
    assert_eq!(ask(&admin, Method::DELETE, &path, &json!({})).await.0, 404);
    assert_eq!(status(&otto.get::<Value>("/api/v1/me").await), 401, "the sessions end");
    assert_eq!(log_in(&lab, &mut device, None).await.0, 401);
    assert_eq!(by_password(&lab, "viewer-system", None).await.0, 201);
    let own = get(&admin, "me").await["id"].as_str().unwrap().to_owned();
    let told = ask(&admin, Method::DELETE, &format!("users/{own}/passkeys"), &json!({})).await;
    assert_eq!(told.0, 422);
}

#[tokio::test]
async fn an_app_that_was_not_confirmed_opens_nothing() {
    let lab = lab().await;
    let admin = lab.administrator().await;
    make(&admin, &mut Device::new(), "key").await;
    let told = post(&admin, "me/totp", json!({"password": PASSWORD})).await.1;
    let code = json!(crate::access::code(told["secret"].as_str().unwrap(), 0));
    assert_eq!(by_password(&lab, "admin", Some(&code)).await, (401, json!("wrong-code")));
    let code = json!({"code": crate::access::code(told["secret"].as_str().unwrap(), 0)});
    assert_eq!(post(&admin, "me/totp/confirm", code).await.0, 200);
    assert_eq!(by_password(&lab, "admin", None).await, (401, json!("code-needed")));
    let code = json!(crate::access::code(told["secret"].as_str().unwrap(), 1));
    assert_eq!(by_password(&lab, "admin", Some(&code)).await.0, 201);
}

#[tokio::test]
async fn several_servers_of_a_database_are_one() {
    let lab = lab().await;
    let admin = lab.administrator().await;
    let mut device = Device::new();
    make(&admin, &mut device, "key").await;
    let database = format!("sqlite:{}", lab.folder.path().join("catalog.sqlite").display());
    let two = Arc::new(tempfile::tempdir().unwrap());
    let beside = Config {
        database: Some(database),
        public_url: Some(PUBLIC.into()),
        ..config(two.path(), LEASE)
    };
    // The same keys; only the socket is another.
    std::fs::copy(lab.folder.path().join("secrets.key"), two.path().join("secrets.key")).unwrap();
    let beside = Lab::run(two, beside).await;
    let begun = begin(&lab, None).await;
    let end = json!({"login": begun["login"], "credential": device.show(&begun["options"])});
    let (told, session) = post(&beside.anybody, "passkey-logins/finish", end.clone()).await;
    assert_eq!(told, 201);
    assert_eq!(get(&with(&lab, &session), "me").await["login"], "admin");
    assert_eq!(post(&lab.anybody, "passkey-logins/finish", end).await.0, 403);
    beside.stop().await;
}
