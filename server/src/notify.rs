//! Who is told what, by mail or webhook.
//!
//! ```text
//!   every 10 s: what happened? ── rules ──► notices in the database ──► one message a channel
//!                 │                                                     │ not sent: later again
//!                 └─ what was told is remembered, so that it is told once
//! ```
//!
//! Occurrences are found by looking at the database, and not by hooks: whatever process noted that
//! a task failed, and whenever it died, the next look finds it. All that happened since the last
//! message of a channel goes into the next one, and a channel has at most one message in a pause:
//! ten thousand failures are some messages with counts.

mod mail;
mod occurrence;
mod send;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{Notice, ProjectId, Tx};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::problem::{Problem, Result};
use crate::reporting::scheduled::{self, ScheduledReport};
use crate::state::Shared;
pub(crate) use occurrence::{Event, Occurrence};

/// How often is looked.
const LOOK: Duration = Duration::from_secs(5);
/// A channel has at most one message in so long, in milliseconds.
const PAUSE_MS: u64 = 60_000;
/// Occurrences in one message; of more, only the number is told.
const IN_ONE: usize = 50;
/// Notices that are put into one message.
const NOTICES: u32 = 200;
/// How often is looked for copies that are overdue, in milliseconds: it takes a walk over all
/// policies, and copies are late by hours.
const COPIES_MS: u64 = 60_000;
/// A message that could not be sent for so long is given up, in milliseconds.
const GIVE_UP_MS: u64 = 24 * 3_600_000;
/// The settings: what is wanted, and what was told.
const WANTED: &str = "notify";
const STATE: &str = "notify-state";
/// The owner of the secrets of channels.
const OWNER: &str = "notify";
/// What stands before a channel in the names of secrets.
const SECRET: &str = "SLUICE_NOTIFY_";

/// Who is told what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Ways to tell somebody.
    pub(crate) channels: Vec<Channel>,
    /// What is told by which of them.
    pub(crate) rules: Vec<Rule>,
    /// Reports that are sent by themselves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) reports: Vec<ScheduledReport>,
}

/// A way to tell somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Channel {
    /// Its name: small letters, digits and hyphens.
    pub(crate) name: String,
    /// How.
    pub(crate) via: Via,
}

/// How somebody is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Via {
    /// A POST of JSON. With a secret it is signed: `X-Sluice-Signature: t=SECONDS,v1=HEX`, the
    /// HMAC-SHA256 of `SECONDS.BODY`.
    Webhook {
        /// Where to.
        url: String,
    },
    /// A mail. The channel's secret is the password.
    Mail {
        /// The server: `HOST:PORT`.
        server: String,
        /// How the connection is protected.
        #[serde(default)]
        security: Security,
        /// Who logs in; nobody when it is not said.
        #[serde(default)]
        user: Option<String>,
        /// The sender.
        from: String,
        /// The receivers.
        to: Vec<String>,
    },
}

/// How a connection to a mail server is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Security {
    /// TLS after a plain beginning; without it nothing is sent.
    #[default]
    Starttls,
    /// TLS from the beginning.
    Tls,
    /// Not at all: for a mail server on this machine.
    None,
}

/// What is told by which channels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// What is told.
    pub(crate) events: BTreeSet<Event>,
    /// By these channels.
    pub(crate) channels: Vec<String>,
    /// Only what is of these projects; everything when there is no list.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub(crate) projects: Option<BTreeSet<ProjectId>>,
}

impl Rule {
    fn takes(&self, one: &Occurrence) -> bool {
        let own = |projects: &BTreeSet<ProjectId>| {
            one.project.is_some_and(|project| projects.contains(&project))
        };
        self.events.contains(&one.event) && self.projects.as_ref().is_none_or(own)
    }
}

