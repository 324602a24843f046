mod ldap;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::kind;
use crate::error::{CatalogError, Result};
use crate::id::{GroupId, ProviderId};
use crate::model::grant::Grant;

pub use ldap::{GroupSearch, LdapGroups, LdapVia, MemberOf};

/// No session of a login by a provider lasts longer, in minutes.
const LONGEST_SESSION: u32 = 12 * 60;
/// The most entries of each list.
const MOST: usize = 1000;

/// Somebody else who says who people are, and in which groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityProvider {
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Whether anybody can log in by it.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How it is asked.
    pub via: LoginVia,
    /// Whether somebody who was never here becomes a user by logging in. Without, an administrator
    /// makes users first and says that they come from this provider.
    #[serde(default)]
    pub create_users: bool,
    /// Whether only who is in one of the groups of `mappings` may log in.
    #[serde(default)]
    pub only_mapped: bool,
    /// What groups there let people do here. It is looked at anew with each login.
    #[serde(default)]
    pub mappings: Vec<GroupMapping>,
    /// How long a session lasts, in minutes: 5 to 720.
    #[serde(default = "longest")]
    pub session_minutes: u32,
}

/// How an identity provider is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LoginVia {
    /// OpenID Connect: people log in there with a browser.
    Oidc(OidcVia),
    /// LDAP: people log in here with the name and password that they have there.
    Ldap(LdapVia),
}

/// A provider of OpenID Connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OidcVia {
    /// Its name, an `https` URL; `http` only on this machine.
    pub issuer: String,
    /// What this server is called there. The secret is set apart.
    pub client_id: String,
    /// What is asked for beside `openid`.
    #[serde(default = "scopes")]
    pub scopes: Vec<String>,
    /// The claim that has the name to log in with.
    #[serde(default = "name_claim")]
    pub name_claim: String,
    /// The claim that has the groups, a list of words or one word.
    #[serde(default = "groups_claim")]
    pub groups_claim: String,
    /// Audiences that an ID token may name beside the client.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// Where browsers may be sent back to beside this machine's own loopback addresses: the exact
    /// URLs.
    #[serde(default)]
    pub redirect_uris: Vec<String>,
    /// The ways to log in there that are strong enough (`acr`); every way when there is no list.
    #[serde(default)]
    pub acr_values: Vec<String>,
    /// Certificates of whom to trust, as PEM; without, those that this machine trusts.
    #[serde(default)]
    pub ca: String,
}

/// What a group of a provider lets its members do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupMapping {
    /// The group, as the provider calls it.
    pub group: String,
    /// What its members may do.
    #[serde(default)]
    pub grants: Vec<Grant>,
    /// The groups here that they are in.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub groups: BTreeSet<GroupId>,
}

fn yes() -> bool {
    true
}

fn longest() -> u32 {
    LONGEST_SESSION
}

fn scopes() -> Vec<String> {
    ["profile", "email"].map(str::to_owned).to_vec()
}

fn name_claim() -> String {
    "preferred_username".to_owned()
}

fn groups_claim() -> String {
    "groups".to_owned()
}

/// Whether this is one printable word or line that is not too long.
fn line(text: &str) -> bool {
    !text.is_empty() && text.len() <= 1024 && !text.chars().any(char::is_control)
}

/// The host of an `http` URL is this machine, as it calls itself.
fn is_loopback(url: &str) -> bool {
    let rest = url.strip_prefix("http://").unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    !authority.contains('@') && ["127.0.0.1", "::1", "localhost"].contains(&host)
}

impl OidcVia {
    fn sense(&self) -> Result<()> {
        let no = |text: &str| Err(CatalogError::invalid(text));
        let safe = self.issuer.starts_with("https://") || is_loopback(&self.issuer);
        if !safe || !line(&self.issuer) || self.issuer.contains(['?', '#', ' ', '@']) {
            return no("an issuer is an https URL without parameters");
        }
        let words = self.scopes.iter().chain(&self.acr_values);
        if words.clone().any(|word| !line(word) || word.contains(' ')) {
            return no("scopes and acr_values are words without blanks");
        }
        let lines = self.audiences.iter().chain(&self.redirect_uris);
        let own = [&self.client_id, &self.name_claim, &self.groups_claim];
        if own.into_iter().chain(lines).any(|text| !line(text)) {
            return no("client_id, claims, audiences and redirect_uris are not empty");
        }
        let safe = |uri: &String| uri.starts_with("https://") || is_loopback(uri);
        if !self.redirect_uris.iter().all(safe) {
            return no("browsers are sent back to https URLs, or to this machine");
        }
        Ok(())
    }
}

