//! Where the server is, and who we are there.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_node_api::{Client, ClientError, Fingerprint, Identity};

use super::browser;
use super::users::change_own;
use crate::args::LoginArgs;
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::output::{self, note, warn};
use crate::secret;

/// What is kept of a login, or of a node that has joined.
#[derive(Serialize, Deserialize)]
pub(crate) struct Profile {
    pub(crate) server: String,
    pub(crate) fingerprint: String,
    /// Empty for a node that has a certificate.
    #[serde(default)]
    pub(crate) token: String,
    /// What a node is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// The key of a node, and its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<Identity>,
}

impl Profile {
    pub(crate) fn client(&self) -> Result<Client> {
        let client = Client::new(&self.server, print(&self.fingerprint)?)?;
        match &self.identity {
            Some(identity) => client.show(identity)?,
            None => return Ok(client.with_token(&self.token)),
        }
        Ok(client)
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path)?;
        serde_json::from_slice(&text).context("it is damaged: make it anew")
    }

    /// Writes it for its owner only.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let context = || format!("cannot write {}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(context)?;
        }
        let new = path.with_extension("new");
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new).with_context(context)?;
        file.write_all(&serde_json::to_vec_pretty(self)?).with_context(context)?;
        std::fs::rename(&new, path).with_context(context)
    }
}

fn print(text: &str) -> Result<Fingerprint> {
    text.parse().map_err(|error: &str| usage_error(error))
}

fn place() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("SLUICE_LOGIN")
        .or_else(|| set("XDG_CONFIG_HOME").map(|folder| folder.join("sluice/login.json")))
        .or_else(|| set("HOME").map(|folder| folder.join(".config/sluice/login.json")))
        .ok_or_else(|| advise("local", "there is no place for the login", "set SLUICE_LOGIN"))
}

/// A client of the server that we are logged in to.
pub(crate) fn client() -> Result<Client> {
    let path = place()?;
    let profile = Profile::read(&path).map_err(|error| {
        let text = format!("not logged in to a server: {}: {error}", path.display());
        advise("login", text, "sluice login https://HOST:PORT --fingerprint HEX --user NAME")
    })?;
    profile.client()
}

/// Begins a session, with a code where one is needed.
async fn begin(client: &Client, user: &str, password: &str) -> Result<Value> {
    let mut body = json!({"login": user, "password": password});
    match client.post("/api/v1/sessions", &body).await {
        Err(ClientError::Refused { code, .. }) if code == "code-needed" => {
            body["code"] = secret::login_code()?.as_str().into();
            Ok(client.post("/api/v1/sessions", &body).await?)
        }
        Err(ClientError::Refused { code, .. }) if code == "passkey-needed" => {
            warn(
                "this account has passkeys and no app: without a browser it takes a recovery code",
            );
            body["code"] = secret::login_code().map_err(no_passkeys_here)?.as_str().into();
            Ok(client.post("/api/v1/sessions", &body).await?)
        }
        session => Ok(session?),
    }
}

/// What to do about an account that has nothing but passkeys.
fn no_passkeys_here(error: anyhow::Error) -> anyhow::Error {
    let text = format!("a passkey takes a browser, and there is no recovery code: {error}");
    let help = "log in once with a recovery code in SLUICE_CODE_FILE; `sluice user totp enrol` \
                then adds an app beside the passkey; programs take API tokens (sluice user token)";
    advise("passkey-needed", text, help)
}

/// A session by name and password.
async fn by_password(
    context: &Context,
    client: &Client,
    user: &str,
    setup_token_file: Option<&Path>,
) -> Result<Value> {
    let password = secret::password()?;
    if let Some(file) = setup_token_file {
        let token = secret::token(file)?;
        let setup = json!({"token": *token, "login": user, "password": *password});
        client.send(http::Method::POST, "/api/v1/setup", Some(&setup), &[]).await?;
    }
    let session = begin(client, user, &password).await?;
    if session["first"] != "change-password" {
        return Ok(session);
    }
    if !context.global.quiet {
        note("somebody else has set this password: choose another one");
    }
    let shown = client.clone().with_token(session["token"].as_str().unwrap_or_default());
    let new = secret::new_password()?;
    change_own(&shown, &password, &new).await?;
    begin(client, user, &new).await
}

/// A session by name and password in a directory.
async fn by_directory(client: &Client, provider: &str, user: &str) -> Result<Value> {
    let password = secret::password()?;
    let body = json!({"provider": provider, "login": user, "password": *password});
    Ok(client.post("/api/v1/directory-logins", &body).await?)
}

/// Logs in.
pub(crate) async fn login(context: &Context, args: LoginArgs) -> Result<Exit> {
    let client = Client::new(&args.server, print(&args.fingerprint)?)?;
    let session = match &args.oidc {
        Some(provider) if args.device => browser::elsewhere(&client, provider).await?,
        Some(provider) => browser::here(&client, provider, args.callback_port.unwrap_or(0)).await?,
        None => {
            let user = args.user.as_deref().unwrap_or_default();
            match &args.ldap {
                Some(provider) => by_directory(&client, provider, user).await?,
                None => {
                    by_password(context, &client, user, args.setup_token_file.as_deref()).await?
                }
            }
        }
    };
    if session["first"] == "enrol-totp" {
        warn(
            "your role takes a second factor, without which nothing works: sluice user totp enrol,",
        );
        warn("or a passkey, with a browser at /account of the server");
    }
    let token = session["token"].as_str().unwrap_or_default().to_owned();
    let me: Value = client.clone().with_token(&token).get("/api/v1/me").await?;
    let path = place()?;
    let server = args.server.trim_end_matches('/').to_owned();
    let fingerprint = args.fingerprint;
    let profile = Profile { server, fingerprint, token, name: None, identity: None };
    profile.write(&path)?;
    let (server, user) = (profile.server, &me["login"]);
    if context.global.json {
        let expires_ms = &session["expires_ms"];
        output::json(&json!({"server": server, "user": user, "expires_ms": expires_ms}))?;
    } else if !context.global.quiet {
        let user = user.as_str().unwrap_or_default();
        note(format_args!("logged in to {server} as {user}"));
    }
    Ok(Exit::Done)
}
