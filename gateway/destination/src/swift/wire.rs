//! What Keystone and Swift answer, and what they are asked; no connection is needed for this.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::{Value, json};

use super::login::{Domain, Identity, Interface, Owner, Place};
use crate::url::invalid;
use crate::{DestinationError, ErrorKind, Key, ObjectMeta, Result};

/// The body that asks Keystone for a token.
pub(super) fn token_request(identity: &Identity, project: Option<&Owner>) -> Value {
    let identity = match identity {
        Identity::Password { user, password } => json!({
            "methods": ["password"],
            "password": { "user": owner(user, Some(password.reveal())) },
        }),
        // An application credential has a project of its own.
        Identity::Application { id, secret } => json!({
            "methods": ["application_credential"],
            "application_credential": { "id": id, "secret": secret.reveal() },
        }),
    };
    match project {
        Some(project) => json!({ "auth": {
            "identity": identity,
            "scope": { "project": owner(project, None) },
        }}),
        None => json!({ "auth": { "identity": identity } }),
    }
}

fn owner(owner: &Owner, password: Option<&str>) -> Value {
    let mut value = match owner {
        Owner::Id(id) => json!({ "id": id }),
        Owner::Name(name, Domain::Id(id)) => json!({ "name": name, "domain": { "id": id } }),
        Owner::Name(name, Domain::Name(domain)) => {
            json!({ "name": name, "domain": { "name": domain } })
        }
    };
    if let Some(password) = password {
        value["password"] = password.into();
    }
    value
}

/// Keystone's answer, beside the token itself.
#[derive(Debug, Deserialize)]
pub(super) struct TokenAnswer {
    token: TokenBody,
}

#[derive(Debug, Deserialize)]
struct TokenBody {
    #[serde(default)]
    catalog: Vec<Service>,
    expires_at: Option<String>,
    issued_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Service {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    interface: String,
    region: Option<String>,
    region_id: Option<String>,
    url: String,
}

impl TokenAnswer {
    /// Reads an answer.
    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        serde_json::from_slice(text).map_err(|error| {
            let context = "the identity service sends something else than a token";
            DestinationError::caused(ErrorKind::Unavailable, context, error)
        })
    }

    /// How long the token holds, by the server's own clock.
    pub(super) fn lifetime(&self) -> Option<Duration> {
        let time = |text: &Option<String>| text.as_deref()?.parse::<Timestamp>().ok();
        let issued = time(&self.token.issued_at)?;
        time(&self.token.expires_at)?.duration_since(issued).try_into().ok()
    }

    /// The address of the object store.
    pub(super) fn storage_url(&self, place: &Place) -> Result<String> {
        let named = |service: &&Service| {
            place.service_name.as_ref().is_none_or(|name| *name == service.name)
        };
        let services = self.token.catalog.iter().filter(|service| service.kind == "object-store");
        let endpoints: Vec<_> =
            services.filter(named).flat_map(|service| &service.endpoints).collect();
        let fits = |endpoint: &&&Endpoint| {
            let regions = [&endpoint.region, &endpoint.region_id];
            let here = |region: &String| regions.contains(&&Some(region.clone()));
            place.interface.is(&endpoint.interface) && place.region.as_ref().is_none_or(here)
        };
        let mut fitting = endpoints.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(endpoint), None) => Ok(endpoint.url.trim_end_matches('/').to_owned()),
            (Some(_), Some(_)) => Err(invalid(format!(
                "the catalogue has more than one object store for {place}; choose by region=... \
                 or service_name=... in the URL: {}",
                offers(&self.token.catalog)
            ))),
            (None, _) => Err(invalid(format!(
                "the catalogue has no object store for {place}; it has: {}",
                offers(&self.token.catalog)
            ))),
        }
    }
}