impl IdentityProvider {
    fn sense(&self) -> Result<()> {
        if !(5..=LONGEST_SESSION).contains(&self.session_minutes) {
            return Err(CatalogError::invalid("a session lasts 5 to 720 minutes"));
        }
        if self.mappings.len() > MOST || self.mappings.iter().any(|one| !line(&one.group)) {
            return Err(CatalogError::invalid(
                "a mapping names a group, and there are 1000 at most",
            ));
        }
        match &self.via {
            LoginVia::Oidc(via) => via.sense(),
            LoginVia::Ldap(via) => {
                if !self.mappings.iter().all(|one| via.groups.can_name(&one.group)) {
                    let text = "with member-of, a mapping names a group as the directory does: \
                                cn=backup,ou=groups,dc=example,dc=org";
                    return Err(CatalogError::invalid(text));
                }
                via.sense()
            }
        }
    }

    /// What the provider's groups let somebody do here, and the groups here that they are in;
    /// nothing when none of them is known.
    pub fn mapped(&self, groups: &BTreeSet<String>) -> Option<(Vec<Grant>, BTreeSet<GroupId>)> {
        let folded: BTreeSet<Vec<u8>> = match &self.via {
            LoginVia::Oidc(_) => BTreeSet::new(),
            LoginVia::Ldap(_) => groups.iter().map(|group| ldap::folded(group)).collect(),
        };
        let is_in = |group: &String| match &self.via {
            LoginVia::Oidc(_) => groups.contains(group),
            LoginVia::Ldap(_) => folded.contains(&ldap::folded(group)),
        };
        let mut known = self.mappings.iter().filter(|one| is_in(&one.group)).peekable();
        known.peek()?;
        let (mut grants, mut own): (Vec<Grant>, BTreeSet<GroupId>) = Default::default();
        for one in known {
            for grant in &one.grants {
                if !grants.contains(grant) {
                    grants.push(*grant);
                }
            }
            own.extend(&one.groups);
        }
        Some((grants, own))
    }
}

kind!(IdentityProvider, ProviderId, "identity_providers", "identity provider", shared: false);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Kind as _;

    fn provider(via: serde_json::Value) -> IdentityProvider {
        serde_json::from_value(json!({ "via": via })).unwrap()
    }

    fn oidc(issuer: &str) -> IdentityProvider {
        provider(json!({"kind": "oidc", "issuer": issuer, "client_id": "sluice"}))
    }

    #[test]
    fn tokens_and_passwords_travel_safely_only() {
        for good in ["https://id.example.org", "http://127.0.0.1:9/x", "http://[::1]:9"] {
            oidc(good).check().unwrap();
        }
        let bad =
            ["http://id.example.org", "http://127.0.0.1@x.test", "", "ftp://x", "https://x?y"];
        for bad in bad {
            assert!(oidc(bad).check().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_directory_names_groups_in_full() {
        let via = json!({"kind": "ldap", "urls": ["ldaps://a.example.org"], "user_base": "dc=x"});
        let mut one = provider(via);
        let mapping = |group: &str| GroupMapping {
            group: group.to_owned(),
            grants: Vec::new(),
            groups: BTreeSet::new(),
        };
        one.mappings = vec![mapping("admins")];
        assert!(one.check().is_err(), "any group of that name, wherever it lies");
        one.mappings = vec![mapping("cn=admins,dc=x")];
        one.check().unwrap();
        let groups = |name: &str| BTreeSet::from([name.to_owned()]);
        assert!(one.mapped(&groups("CN=Admins, DC=X")).is_some());
        assert!(one.mapped(&groups("cn=admins,ou=x,dc=x")).is_none());
    }

    #[test]
    fn groups_give_all_that_they_are_mapped_to_and_nothing_else() {
        use crate::model::access::Role;
        let grant = Grant::system;
        let mapping = |group: &str, role| GroupMapping {
            group: group.to_owned(),
            grants: vec![grant(role)],
            groups: BTreeSet::new(),
        };
        let mut one = oidc("https://id.example.org");
        let roles = [("a", Role::Viewer), ("b", Role::Admin), ("c", Role::Viewer)];
        one.mappings = roles.map(|(group, role)| mapping(group, role)).to_vec();
        let groups = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let (grants, _) = one.mapped(&groups(&["a", "c", "other"])).unwrap();
        assert_eq!(grants, [grant(Role::Viewer)]);
        assert!(one.mapped(&groups(&["A", "other"])).is_none());
        assert!(one.mapped(&groups(&[])).is_none());
    }
}
