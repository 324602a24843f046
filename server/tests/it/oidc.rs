//! Logging in by a real provider of OpenID Connect.

use std::path::Path;
use std::process::Command;

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use crate::support::{Lab, PASSWORD, make, status};

const SECRET: &str = "a secret of the lab & more";
/// Nothing listens there: what the browser brings stands in the URL.
const BACK: &str = "http://127.0.0.1:9/callback";

#[path = "../../../tests/lab/oidc/provider.rs"]
mod provider;

/// A provider that ends with the test.
struct Provider(provider::Provider);

impl Provider {
    /// Starts one, on this port or any; nothing where that was switched off.
    fn start(port: &str) -> Option<Self> {
        let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/lab/oidc");
        provider::Provider::start(&lab, port).map(Self)
    }

    fn spec(&self) -> Value {
        let via = json!({"kind": "oidc", "issuer": self.0.issuer, "client_id": "sluice"});
        json!({"via": via, "create_users": true})
    }

    /// A record of it.
    async fn record(&self, admin: &Client, name: &str, spec: Value) -> String {
        let id = make(admin, "identity-providers", json!({"name": name, "spec": spec})).await;
        let path = format!("/api/v1/identity-providers/{id}/secret");
        let secret = json!({ "secret": SECRET });
        admin.send(Method::PUT, &path, Some(&secret), &[]).await.unwrap();
        id
    }
}

/// Where a browser ends that logs in as somebody; that it cannot be reached there is expected.
fn browse(url: &str, hint: &str) -> Vec<(String, String)> {
    let jar = tempfile::NamedTempFile::new().unwrap();
    let url = format!("{url}&login_hint={hint}");
    let ran = Command::new("curl")
        .args(["--silent", "--location", "--write-out", "%{url_effective}", "--cookie-jar"])
        .arg(jar.path())
        .args(["--output", "/dev/null", "--cookie"])
        .args([jar.path().to_str().unwrap(), &url])
        .output()
        .expect("curl runs");
    let end = String::from_utf8(ran.stdout).unwrap();
    let query = end.strip_prefix(BACK).unwrap_or_else(|| panic!("it ends at {end}"));
    let pairs = query.trim_start_matches('?').split('&').map(|pair| {
        let (name, value) = pair.split_once('=').unwrap();
        (name.to_owned(), value.replace("%3A", ":").replace("%2F", "/"))
    });
    pairs.collect()
}

async fn begin(lab: &Lab, provider: &str) -> Value {
    let body = json!({"provider": provider, "redirect_uri": BACK});
    lab.anybody.post("/api/v1/oidc-logins", &body).await.unwrap()
}

/// What ends this login, as the browser has brought it.
fn end_of(begun: &Value, brought: &[(String, String)]) -> Value {
    let mut body = json!({"login": begun["login"]});
    for (name, value) in brought {
        if ["code", "state", "iss"].contains(&name.as_str()) {
            body[name] = value.as_str().into();
        }
    }
    body
}

async fn finish(lab: &Lab, body: &Value) -> Result<Value, (u16, String)> {
    let told = lab.anybody.post::<Value>("/api/v1/oidc-logins/finish", body).await;
    told.map_err(|error| (error.status().unwrap(), error.to_string()))
}

async fn login(lab: &Lab, provider: &str, hint: &str) -> Result<Client, (u16, String)> {
    let begun = begin(lab, provider).await;
    let brought = browse(begun["url"].as_str().unwrap(), hint);
    let session = finish(lab, &end_of(&begun, &brought)).await?;
    Ok(lab.anybody.clone().with_token(session["token"].as_str().unwrap()))
}

async fn roles(client: &Client) -> String {
    let me: Value = client.get("/api/v1/me").await.unwrap();
    let roles = me["grants"].as_array().unwrap().iter().map(|grant| grant["role"].as_str());
    let mut roles: Vec<&str> = roles.flatten().collect();
    roles.sort_unstable();
    roles.join(" ")
}

