//! Passkeys of one's own, which only a browser can make, and those of others, which can be removed.

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::approvals::{Done, done};
use super::{moment, show_list, users, word};
use crate::args::PasskeyCommand;
use crate::context::Context;
use crate::error::{Exit, advise};
use crate::secret;

const OWN: &str = "/api/v1/me/passkeys";

/// Does it.
pub(super) async fn run(
    context: &Context,
    client: &Client,
    command: PasskeyCommand,
) -> Result<Exit> {
    match command {
        PasskeyCommand::List => {
            let passkeys = own(client).await?;
            let row = |passkey: &Value| {
                let yes = |name: &str| if passkey[name] == true { "yes" } else { "" }.to_owned();
                vec![
                    word(passkey, "name"),
                    moment(context, &passkey["created_ms"]),
                    moment(context, &passkey["used_ms"]),
                    yes("backed_up"),
                    yes("passwordless"),
                    word(passkey, "id"),
                ]
            };
            let headings = ["NAME", "MADE", "LAST USED", "BACKED UP", "WITHOUT PASSWORD", "ID"];
            show_list(context, &headings, &passkeys, row)
        }
        PasskeyCommand::Rename { passkey, name } => {
            let path = path_of(client, &passkey).await?;
            let body = json!({"name": name});
            let answer = client.send(Method::PUT, &path, Some(&body), &[]).await?;
            done(context, &answer, Done { name: &name, change: "changed" })
        }
        PasskeyCommand::Remove { user: Some(user), .. } => {
            let path = users::path_of(client, &user, "/passkeys").await?;
            let answer = client.send(Method::DELETE, &path, None, &[]).await?;
            done(context, &answer, Done { name: &user, change: "removed" })
        }
        PasskeyCommand::Remove { passkey, user: None } => {
            let passkey = passkey.unwrap_or_default();
            let path = format!("{}/remove", path_of(client, &passkey).await?);
            let (password, code) = (secret::password()?, secret::login_code()?);
            let body = json!({"password": *password, "code": *code});
            let answer = client.send(Method::POST, &path, Some(&body), &[]).await?;
            done(context, &answer, Done { name: &passkey, change: "removed" })
        }
    }
}

async fn own(client: &Client) -> Result<Vec<Value>> {
    Ok(client.get(OWN).await?)
}

/// The path of a passkey of that name or id.
async fn path_of(client: &Client, named: &str) -> Result<String> {
    let passkeys = own(client).await?;
    let found = passkeys.iter().find(|one| one["name"] == named || one["id"] == named);
    let id = found.map(|passkey| word(passkey, "id")).ok_or_else(|| {
        let text = format!("you have no passkey {named}");
        advise("not-found", text, "sluice user passkey list shows all")
    })?;
    Ok(format!("{OWN}/{id}"))
}
