//! Second factors, rules of passwords, sessions, groups, service accounts.

use aws_lc_rs::hmac;
use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use crate::support::{Lab, PASSWORD, make, status};

/// The code of a secret now, or so many steps from now: computed apart from the server's code.
pub fn code(secret: &str, steps: i64) -> String {
    let now = sluice_repository::Clock::system().now_ms();
    let step = (now / 30_000).saturating_add_signed(steps);
    let bytes = data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &bytes);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let at = usize::from(tag.as_ref()[19] & 15);
    let word = u32::from_be_bytes(tag.as_ref()[at..at + 4].try_into().unwrap());
    format!("{:06}", (word & 0x7fff_ffff) % 1_000_000)
}

async fn log_in(lab: &Lab, login: &str, password: &str, code: Option<&str>) -> (u16, Value) {
    let mut body = json!({"login": login, "password": password});
    if let Some(code) = code {
        body["code"] = code.into();
    }
    match lab.anybody.post::<Value>("/api/v1/sessions", &body).await {
        Ok(session) => (201, session),
        Err(error) => (error.status().unwrap(), Value::Null),
    }
}

fn with(lab: &Lab, session: &Value) -> Client {
    lab.anybody.clone().with_token(session["token"].as_str().unwrap())
}

/// Enrols; the secret and the recovery codes.
async fn enrol(client: &Client) -> (String, Vec<String>) {
    let told: Value = client.post("/api/v1/me/totp", &json!({"password": PASSWORD})).await.unwrap();
    let secret = told["secret"].as_str().unwrap().to_owned();
    assert!(told["uri"].as_str().unwrap().contains(&secret));
    // The code of now: the next one is good already, and left for logging in. Should the clock
    // move on meanwhile, both are still good.
    let confirm = json!({"code": code(&secret, 0)});
    let told: Value = client.post("/api/v1/me/totp/confirm", &confirm).await.unwrap();
    let codes = told["recovery_codes"].as_array().unwrap().iter();
    (secret, codes.map(|code| code.as_str().unwrap().to_owned()).collect())
}

async fn put(client: &Client, path: &str, body: Value) -> u16 {
    status(&client.send(Method::PUT, path, Some(&body), &[]).await)
}

async fn delete(client: &Client, path: &str) -> u16 {
    status(&client.send(Method::DELETE, path, None, &[]).await)
}

async fn id(client: &Client) -> String {
    let me: Value = client.get("/api/v1/me").await.unwrap();
    me["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_login_with_a_second_factor_takes_a_code_that_was_not_used() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let wrong = json!({"password": "not this one"});
    assert_eq!(status(&admin.post::<Value>("/api/v1/me/totp", &wrong).await), 403);
    let (secret, codes) = enrol(&admin).await;
    assert_eq!(codes.len(), 10);
    assert_eq!(log_in(&lab, "admin", PASSWORD, None).await.0, 401);
    let shown = code(&secret, 1);
    assert_eq!(log_in(&lab, "admin", "wrong password", Some(&shown)).await.0, 401);
    let (told, session) = log_in(&lab, "admin", PASSWORD, Some(&shown)).await;
    assert_eq!((told, &session["first"]), (201, &Value::Null));
    assert_eq!(log_in(&lab, "admin", PASSWORD, Some(&shown)).await.0, 401, "it was used");
    // A recovery code, however it is typed, once.
    let typed = codes[0].to_uppercase().replace('-', " ");
    assert_eq!(log_in(&lab, "admin", PASSWORD, Some(&typed)).await.0, 201);
    assert_eq!(log_in(&lab, "admin", PASSWORD, Some(&codes[0])).await.0, 401);
    let me: Value = admin.get("/api/v1/me").await.unwrap();
    assert_eq!((&me["second_factor"], &me["recovery_codes"]), (&true.into(), &9.into()));
    let again = json!({"password": PASSWORD});
    assert_eq!(status(&admin.post::<Value>("/api/v1/me/totp", &again).await), 409);
    let remove = json!({"password": PASSWORD, "code": codes[1]});
    admin.send(Method::POST, "/api/v1/me/totp/remove", Some(&remove), &[]).await.unwrap();
    assert_eq!(log_in(&lab, "admin", PASSWORD, None).await.0, 201);
    let audit: Value = admin.get("/api/v1/audit").await.unwrap();
    assert!(!audit.to_string().contains(&secret), "no secret is written down");
    let by: Vec<_> = audit["items"].as_array().unwrap().iter().collect();
    let by: Vec<_> = by.iter().filter_map(|row| row["detail"]["second_factor"].as_str()).collect();
    assert_eq!(by, ["code", "recovery-code"]);
}

#[tokio::test]
async fn guessing_codes_is_slowed_down() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let (secret, _) = enrol(&admin).await;
    let mut told = Vec::new();
    for _ in 0..6 {
        told.push(log_in(&lab, "admin", PASSWORD, Some("000000")).await.0);
    }
    assert_eq!(told, [401, 401, 401, 401, 401, 429]);
    assert_eq!(log_in(&lab, "admin", PASSWORD, Some(&code(&secret, 0))).await.0, 429);
}