#[tokio::test]
async fn groups_of_the_provider_say_what_one_may_each_time_anew() {
    let Some(provider) = Provider::start("0") else { return };
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let grant = |role: &str| json!([{"role": role, "project": null}]);
    let group = make(&admin, "groups", json!({"name": "g", "grants": grant("operator")})).await;
    let mut spec = provider.spec();
    spec["mappings"] = json!([{"group": "staff", "grants": grant("viewer")},
        {"group": "admins", "grants": grant("admin"), "groups": [group]}]);
    spec["session_minutes"] = json!(30);
    let id = provider.record(&admin, "lab", spec.clone()).await;

    let begun = begin(&lab, "lab").await;
    let brought = browse(begun["url"].as_str().unwrap(), "anna:staff,admins,more");
    let before = sluice_repository::Clock::system().now_ms();
    let session = finish(&lab, &end_of(&begun, &brought)).await.unwrap();
    assert!(session["expires_ms"].as_u64().unwrap() <= before + 31 * 60_000);
    let anna = lab.anybody.clone().with_token(session["token"].as_str().unwrap());
    assert_eq!(roles(&anna).await, "admin operator viewer");
    assert_eq!(status(&anna.get::<Value>("/api/v1/users").await), 200);
    // She is out of the groups: the next login knows, and what she may is of the user.
    let again = login(&lab, "lab", "anna:staff").await.unwrap();
    assert_eq!((roles(&again).await, roles(&anna).await), ("viewer".into(), "viewer".into()));
    let users: Value = admin.get("/api/v1/users").await.unwrap();
    let found: Vec<&Value> =
        users["items"].as_array().unwrap().iter().filter(|u| u["login"] == "anna").collect();
    assert_eq!((found.len(), &found[0]["provider"]), (1, &json!(id)));

    // She has no password here, cannot get one, and makes no tokens.
    for password in ["", PASSWORD] {
        let body = json!({"login": "anna", "password": password});
        assert_eq!(status(&lab.anybody.post::<Value>("/api/v1/sessions", &body).await), 401);
    }
    let path = format!("/api/v1/users/{}/password", found[0]["id"].as_str().unwrap());
    let set = json!({ "password": PASSWORD });
    assert_eq!(status(&admin.send(Method::PUT, &path, Some(&set), &[]).await), 422);
    assert_eq!(status(&again.post::<Value>("/api/v1/tokens", &json!({"name": "t"})).await), 422);

    // A second factor is the provider's affair.
    let rules = json!({"second_factor_from": "viewer"});
    admin.send(Method::PUT, "/api/v1/access-rules", Some(&rules), &[]).await.unwrap();
    assert_eq!(status(&again.get::<Value>("/api/v1/projects").await), 200);
    let none = json!({"second_factor_from": null});
    // The administrator is asked for one by now.
    assert_eq!(status(&admin.get::<Value>("/api/v1/projects").await), 403);
    let boss = login(&lab, "lab", "boss:admins").await.unwrap();
    boss.send(Method::PUT, "/api/v1/access-rules", Some(&none), &[]).await.unwrap();

    // What is changed ends sessions; who still comes from it keeps it there.
    let path = format!("/api/v1/identity-providers/{id}");
    assert_eq!(status(&admin.send(Method::DELETE, &path, None, &[]).await), 409);
    spec["enabled"] = json!(false);
    let change = json!({"name": "lab", "spec": spec});
    let based = [("if-match", "\"1\"")];
    admin.send(Method::PUT, &path, Some(&change), &based).await.unwrap();
    assert_eq!(status(&again.get::<Value>("/api/v1/me").await), 401);
    let body = json!({"provider": "lab", "redirect_uri": BACK});
    assert_eq!(status(&lab.anybody.post::<Value>("/api/v1/oidc-logins", &body).await), 404);
    spec["via"]["issuer"] = "http://127.0.0.1:9".into();
    let change = json!({"name": "lab", "spec": spec});
    let based = [("if-match", "\"2\"")];
    assert_eq!(status(&admin.send(Method::PUT, &path, Some(&change), &based).await), 409);

    let log: Value = admin.get("/api/v1/audit?limit=1000").await.unwrap();
    let begins =
        log["items"].as_array().unwrap().iter().filter(|entry| {
            entry["action"] == "session.begin" && entry["detail"]["provider"] == "lab"
        });
    assert_eq!(begins.count(), 3);
}

