//! Directories that speak LDAP: somebody is looked up by the name that they type, and shows who
//! they are by logging in there (a bind) with the password that they type.
//!
//! ```text
//!   link to a server ─► bind as who searches ─► user ─► bind as the user ─► groups ─► Person
//!        │ no answer                             │ none, or several
//!        ▼                                       ▼
//!   the next server                           refused
//! ```
//!
//! # Invariants
//!
//! * What is typed is a value within a filter, whatever it looks like. Nothing else is made of it.
//! * Nobody is let in without a bind with the name and a password, neither of which is empty: a
//!   directory lets in everybody without a password, as nobody.
//! * A server is given up for the next one only when it is at fault. A wrong password is tried
//!   once.
//! * Referrals are not followed: they would take the password to servers that nobody has named.

mod link;
pub(crate) mod steps;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::http::StatusCode;
use futures::FutureExt;
use ldap3::{LdapResult, ldap_escape};
use sluice_catalog::{GroupSearch, LdapGroups, LdapVia};
use zeroize::Zeroizing;

use self::link::{Entry, Link, code};
use self::steps::Steps;
use super::{Person, unreachable};
use crate::problem::{Problem, Result};

/// Most groups of one person that are looked at.
const MOST_GROUPS: usize = 5_000;
/// The longest name that is looked up, in bytes.
const LONGEST_NAME: usize = 256;
/// The longest password that is shown to a directory, in bytes.
const LONGEST_PASSWORD: usize = 1024;

/// A directory, and what this server shows it.
pub(crate) struct Directory<'a> {
    pub(crate) via: &'a LdapVia,
    /// The password of who searches.
    pub(crate) secret: Option<Zeroizing<String>>,
}

/// Who wants to log in.
pub(crate) struct Typed<'a> {
    pub(crate) name: &'a str,
    /// Without, the user is looked up only, which lets nobody in.
    pub(crate) password: Option<&'a str>,
}

/// Says whether somebody may try a password now, by what names them there for ever.
pub(crate) type May<'a> = &'a (dyn Fn(&str) -> Result<()> + Send + Sync);

/// Why nobody is let in.
#[derive(Debug)]
pub(crate) enum Flaw {
    /// This server is at fault, and another may not be.
    Server(String),
    /// What was set up is wrong, with every server.
    Setup(String),
    /// Who wants to log in is not who they say, or may not.
    Person {
        /// What names them there, if there is anybody of that name.
        subject: Option<String>,
        /// For the log: whoever typed it is not told whether the name was right.
        why: String,
    },
    /// They have tried too often.
    Wait(Problem),
}

impl Flaw {
    /// What whoever wants to log in is told.
    pub(crate) fn problem(&self) -> Problem {
        match self {
            Self::Person { .. } => wrong(),
            Self::Wait(problem) => problem.clone(),
            Self::Server(_) | Self::Setup(_) => unreachable("ask an administrator of this server"),
        }
    }

    /// What the log is told.
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Person { why, .. } | Self::Server(why) | Self::Setup(why) => why,
            Self::Wait(problem) => &problem.detail,
        }
    }
}

/// The answer to a wrong name as to a wrong password.
fn wrong() -> Problem {
    let text = "name or password is wrong";
    Problem::new(StatusCode::UNAUTHORIZED, "wrong-password", text)
}

fn person(why: impl Into<String>) -> Flaw {
    Flaw::Person { subject: None, why: why.into() }
}

/// A filter with values in it: each is a value whatever is in it (RFC 4515).
fn filled(template: &str, values: &[(&str, &str)]) -> String {
    let (mut all, mut rest) = (String::with_capacity(template.len()), template);
    while let Some(at) = rest.find('{') {
        all.push_str(&rest[..at]);
        rest = &rest[at..];
        let found = values.iter().find(|(name, _)| rest.starts_with(*name));
        let length = found.map_or(1, |(name, value)| {
            all.push_str(&ldap_escape(*value));
            name.len()
        });
        rest = &rest[length..];
    }
    all.push_str(rest);
    all
}