#[tokio::test]
async fn a_role_can_take_a_second_factor_and_an_administrator_resets_it() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let viewer = lab.user(&admin, "viewer", None).await;
    let second = lab.user(&admin, "admin", None).await;
    let token: Value = second.post("/api/v1/tokens", &json!({"name": "ci"})).await.unwrap();
    enrol(&admin).await;
    let rules = json!({"second_factor_from": "admin"});
    assert_eq!(put(&admin, "/api/v1/access-rules", rules).await, 200);
    assert_eq!(status(&second.get::<Value>("/api/v1/users").await), 403);
    assert_eq!(status(&viewer.get::<Value>("/api/v1/nodes").await), 200);
    let program = lab.anybody.clone().with_token(token["token"].as_str().unwrap());
    assert_eq!(status(&program.get::<Value>("/api/v1/users").await), 200);
    let (_, session) = log_in(&lab, "admin-system", PASSWORD, None).await;
    assert_eq!(session["first"], "enrol-totp");
    let second = with(&lab, &session);
    let more = second.post::<Value>("/api/v1/tokens", &json!({"name": "more"})).await;
    assert_eq!(status(&more), 403);
    enrol(&second).await;
    assert_eq!(status(&second.get::<Value>("/api/v1/users").await), 200);
    let path = format!("/api/v1/users/{}/totp", id(&second).await);
    assert_eq!(delete(&second, &path).await, 422, "one's own takes password and code");
    assert_eq!(delete(&admin, &path).await, 200);
    assert_eq!(status(&second.get::<Value>("/api/v1/me").await), 401, "its sessions end");
    assert_eq!(log_in(&lab, "admin-system", PASSWORD, None).await.0, 201);
}

#[tokio::test]
async fn a_new_user_changes_the_password_first_and_uses_no_old_one() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let rules = json!({"passwords": {"shortest": 16, "remembered": 2}});
    assert_eq!(put(&admin, "/api/v1/access-rules", rules).await, 200);
    let grants = json!([{"role": "viewer", "project": null}]);
    let new = |password: &str| json!({"login": "anna", "password": password, "grants": grants});
    assert_eq!(status(&admin.post::<Value>("/api/v1/users", &new("only 15 letters")).await), 422);
    admin.post::<Value>("/api/v1/users", &new(PASSWORD)).await.unwrap();
    let (_, session) = log_in(&lab, "anna", PASSWORD, None).await;
    assert_eq!(session["first"], "change-password");
    let anna = with(&lab, &session);
    assert_eq!(status(&anna.get::<Value>("/api/v1/nodes").await), 403);
    assert_eq!(status(&anna.post::<Value>("/api/v1/tokens", &json!({"name": "x"})).await), 403);
    let path = format!("/api/v1/users/{}/password", id(&anna).await);
    let change = |new: &str, now: &str| json!({"password": new, "current": now});
    let (second, third) = ("the second password", "the third password");
    assert_eq!(put(&anna, &path, json!({"password": second})).await, 422);
    assert_eq!(put(&anna, &path, change(second, "not the right one")).await, 403);
    assert_eq!(put(&anna, &path, change(PASSWORD, PASSWORD)).await, 422);
    assert_eq!(put(&anna, &path, change(second, PASSWORD)).await, 200);
    let (_, session) = log_in(&lab, "anna", second, None).await;
    assert_eq!(session["first"], Value::Null);
    let anna = with(&lab, &session);
    assert_eq!(status(&anna.get::<Value>("/api/v1/nodes").await), 200);
    assert_eq!(put(&anna, &path, change(PASSWORD, second)).await, 422, "it is remembered");
    assert_eq!(put(&anna, &path, change(third, second)).await, 200);
    assert_eq!(put(&admin, &path, json!({"password": "an administrator's word"})).await, 200);
    let (_, session) = log_in(&lab, "anna", "an administrator's word", None).await;
    assert_eq!(session["first"], "change-password");
    for odd in [json!({"passwords": {"shortest": 5}}), json!({"approvals": {"hours": 0}})] {
        assert_eq!(put(&admin, "/api/v1/access-rules", odd).await, 422);
    }
}

