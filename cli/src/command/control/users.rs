//! Users of a server: who they are, and how they show it.

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::approvals::{Done, done};
use super::roles::Roles;
use super::{all, profile, show_list, word};
use crate::args::{SessionCommand, TokenCommand, TotpCommand, UserCommand};
use crate::context::Context;
use crate::error::{Exit, advise};
use crate::output::{self, note};
use crate::secret;

/// Does it.
pub(crate) async fn run(context: &Context, command: UserCommand) -> Result<Exit> {
    let client = profile::client()?;
    match command {
        UserCommand::List => {
            let users = all(&client, "/api/v1/users").await?;
            let roles = Roles::in_items(&client, &users).await?;
            let row = |user: &Value| {
                let yes = |name: &str| if user[name] == true { "yes" } else { "" }.to_owned();
                let roles = roles.text(&user["grants"]);
                vec![
                    word(user, "login"),
                    roles,
                    yes("service"),
                    yes("second_factor"),
                    word(user, "id"),
                ]
            };
            show_list(context, &["NAME", "ROLES", "SERVICE", "2ND FACTOR", "ID"], &users, row)
        }
        UserCommand::Add { name, roles, service, provider, keep_password } => {
            let grants = Roles::in_words(&client, &roles).await?.grants(&roles)?;
            let mut body = json!({"login": name, "grants": grants, "service": service,
                "keep_password": keep_password});
            if let Some(provider) = &provider {
                body["provider"] = super::providers::id_of(&client, provider).await?;
            } else if !service {
                body["password"] = secret::new_password()?.as_str().into();
            }
            let answer = client.send(Method::POST, "/api/v1/users", Some(&body), &[]).await?;
            done(context, &answer, Done { name: &name, change: "created" })
        }
        UserCommand::Remove { name } => {
            let path = path_of(&client, &name, "").await?;
            let answer = client.send(Method::DELETE, &path, None, &[]).await?;
            done(context, &answer, Done { name: &name, change: "removed" })
        }
        UserCommand::Grant { name, roles } => {
            let grants = Roles::in_words(&client, &roles).await?.grants(&roles)?;
            let path = path_of(&client, &name, "/grants").await?;
            let answer = client.send(Method::PUT, &path, Some(&json!(grants)), &[]).await?;
            done(context, &answer, Done { name: &name, change: "changed" })
        }
        UserCommand::Password { name } => password(context, &client, name).await,
        UserCommand::Totp { command } => totp(context, &client, command).await,
        UserCommand::Passkey { command } => super::passkeys::run(context, &client, command).await,
        UserCommand::Session { command } => sessions(context, &client, command).await,
        UserCommand::Token { command } => tokens(context, &client, command).await,
    }
}

/// The path of a user of that name.
pub(super) async fn path_of(client: &Client, name: &str, rest: &str) -> Result<String> {
    Ok(format!("/api/v1/users/{}{rest}", id_of(client, name).await?))
}

/// The id of a user of that name.
pub(super) async fn id_of(client: &Client, name: &str) -> Result<String> {
    let users = all(client, "/api/v1/users").await?;
    let found = users.iter().find(|user| user["login"] == name || user["id"] == name);
    found.map(|user| word(user, "id")).ok_or_else(|| {
        advise("not-found", format!("there is no user {name}"), "sluice user list shows all")
    })
}

/// Sends a new password of one's own; all sessions end by that.
pub(super) async fn change_own(client: &Client, current: &str, new: &str) -> Result<()> {
    let me: Value = client.get("/api/v1/me").await?;
    let path = format!("/api/v1/users/{}/password", word(&me, "id"));
    let body = json!({"password": new, "current": current});
    client.send(Method::PUT, &path, Some(&body), &[]).await?;
    Ok(())
}

async fn password(context: &Context, client: &Client, name: Option<String>) -> Result<Exit> {
    let Some(name) = name else {
        let current = secret::password()?;
        change_own(client, &current, &secret::new_password()?).await?;
        if context.global.json {
            output::json(&json!({"change": "changed"}))?;
        } else if !context.global.quiet {
            note("the password is changed, and all sessions have ended: log in again");
        }
        return Ok(Exit::Done);
    };
    let path = path_of(client, &name, "/password").await?;
    let body = json!({"password": *secret::new_password()?});
    let answer = client.send(Method::PUT, &path, Some(&body), &[]).await?;
    done(context, &answer, Done { name: &name, change: "changed" })
}

