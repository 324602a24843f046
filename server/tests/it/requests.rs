use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use sluice_catalog::{Catalog, Claim, Claimed, Project, claimed, token_hash};
use sluice_node_api::Client;
use sluice_repository::Clock;
use sluice_server::{Config, Server};

use crate::support::{Lab, PASSWORD, config, make, status};

#[tokio::test]
async fn nothing_works_before_the_setup_and_its_token_works_once() {
    let lab = Lab::new().await;
    let file = lab.folder.path().join("setup-token");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), lab.setup.as_deref().unwrap());
    let wrong = json!({"token": "setup-0", "login": "admin", "password": PASSWORD});
    let told = lab.anybody.send(Method::POST, "/api/v1/setup", Some(&wrong), &[]).await;
    assert_eq!(status(&told), 403);
    let token = lab.setup.clone().unwrap();
    let short = json!({"token": token, "login": "admin", "password": "short"});
    let told = lab.anybody.send(Method::POST, "/api/v1/setup", Some(&short), &[]).await;
    assert_eq!(status(&told), 422);
    let admin = lab.administrator().await;
    let again = json!({"token": token, "login": "second", "password": PASSWORD});
    let told = lab.anybody.send(Method::POST, "/api/v1/setup", Some(&again), &[]).await;
    assert_eq!(status(&told), 403);
    let me: Value = admin.get("/api/v1/me").await.unwrap();
    assert_eq!((&me["login"], &me["grants"][0]["role"]), (&"admin".into(), &"admin".into()));
    // The next start knows that there is somebody, and sessions last.
    let again = Lab::start(lab.stop().await, Duration::from_secs(60)).await;
    assert!(again.setup.is_none() && !file.exists());
    again.login("admin").await;
}

#[tokio::test]
async fn of_servers_of_one_database_the_first_makes_the_setup_token() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lease = Duration::from_secs(60);
    let first = Server::open(config(one.path(), lease)).await.unwrap();
    let token = first.setup_token().expect("nobody is there yet").to_owned();
    // The same database and key, and a folder of its own.
    let key = "secrets.key";
    std::fs::copy(one.path().join(key), two.path().join(key)).unwrap();
    let database = format!("sqlite:{}", one.path().join("catalog.sqlite").display());
    let beside = Config { database: Some(database), ..config(two.path(), lease) };
    let second = Server::open(beside.clone()).await.unwrap();
    assert!(second.setup_token().is_none() && second.is_set_up_elsewhere());
    assert!(!two.path().join("setup-token").exists());
    drop((first, second));
    let again = Server::open(config(one.path(), lease)).await.unwrap();
    assert_eq!(again.setup_token(), Some(&*token), "the second start has replaced it");
    // Who asks for another gets one, and the lost one is worth nothing.
    let asked = Config { new_setup_token: true, ..beside };
    let asked = Server::open(asked).await.unwrap();
    let other = asked.setup_token().unwrap().to_owned();
    assert_ne!(other, token);
    drop(again);
    let first = Server::open(config(one.path(), lease)).await.unwrap();
    assert!(first.setup_token().is_none() && first.is_set_up_elsewhere());
}

#[tokio::test]
async fn guessing_passwords_is_slowed_down() {
    let lab = Lab::new().await;
    lab.administrator().await;
    let wrong = json!({"login": "admin", "password": "wrong"});
    let mut told = Vec::new();
    for _ in 0..6 {
        told.push(status(&lab.anybody.post::<Value>("/api/v1/sessions", &wrong).await));
    }
    assert_eq!(told, [401, 401, 401, 401, 401, 429]);
    let other = json!({"login": "nobody", "password": "wrong"});
    assert_eq!(status(&lab.anybody.post::<Value>("/api/v1/sessions", &other).await), 401);
}

#[tokio::test]
async fn guessing_with_long_names_is_slowed_down_or_refused_at_once() {
    let lab = Lab::new().await;
    lab.administrator().await;
    let told = async |login: &str| {
        let wrong = json!({"login": login, "password": "wrong"});
        status(&lab.anybody.post::<Value>("/api/v1/sessions", &wrong).await)
    };
    let (longest, beside) = ("a".repeat(256), format!("{}b", "a".repeat(255)));
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(told(&longest).await);
    }
    assert_eq!(answers, [401, 401, 401, 401, 401, 429]);
    assert_eq!(told(&beside).await, 401, "another name, by its last letter");
    // Nobody has such a name: nothing of it is kept, however often it is tried.
    for login in ["a".repeat(257), "a".repeat(100_000)] {
        for _ in 0..7 {
            assert_eq!(told(&login).await, 422);
        }
    }
}

