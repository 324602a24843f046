//! What waits for a second person.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use crate::support::{Lab, make, status};

/// A server where these actions wait; two administrators.
async fn place(actions: Value) -> (Lab, Client, Client) {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let second = lab.user(&admin, "admin", None).await;
    let rules = json!({"approvals": {"actions": actions}});
    admin.send(Method::PUT, "/api/v1/access-rules", Some(&rules), &[]).await.unwrap();
    (lab, admin, second)
}

/// Asks for something that waits; the approval's path.
async fn ask(client: &Client, method: Method, path: &str, body: Option<Value>) -> String {
    let answer = client.send(method, path, body.as_ref(), &[]).await.unwrap();
    assert_eq!((answer.status, &answer.body["state"]), (202, &"pending".into()));
    format!("/api/v1/approvals/{}", answer.body["id"].as_str().unwrap())
}

async fn say(client: &Client, path: &str, word: &str) -> (u16, Value) {
    let reason = json!({"reason": "looked at it"});
    let path = format!("{path}/{word}");
    match client.send(Method::POST, &path, Some(&reason), &[]).await {
        Ok(answer) => (answer.status, answer.body),
        Err(error) => (error.status().unwrap(), Value::Null),
    }
}

#[tokio::test]
async fn a_removal_waits_for_somebody_else_and_is_done_in_the_name_of_who_asked() {
    let (lab, admin, second) = place(json!(["remove-project"])).await;
    let project = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let path = format!("/api/v1/projects/{project}");
    let approval = ask(&admin, Method::DELETE, &path, None).await;
    assert_eq!(status(&admin.get::<Value>(&path).await), 200, "nothing was done");
    // The same by another spelling of the id.
    let (head, tail) = project.split_at(1);
    let spelt = format!("/api/v1/projects/%{:02x}{tail}", head.as_bytes()[0]);
    assert_eq!(status(&admin.get::<Value>(&spelt).await), 200, "handlers understand it");
    assert_eq!(status(&admin.send(Method::DELETE, &spelt, None, &[]).await), 404);
    assert_eq!(status(&admin.get::<Value>(&path).await), 200, "nothing was done");
    assert_eq!(say(&admin, &approval, "approve").await.0, 403, "nobody approves their own");
    let viewer = lab.user(&admin, "viewer", None).await;
    assert_eq!(say(&viewer, &approval, "approve").await.0, 403);
    assert_eq!(status(&viewer.get::<Value>(&approval).await), 200);
    let token: Value = second.post("/api/v1/tokens", &json!({"name": "ci"})).await.unwrap();
    let program = lab.anybody.clone().with_token(token["token"].as_str().unwrap());
    assert_eq!(say(&program, &approval, "approve").await.0, 403, "a program is no person");
    let (told, view) = say(&second, &approval, "approve").await;
    assert_eq!((told, &view["state"]), (200, &"done".into()));
    assert_eq!(
        (&view["decider"], &view["reason"]),
        (&"admin-system".into(), &"looked at it".into())
    );
    assert_eq!(status(&admin.get::<Value>(&path).await), 404);
    assert_eq!(say(&second, &approval, "approve").await.0, 409, "once");
    let audit: Value = admin.get("/api/v1/audit").await.unwrap();
    let told: Vec<_> = audit["items"].as_array().unwrap().iter().rev().take(5).collect();
    let told: Vec<_> = told.iter().map(|row| (&row["action"], &row["actor"])).collect();
    assert!(told.contains(&(&"project.remove".into(), &"admin".into())), "{told:?}");
    assert!(told.contains(&(&"approval.approve".into(), &"admin-system".into())), "{told:?}");
}