impl Wanted {
    pub(crate) async fn load(tx: &mut Tx) -> Result<Self> {
        let text = tx.setting(WANTED).await?.unwrap_or_default();
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    pub(crate) async fn store(&self, tx: &mut Tx) -> Result<()> {
        Ok(tx.set_setting(WANTED, &json!(self).to_string()).await?)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let bad = |text: String| Err(Problem::invalid(text));
        let mut names = BTreeSet::new();
        for channel in &self.channels {
            if !is_word(&channel.name) || !names.insert(channel.name.as_str()) {
                return bad(format!("{:?} names no channel, or two", channel.name));
            }
            channel.via.check()?;
        }
        let mut reports = BTreeSet::new();
        for report in &self.reports {
            if !is_word(&report.name) || !reports.insert(report.name.as_str()) {
                return bad(format!("{:?} names no report, or two", report.name));
            }
            report.check()?;
        }
        let named = self.reports.iter().flat_map(|report| &report.channels);
        if let Some(name) = named.into_iter().find(|name| !names.contains(name.as_str())) {
            return bad(format!("there is no channel {name:?}"));
        }
        for rule in &self.rules {
            if let Some(name) = rule.channels.iter().find(|name| !names.contains(name.as_str())) {
                return bad(format!("there is no channel {name:?}"));
            }
        }
        Ok(())
    }

    /// Whether anybody is told of such a thing.
    fn wants(&self, event: Event) -> bool {
        self.rules.iter().any(|rule| rule.events.contains(&event))
    }

    /// The channels that tell of something.
    fn channels_of(&self, one: &Occurrence) -> BTreeSet<&str> {
        let rules = self.rules.iter().filter(|rule| rule.takes(one));
        rules.flat_map(|rule| rule.channels.iter().map(String::as_str)).collect()
    }
}

impl Via {
    fn check(&self) -> Result<()> {
        let plain = |text: &str| !text.is_empty() && !text.chars().any(|c| c.is_control());
        let address = |text: &String| {
            plain(text) && text.contains('@') && !text.contains(['<', '>', ' ', ','])
        };
        let fits = match self {
            Self::Webhook { url } => {
                (url.starts_with("https://") || url.starts_with("http://"))
                    && url.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some())
            }
            Self::Mail { server, from, to, user, security } => {
                let port = server.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
                // A password is not sent where others can read it.
                let safe = *security != Security::None || user.is_none();
                port.is_some()
                    && plain(server)
                    && address(from)
                    && !to.is_empty()
                    && to.iter().all(address)
                    && user.as_deref().is_none_or(plain)
                    && safe
            }
        };
        let text = "a webhook has a URL; a mail has HOST:PORT, from and to, and TLS for a user";
        if fits { Ok(()) } else { Err(Problem::invalid(text)) }
    }
}

/// Whether a name has small letters, digits and hyphens.
fn is_word(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=40).contains(&name.len()) && name.bytes().all(fits)
}

/// The name of a channel's secret.
fn variable(channel: &str) -> String {
    format!("{SECRET}{}", channel.to_ascii_uppercase().replace('-', "_"))
}

/// Sets the secret of a channel; the others stay.
pub(crate) async fn set_secret(
    shared: &Shared,
    tx: &mut Tx,
    channel: &str,
    secret: Zeroizing<String>,
) -> Result<()> {
    let mut all = tx.secrets(&shared.sealer, OWNER).await?;
    all.insert(variable(channel), secret);
    Ok(tx.set_secrets(&shared.sealer, OWNER, &all).await?)
}

/// What was told, by keys, with the time; so that it is told once.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    /// Up to when it was looked, in milliseconds since 1970.
    looked_ms: u64,
    /// When it was looked for copies that are overdue.
    copies_ms: u64,
    told: BTreeMap<String, u64>,
    /// When a channel may have its next message.
    next_ms: BTreeMap<String, u64>,
    /// Up to when it was looked whether reports are due, in milliseconds since 1970.
    reports: BTreeMap<String, u64>,
}

impl State {
    async fn load(tx: &mut Tx) -> Result<Self> {
        let text = tx.setting(STATE).await?.unwrap_or_default();
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }
}

/// Looks until `shutdown` is cancelled.
pub(crate) async fn run(shared: Shared, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let looked = tokio::select! {
            () = shutdown.cancelled() => return,
            looked = look(&shared) => looked,
        };
        if let Err(problem) = looked {
            tracing::error!("nobody can be told what happens: {}", problem.detail);
        }
    }
}

