//! OpenID Connect: authorization code with PKCE, and codes for devices without a browser.
//!
//! The server is the client of the provider, and keeps the secret. Whoever logs in only carries
//! the provider's answer from the browser to the server: `state` shows that it answers this login,
//! `nonce` that the token was made for it, PKCE that nobody else has taken the code. A login ends
//! once, well or not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sluice_catalog::{IdentityProvider, LoginVia, OidcVia, ProviderId, Record};
use zeroize::Zeroizing;

use super::fetch::{Answer, Http, encoded, escaped};
use super::jwt::{self, Flaw, Key, Wanted};
use super::{Person, refused, unreachable};
use crate::problem::{Problem, Result};

/// How long what a provider tells of itself is believed, in milliseconds.
const FRESH_MS: u64 = 10 * 60_000;
/// Most groups of one person that are looked at.
const MOST_GROUPS: usize = 10_000;
/// The grant of a device's code.
const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// What a provider tells of itself.
#[derive(Debug, Clone, Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    device_authorization_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// The same, and its keys.
pub(crate) struct Known {
    http: Http,
    metadata: Metadata,
    keys: Vec<Key>,
    revision: u64,
    asked_ms: u64,
}

/// What providers have told of themselves.
#[derive(Default)]
pub(crate) struct Memory(Mutex<BTreeMap<ProviderId, Arc<Known>>>);

impl Memory {
    pub(crate) async fn ask(
        &self,
        provider: &Record<IdentityProvider>,
        now: u64,
    ) -> Result<Arc<Known>> {
        let via = via(provider)?;
        let http = Http::new(&via.issuer, &via.ca).map_err(unreachable)?;
        let place = via.issuer.trim_end_matches('/');
        let place = format!("{place}/.well-known/openid-configuration");
        let document = http.get(&place, None).await.map_err(unreachable)?;
        let metadata: Metadata = serde_json::from_value(document)
            .map_err(|error| unreachable(format_args!("{place}: {error}")))?;
        if metadata.issuer != via.issuer {
            let text = format!("it calls itself {}, not {}", metadata.issuer, via.issuer);
            return Err(unreachable(text));
        }
        let set = http.get(&metadata.jwks_uri, None).await.map_err(unreachable)?;
        let keys = jwt::keys(&set);
        let revision = provider.revision;
        let known = Arc::new(Known { http, metadata, keys, revision, asked_ms: now });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(provider.id, known.clone());
        Ok(known)
    }

    async fn get(&self, provider: &Record<IdentityProvider>, now: u64) -> Result<Arc<Known>> {
        let found = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(&provider.id).cloned()
        };
        let fresh = found
            .filter(|known| known.revision == provider.revision && known.asked_ms + FRESH_MS > now);
        match fresh {
            Some(known) => Ok(known),
            None => self.ask(provider, now).await,
        }
    }
}

/// What a login that has begun needs to end.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub(crate) enum Pending {
    /// An answer of the browser.
    Code { state: String, nonce: String, verifier: String, redirect_uri: String },
    /// Somebody who types a code elsewhere.
    Device { device_code: String },
}

/// What a browser brings back.
pub(crate) struct Brought {
    pub(crate) state: String,
    pub(crate) code: String,
    /// Who answers, where the provider says so.
    pub(crate) iss: Option<String>,
}

/// What somebody types who has no browser here.
pub(crate) struct DeviceCode {
    pub(crate) user_code: String,
    pub(crate) verification_uri: String,
    pub(crate) verification_uri_complete: Option<String>,
    /// Seconds between questions.
    pub(crate) interval: u64,
    pub(crate) expires_seconds: u64,
}

/// A login at one provider.
pub(crate) struct Login<'a> {
    pub(crate) memory: &'a Memory,
    pub(crate) provider: &'a Record<IdentityProvider>,
    pub(crate) secret: Option<Zeroizing<String>>,
    pub(crate) now: u64,
}

fn via(provider: &Record<IdentityProvider>) -> Result<&OidcVia> {
    match &provider.body.via {
        LoginVia::Oidc(via) => Ok(via),
        LoginVia::Ldap(_) => {
            let text = "this identity provider takes a name and a password: sluice login --ldap";
            Err(Problem::invalid(text))
        }
    }
}

