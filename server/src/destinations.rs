//! What destinations may name of the machines that use them.
//!
//! Nodes run as root, and are shared by projects. A destination says where a process of a node
//! writes, which files it reads its credentials from, and to whom it shows them. So whoever may
//! write any destination may read any file of a node, write to any folder, and use whatever the
//! machine is known by: keys of SSH, profiles, an account of the cloud.
//!
//! # Invariants
//!
//! * A destination is *trusted* when somebody who manages the system has written it, with its URL
//!   and its variables. Every other one names a store by network, with keys that are among its own
//!   variables and secrets: [`fits_projects`] is a list of what is allowed, not of what is not.
//! * That is judged when it is written, when its secrets are set, and whenever a task is given to
//!   a node, whose process then has nothing that the machine is known by.
//! * Secrets go where those who set them wanted: once somebody who is not trusted says something
//!   else about where that is, they are gone.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::{Value, json};
use sluice_catalog::{Destination, DestinationId, Page, Record, Task, Tx};

use crate::access::{Permission, granted};
use crate::api::policies::EVERYTHING;
use crate::auth::Actor;
use crate::problem::{Problem, Result};

/// The stores that projects may name, each with the parameters that name neither files nor
/// anything else of a node.
const STORES: [(&str, &[&str]); 4] = [
    ("s3", &["endpoint", "path-style", "region"]),
    (
        "swift",
        &[
            "auth",
            "auth_version",
            "interface",
            "project_domain",
            "project_name",
            "region",
            "service_name",
            "storage",
            "user_domain",
        ],
    ),
    ("azblob", &["account", "endpoint"]),
    ("gcs", &["anonymous", "endpoint"]),
];

/// The variables that projects may set: who they are at a store, and where it is.
const VARIABLES: [&str; 32] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT",
    "AZURE_STORAGE_BLOB_ENDPOINT",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "GOOGLE_OAUTH_ACCESS_TOKEN",
    "OS_APPLICATION_CREDENTIAL_ID",
    "OS_APPLICATION_CREDENTIAL_SECRET",
    "OS_AUTH_URL",
    "OS_DEFAULT_DOMAIN",
    "OS_DEFAULT_DOMAIN_ID",
    "OS_ENDPOINT_TYPE",
    "OS_INTERFACE",
    "OS_PASSWORD",
    "OS_PROJECT_DOMAIN_ID",
    "OS_PROJECT_DOMAIN_NAME",
    "OS_PROJECT_ID",
    "OS_PROJECT_NAME",
    "OS_REGION_NAME",
    "OS_SERVICE_NAME",
    "OS_STORAGE_URL",
    "OS_TENANT_ID",
    "OS_TENANT_NAME",
    "OS_USERNAME",
    "OS_USER_DOMAIN_ID",
    "OS_USER_DOMAIN_NAME",
    "OS_USER_ID",
    "SLUICE_PASSPHRASE",
];

/// Those of them that say where keys are shown.
const PLACES: [&str; 3] = ["AZURE_STORAGE_BLOB_ENDPOINT", "OS_AUTH_URL", "OS_STORAGE_URL"];

/// What stands in the document of a task whose target was named by somebody who may.
pub(crate) const TARGET: &str = "target_allowed";

/// The keys without which a client of S3 looks for others, wherever it runs.
const S3_KEYS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];

/// Whether projects may set a variable.
pub(crate) fn is_for_projects(variable: &str) -> bool {
    VARIABLES.contains(&variable)
}

/// Whether projects may set a secret of a destination that somebody else has written: who one is
/// there, and not where that is.
fn is_for_others(variable: &str) -> bool {
    is_for_projects(variable) && !PLACES.contains(&variable)
}

/// What of a destination is not for projects to say; nothing when all of it is.
///
/// The URL is taken apart as the store takes it apart, with names as they are written: one that is
/// encoded is none that is allowed.
fn fits_projects<'a>(
    url: &str,
    mut variables: impl Iterator<Item = &'a String>,
) -> Result<(), String> {
    let no = |what: &str| Err(format!("{what} is not for a project to name"));
    let Some((scheme, rest)) = url.split_once("://") else {
        return no("a folder of a node");
    };
    let Some((_, known)) = STORES.iter().find(|(store, _)| *store == scheme) else {
        return no(&format!("a destination of the kind {scheme}"));
    };
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        if !known.contains(&name) {
            return no(&format!("{name:?} in the URL of a destination"));
        }
    }
    match variables.find(|name| !is_for_projects(name)) {
        Some(name) => no(&format!("the variable {name}")),
        None => Ok(()),
    }
}

/// What helps those who may not do it themselves.
const HELP: &str = "somebody who manages the system writes such a destination, also in a project; \
                    one that is there already they look at, and save with a change";

fn refused(status: StatusCode, why: &str) -> Problem {
    Problem::new(status, "destination-not-allowed", format!("{why}: {HELP}"))
}

/// Whether somebody may name anything of nodes.
fn may_name_anything(actor: &Actor) -> bool {
    granted(&actor.grants, Permission::Manage, None)
}