async fn look(shared: &Shared) -> Result<()> {
    let wanted = Wanted::load(&mut shared.catalog.read().await?).await?;
    if wanted.channels.is_empty() {
        return Ok(());
    }
    note(shared, &wanted).await?;
    deliver(shared, &wanted).await
}

/// The copies that are overdue; nothing when it is not time to look. Nobody waits for this walk.
async fn overdue(shared: &Shared, wanted: &Wanted, now: u64) -> Result<Option<Vec<Occurrence>>> {
    if !wanted.wants(Event::CopyOverdue) {
        return Ok(None);
    }
    let mut tx = shared.catalog.read().await?;
    if State::load(&mut tx).await?.copies_ms.saturating_add(COPIES_MS) > now {
        return Ok(None);
    }
    occurrence::overdue(&mut tx, now).await.map(Some)
}

/// Makes notices of what happened. Of several servers one does at a time.
async fn note(shared: &Shared, wanted: &Wanted) -> Result<()> {
    let now = shared.now();
    let late = overdue(shared, wanted, now).await?;
    let mut tx = shared.catalog.begin().await?;
    tx.decide_alone().await?;
    let mut state = State::load(&mut tx).await?;
    // What is new owes nothing for the past.
    let since = if state.looked_ms == 0 { now } else { state.looked_ms };
    let end = shared.certificate_end_ms;
    let mut happened = occurrence::since(&mut tx, wanted, (since, now), end).await?;
    // Where nobody has looked, what was so is so.
    let unseen = late.is_none() && wanted.wants(Event::CopyOverdue);
    if let Some(late) = late {
        state.copies_ms = now;
        happened.extend(late);
    }
    let mut bodies: BTreeMap<&str, Vec<&Occurrence>> = BTreeMap::new();
    for one in &happened {
        let known = state.told.insert(one.key.clone(), now).is_some();
        if known {
            continue;
        }
        for channel in wanted.channels_of(one) {
            bodies.entry(channel).or_default().push(one);
        }
    }
    // What holds no longer, and what is too old to be found again, is forgotten.
    let found: BTreeSet<&str> = happened.iter().map(|one| one.key.as_str()).collect();
    let holds = |key: &str| found.contains(key) || (unseen && key.starts_with(occurrence::COPY));
    state.told.retain(|key, _| holds(key));
    for (channel, happened) in bodies {
        let more = happened.len().saturating_sub(IN_ONE);
        let body = json!({"events": &happened[..happened.len() - more], "more": more});
        tx.add_notice(channel, &body, now).await?;
    }
    for report in scheduled::due(&wanted.reports, &mut state.reports, now) {
        report.send(&mut tx, now).await?;
    }
    state.looked_ms = now;
    tx.set_setting(STATE, &json!(state).to_string()).await?;
    Ok(tx.commit().await?)
}

/// Sends what waits: one message for each channel whose pause is over.
async fn deliver(shared: &Shared, wanted: &Wanted) -> Result<()> {
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    tx.decide_alone().await?;
    let waiting = tx.notices(now, NOTICES).await?;
    if waiting.is_empty() {
        return Ok(());
    }
    let mut state = State::load(&mut tx).await?;
    let mut by_channel: BTreeMap<String, Vec<Notice>> = BTreeMap::new();
    for notice in waiting {
        let known = wanted.channels.iter().any(|channel| channel.name == notice.channel);
        if !known || notice.created_ms + GIVE_UP_MS < now {
            tracing::error!(channel = notice.channel, "a message was given up: {}", notice.failure);
            tx.remove_notice(notice.id).await?;
        } else if state.next_ms.get(&notice.channel).is_none_or(|next| *next <= now) {
            by_channel.entry(notice.channel.clone()).or_default().push(notice);
        }
    }
    // Another server does not send meanwhile: the pause begins before.
    for channel in by_channel.keys() {
        state.next_ms.insert(channel.clone(), now + PAUSE_MS);
    }
    tx.set_setting(STATE, &json!(state).to_string()).await?;
    let secrets = tx.secrets(&shared.sealer, OWNER).await?;
    tx.commit().await?;
    for channel in &wanted.channels {
        let Some(notices) = by_channel.get(&channel.name) else { continue };
        let secret = secrets.get(&variable(&channel.name)).map(|secret| secret.as_str());
        let (reports, events): (Vec<_>, Vec<_>) =
            notices.iter().partition(|notice| scheduled::of(notice).is_some());
        // Events go together, and each report by itself.
        let reports = reports.chunks(1);
        for notices in std::iter::once(&events[..]).chain(reports).filter(|part| !part.is_empty()) {
            let message = match message(shared, notices, now).await {
                Ok(message) => send::message(&shared.url, channel, &message, secret, now).await,
                Err(problem) => Err(problem.detail),
            };
            settle(shared, channel, notices, message, now).await?;
        }
    }
    Ok(())
}