/// The object stores of a catalogue, for messages.
fn offers(catalog: &[Service]) -> String {
    let stores = catalog.iter().filter(|service| service.kind == "object-store");
    let offers: Vec<_> = stores
        .flat_map(|service| {
            let offer = |endpoint: &Endpoint| {
                let region = endpoint.region_id.as_ref().or(endpoint.region.as_ref());
                let region = region.map_or("no region", String::as_str);
                format!("{} ({}, {region})", service.name, endpoint.interface)
            };
            service.endpoints.iter().map(offer).collect::<Vec<_>>()
        })
        .collect();
    if offers.is_empty() { "none".into() } else { offers.join(", ") }
}

impl Interface {
    /// Whether a catalogue means this one; the oldest ones write `publicURL`.
    fn is(self, text: &str) -> bool {
        text.strip_suffix("URL").unwrap_or(text) == self.name()
    }
}

#[derive(Debug, Deserialize)]
struct Listed {
    name: Option<String>,
    bytes: Option<u64>,
    last_modified: Option<String>,
}

/// One answer to a listing.
#[derive(Debug)]
pub(super) struct Page {
    /// The objects that are ours, in the server's order.
    pub(super) objects: Vec<ObjectMeta>,
    /// How many names the server sent, ours or not.
    pub(super) names: usize,
    /// The last name it sent.
    pub(super) last: Option<String>,
}

/// Reads a listing of names that start with `base`.
pub(super) fn parse_listing(text: &[u8], base: &str) -> Result<Page> {
    // A container without objects may be answered with nothing at all.
    let listed: Vec<Listed> = if text.is_empty() {
        Vec::new()
    } else {
        serde_json::from_slice(text).map_err(|error| {
            let context = "the server sends something else than a listing";
            DestinationError::caused(ErrorKind::Unfit, context, error)
        })?
    };
    let ours = |entry: &Listed| {
        let key = Key::new(entry.name.as_deref()?.strip_prefix(base)?).ok()?;
        let modified = entry.last_modified.as_deref().and_then(parse_time);
        Some(ObjectMeta { key, size: entry.bytes?, modified })
    };
    Ok(Page {
        objects: listed.iter().filter_map(ours).collect(),
        names: listed.len(),
        last: listed.last().and_then(|entry| entry.name.clone()),
    })
}

/// A time as listings write it: UTC without saying so.
fn parse_time(text: &str) -> Option<SystemTime> {
    let time: DateTime = text.parse().ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().into())
}

/// A time as seconds since 1970 with a fraction, as in `X-Timestamp`.
pub(super) fn parse_seconds(text: &str) -> Option<SystemTime> {
    let seconds = Duration::try_from_secs_f64(text.parse().ok()?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(seconds)
}

#[derive(Debug, Deserialize)]
struct BulkAnswer {
    #[serde(rename = "Response Status", default)]
    status: String,
    #[serde(rename = "Response Body", default)]
    body: String,
    #[serde(rename = "Errors", default)]
    errors: Vec<(String, String)>,
}

/// What became of a request to remove many: status and words of what failed. The answer's own
/// status says nothing, as it is sent before the work is done.
pub(super) fn parse_bulk(text: &[u8]) -> Result<Vec<(u16, String)>> {
    let answer: BulkAnswer = serde_json::from_slice(text).map_err(|error| {
        let context = "the server's answer to removing many objects cannot be understood";
        DestinationError::caused(ErrorKind::Unavailable, context, error)
    })?;
    let status = |text: &str| text.get(..3).and_then(|code| code.parse().ok()).unwrap_or(500);
    let mut failures: Vec<_> =
        answer.errors.iter().map(|(name, text)| (status(text), name.clone())).collect();
    // Also a server that broke off in the middle says so here.
    if failures.is_empty() && !answer.status.starts_with('2') && !answer.status.starts_with("404") {
        failures.push((status(&answer.status), answer.body));
    }
    failures.retain(|(status, _)| *status != 404);
    Ok(failures)
}

/// The most objects one request removes, from what the server tells of itself.
pub(super) fn parse_bulk_limit(text: &[u8]) -> Option<usize> {
    let info: Value = serde_json::from_slice(text).ok()?;
    let limit = info.get("bulk_delete")?.get("max_deletes_per_request")?.as_u64()?;
    usize::try_from(limit).ok()
}

#[cfg(test)]
mod tests;