/// A destination was made or changed by somebody. `before` is what it said.
pub(crate) async fn named(
    tx: &mut Tx,
    record: &Record<Destination>,
    before: Option<&Value>,
    actor: &Actor,
) -> Result<()> {
    let now = serde_json::to_value(&record.body).unwrap_or_default();
    let same =
        |before: &Value| before["url"] == now["url"] && before["environment"] == now["environment"];
    let same = before.is_some_and(same);
    let owner = record.id.to_string();
    if may_name_anything(actor) {
        if before.is_some() && !tx.destination_is_trusted(record.id).await? {
            // These were set by somebody else, and nobody can read what they say.
            for name in tx.secret_names(&owner).await? {
                if !is_for_others(&name) {
                    tx.remove_secret(&owner, &name).await?;
                }
            }
        }
        return Ok(tx.trust_destination(record.id, true).await?);
    }
    if same {
        return Ok(());
    }
    fits_projects(&record.body.url, record.body.environment.keys())
        .map_err(|why| refused(StatusCode::UNPROCESSABLE_ENTITY, &why))?;
    tx.trust_destination(record.id, false).await?;
    let names = tx.secret_names(&owner).await?;
    if !names.is_empty() {
        tx.remove_secrets(&owner).await?;
        let detail = json!({"names": [], "dropped": names});
        let entry = actor.did("destination.secrets", record.id, record.project, detail);
        tx.audit(entry, record.updated_ms).await?;
    }
    Ok(())
}

/// Secrets of these names are set by somebody. They are variables like others: only together with
/// all else they say what a node does.
pub(crate) async fn check_secrets<'a>(
    tx: &mut Tx,
    id: DestinationId,
    actor: &Actor,
    mut names: impl Iterator<Item = &'a String>,
) -> Result<()> {
    let trusted = tx.destination_is_trusted(id).await?;
    if trusted && may_name_anything(actor) {
        return Ok(());
    }
    let fits = |name: &String| if trusted { is_for_others(name) } else { is_for_projects(name) };
    match names.find(|name| !fits(name)) {
        Some(name) => {
            let why = format!("the variable {name} is not for a project to name");
            Err(refused(StatusCode::UNPROCESSABLE_ENTITY, &why))
        }
        None => Ok(()),
    }
}

/// Whether a task may use the identity of the machine it runs on at this destination, with these
/// variables and secrets; refuses one that may not be used at all.
pub(crate) async fn check_task(
    tx: &mut Tx,
    id: DestinationId,
    url: &str,
    variables: &BTreeMap<String, String>,
) -> Result<bool> {
    if tx.destination_is_trusted(id).await? {
        return Ok(true);
    }
    fits_projects(url, variables.keys()).map_err(|why| refused(StatusCode::CONFLICT, &why))?;
    let is_set = |name: &&str| variables.get(*name).is_some_and(|value| !value.is_empty());
    if url.starts_with("s3://") && !S3_KEYS.iter().all(is_set) {
        let keys = S3_KEYS.join(" and ");
        let text = format!(
            "this destination has no keys, and those of a node are not for a project to use: set \
             {keys} as its secrets"
        );
        return Err(Problem::new(StatusCode::CONFLICT, "destination-not-allowed", text));
    }
    Ok(false)
}

/// Refuses a destination that is not trusted, for what is the server's own: its keys.
pub(crate) async fn check_own(tx: &mut Tx, id: DestinationId) -> Result<()> {
    if tx.destination_is_trusted(id).await? {
        return Ok(());
    }
    let why = "the control plane is not backed up to a destination that a project has written";
    Err(refused(StatusCode::CONFLICT, why))
}

/// Refuses a task that brings a replica up to date, unless its target was named by somebody who
/// may: it was made by an earlier release.
pub(crate) fn check_replica(task: &Task) -> Result<()> {
    if task.new.spec[TARGET] == true {
        return Ok(());
    }
    let why = "nobody knows who has said where this replica goes";
    let text = format!("{why}: somebody who manages the system starts it again");
    Err(Problem::new(StatusCode::CONFLICT, "target-not-allowed", text))
}

/// Refuses somebody who may not say where a replica goes: it is written and opened with what opens
/// the destination that is read.
pub(crate) fn check_target(actor: &Actor) -> Result<()> {
    if may_name_anything(actor) {
        return Ok(());
    }
    let text = "where a replica goes is for those to say who manage the system; make a destination \
                there, and copy to it";
    Err(Problem::new(StatusCode::FORBIDDEN, "target-not-allowed", text))
}

/// Refuses somebody who lacks a permission on another destination that is the same repository.
/// What others say without being trusted counts for nothing here: anybody could say it.
pub(crate) async fn check_shared(
    tx: &mut Tx,
    actor: &Actor,
    one: &Record<Destination>,
    permission: Permission,
) -> Result<()> {
    let place = place(&one.body);
    let mut page = Page { after: None, limit: Page::LARGEST };
    loop {
        let part = tx.list::<Destination>(&EVERYTHING, &page).await?;
        let Some(last) = part.last() else { return Ok(()) };
        page.after = Some(last.id.to_string());
        for other in part.iter().filter(|other| other.id != one.id) {
            if self::place(&other.body) == place
                && !granted(&actor.grants, permission, other)
                && tx.destination_is_trusted(other.id).await?
            {
                let text = "this repository is also another destination, on which it takes the \
                            same rights";
                return Err(Problem::new(StatusCode::FORBIDDEN, "shared-repository", text));
            }
        }
    }
}