#[tokio::test]
async fn sessions_are_listed_and_ended_by_their_owner() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let other = lab.login("admin").await;
    let stranger = lab.user(&admin, "admin", None).await;
    let list: Value = admin.get("/api/v1/sessions").await.unwrap();
    let current: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|one| one["current"].clone()).collect();
    assert_eq!(current, [true, false]);
    let path = format!("/api/v1/sessions/{}", list["items"][1]["id"].as_str().unwrap());
    assert_eq!(delete(&stranger, &path).await, 404);
    assert_eq!(delete(&admin, &path).await, 200);
    assert_eq!(status(&other.get::<Value>("/api/v1/me").await), 401);
    assert!(!list.to_string().contains("session-"), "what is shown is no session");
    let path = format!("/api/v1/users/{}/sessions", id(&stranger).await);
    assert_eq!(delete(&admin, &path).await, 200);
    assert_eq!(status(&stranger.get::<Value>("/api/v1/me").await), 401);
}

#[tokio::test]
async fn a_group_gives_its_members_what_it_may_do() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let project = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let user = json!({"login": "anna", "password": PASSWORD, "keep_password": true});
    let anna = make(&admin, "users", user).await;
    let client = lab.login("anna").await;
    let path = format!("/api/v1/projects/{project}");
    assert_eq!(status(&client.get::<Value>(&path).await), 403);
    let grants = json!([{"role": "viewer", "project": project}]);
    let spec = json!({"name": "shop people", "members": [anna], "grants": grants});
    let group = make(&admin, "groups", spec).await;
    assert_eq!(status(&client.get::<Value>(&path).await), 200);
    let path_of_group = format!("/api/v1/groups/{group}");
    assert_eq!(delete(&admin, &path).await, 409, "its name must not come to mean another one");
    let empty = json!({"name": "shop people", "grants": grants});
    assert_eq!(put(&admin, &path_of_group, empty.clone()).await, 428);
    let based = [("if-match", "\"1\"")];
    admin.send(Method::PUT, &path_of_group, Some(&empty), &based).await.unwrap();
    assert_eq!(status(&client.get::<Value>(&path).await), 403);
    let stale = admin.send(Method::PUT, &path_of_group, Some(&empty), &based).await;
    assert_eq!(status(&stale), 412);
    let odd = json!({"name": "x", "members": ["0193a2b4-0000-7000-8000-000000000000"]});
    assert_eq!(status(&admin.post::<Value>("/api/v1/groups", &odd).await), 404);
    assert_eq!(delete(&admin, &path_of_group).await, 200);
}

#[tokio::test]
async fn a_service_account_has_tokens_and_cannot_log_in() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let grants = json!([{"role": "viewer", "project": null}]);
    let both = json!({"login": "robot", "service": true, "password": PASSWORD});
    assert_eq!(status(&admin.post::<Value>("/api/v1/users", &both).await), 422);
    let user = json!({"login": "robot", "service": true, "grants": grants});
    let robot = make(&admin, "users", user).await;
    let path = format!("/api/v1/users/{robot}/tokens");
    let made: Value = admin.post(&path, &json!({"name": "ci"})).await.unwrap();
    let program = lab.anybody.clone().with_token(made["token"].as_str().unwrap());
    assert_eq!(status(&program.get::<Value>("/api/v1/nodes").await), 200);
    assert_eq!(log_in(&lab, "robot", "", None).await.0, 401);
    let change = json!({"password": "a password it cannot have"});
    assert_eq!(put(&admin, &format!("/api/v1/users/{robot}/password"), change).await, 422);
    let own = format!("/api/v1/users/{}/tokens", id(&admin).await);
    let told = admin.post::<Value>(&own, &json!({"name": "in my name"})).await;
    assert_eq!(status(&told), 422);
    let list: Value = admin.get(&path).await.unwrap();
    assert!(list["items"][0].get("token").is_none());
    let token = format!("{path}/{}", made["id"].as_str().unwrap());
    assert_eq!(delete(&admin, &token).await, 200);
    assert_eq!(status(&program.get::<Value>("/api/v1/me").await), 401);
}