/// Whether the filters of a directory are such.
pub(crate) fn check(via: &LdapVia) -> Result<(), String> {
    super::fetch::trust(&via.ca)?;
    let mut filters = vec![via.user_filter.as_str()];
    if let LdapGroups::Search(search) = &via.groups {
        filters.push(search.filter());
    }
    for filter in filters {
        let probe = filled(filter, &[("{username}", "x"), ("{dn}", "x")]);
        ldap3::parse_filter(&probe).map_err(|_| format!("{filter} is no filter of LDAP"))?;
    }
    match via.urls.iter().find(|url| link::place(url).is_none()) {
        Some(url) => Err(format!("{url} is no url of a server")),
        None => Ok(()),
    }
}

/// A result of an operation, in few printable words.
fn said(result: &LdapResult) -> String {
    let all = format!("result {} {}", result.rc, result.text);
    all.chars().filter(|c| !c.is_control()).take(300).collect::<String>().trim_end().to_owned()
}

/// Whether a result says that this server is at fault and another may not be.
fn of_the_server(result: &LdapResult) -> bool {
    [code::BUSY, code::UNAVAILABLE, code::REFERRAL].contains(&result.rc)
}

/// What a bind says of who searches.
fn searcher(result: &LdapResult) -> Result<(), Flaw> {
    match result.rc {
        code::SUCCESS => Ok(()),
        code::INVALID_CREDENTIALS => {
            Err(Flaw::Setup(format!("bind_dn or its password is wrong: {}", said(result))))
        }
        code::STRONGER_AUTH | code::CONFIDENTIALITY => {
            Err(Flaw::Setup(format!("the directory wants TLS: {}", said(result))))
        }
        _ => Err(Flaw::Server(format!("it does not let in bind_dn: {}", said(result)))),
    }
}

/// Where a search ends that has not found all.
fn search_end(end: &LdapResult, what: &str) -> Result<(), Flaw> {
    match end.rc {
        code::SUCCESS => Ok(()),
        _ if of_the_server(end) => Err(Flaw::Server(format!("{what}: {}", said(end)))),
        _ => Err(Flaw::Setup(format!("cannot search for {what}: {}", said(end)))),
    }
}

/// What names somebody for ever: text as it is, and what is none in digits. The one of Active
/// Directory is written as everybody there writes it.
fn subject(value: &[u8], attribute: &str) -> String {
    let hex = data_encoding::HEXLOWER.encode(value);
    if attribute.eq_ignore_ascii_case("objectGUID")
        && let Ok(guid) = <[u8; 16]>::try_from(value)
    {
        let [a, b, c, d, e, f, g, h, ..] = guid;
        let front = data_encoding::HEXLOWER.encode(&[d, c, b, a, f, e, h, g]);
        return [&front[..8], &front[8..12], &front[12..], &hex[16..20], &hex[20..]].join("-");
    }
    match std::str::from_utf8(value) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("#{hex}"),
    }
}