async fn totp(context: &Context, client: &Client, command: TotpCommand) -> Result<Exit> {
    match command {
        TotpCommand::Enrol => {
            let password = secret::password()?;
            let told: Value =
                client.post("/api/v1/me/totp", &json!({"password": *password})).await?;
            if context.global.json {
                output::json(&told)?;
            } else {
                let uri = word(&told, "uri");
                let text = format!("{}\n{uri}\n", *secret::blocks(&uri)?);
                output::print(&text)?;
                note("scan it with an authenticator app, then: sluice user totp confirm");
            }
            Ok(Exit::Done)
        }
        TotpCommand::Confirm => {
            let code = secret::login_code()?;
            let told: Value =
                client.post("/api/v1/me/totp/confirm", &json!({"code": *code})).await?;
            if context.global.json {
                output::json(&told)?;
            } else {
                for code in told["recovery_codes"].as_array().into_iter().flatten() {
                    output::print(&format!("{}\n", code.as_str().unwrap_or_default()))?;
                }
                note("each of these is good for one login without the app: keep them elsewhere");
            }
            Ok(Exit::Done)
        }
        TotpCommand::Disable { name: Some(name) } => {
            let path = path_of(client, &name, "/totp").await?;
            let answer = client.send(Method::DELETE, &path, None, &[]).await?;
            done(context, &answer, Done { name: &name, change: "removed" })
        }
        TotpCommand::Disable { name: None } => {
            let (password, code) = (secret::password()?, secret::login_code()?);
            let body = json!({"password": *password, "code": *code});
            let path = "/api/v1/me/totp/remove";
            let answer = client.send(Method::POST, path, Some(&body), &[]).await?;
            done(context, &answer, Done { name: "second factor", change: "removed" })
        }
    }
}

async fn sessions(context: &Context, client: &Client, command: SessionCommand) -> Result<Exit> {
    match command {
        SessionCommand::List => {
            let items = all(client, "/api/v1/sessions").await?;
            let row = |session: &Value| {
                let current = if session["current"] == true { "this one" } else { "" };
                let end = super::moment(context, &session["expires_ms"]);
                vec![word(session, "id"), word(session, "address"), end, current.to_owned()]
            };
            show_list(context, &["ID", "FROM", "ENDS", ""], &items, row)
        }
        SessionCommand::End { id, user } => {
            let (path, name) = match (id, user) {
                (_, Some(user)) => (path_of(client, &user, "/sessions").await?, user),
                (id, None) => {
                    let id = id.unwrap_or_default();
                    (format!("/api/v1/sessions/{id}"), id)
                }
            };
            let answer = client.send(Method::DELETE, &path, None, &[]).await?;
            done(context, &answer, Done { name: &name, change: "ended" })
        }
    }
}

async fn tokens(context: &Context, client: &Client, command: TokenCommand) -> Result<Exit> {
    let place = async |user: Option<String>| match user {
        Some(user) => path_of(client, &user, "/tokens").await,
        None => Ok("/api/v1/tokens".to_owned()),
    };
    match command {
        TokenCommand::List { user } => {
            let items = all(client, &place(user).await?).await?;
            let row = |token: &Value| {
                vec![
                    word(token, "name"),
                    super::moment(context, &token["expires_ms"]),
                    word(token, "id"),
                ]
            };
            show_list(context, &["NAME", "ENDS", "ID"], &items, row)
        }
        TokenCommand::Add { name, user } => {
            let told: Value = client.post(&place(user).await?, &json!({"name": name})).await?;
            if context.global.json {
                output::json(&told)?;
            } else {
                output::print(&format!("{}\n", word(&told, "token")))?;
            }
            Ok(Exit::Done)
        }
        TokenCommand::Remove { id, user } => {
            let path = format!("{}/{id}", place(user).await?);
            let answer = client.send(Method::DELETE, &path, None, &[]).await?;
            done(context, &answer, Done { name: &id, change: "removed" })
        }
    }
}