#[tokio::test]
async fn what_would_be_refused_is_refused_at_once() {
    let (lab, admin, _) = place(json!(["remove-project", "remove-instance"])).await;
    let project = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let spec = json!({"source": {"kind": "device", "path": "/dev/x"}});
    let body = json!({"project": project, "name": "web", "spec": spec});
    let instance = make(&admin, "instances", body).await;
    let operator = lab.user(&admin, "operator", Some(&project)).await;
    let path = format!("/api/v1/instances/{instance}");
    assert_eq!(status(&operator.send(Method::DELETE, &path, None, &[]).await), 403);
    let used = format!("/api/v1/projects/{project}");
    assert_eq!(status(&admin.send(Method::DELETE, &used, None, &[]).await), 409);
    let nothing: Value = admin.get("/api/v1/approvals").await.unwrap();
    assert_eq!(nothing["items"], json!([]));
    // A manager of the project asks; an administrator of the project decides.
    let manager = lab.user(&admin, "manager", Some(&project)).await;
    let chief = lab.user(&admin, "admin", Some(&project)).await;
    let approval = ask(&manager, Method::DELETE, &path, None).await;
    let other = make(&admin, "projects", json!({"name": "blog", "spec": {}})).await;
    let stranger = lab.user(&admin, "admin", Some(&other)).await;
    assert_eq!(say(&stranger, &approval, "approve").await.0, 404);
    assert_eq!(say(&operator, &approval, "reject").await.0, 403);
    assert_eq!(say(&chief, &approval, "reject").await.1["state"], "rejected");
    assert_eq!(say(&chief, &approval, "approve").await.0, 409);
    assert_eq!(status(&admin.get::<Value>(&path).await), 200);
    let approval = ask(&manager, Method::DELETE, &path, None).await;
    assert_eq!(say(&manager, &approval, "reject").await.1["state"], "withdrawn");
}

#[tokio::test]
async fn what_was_changed_meanwhile_fails_and_a_lost_right_counts() {
    let (lab, admin, second) = place(json!(["shorten-retention", "remove-policy"])).await;
    let store = json!({"name": "store", "spec": {"url": "/backup"}});
    let destination = make(&admin, "destinations", store).await;
    let spec = |last: u32| {
        let keep = json!({"last": last});
        json!({"rules": [{"name": "main", "destination": destination, "keep": keep,
            "schedules": []}]})
    };
    let policy = make(&admin, "policies", json!({"name": "p", "spec": spec(5)})).await;
    let path = format!("/api/v1/policies/{policy}");
    let change = |last: u32| json!({"name": "p", "spec": spec(last)});
    let send = |body: Value, tag: &'static str| {
        let (admin, path) = (admin.clone(), path.clone());
        async move { admin.send(Method::PUT, &path, Some(&body), &[("if-match", tag)]).await }
    };
    assert_eq!(send(change(6), "\"1\"").await.unwrap().status, 200, "longer does not wait");
    let asked = send(change(2), "\"2\"").await.unwrap();
    assert_eq!((asked.status, &asked.body["based_on"]), (202, &"\"2\"".into()));
    let approval = format!("/api/v1/approvals/{}", asked.body["id"].as_str().unwrap());
    assert_eq!(send(change(7), "\"2\"").await.unwrap().status, 200);
    let (told, view) = say(&second, &approval, "approve").await;
    assert_eq!((told, &view["state"]), (200, &"failed".into()));
    assert!(view["reason"].as_str().unwrap().contains("changed by somebody else"), "{view}");
    let now: Value = admin.get(&path).await.unwrap();
    assert_eq!(now["spec"]["rules"][0]["keep"]["last"], 7);
    // Who asked may not do it any more.
    let manager = lab.user(&admin, "manager", None).await;
    let approval = ask(&manager, Method::DELETE, &path, None).await;
    let me: Value = manager.get("/api/v1/me").await.unwrap();
    let grants = format!("/api/v1/users/{}/grants", me["id"].as_str().unwrap());
    let viewer = json!([{"role": "viewer", "project": null}]);
    admin.send(Method::PUT, &grants, Some(&viewer), &[]).await.unwrap();
    assert_eq!(say(&second, &approval, "approve").await.1["state"], "failed");
    assert_eq!(status(&admin.get::<Value>(&path).await), 200);
}