#[tokio::test]
async fn a_login_ends_once_and_by_its_own_answer() {
    let Some(provider) = Provider::start("0") else { return };
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    provider.record(&admin, "lab", provider.spec()).await;
    let mut other = provider.spec();
    other["via"]["client_id"] = "other".into();
    provider.record(&admin, "other", other).await;

    let one = begin(&lab, "lab").await;
    let url = one["url"].as_str().unwrap();
    assert!(url.contains("code_challenge_method=S256") && !url.contains("secret"), "{url}");
    let brought = browse(url, "anna:");
    let end = end_of(&one, &brought);
    assert!(end["iss"].is_string(), "this provider says who answers");
    // Its answer in another login, and what another has got in this one.
    let two = begin(&lab, "lab").await;
    assert_eq!(finish(&lab, &end_of(&two, &brought)).await.unwrap_err().0, 401);
    let mut with_state = end_of(&begin(&lab, "lab").await, &brought);
    with_state["state"] = "x".into();
    assert_eq!(finish(&lab, &with_state).await.unwrap_err().0, 401);
    // A code that was stolen, in a login of the thief: PKCE and nonce are of the other.
    let three = begin(&lab, "lab").await;
    let own = browse(three["url"].as_str().unwrap(), "otto:");
    let mut stolen = end_of(&three, &own);
    stolen["code"] = end["code"].clone();
    let told = finish(&lab, &stolen).await.unwrap_err();
    assert_eq!(told.0, 401);
    assert!(told.1.contains("invalid_grant"), "{}", told.1);
    // Each of these logins is over, for the right answer too.
    assert_eq!(finish(&lab, &end_of(&three, &own)).await.unwrap_err().0, 401);
    // A login that ends well forgives what went before, so that nobody waits yet.
    login(&lab, "lab", "anna:").await.unwrap();
    // Nobody else answers in its place, and it does not answer nameless.
    for iss in [json!("https://evil.example.org"), Value::Null] {
        let begun = begin(&lab, "lab").await;
        let brought = browse(begun["url"].as_str().unwrap(), "anna:");
        let mut mixed = end_of(&begun, &brought);
        mixed["iss"] = iss;
        let told = finish(&lab, &mixed).await.unwrap_err();
        assert!(told.0 == 401 && told.1.contains("another provider"), "{}", told.1);
    }
    // The code of one client is nothing for another.
    let begun = begin(&lab, "other").await;
    let fresh = begin(&lab, "lab").await;
    let foreign = browse(fresh["url"].as_str().unwrap(), "anna:");
    let mut mixed = end_of(&begun, &foreign);
    let own = begun["url"].as_str().unwrap().split("state=").nth(1).unwrap();
    mixed["state"] = own.split('&').next().unwrap().into();
    assert_eq!(finish(&lab, &mixed).await.unwrap_err().0, 401);
    let odd = json!({"login": "login-0", "state": "x", "code": "x"});
    // Whoever goes on like this must wait, longer and longer.
    let mut told = 0;
    for _ in 0..40 {
        told = finish(&lab, &odd).await.unwrap_err().0;
        if told == 429 {
            break;
        }
        assert_eq!(told, 401);
    }
    assert_eq!(told, 429);
    let log: Value = admin.get("/api/v1/audit?limit=1000").await.unwrap();
    let refused =
        log["items"].as_array().unwrap().iter().filter(|one| one["action"] == "session.refused");
    assert!(refused.count() >= 5);
}

