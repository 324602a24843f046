//! What is said of a directory, and how names in directories are compared.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::line;
use crate::error::{CatalogError, Result};

/// The most servers of one directory.
const MOST_SERVERS: usize = 8;
/// How long one server may be asked, in seconds.
const PATIENCE: std::ops::RangeInclusive<u32> = 1..=30;
/// What stands for the name that somebody types.
const USERNAME: &str = "username";
/// What stands for the distinguished name of who logs in.
const DN: &str = "dn";
/// Groups of groups, as Active Directory finds them.
const NESTED: &str = "(member:1.2.840.113556.1.4.1941:={dn})";

/// A directory that speaks LDAP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LdapVia {
    /// Its servers, `ldaps://HOST[:PORT]` or `ldap://HOST[:PORT]`. They are asked in this order
    /// until one answers.
    pub urls: Vec<String>,
    /// Whether passwords may travel without protection. Without, `ldap://` begins TLS (StartTLS)
    /// before anything else is said.
    #[serde(default)]
    pub plaintext: bool,
    /// Certificates of whom to trust, as PEM; without, those that this machine trusts.
    #[serde(default)]
    pub ca: String,
    /// Who searches; nobody in particular when it is empty. The password is set apart.
    #[serde(default)]
    pub bind_dn: String,
    /// Below what users are found.
    pub user_base: String,
    /// Which of them it is: `{username}` stands for what was typed.
    #[serde(default = "user_filter")]
    pub user_filter: String,
    /// The attribute that has the name to log in with.
    #[serde(default = "uid")]
    pub name_attribute: String,
    /// The attribute that names somebody for ever, whatever they are called.
    #[serde(default = "entry_uuid")]
    pub id_attribute: String,
    /// Where groups are told.
    #[serde(default)]
    pub groups: LdapGroups,
    /// How long each server may take for a login, in seconds: 1 to 30.
    #[serde(default = "patience")]
    pub timeout_seconds: u32,
}

/// Where a directory tells the groups of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum LdapGroups {
    /// At the user.
    MemberOf(MemberOf),
    /// At the groups.
    Search(GroupSearch),
}

/// Groups that stand at the user, by their distinguished names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberOf {
    /// The attribute that has them.
    #[serde(default = "member_of")]
    pub attribute: String,
}

/// Groups that are found by their members. A mapping names them as `name_attribute` does, or by
/// their distinguished names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupSearch {
    /// Below what they are found.
    pub base: String,
    /// Which of them it is: `{dn}` stands for the distinguished name of the user, `{username}` for
    /// the name. `(member={dn})` when it is not said.
    #[serde(default)]
    pub filter: Option<String>,
    /// Whether members of groups that are in a group are in it too: by a rule that Active
    /// Directory has. Not with a filter of your own.
    #[serde(default)]
    pub nested: bool,
    /// The attribute that has their names.
    #[serde(default = "cn")]
    pub name_attribute: String,
}

impl Default for LdapGroups {
    fn default() -> Self {
        Self::MemberOf(MemberOf { attribute: member_of() })
    }
}

impl GroupSearch {
    /// Which groups it is.
    pub fn filter(&self) -> &str {
        match &self.filter {
            Some(filter) => filter,
            None if self.nested => NESTED,
            None => "(member={dn})",
        }
    }
}

fn user_filter() -> String {
    "(uid={username})".to_owned()
}

fn uid() -> String {
    "uid".to_owned()
}

fn entry_uuid() -> String {
    "entryUUID".to_owned()
}

fn member_of() -> String {
    "memberOf".to_owned()
}

fn cn() -> String {
    "cn".to_owned()
}

fn patience() -> u32 {
    5
}

fn no(text: &str) -> Result<()> {
    Err(CatalogError::invalid(text))
}

/// Whether this is the name of an attribute.
fn attribute(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    !name.is_empty() && name.len() <= 128 && name.bytes().all(plain)
}

/// The scheme and the rest of the URL of a server, if it is one.
fn server(url: &str) -> Option<(&str, &str)> {
    let (scheme, place) = url.split_once("://")?;
    let place = place.strip_suffix('/').unwrap_or(place);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let fits = ["ldap", "ldaps"].contains(&scheme) && !place.is_empty() && place.chars().all(plain);
    fits.then_some((scheme, place))
}