#[tokio::test]
async fn the_rules_protect_themselves_and_secrets_are_not_shown() {
    let (lab, admin, second) = place(json!(["change-users", "collect"])).await;
    let rules = "/api/v1/access-rules";
    let approval = ask(&admin, Method::PUT, rules, Some(json!({}))).await;
    let now: Value = admin.get(rules).await.unwrap();
    assert_eq!(now["approvals"]["actions"], json!(["change-users", "collect"]));
    let user = json!({"login": "anna", "password": "hush hush hush", "keep_password": true});
    let new = ask(&admin, Method::POST, "/api/v1/users", Some(user)).await;
    let shown: Value = second.get(&new).await.unwrap();
    assert_eq!(shown["document"]["login"], "anna");
    assert!(!shown.to_string().contains("hush"), "{shown}");
    assert_eq!(say(&second, &new, "approve").await.1["state"], "done");
    let body = json!({"login": "anna", "password": "hush hush hush"});
    let session: Value = lab.anybody.post("/api/v1/sessions", &body).await.unwrap();
    assert_eq!(session["first"], Value::Null);
    // One's own password is one's own affair.
    let anna = lab.anybody.clone().with_token(session["token"].as_str().unwrap());
    let me: Value = anna.get("/api/v1/me").await.unwrap();
    let path = format!("/api/v1/users/{}/password", me["id"].as_str().unwrap());
    let change = json!({"password": "hush hush hush hush", "current": "hush hush hush"});
    assert_eq!(anna.send(Method::PUT, &path, Some(&change), &[]).await.unwrap().status, 204);
    assert_eq!(say(&second, &approval, "approve").await.1["state"], "done");
    let now: Value = admin.get(rules).await.unwrap();
    assert_eq!(now["approvals"]["actions"], json!([]));
    let waits: Value = admin.get("/api/v1/approvals?state=pending").await.unwrap();
    assert_eq!(waits["items"], json!([]));
    let done: Value = admin.get("/api/v1/approvals?state=done&limit=1").await.unwrap();
    assert!(done["items"].as_array().unwrap().len() == 1 && done["next"].is_string());
}

#[tokio::test]
async fn a_first_policy_shortens_and_so_does_a_tag_or_an_assignment() {
    let place = crate::retention::Place::new().await;
    let task = json!({"kind": "backup", "instance": place.instance,
        "destination": place.destination});
    let task: Value = place.admin.post("/api/v1/tasks", &task).await.unwrap();
    crate::support::finish(&place.mover, task["id"].as_str().unwrap(), "shop.web@k1").await;
    let rules = json!({"approvals": {"actions": ["shorten-retention"]}});
    place.admin.send(Method::PUT, "/api/v1/access-rules", Some(&rules), &[]).await.unwrap();
    let policy = |name: &str, tag: &str, keep: Value| {
        let rule = json!({"name": "main", "destination": place.destination, "keep": keep,
            "schedules": []});
        json!({"name": name, "spec": {"assign": {"tags": [tag]}, "rules": [rule]}})
    };
    let post = |body: Value| {
        let admin = place.admin.clone();
        async move { admin.send(Method::POST, "/api/v1/policies", Some(&body), &[]).await.unwrap() }
    };
    assert_eq!(post(policy("first", "gold", json!({"last": 1}))).await.status, 202);
    assert_eq!(post(policy("all", "silver", json!({}))).await.status, 201, "it keeps everything");
    let few = post(policy("few", "bronze", json!({"last": 1}))).await;
    assert_eq!(few.status, 201, "no instance has it");
    let path = format!(
        "/api/v1/policies/{}/instances/{}",
        few.body["id"].as_str().unwrap(),
        place.instance
    );
    ask(&place.admin, Method::PUT, &path, None).await;
    let path = format!("/api/v1/instances/{}", place.instance);
    let source = json!({"kind": "device", "path": "/dev/x"});
    let tagged = |tag: &str| json!({"name": "web", "spec": {"source": source, "tags": [tag]}});
    let put = |body: Value| {
        let (admin, path) = (place.admin.clone(), path.clone());
        async move { admin.send(Method::PUT, &path, Some(&body), &[("if-match", "\"1\"")]).await }
    };
    assert_eq!(put(tagged("bronze")).await.unwrap().status, 202);
    assert_eq!(put(tagged("silver")).await.unwrap().status, 200);
}

#[tokio::test]
async fn plans_and_backups_of_the_server_itself_wait_too() {
    let (_lab, admin, _second) = place(json!(["remove-plan", "change-self-backup"])).await;
    let project = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let plan = json!({"project": project, "name": "flood", "spec": {"groups": []}});
    let plan = make(&admin, "plans", plan).await;
    ask(&admin, Method::DELETE, &format!("/api/v1/plans/{plan}"), None).await;
    let store = json!({"name": "store", "spec": {"url": "/backup"}});
    let destination = make(&admin, "destinations", store).await;
    let body = json!({"destination": destination, "every_seconds": 3600, "keep": 3});
    ask(&admin, Method::PUT, "/api/v1/self-backup", Some(body)).await;
}
