//! Identity providers of a server.

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{Client, ClientError};

use super::approvals::{Done, done};
use super::records::{self, Records};
use super::roles::Roles;
use super::{all, profile, show_list, word};
use crate::args::IdentityProviderCommand;
use crate::context::Context;
use crate::error::{Exit, advise, is_usage_error, usage_error};
use crate::output;
use crate::secret;

/// The records.
pub(super) const KIND: &str = "identity-providers";

/// Does something with identity providers.
pub(super) async fn run(context: &Context, command: IdentityProviderCommand) -> Result<Exit> {
    let client = profile::client()?;
    let path = async |name: &str| -> Result<String> {
        let records = Records::load(&client, KIND).await?;
        Ok(format!("/api/v1/{KIND}/{}", word(records.one(name)?, "id")))
    };
    match command {
        IdentityProviderCommand::List => {
            let all = all(&client, &format!("/api/v1/{KIND}")).await?;
            let row = |record: &Value| {
                let spec = &record["spec"];
                let via = &spec["via"];
                let place = via["issuer"].as_str().or_else(|| via["urls"][0].as_str());
                let state = if spec["enabled"] == false { "disabled" } else { "enabled" };
                let place = place.unwrap_or_default().to_owned();
                vec![word(record, "name"), word(via, "kind"), state.to_owned(), place]
            };
            show_list(context, &["NAME", "KIND", "STATE", "AT"], &all, row)
        }
        IdentityProviderCommand::Show { name } => {
            let records = Records::load(&client, KIND).await?;
            let mut record = records.one(&name)?.clone();
            Names::load(&client).await?.to_names(&mut record["spec"]);
            output::json(&record)?;
            Ok(Exit::Done)
        }
        IdentityProviderCommand::Set { name, spec } => {
            let spec: Value = records::document(&spec)?;
            let change = records::set(&client, KIND, &name, spec, false).await?;
            if context.global.json {
                output::json(&json!({"name": name, "change": change.word}))?;
            } else if !context.global.quiet {
                output::note(format_args!("{name}: {}", change.word));
            }
            Ok(Exit::Done)
        }
        IdentityProviderCommand::Secret { name, secret_file } => {
            let secret = secret::token_or_stdin(&secret_file)?;
            let path = format!("{}/secret", path(&name).await?);
            let body = json!({ "secret": *secret });
            let answer = client.send(Method::PUT, &path, Some(&body), &[]).await?;
            done(context, &answer, Done { name: &name, change: "changed" })
        }
        IdentityProviderCommand::Test { name, user, password } => {
            let path = format!("{}/test", path(&name).await?);
            let mut body = json!({ "login": user });
            if password {
                body["password"] = secret::password()?.as_str().into();
            }
            tell(context, &client.post(&path, &body).await?)
        }
        IdentityProviderCommand::Remove { name } => {
            let path = path(&name).await?;
            let answer = client.send(Method::DELETE, &path, None, &[]).await?;
            done(context, &answer, Done { name: &name, change: "removed" })
        }
    }
}

/// What was tried of one; not done when it cannot be asked, or does not let in.
fn tell(context: &Context, tried: &Value) -> Result<Exit> {
    if context.global.json {
        output::json(tried)?;
    } else {
        let row = |step: &Value| {
            let sign = if step["ok"] == true { "ok" } else { "FAILED" };
            vec![word(step, "server"), word(step, "step"), sign.to_owned(), word(step, "detail")]
        };
        let steps = tried["steps"].as_array().into_iter().flatten().map(row).collect();
        output::print(&output::table(&["SERVER", "STEP", "", "WHAT"], steps))?;
    }
    Ok(if tried["ok"] == true { Exit::Done } else { Exit::Failed })
}

/// The id of a provider of that name.
pub(super) async fn id_of(client: &Client, name: &str) -> Result<Value> {
    Ok(Records::load(client, KIND).await?.one(name)?["id"].clone())
}

/// What files say of mappings: roles as people write them, groups by their names.
pub(super) struct Names {
    roles: Roles,
    groups: Vec<Value>,
}

impl Names {
    pub(super) async fn load(client: &Client) -> Result<Self> {
        let groups = all(client, "/api/v1/groups").await?;
        Ok(Self { roles: Roles::all(client).await?, groups })
    }

    /// Names become ids. With `plan`, roles on what is not there stay as they are: the same file
    /// may make it first.
    pub(super) fn to_ids(&self, spec: &mut Value, plan: bool) -> Result<()> {
        for mapping in mappings(spec) {
            let Some(fields) = mapping.as_object_mut() else { continue };
            if let Some(roles) = fields.remove("roles") {
                let words: Option<Vec<String>> = roles.as_array().and_then(|all| {
                    all.iter().map(|one| one.as_str().map(str::to_owned)).collect()
                });
                let odd = || usage_error("roles of a mapping are a list: [viewer, manager@shop]");
                let words = words.ok_or_else(odd)?;
                match self.roles.grants(&words) {
                    Ok(grants) => fields.insert("grants".to_owned(), grants.into()),
                    Err(error) if plan && !is_usage_error(&error) => {
                        fields.insert("roles".to_owned(), json!(words))
                    }
                    Err(error) => return Err(error),
                };
            }
            let groups = fields.get_mut("groups").and_then(Value::as_array_mut);
            for group in groups.into_iter().flatten() {
                let known =
                    self.groups.iter().find(|one| one["name"] == *group || one["id"] == *group);
                let known = known.ok_or_else(|| {
                    let text = format!("there is no group {group}");
                    advise("not-found", text, "sluice group list shows all")
                })?;
                *group = known["id"].clone();
            }
        }
        Ok(())
    }

    /// Ids become names.
    pub(super) fn to_names(&self, spec: &mut Value) {
        for mapping in mappings(spec) {
            let Some(fields) = mapping.as_object_mut() else { continue };
            if let Some(grants) = fields.remove("grants") {
                fields.insert("roles".to_owned(), json!(self.roles.words(&grants)));
            }
            let groups = fields.get_mut("groups").and_then(Value::as_array_mut);
            for group in groups.into_iter().flatten() {
                if let Some(known) = self.groups.iter().find(|one| one["id"] == *group) {
                    *group = known["name"].clone();
                }
            }
        }
    }
}

fn mappings(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    spec.get_mut("mappings").and_then(Value::as_array_mut).into_iter().flatten()
}

/// Whether an error says that one may not know of them.
pub(super) fn not_ours(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ClientError>().is_some_and(|error| error.status() == Some(403))
}