fn random() -> String {
    BASE64URL_NOPAD.encode(&rand::random::<[u8; 32]>())
}

/// Whether a browser may be sent there: to a port of the machine it runs on, or where an
/// administrator allows.
fn may_return_to(via: &OidcVia, uri: &str) -> bool {
    if via.redirect_uris.iter().any(|one| one == uri) {
        return true;
    }
    let hosts = ["http://127.0.0.1:", "http://[::1]:"];
    let Some(rest) = hosts.iter().find_map(|host| uri.strip_prefix(host)) else { return false };
    let Some((port, path)) = rest.split_once('/') else { return false };
    let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.".contains(&b));
    !port.starts_with(['+', '0']) && port.parse::<u16>().is_ok() && plain
}

impl Login<'_> {
    fn scope(via: &OidcVia) -> String {
        let mut words = vec!["openid"];
        words.extend(via.scopes.iter().map(String::as_str).filter(|word| *word != "openid"));
        words.join(" ")
    }

    /// Where the browser is to go, and what is needed when it comes back.
    pub(crate) async fn begin(&self, redirect_uri: &str) -> Result<(String, Pending)> {
        let via = via(self.provider)?;
        if !may_return_to(via, redirect_uri) {
            return Err(Problem::invalid("browsers are not sent back to this redirect_uri"));
        }
        let known = self.memory.get(self.provider, self.now).await?;
        let (state, nonce, verifier) = (random(), random(), random());
        let hash = digest::digest(&digest::SHA256, verifier.as_bytes());
        let challenge = BASE64URL_NOPAD.encode(hash.as_ref());
        let (scope, acr) = (Self::scope(via), via.acr_values.join(" "));
        let mut query = vec![
            ("response_type", "code"),
            ("client_id", &via.client_id),
            ("redirect_uri", redirect_uri),
            ("scope", &scope),
            ("state", &state),
            ("nonce", &nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        if !acr.is_empty() {
            query.push(("acr_values", &acr));
        }
        let place = &known.metadata.authorization_endpoint;
        let sign = if place.contains('?') { '&' } else { '?' };
        let url = format!("{place}{sign}{}", encoded(&query));
        let redirect_uri = redirect_uri.to_owned();
        Ok((url, Pending::Code { state, nonce, verifier, redirect_uri }))
    }

    /// Who has logged in, by what the browser brought.
    pub(crate) async fn finish(&self, pending: &Pending, brought: &Brought) -> Result<Person> {
        let Pending::Code { state, nonce, verifier, redirect_uri } = pending else {
            return Err(refused("this login does not end with a browser"));
        };
        if verify_slices_are_equal(state.as_bytes(), brought.state.as_bytes()).is_err() {
            return Err(refused("the answer belongs to another login"));
        }
        let known = self.memory.get(self.provider, self.now).await?;
        let silent = !known.metadata.authorization_response_iss_parameter_supported;
        if brought.iss.as_ref().map_or(!silent, |iss| *iss != known.metadata.issuer) {
            return Err(refused("the answer is from another provider"));
        }
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &brought.code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ];
        let place = &known.metadata.token_endpoint;
        let answer = self.as_client(&known, place, &form).await?;
        if !answer.success {
            return Err(refused(told(&answer.document)));
        }
        self.person(known, &answer.document, Some(nonce)).await
    }

    /// A code to be typed elsewhere, and what is needed to ask whether it was.
    pub(crate) async fn begin_device(&self) -> Result<(DeviceCode, Pending)> {
        let via = via(self.provider)?;
        let known = self.memory.get(self.provider, self.now).await?;
        let none = || Problem::invalid("this provider has no codes for devices: use a browser");
        let place = known.metadata.device_authorization_endpoint.as_ref().ok_or_else(none)?;
        let scope = Self::scope(via);
        let answer = self.as_client(&known, place, &[("scope", &scope)]).await?;
        let text = |name: &str| answer.document[name].as_str().map(str::to_owned);
        let number = |name: &str| answer.document[name].as_u64();
        let parts = (text("device_code"), text("user_code"), text("verification_uri"));
        let (Some(device_code), Some(user_code), Some(verification_uri)) = parts else {
            return Err(refused(told(&answer.document)));
        };
        let code = DeviceCode {
            user_code,
            verification_uri,
            verification_uri_complete: text("verification_uri_complete"),
            interval: number("interval").unwrap_or(5).clamp(1, 60),
            expires_seconds: number("expires_in").unwrap_or(600).clamp(30, 3600),
        };
        Ok((code, Pending::Device { device_code }))
    }

    /// Who has typed the code elsewhere; nothing while nobody has.
    pub(crate) async fn poll_device(&self, pending: &Pending) -> Result<Option<Person>> {
        let Pending::Device { device_code } = pending else {
            return Err(refused("this login ends with a browser"));
        };
        let known = self.memory.get(self.provider, self.now).await?;
        let form = [("grant_type", DEVICE), ("device_code", device_code)];
        let answer = self.as_client(&known, &known.metadata.token_endpoint, &form).await?;
        let waits = ["authorization_pending", "slow_down"];
        match answer.success {
            true => self.person(known, &answer.document, None).await.map(Some),
            false if answer.document["error"].as_str().is_some_and(|e| waits.contains(&e)) => {
                Ok(None)
            }
            false => Err(refused(told(&answer.document))),
        }
    }

    /// Sends a form as the client that this server is there.
    async fn as_client(&self, known: &Known, place: &str, form: &[(&str, &str)]) -> Result<Answer> {
        let id = &via(self.provider)?.client_id;
        let mut form = form.to_vec();
        let methods = known.metadata.token_endpoint_auth_methods_supported.as_deref();
        let takes = |word: &str| methods.is_some_and(|all| all.iter().any(|one| one == word));
        let in_body = takes("client_secret_post") && !takes("client_secret_basic");
        let mut authorization = None;
        match &self.secret {
            Some(secret) if !in_body => {
                let pair = Zeroizing::new(format!("{}:{}", escaped(id), escaped(secret)));
                let pair = Zeroizing::new(BASE64.encode(pair.as_bytes()));
                authorization = Some(Zeroizing::new(format!("Basic {}", *pair)));
            }
            Some(secret) => form.extend([("client_id", id.as_str()), ("client_secret", secret)]),
            None => form.push(("client_id", id)),
        }
        let authorization = authorization.as_ref().map(|text| text.as_str());
        known.http.post(place, authorization, &form).await.map_err(unreachable)
    }

    /// Who a token is about. When its key is not known, the provider may have a new one.
    async fn person(
        &self,
        mut known: Arc<Known>,
        document: &Value,
        nonce: Option<&str>,
    ) -> Result<Person> {
        let via = via(self.provider)?;
        let none = || refused("the provider has answered without an ID token");
        let token = document["id_token"].as_str().ok_or_else(none)?;
        let wanted = Wanted {
            issuer: &via.issuer,
            client_id: &via.client_id,
            audiences: &via.audiences,
            nonce,
            acr_values: &via.acr_values,
            now_ms: self.now,
        };
        let mut claims = jwt::verify(token, &known.keys, &wanted);
        if claims == Err(Flaw::UnknownKey) {
            known = self.memory.ask(self.provider, self.now).await?;
            claims = jwt::verify(token, &known.keys, &wanted);
        }
        let mut claims = claims.map_err(|flaw| refused(format_args!("the ID token: {flaw}")))?;
        let missing = |name: &String| claim(&claims, name).is_none();
        if (missing(&via.name_claim) || missing(&via.groups_claim))
            && let Some(place) = &known.metadata.userinfo_endpoint
            && let Some(access) = document["access_token"].as_str()
        {
            let more = known.http.get(place, Some(access)).await.map_err(unreachable)?;
            add(&mut claims, more)?;
        }
        person(via, &claims)
    }
}