impl Directory<'_> {
    /// Who somebody is, if their password is right. Servers are asked until one answers.
    ///
    /// # Errors
    /// [`Flaw`]; of servers that do not answer, what each of them has done.
    pub(crate) async fn login(
        &self,
        typed: &Typed<'_>,
        may: May<'_>,
        steps: &mut Steps,
    ) -> Result<Person, Flaw> {
        let name = typed.name;
        if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            return Err(person("this is no name"));
        }
        let bad = |password: &str| {
            password.is_empty() || password.len() > LONGEST_PASSWORD || password.contains('\0')
        };
        if typed.password.is_some_and(bad) {
            return Err(person("this is no password"));
        }
        let mut silent = Vec::new();
        for url in &self.via.urls {
            steps.at(url);
            match self.patiently(self.at(url, typed, may, steps)).await {
                Err(Flaw::Server(why)) => {
                    steps.failed(&why);
                    silent.push(format!("{url}: {why}"));
                }
                Err(flaw) => {
                    steps.failed(flaw.why());
                    return Err(flaw);
                }
                found => return found,
            }
        }
        Err(Flaw::Server(silent.join("; ")))
    }

    /// Whether each server can be reached, lets in who searches, and has the bases of searches.
    pub(crate) async fn reach(&self, steps: &mut Steps) -> bool {
        let mut all = true;
        for url in &self.via.urls {
            steps.at(url);
            if let Err(flaw) = self.patiently(self.reach_one(url, steps)).await {
                steps.failed(flaw.why());
                all = false;
            }
        }
        all
    }

    async fn reach_one(&self, url: &str, steps: &mut Steps) -> Result<(), Flaw> {
        let mut link = Link::open(self.via, url, steps).await.map_err(Flaw::Server)?;
        self.begin(&mut link, steps).await?;
        let mut bases = vec![("user", &self.via.user_base)];
        if let LdapGroups::Search(search) = &self.via.groups {
            bases.push(("groups", &search.base));
        }
        for (step, base) in bases {
            steps.begin(step);
            let found = link.search(base, "(objectClass=*)", &["1.1"], 1).await;
            let found = found.map_err(Flaw::Server)?;
            if found.entries.is_empty() {
                search_end(&found.end, base)?;
            }
            steps.done(format!("{base} is there"));
        }
        Ok(())
    }

    /// Binds as who searches, which is a step.
    async fn begin(&self, link: &mut Link, steps: &mut Steps) -> Result<(), Flaw> {
        steps.begin("bind");
        self.bind(link).await?;
        steps.done(match self.via.bind_dn.as_str() {
            "" => "as nobody in particular",
            dn => dn,
        });
        Ok(())
    }

    /// Waits as long as one server may take. What the library cannot read, it panics on: that is
    /// the server's fault, and ends with it.
    async fn patiently<T>(&self, asked: impl Future<Output = Result<T, Flaw>>) -> Result<T, Flaw> {
        let patience = Duration::from_secs(u64::from(self.via.timeout_seconds));
        let asked = Box::pin(AssertUnwindSafe(asked).catch_unwind());
        match tokio::time::timeout(patience, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Flaw::Server("its answer makes no sense".to_owned())),
            Err(_) => Err(Flaw::Server("it takes too long".to_owned())),
        }
    }

    /// Who somebody is, as this server says.
    async fn at(
        &self,
        url: &str,
        typed: &Typed<'_>,
        may: May<'_>,
        steps: &mut Steps,
    ) -> Result<Person, Flaw> {
        let mut link = Link::open(self.via, url, steps).await.map_err(Flaw::Server)?;
        self.begin(&mut link, steps).await?;
        steps.begin("user");
        let user = self.user(&mut link, typed.name).await?;
        let login = self.name(&user, typed.name)?;
        let subject = self.subject(&user)?;
        steps.done(format!("{} is {login}, for ever {subject}", user.dn));
        if let Some(password) = typed.password {
            steps.begin("password");
            may(&subject).map_err(Flaw::Wait)?;
            prove(&mut link, &user.dn, password, &subject).await?;
            steps.done("it is right");
        }
        steps.begin("groups");
        let groups = match &self.via.groups {
            LdapGroups::MemberOf(at) => {
                user.texts(&at.attribute).take(MOST_GROUPS).map(str::to_owned).collect()
            }
            LdapGroups::Search(search) => {
                // The link is the user's by now, who may not see groups.
                if typed.password.is_some() {
                    self.bind(&mut link).await?;
                }
                groups(&mut link, search, &user.dn, &login).await?
            }
        };
        steps.done(told(&groups));
        Ok(Person { subject, login, groups })
    }

    /// Binds as who searches.
    async fn bind(&self, link: &mut Link) -> Result<(), Flaw> {
        let (dn, secret) = (self.via.bind_dn.as_str(), self.secret.as_ref());
        let password = match (dn, secret) {
            ("", _) => "",
            (_, Some(secret)) => secret,
            (_, None) => {
                let text = "the password of bind_dn is not set: sluice identity-provider secret";
                return Err(Flaw::Setup(text.to_owned()));
            }
        };
        searcher(&link.bind(dn, password).await.map_err(Flaw::Server)?)
    }

    /// The one entry of this name.
    async fn user(&self, link: &mut Link, name: &str) -> Result<Entry, Flaw> {
        let via = self.via;
        let filter = filled(&via.user_filter, &[("{username}", name)]);
        let mut attributes = vec![via.name_attribute.as_str(), via.id_attribute.as_str()];
        if let LdapGroups::MemberOf(at) = &via.groups {
            attributes.push(&at.attribute);
        }
        let found = link.search(&via.user_base, &filter, &attributes, 2).await;
        let found = found.map_err(Flaw::Server)?;
        if found.entries.len() < 2 && found.end.rc != code::SIZE_LIMIT {
            search_end(&found.end, "users")?;
        }
        let mut entries = found.entries.into_iter();
        match (entries.next(), entries.next()) {
            (Some(user), None) if !user.dn.is_empty() => Ok(user),
            (None, _) => Err(person("nobody there has this name")),
            _ => Err(person("several there have this name: make user_filter stricter")),
        }
    }

    /// The name to log in with: the one that was typed, as it is written there, where there are
    /// several.
    fn name(&self, user: &Entry, typed: &str) -> Result<String, Flaw> {
        let attribute = &self.via.name_attribute;
        let mut all = user.texts(attribute);
        let first = all.next().ok_or_else(|| {
            Flaw::Setup(format!("{} has no {attribute} that bind_dn may see", user.dn))
        })?;
        let own = all.find(|name| name.to_lowercase() == typed.to_lowercase());
        let own = own.filter(|_| first.to_lowercase() != typed.to_lowercase());
        Ok(own.unwrap_or(first).to_owned())
    }

    /// What names them for ever.
    fn subject(&self, user: &Entry) -> Result<String, Flaw> {
        let attribute = &self.via.id_attribute;
        let mut all = user.values(attribute);
        match (all.next(), all.next()) {
            (Some(one), None) if !one.is_empty() => Ok(subject(one, attribute)),
            _ => {
                let text = format!("{} has not one {attribute} that bind_dn may see", user.dn);
                Err(Flaw::Setup(text))
            }
        }
    }
}