/// Whether all that stands in braces is one of `known`, and stands where values do, not where an
/// attribute is named; and which do.
fn placeholders<'f>(filter: &'f str, known: &[&str]) -> Result<BTreeSet<&'f str>> {
    let mut found = BTreeSet::new();
    let mut rest = filter;
    while let Some(at) = rest.find(['{', '}']) {
        let before = &filter[..filter.len() - rest.len() + at];
        let end = rest[at..].find('}').map(|end| at + end);
        let name = end.and_then(|end| rest.get(at + 1..end)).unwrap_or_default();
        if !known.contains(&name) {
            let text = format!("a filter has {{{}}} in braces only", known.join("}, {"));
            return Err(CatalogError::invalid(text));
        }
        let own = before.rsplit('(').next().unwrap_or_default();
        if !own.contains('=') {
            no("in a filter, what is in braces stands behind a =")?;
        }
        found.insert(name);
        rest = &rest[at + name.len() + 2..];
    }
    Ok(found)
}

impl LdapVia {
    pub(super) fn sense(&self) -> Result<()> {
        if self.urls.is_empty() || self.urls.len() > MOST_SERVERS {
            return no("a directory has 1 to 8 urls");
        }
        for url in &self.urls {
            let Some((scheme, place)) = server(url) else {
                return no("a url is ldaps://HOST[:PORT] or ldap://HOST[:PORT]");
            };
            let tls = scheme == "ldaps" || !self.plaintext;
            if tls && place.starts_with('[') {
                return no("where TLS is spoken, a url has the name of the server");
            }
        }
        if !PATIENCE.contains(&self.timeout_seconds) {
            return no("timeout_seconds is 1 to 30");
        }
        let names = [&self.name_attribute, &self.id_attribute];
        if !names.into_iter().all(|name| attribute(name)) {
            return no("name_attribute and id_attribute are names of attributes");
        }
        if !line(&self.user_base) || !(self.bind_dn.is_empty() || line(&self.bind_dn)) {
            return no("user_base and bind_dn are distinguished names");
        }
        if !line(&self.user_filter) || !self.user_filter.starts_with('(') {
            return no("a filter stands in parentheses: (uid={username})");
        }
        if placeholders(&self.user_filter, &[USERNAME])?.is_empty() {
            return no("user_filter has {username}: without, everybody would be the same");
        }
        self.groups.sense()
    }

    /// Whether somebody whom one of these directories names is whom the other names so.
    pub fn same_people(&self, other: &Self) -> bool {
        self.id_attribute.eq_ignore_ascii_case(&other.id_attribute)
    }
}

impl LdapGroups {
    fn sense(&self) -> Result<()> {
        match self {
            Self::MemberOf(MemberOf { attribute: name }) if !attribute(name) => {
                no("groups.attribute is the name of an attribute")
            }
            Self::MemberOf(_) => Ok(()),
            Self::Search(search) => search.sense(),
        }
    }

    /// Whether a mapping can name a group so.
    pub(super) fn can_name(&self, group: &str) -> bool {
        matches!(self, Self::Search(_)) || group.contains('=')
    }
}

impl GroupSearch {
    fn sense(&self) -> Result<()> {
        if !line(&self.base) || !attribute(&self.name_attribute) {
            return no("groups have a base, and name_attribute is the name of an attribute");
        }
        if self.nested && self.filter.is_some() {
            return no("nested groups are found by a filter that is not yours: leave one out");
        }
        if !line(self.filter()) || !self.filter().starts_with('(') {
            return no("a filter stands in parentheses: (member={dn})");
        }
        if placeholders(self.filter(), &[DN, USERNAME])?.is_empty() {
            return no("the filter of groups has {dn} or {username}");
        }
        Ok(())
    }
}