#[tokio::test]
async fn a_change_names_its_revision_and_a_list_has_pages() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    for number in 0..5 {
        let body = json!({"name": format!("p{number}"), "spec": {}});
        make(&admin, "projects", body).await;
    }
    let first: Value = admin.get("/api/v1/projects?limit=2").await.unwrap();
    let next = first["next"].as_str().unwrap();
    let second: Value = admin.get(&format!("/api/v1/projects?limit=3&after={next}")).await.unwrap();
    assert_eq!(second["items"].as_array().unwrap().len(), 3);
    assert_eq!(second["items"][0]["name"], "p2");
    let path = format!("/api/v1/projects/{}", first["items"][0]["id"].as_str().unwrap());
    let change = json!({"name": "p0", "spec": {"description": "new"}});
    let told = admin.send(Method::PUT, &path, Some(&change), &[]).await;
    assert_eq!(status(&told), 428);
    let read = admin.send(Method::GET, &path, None, &[]).await.unwrap();
    let tag = read.headers["etag"].to_str().unwrap().to_owned();
    let based = [("if-match", tag.as_str())];
    let changed = admin.send(Method::PUT, &path, Some(&change), &based).await.unwrap();
    assert_eq!(changed.body["revision"], 2);
    let told = admin.send(Method::PUT, &path, Some(&change), &based).await;
    assert_eq!(status(&told), 412);
}

#[tokio::test]
async fn a_request_with_a_key_is_done_once() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let body = json!({"name": "once", "spec": {}});
    let key = [("idempotency-key", "k1")];
    let send = |body: Value| {
        let admin = admin.clone();
        async move { admin.send(Method::POST, "/api/v1/projects", Some(&body), &key).await }
    };
    let first = send(body.clone()).await.unwrap();
    let second = send(body).await.unwrap();
    assert_eq!((first.status, second.status), (201, 201));
    assert_eq!(first.body["id"], second.body["id"]);
    let told = send(json!({"name": "other", "spec": {}})).await;
    assert_eq!(status(&told), 422);
    let all: Value = admin.get("/api/v1/projects").await.unwrap();
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
    for name in ["etag", "content-type"] {
        assert_eq!(first.headers[name], second.headers[name], "{name}");
    }
}

/// The database of a server, as another server would have it open.
async fn catalog(lab: &Lab) -> Catalog {
    let file = lab.folder.path().join("catalog.sqlite");
    Catalog::open(&format!("sqlite:{}", file.display())).await.unwrap()
}