/// Whether the password is the user's.
async fn prove(link: &mut Link, dn: &str, password: &str, subject: &str) -> Result<(), Flaw> {
    let result = link.bind(dn, password).await.map_err(Flaw::Server)?;
    match result.rc {
        code::SUCCESS => Ok(()),
        code::STRONGER_AUTH | code::CONFIDENTIALITY => {
            Err(Flaw::Setup(format!("the directory wants TLS: {}", said(&result))))
        }
        _ if of_the_server(&result) => Err(Flaw::Server(said(&result))),
        _ => {
            let why = format!("the directory does not let in {dn}: {}", said(&result));
            Err(Flaw::Person { subject: Some(subject.to_owned()), why })
        }
    }
}

/// The groups that have somebody as a member, by their distinguished names and their own.
async fn groups(
    link: &mut Link,
    search: &GroupSearch,
    dn: &str,
    login: &str,
) -> Result<BTreeSet<String>, Flaw> {
    let filter = filled(search.filter(), &[("{dn}", dn), ("{username}", login)]);
    let attributes = [search.name_attribute.as_str()];
    let found = link.search(&search.base, &filter, &attributes, MOST_GROUPS).await;
    let found = found.map_err(Flaw::Server)?;
    search_end(&found.end, "groups")?;
    let mut all = BTreeSet::new();
    for group in found.entries {
        // A name that looks like a distinguished name is not taken for one.
        let names = group.texts(&search.name_attribute).filter(|name| !name.contains('='));
        all.extend(names.map(str::to_owned));
        all.insert(group.dn);
    }
    Ok(all)
}