/// What notices say: that of one report, or events.
async fn message(shared: &Shared, notices: &[&Notice], now: u64) -> Result<send::Message> {
    match notices.first().and_then(|notice| scheduled::of(notice)) {
        Some(asked) => {
            let mut tx = shared.catalog.read().await?;
            let draft = scheduled::look_up(&mut tx, &asked, now).await?;
            drop(tx);
            let document = draft.write().await?;
            Ok(send::Message { events: Vec::new(), more: 0, document: Some(document) })
        }
        None => Ok(send::Message::of(notices)),
    }
}

/// Notes what became of a message.
async fn settle(
    shared: &Shared,
    channel: &Channel,
    notices: &[&Notice],
    sent: std::result::Result<(), String>,
    now: u64,
) -> Result<()> {
    let mut tx = shared.catalog.begin().await?;
    for notice in notices {
        match &sent {
            Ok(()) => tx.remove_notice(notice.id).await?,
            Err(why) => {
                let wait = (PAUSE_MS << notice.attempts.min(6)).min(3_600_000);
                tx.notice_failed(notice.id, why, now + wait).await?;
            }
        }
    }
    tx.commit().await?;
    if let Err(why) = sent {
        tracing::warn!(channel = channel.name, "a message was not sent: {why}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: serde_json::Value) -> std::result::Result<(), String> {
        let wanted: Wanted = serde_json::from_value(text).map_err(|error| error.to_string())?;
        wanted.check().map_err(|problem| problem.detail)
    }

    #[test]
    fn a_password_is_not_sent_in_the_clear_and_headers_cannot_be_smuggled() {
        let mail = |user: Option<&str>, security: &str, to: &str| {
            let via = json!({"kind": "mail", "server": "mail.example.org:587", "user": user,
                "from": "a@b.example", "to": [to], "security": security});
            wanted(json!({"channels": [{"name": "ops", "via": via}]}))
        };
        assert_eq!(mail(Some("sluice"), "starttls", "ops@b.example"), Ok(()));
        assert_eq!(mail(None, "none", "ops@b.example"), Ok(()));
        assert!(mail(Some("sluice"), "none", "ops@b.example").is_err());
        assert!(mail(None, "none", "ops@b.example\r\nBcc: x@y.example").is_err());
        assert!(mail(None, "none", "ops@b.example> SIZE=1").is_err());
    }

    #[test]
    fn rules_name_channels_that_are_there() {
        let via = json!({"kind": "webhook", "url": "https://hooks.example.org/x"});
        let rule = |name: &str| json!({"events": ["task-failed"], "channels": [name]});
        let with = |name: &str| {
            wanted(json!({"channels": [{"name": "hook", "via": via}], "rules": [rule(name)]}))
        };
        assert_eq!(with("hook"), Ok(()));
        assert!(with("other").is_err());
        let report = |name: &str, channel: &str| {
            let when = json!({"kind": "calendar", "calendar": {"at": ["07:00"], "days": ["mon"]}});
            let report = json!({"name": name, "what": {"report": "sla", "format": "pdf"},
                "when": when, "channels": [channel]});
            wanted(json!({"channels": [{"name": "hook", "via": via}], "reports": [report]}))
        };
        assert!(report("weekly", "other").is_err() && report("", "hook").is_err());
        assert!(wanted(json!({"channels": [{"name": "Big", "via": via}]})).is_err());
    }
}