#[tokio::test]
async fn nobody_begins_logins_without_end() {
    let Some(provider) = Provider::start("0") else { return };
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    provider.record(&admin, "lab", provider.spec()).await;
    let first = begin(&lab, "lab").await;
    for _ in 1..50 {
        begin(&lab, "lab").await;
    }
    let body = json!({"provider": "lab", "redirect_uri": BACK});
    let more = async || status(&lab.anybody.post::<Value>("/api/v1/oidc-logins", &body).await);
    assert_eq!(more().await, 429);
    let device = json!({"provider": "lab"});
    let device = lab.anybody.post::<Value>("/api/v1/device-logins", &device).await;
    assert_eq!(status(&device), 429);
    // What ends makes room.
    let brought = browse(first["url"].as_str().unwrap(), "anna:");
    finish(&lab, &end_of(&first, &brought)).await.unwrap();
    assert_eq!((more().await, more().await), (200, 429));
}

#[tokio::test]
async fn a_name_is_not_enough_to_be_somebody() {
    let Some(provider) = Provider::start("0") else { return };
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let mut spec = provider.spec();
    spec["create_users"] = json!(false);
    spec["only_mapped"] = json!(true);
    spec["mappings"] = json!([{"group": "staff"}]);
    let id = provider.record(&admin, "lab", spec).await;
    let refused = |told: Result<Client, (u16, String)>| told.map(drop).unwrap_err();
    let told = refused(login(&lab, "lab", "admin:staff").await);
    assert!(told.0 == 401 && told.1.contains("another user"), "{}", told.1);
    let told = refused(login(&lab, "lab", "anna:staff").await);
    assert!(told.0 == 401 && told.1.contains("made you a user"), "{}", told.1);
    let with_password = json!({"login": "anna", "provider": id, "password": PASSWORD});
    assert_eq!(status(&admin.post::<Value>("/api/v1/users", &with_password).await), 422);
    let grants = json!([{"role": "operator", "project": null}]);
    make(&admin, "users", json!({"login": "anna", "provider": id, "grants": grants})).await;
    let told = refused(login(&lab, "lab", "anna:guests").await);
    assert!(told.0 == 401 && told.1.contains("no group"), "{}", told.1);
    let anna = login(&lab, "lab", "anna:staff").await.unwrap();
    assert_eq!(roles(&anna).await, "operator");
    let body = json!({"provider": "lab", "redirect_uri": "https://evil.example.org/"});
    assert_eq!(status(&lab.anybody.post::<Value>("/api/v1/oidc-logins", &body).await), 422);
    let ways: Value = lab.anybody.get("/api/v1/login-providers").await.unwrap();
    assert_eq!(ways, json!([{"name": "lab", "kind": "oidc"}]));
}

#[tokio::test]
async fn a_provider_may_change_its_keys_and_devices_have_codes() {
    let Some(provider) = Provider::start("0") else { return };
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    provider.record(&admin, "lab", provider.spec()).await;
    login(&lab, "lab", "anna:").await.unwrap();
    let port = provider.0.issuer.rsplit_once(':').unwrap().1.to_owned();
    drop(provider);
    let provider = Provider::start(&port).unwrap();
    login(&lab, "lab", "anna:").await.unwrap();

    let begun: Value =
        lab.anybody.post("/api/v1/device-logins", &json!({"provider": "lab"})).await.unwrap();
    let end = json!({"login": begun["login"]});
    let ask = async || lab.anybody.post::<Value>("/api/v1/device-logins/finish", &end).await;
    assert_eq!(status(&ask().await), 409);
    let code = begun["user_code"].as_str().unwrap();
    let url = format!("{}/lab-device?user_code={code}&hint=otto:", provider.0.issuer);
    assert!(Command::new("curl").args(["-sSf", &url]).status().unwrap().success());
    let session = ask().await.unwrap();
    let otto = lab.anybody.clone().with_token(session["token"].as_str().unwrap());
    let me: Value = otto.get("/api/v1/me").await.unwrap();
    assert_eq!(me["login"], "otto");
    assert_eq!(status(&ask().await), 401, "it has ended");
    // A login of one kind does not end as the other.
    let mixed = json!({"login": begin(&lab, "lab").await["login"]});
    let told = lab.anybody.post::<Value>("/api/v1/device-logins/finish", &mixed).await;
    assert_eq!(status(&told), 401);
}