/// Groups, for people.
fn told(groups: &BTreeSet<String>) -> String {
    const SHOWN: usize = 20;
    let some: Vec<&str> = groups.iter().take(SHOWN).map(String::as_str).collect();
    match groups.len() {
        0 => "none".to_owned(),
        1..=SHOWN => some.join("; "),
        all => format!("{}; and {} more", some.join("; "), all - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_stays_a_value() {
        let template = "(&(objectClass=person)(uid={username}))";
        let cases = [
            ("anna", "anna"),
            ("*", "\\2a"),
            ("anna)(uid=*", "anna\\29\\28uid=\\2a"),
            ("a\\2a", "a\\5c2a"),
            ("a\0b", "a\\00b"),
            ("{dn}{username}", "{dn}{username}"),
            ("ä", "ä"),
        ];
        for (typed, value) in cases {
            let filter = filled(template, &[("{username}", typed), ("{dn}", "cn=x")]);
            assert_eq!(filter, format!("(&(objectClass=person)(uid={value}))"));
            ldap3::parse_filter(&filter).unwrap();
        }
        let dn = "cn=a\\2Cb (x)*,dc=x";
        assert_eq!(
            filled("(member={dn})", &[("{dn}", dn)]),
            "(member=cn=a\\5c2Cb \\28x\\29\\2a,dc=x)"
        );
    }

    #[test]
    fn a_directory_that_cannot_be_asked_is_not_set_up() {
        let via = |filter: &str| -> LdapVia {
            serde_json::from_value(serde_json::json!({"urls": ["ldaps://a.test"],
                "user_base": "dc=x", "user_filter": filter}))
            .unwrap()
        };
        check(&via("(|(uid={username})(member:1.2.840.113556.1.4.1941:={username}))")).unwrap();
        for bad in ["(uid={username}", "(uid={username}))", "(&(uid={username})x)", "(=)"] {
            assert!(check(&via(bad)).is_err(), "{bad}");
        }
        let odd = LdapVia { urls: vec!["ldaps://a.test:99999".into()], ..via("(uid={username})") };
        assert!(check(&odd).is_err());
    }

    #[test]
    fn ids_are_written_as_directories_write_them() {
        let guid: Vec<u8> = (0..16).collect();
        let text = "03020100-0504-0706-0809-0a0b0c0d0e0f";
        assert_eq!(subject(&guid, "objectguid"), text);
        // All of its bytes may be letters by chance.
        assert_eq!(subject(b"aaaaaaaaaaaaaaaa", "objectGUID").len(), text.len());
        assert_eq!(subject(text.as_bytes(), "entryUUID"), text);
        assert_eq!(subject(b"\xff\x00", "objectSid"), "#ff00");
    }

    #[tokio::test]
    async fn nobody_is_let_in_without_a_password() {
        let via = serde_json::json!({"urls": ["ldap://127.0.0.1:9"], "user_base": "dc=x"});
        let directory = Directory { via: &serde_json::from_value(via).unwrap(), secret: None };
        let long = "x".repeat(2000);
        for (name, password) in
            [("anna", ""), ("anna", "a\0b"), ("", "secret"), ("a\nb", "secret"), (&long, "secret")]
        {
            let mut steps = Steps::default();
            let typed = Typed { name, password: Some(password) };
            let told = directory.login(&typed, &|_| Ok(()), &mut steps).await;
            assert!(matches!(told, Err(Flaw::Person { .. })), "{name:?} {told:?}");
            assert!(steps.all.is_empty(), "nothing is asked for that");
        }
    }
}