/// What a provider says is wrong, in few printable words.
fn told(document: &Value) -> String {
    let text = |name: &str| document[name].as_str().unwrap_or_default();
    let all = format!("the provider says {} {}", text("error"), text("error_description"));
    all.chars().filter(|c| !c.is_control()).take(300).collect::<String>().trim_end().to_owned()
}

/// Adds what a token does not say. It must be about the same person, and changes nothing.
fn add(claims: &mut Map<String, Value>, more: Value) -> Result<()> {
    let Value::Object(more) = more else {
        return Err(refused("what the provider tells of the user is no document"));
    };
    if more.get("sub") != claims.get("sub") {
        return Err(refused("the provider tells of another user than its token"));
    }
    for (name, value) in more {
        claims.entry(name).or_insert(value);
    }
    Ok(())
}

/// A claim by its name; or by names with dots between them, one in the other.
fn claim<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let mut words = name.split('.');
    let first = claims.get(words.next()?)?;
    words.try_fold(first, |value, word| value.get(word)).filter(|_| name.contains('.'))
}

fn person(via: &OidcVia, claims: &Map<String, Value>) -> Result<Person> {
    let login = claim(claims, &via.name_claim).and_then(Value::as_str).ok_or_else(|| {
        refused(format_args!("the provider does not tell {} of the user", via.name_claim))
    })?;
    if via.name_claim == "email" && claims.get("email_verified") == Some(&Value::Bool(false)) {
        return Err(refused("the provider has not seen that this address is the user's"));
    }
    let groups: BTreeSet<String> = match claim(claims, &via.groups_claim) {
        Some(Value::String(one)) => [one.clone()].into(),
        Some(Value::Array(all)) => {
            let words = all.iter().filter_map(Value::as_str).take(MOST_GROUPS);
            words.map(str::to_owned).collect()
        }
        _ => BTreeSet::new(),
    };
    // That there is one, the token was judged by.
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Person { subject, login: login.to_owned(), groups })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn oidc() -> OidcVia {
        let via = json!({"issuer": "https://id.example.org", "client_id": "sluice",
            "redirect_uris": ["https://backup.example.org/back"]});
        serde_json::from_value(via).unwrap()
    }

    #[test]
    fn browsers_come_back_to_their_own_machine_or_where_it_is_allowed() {
        for good in [
            "http://127.0.0.1:4711/callback",
            "http://[::1]:4711/",
            "https://backup.example.org/back",
        ] {
            assert!(may_return_to(&oidc(), good), "{good}");
        }
        for bad in [
            "http://127.0.0.1/callback",
            "http://127.0.0.1:80@evil.example.org/",
            "http://127.0.0.1:4711@evil.example.org/",
            "http://127.0.0.1:99999/",
            "http://127.0.0.1:4711/#x",
            "http://127.0.0.1:4711/?next=https://evil.example.org",
            "http://localhost:4711/",
            "http://127.0.0.1.evil.example.org:1/",
            "https://backup.example.org/back/",
            "https://backup.example.org/back?x",
        ] {
            assert!(!may_return_to(&oidc(), bad), "{bad}");
        }
    }

    #[test]
    fn claims_are_found_where_providers_put_them() {
        let claims = json!({"sub": "s1", "preferred_username": "anna", "groups": "one",
            "realm": {"roles": ["a", 7, "b"]}, "x.y": ["z"]});
        let Value::Object(claims) = claims else { panic!() };
        let groups = |name: &str| {
            let via = OidcVia { groups_claim: name.into(), ..oidc() };
            let groups = person(&via, &claims).unwrap().groups;
            groups.into_iter().collect::<Vec<_>>().join(",")
        };
        assert_eq!((groups("groups"), groups("realm.roles")), ("one".into(), "a,b".into()));
        assert_eq!(
            (groups("x.y"), groups("realm"), groups("no")),
            ("z".into(), "".into(), "".into())
        );
        let odd = OidcVia { name_claim: "email".into(), ..oidc() };
        assert!(person(&odd, &claims).is_err());
    }

    #[test]
    fn what_is_told_beside_the_token_adds_and_does_not_change() {
        let Value::Object(mut claims) = json!({"sub": "s1", "groups": ["a"]}) else { panic!() };
        assert!(add(&mut claims, json!({"sub": "s2", "x": 1})).is_err());
        assert!(add(&mut claims, json!({"x": 1})).is_err());
        assert!(add(&mut claims, json!([])).is_err());
        add(&mut claims, json!({"sub": "s1", "groups": ["admins"], "x": 1})).unwrap();
        assert_eq!(Value::Object(claims), json!({"sub": "s1", "groups": ["a"], "x": 1}));
    }
}