/// Where a repository is, the same for all ways to write it that are not out of the ordinary.
fn place(destination: &Destination) -> String {
    let url = destination.url.as_str();
    let (scheme, rest) = url.split_once("://").unwrap_or(("file", url));
    let (rest, query) = match scheme {
        "file" if !url.contains("://") => (rest, ""),
        _ => rest.split_once('?').unwrap_or((rest, "")),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in rest.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut servers: Vec<String> = Vec::new();
    for (parameter, variable) in [
        ("endpoint", "AZURE_STORAGE_BLOB_ENDPOINT"),
        ("auth", "OS_AUTH_URL"),
        ("storage", "OS_STORAGE_URL"),
        ("account", "AZURE_STORAGE_ACCOUNT"),
    ] {
        let given =
            query.split('&').find_map(|pair| pair.strip_prefix(parameter)?.strip_prefix('='));
        let given = given.or_else(|| destination.environment.get(variable).map(String::as_str));
        let given = given.unwrap_or_default().trim_end_matches('/');
        servers.push(given.to_ascii_lowercase());
    }
    format!("{}://{} {}", scheme.to_ascii_lowercase(), parts.join("/"), servers.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(url: &str, variables: &[&str]) -> Result<(), String> {
        let variables: Vec<String> = variables.iter().map(|&name| name.to_owned()).collect();
        fits_projects(url, variables.iter())
    }

    #[test]
    fn a_store_by_network_with_keys_of_its_own_fits_projects() {
        for url in [
            "s3://bucket",
            "s3://bucket/p?endpoint=https://s3.example.org&region=eu&path-style=true",
            "swift://c/p?auth=https://id.example.org&project_name=x&user_domain=y",
            "azblob://c?account=acme",
            "gcs://bucket/prefix?endpoint=https://gcs.example.org&anonymous=true&",
        ] {
            assert_eq!(judged(url, &VARIABLES), Ok(()), "{url}");
        }
    }

    #[test]
    fn nothing_of_a_node_fits_projects() {
        for url in [
            "/backup",
            "backup",
            "file:///backup",
            "sftp://root@host/backup",
            "sftp://host/x?key-file=/etc/key&known-hosts=/x",
            "S3://bucket",
            "ftp://x",
            "s3://b?credentials=/etc/shadow",
            "s3://b?region=x&%63redentials=/etc/shadow",
            "s3://b?Credentials=/etc/shadow",
            "s3://b?arbiter=/srv",
            "gcs://b?endpoint=https://x&credentials=/etc/shadow",
            "swift://c?cacert=/etc/shadow",
            "s3://b??credentials=/etc/shadow",
            "s3://b?endpoint",
            "s3:bucket",
            "",
        ] {
            let told = judged(url, &[]);
            // A parameter without a value is refused by the store.
            assert_eq!(told.is_err(), url != "s3://b?endpoint", "{url}");
        }
        for name in [
            "SLUICE_GCS_TOKEN_FILE",
            "SLUICE_GCS_METADATA",
            "SLUICE_PASSPHRASE_FILE",
            "SLUICE_CACHE_DIR",
            "SLUICE_ARBITER",
            "SLUICE_SFTP_KEY_FILE",
            "SLUICE_S3_CREDENTIALS_FILE",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "AWS_PROFILE",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_ENDPOINT_URL",
            "OS_CACERT",
            "SLUICE_DEST_OWN",
        ] {
            let why = judged("s3://bucket", &["AWS_REGION", name]).unwrap_err();
            assert!(why.contains(name), "{why}");
        }
    }

    #[test]
    fn one_repository_is_known_by_all_its_ordinary_names() {
        let at = |url: &str| {
            place(&serde_json::from_value::<Destination>(json!({ "url": url })).unwrap())
        };
        for other in ["/srv/backup/", "//srv/./backup", "/srv/x/../backup", "file:///srv/backup"] {
            assert_eq!(at("/srv/backup"), at(other), "{other}");
        }
        assert_ne!(at("/srv/backup"), at("/srv/backup2"));
        let bucket = "s3://b/p?endpoint=https://S3.example.org/&region=r";
        assert_eq!(at(bucket), at("s3://b/p/?region=other&endpoint=https://s3.example.org"));
        for other in ["s3://b/p", "s3://b?endpoint=https://s3.example.org", "gcs://b/p"] {
            assert_ne!(at(bucket), at(other), "{other}");
        }
        let by_variable = json!({"url": "azblob://c", "environment":
            {"AZURE_STORAGE_ACCOUNT": "acme"}});
        let by_variable: Destination = serde_json::from_value(by_variable).unwrap();
        assert_eq!(place(&by_variable), at("azblob://c?account=acme"));
    }
}