async fn projects(admin: &Client) -> Vec<Value> {
    let all: Value = admin.get("/api/v1/projects").await.unwrap();
    all["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_request_with_a_key_goes_on_when_whoever_sent_it_is_gone() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let other = catalog(&lab).await;
    // The server must have got it before its sender goes, and nobody can see that it has: what is
    // sent in vain is sent again, with more patience.
    for attempt in 1..=5 {
        let (name, key) = (format!("p{attempt}"), format!("k{attempt}"));
        let body = json!({"name": name, "spec": {}});
        let headers = [("idempotency-key", &*key)];
        let send = || admin.send(Method::POST, "/api/v1/projects", Some(&body), &headers);
        // Nobody else can write now.
        let writing = other.begin().await.unwrap();
        let patience = Duration::from_millis(300 * attempt);
        assert!(tokio::time::timeout(patience, send()).await.is_err());
        drop(writing);
        for _ in 0..100 {
            let there = projects(&admin).await.into_iter().find(|one| one["name"] == *name);
            if let Some(made) = there {
                let again = send().await.unwrap();
                assert_eq!((again.status, &again.body["id"]), (201, &made["id"]));
                assert_eq!(projects(&admin).await.len(), 1);
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    panic!("what was asked for is never done");
}

#[tokio::test]
async fn of_a_server_that_was_killed_it_is_known_whether_it_did_what_was_asked() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let other = catalog(&lab).await;
    let me: Value = admin.get("/api/v1/me").await.unwrap();
    let now = Clock::system().now_ms();
    // What servers leave that are killed in the middle.
    for (key, begun, done) in [("done", now, true), ("at-it", now, false), ("dead", 0, false)] {
        let body = json!({"name": key, "spec": {}});
        let claim = Claim {
            actor: me["id"].as_str().unwrap().to_owned(),
            key: key.to_owned(),
            id: "another server".to_owned(),
        };
        let hash = token_hash(&format!("POST /api/v1/projects\n{body}"));
        let begun = if begun == 0 { now - 120_000 } else { begun };
        let mut tx = other.begin().await.unwrap();
        assert_eq!(tx.claim(&claim, &hash, begun, (0, 0)).await.unwrap(), Claimed::Mine);
        tx.commit().await.unwrap();
        if done {
            let work = async {
                let mut tx = other.begin().await.unwrap();
                tx.insert(None, key, Project::default(), now).await.unwrap();
                tx.commit().await.unwrap();
            };
            claimed(claim, work).await;
        }
        let headers = [("idempotency-key", key)];
        let told = admin.send(Method::POST, "/api/v1/projects", Some(&body), &headers).await;
        let told = told.map(|answer| answer.status).map_err(|error| error.code().to_owned());
        let expected = match key {
            "done" => Err("answer-lost".to_owned()),
            "at-it" => Err("under-way".to_owned()),
            _ => Ok(201),
        };
        assert_eq!(told, expected, "{key}");
    }
    let names: Vec<_> = projects(&admin).await.iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["done", "dead"]);
}

#[tokio::test]
async fn a_refusal_leaves_its_key_free() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = json!({"name": "shop", "spec": {}});
    let first = make(&admin, "projects", shop.clone()).await;
    let key = [("idempotency-key", "k")];
    let send = async || admin.send(Method::POST, "/api/v1/projects", Some(&shop), &key).await;
    assert_eq!(status(&send().await), 409);
    let path = format!("/api/v1/projects/{first}");
    admin.send(Method::DELETE, &path, None, &[]).await.unwrap();
    assert_eq!(send().await.unwrap().status, 201);
}

#[tokio::test]
async fn refusals_are_problems_and_what_happened_is_written_down() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let odd = json!({"name": "x", "spec": {}, "colour": "red"});
    for (method, path, body, expected) in [
        (Method::POST, "/api/v1/projects", Some(odd), 422),
        (Method::POST, "/api/v1/projects", Some(json!({"name": "", "spec": {}})), 422),
        (Method::GET, "/api/v1/projects/not-an-id", None, 404),
        (Method::GET, "/api/v1/nothing", None, 404),
        (Method::DELETE, "/api/v1/projects", None, 405),
        (Method::GET, "/api/v1/projects?limit=0", None, 422),
        (Method::GET, "/api/v1/tasks?limit=0", None, 422),
        (Method::GET, "/api/v1/audit?limit=1001", None, 422),
        (Method::GET, "/api/v1/projects?limit=many", None, 400),
    ] {
        let told = admin.send(method.clone(), path, body.as_ref(), &[]).await;
        assert_eq!(status(&told), expected, "{method} {path}");
    }
    make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let body = json!({"name": "store", "spec": {"url": "/backup"}});
    let destination = make(&admin, "destinations", body).await;
    let secrets = json!({"secrets": {"SLUICE_PASSPHRASE": "hush-hush"}});
    let path = format!("/api/v1/destinations/{destination}/secrets");
    admin.send(Method::PUT, &path, Some(&secrets), &[]).await.unwrap();
    let audit: Value = admin.get("/api/v1/audit").await.unwrap();
    let actions: Vec<_> =
        audit["items"].as_array().unwrap().iter().map(|row| row["action"].clone()).collect();
    let expected =
        ["setup", "session.begin", "project.create", "destination.create", "destination.secrets"];
    assert_eq!(actions, expected);
    assert!(!audit.to_string().contains("hush"), "no secret is written down");
    let chain: Value = admin.get("/api/v1/audit/verify").await.unwrap();
    assert_eq!(chain, json!({"entries": 5, "broken_at": null}));
}

#[tokio::test]
async fn the_last_administrator_stays_and_a_password_ends_sessions() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let me: Value = admin.get("/api/v1/me").await.unwrap();
    let path = format!("/api/v1/users/{}", me["id"].as_str().unwrap());
    let told = admin.send(Method::DELETE, &path, None, &[]).await;
    assert_eq!(status(&told), 409);
    let grants = format!("{path}/grants");
    let told = admin.send(Method::PUT, &grants, Some(&json!([])), &[]).await;
    assert_eq!(status(&told), 409);
    let token: Value = admin.post("/api/v1/tokens", &json!({"name": "ci"})).await.unwrap();
    let program = lab.anybody.clone().with_token(token["token"].as_str().unwrap());
    let password = json!({"password": "another long password", "current": PASSWORD});
    let change = format!("{path}/password");
    admin.send(Method::PUT, &change, Some(&password), &[]).await.unwrap();
    assert_eq!(status(&admin.get::<Value>("/api/v1/me").await), 401);
    assert_eq!(status(&program.get::<Value>("/api/v1/me").await), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_has_a_page_to_browse_it_that_asks_nobody_else() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let fetch = async |name: &str| {
        let bytes = admin.fetch(&format!("/api/v1/docs/{name}")).await.unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let page = fetch("").await;
    // All that the page loads lies beside it.
    let parts: Vec<&str> = page.split("src=\"").chain(page.split("href=\"")).collect();
    let parts = parts.iter().filter_map(|part| part.split_once('"')).map(|(name, _)| name);
    let parts: Vec<&str> = parts.filter(|name| name.ends_with(".js")).collect();
    assert!(parts.len() >= 2, "{page}");
    for part in parts {
        assert!(part.starts_with("./"), "{part}");
        assert!(!fetch(part.trim_start_matches("./")).await.is_empty(), "{part}");
    }
    let start = fetch("swagger-initializer.js").await;
    assert!(start.contains("/api/v1/openapi.json") && !start.contains("petstore"), "{start}");
}