/// A group's name in the form by which names of groups are compared: letters of ASCII are equal
/// in both cases, and a distinguished name (which has a `=`) may be written with other blanks and
/// escapes. Names that differ in what a directory tells apart stay different.
pub(super) fn folded(name: &str) -> Vec<u8> {
    let name = name.trim().to_ascii_lowercase();
    if !name.contains('=') {
        return name.into_bytes();
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|one| u8::try_from(one).ok());
    let (mut all, mut part): (Vec<u8>, Vec<u8>) = Default::default();
    let mut rest = name.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        match (*first, more) {
            (b'\\', [one, after @ ..]) => {
                let (byte, after) = match (digit(one), after) {
                    (Some(high), [low, beyond @ ..]) if digit(low).is_some() => {
                        (high << 4 | digit(low).unwrap_or_default(), beyond)
                    }
                    _ => (*one, after),
                };
                if b",+;\\".contains(&byte) {
                    part.push(b'\\');
                }
                part.push(byte.to_ascii_lowercase());
                rest = after;
            }
            (sign @ (b',' | b'+' | b';'), _) => {
                all.extend_from_slice(part.trim_ascii());
                all.push(sign);
                part.clear();
            }
            (other, _) => part.push(other),
        }
    }
    all.extend_from_slice(part.trim_ascii());
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ldap(more: Value) -> LdapVia {
        let mut via = json!({"urls": ["ldaps://a.example.org"], "user_base": "dc=example"});
        let fields = more.as_object().unwrap().clone();
        via.as_object_mut().unwrap().extend(fields);
        serde_json::from_value(via).unwrap()
    }

    fn search(more: Value) -> LdapVia {
        let mut groups = json!({"from": "search", "base": "ou=groups"});
        groups.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ldap(json!({ "groups": groups }))
    }

    #[test]
    fn what_is_typed_stands_where_values_do() {
        for good in ["(uid={username})", "(&(a=b)(|(uid={username})(mail={username}@x.org)))"] {
            ldap(json!({"user_filter": good})).sense().unwrap();
        }
        let bad = ["uid={username}", "(uid=anna)", "({username}=anna)", "(uid={name})", "(uid={)"];
        for bad in bad.into_iter().chain(["(uid=})", "(uid={username}})", "(&({username}=x)(a=b))"])
        {
            assert!(ldap(json!({"user_filter": bad})).sense().is_err(), "{bad}");
        }
        search(json!({})).sense().unwrap();
        search(json!({"filter": "(|(memberUid={username})(member={dn}))"})).sense().unwrap();
        for bad in [json!({"filter": "(cn=admins)"}), json!({"nested": true, "filter": "(m={dn})"})]
        {
            assert!(search(bad).sense().is_err());
        }
        let LdapGroups::Search(nested) = search(json!({"nested": true})).groups else { panic!() };
        assert!(nested.filter().contains("1.2.840.113556.1.4.1941"));
    }

    #[test]
    fn servers_have_names_and_nothing_else() {
        for good in ["ldap://a:389", "ldaps://a.example.org/"] {
            ldap(json!({"urls": [good]})).sense().unwrap();
        }
        ldap(json!({"urls": ["ldap://[::1]:9"], "plaintext": true})).sense().unwrap();
        for bad in ["http://a", "ldap://", "ldap://a/dc=x", "ldap://u@a", "ldap://a?x", "ldapi://x"]
        {
            assert!(ldap(json!({"urls": [bad]})).sense().is_err(), "{bad}");
        }
        assert!(ldap(json!({"urls": ["ldap://[::1]:9"]})).sense().is_err());
        assert!(ldap(json!({"urls": []})).sense().is_err());
    }

    #[test]
    fn names_of_groups_are_compared_as_directories_do() {
        let same = [
            ("CN=Backup,OU=Groups,DC=x", "cn=backup, ou=groups ,dc=X"),
            ("cn=a\\, b,dc=x", "cn=a\\2c b,dc=x"),
            ("cn=a\\2Bb", "cn=a\\+b"),
            ("cn=Ca\\66\\c3\\a9", "cn=café"),
            ("Admins", "admins"),
        ];
        for (one, two) in same {
            assert_eq!(folded(one), folded(two), "{one} {two}");
        }
        let different = [
            ("cn=a\\,ou=b", "cn=a,ou=b"),
            ("cn=a\\\\,ou=b", "cn=a\\,ou=b"),
            ("cn=a b", "cn=ab"),
            ("cn=\\ff", "cn=\\fe"),
            ("cn=\u{212a}", "cn=k"),
            ("a, b", "a,b"),
        ];
        for (one, two) in different {
            assert_ne!(folded(one), folded(two), "{one} {two}");
        }
        folded("cn=\\");
    }
}
