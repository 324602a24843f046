//! What a replica says of itself, and what a running replication says to others.
//!
//! * `replica`: this repository is a copy that another place feeds. While it is there, no backup
//!   may begin here: two places that take backups of one chain would drift apart.
//! * `o/<run>`: a copy into this repository is under way. A collection does not go on while there
//!   is one, and a copy does not begin while a collection is unfinished: each puts its own object
//!   first and looks for the other's second, so at least one of two sees the other.
//!
//! Both are JSON in clear, for a copy needs no key.
//!
//! # The dead
//!
//! A copy that has been silent for a day, by the destination's clock, is taken for dead: others
//! remove its object, and only then go on. Should it live, it must find out before it commits.
//! Where it puts its object once more at the same moment, it looks for collections after that: one
//! that has begun since the copy did may have gone on without it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sluice_destination::{ByteRange, Destination, ErrorKind as DestinationKind, Key, list_all};

use crate::clock::Clock;
use crate::crypto::random;
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::id::SessionId;
use crate::host;
use crate::repository::rfc3339;

/// A copy without a sign of life for this long is taken for dead.
const SILENT_MS: u64 = 24 * 3600 * 1000;
const SILENT: Duration = Duration::from_millis(SILENT_MS);
/// How often a copy shows a sign of life.
const HEARTBEAT_MS: u64 = 300_000;
/// Prefix of copies under way.
const COPIES: &str = "o/";
/// A mark is smaller than this.
const MAX_MARK: u64 = 64 << 10;

/// How the last replication into a replica ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// None has run since the mark was made.
    #[default]
    None,
    /// It is under way, or was interrupted.
    Running,
    /// All that was asked for is there.
    Done,
    /// Some of what was asked for is not there: damaged at the source.
    Incomplete,
}

/// The mark of a replica.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mark {
    /// Where its points come from; holds no secret.
    pub source: String,
    /// The repository's id in hex.
    pub repository: String,
    /// When it became a replica, RFC 3339.
    pub since: String,
    /// When the last replication began, RFC 3339.
    pub last_run: Option<String>,
    /// When everything that was asked for was last there, RFC 3339.
    pub last_done: Option<String>,
    /// How the last replication ended.
    pub state: RunState,
    /// Points the last replication brought.
    pub points: u64,
    /// Packs it brought.
    pub packs: u64,
    /// Bytes it brought.
    pub bytes: u64,
}

fn mark_key() -> Key {
    Key::new("replica").expect("a word is a valid key")
}

/// The mark of the replica on a destination; nothing when it holds no replica.
///
/// # Errors
/// When the destination fails. A mark that cannot be read is a mark all the same.
pub async fn mark(destination: &dyn Destination) -> Result<Option<Mark>> {
    match destination.get(&mark_key(), ByteRange::Span { offset: 0, length: MAX_MARK }).await {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_default())),
        Err(error) => match error.kind() {
            DestinationKind::NotFound => Ok(None),
            DestinationKind::InvalidRange => Ok(Some(Mark::default())),
            _ => Err(error.into()),
        },
    }
}

/// Writes the mark.
pub(crate) async fn put_mark(destination: &dyn Destination, mark: &Mark) -> Result<()> {
    let body = serde_json::to_vec_pretty(mark).expect("a mark is plain JSON");
    Ok(destination.put(&mark_key(), Bytes::from(body)).await?)
}

/// Makes the repository on `destination` a replica of the one at `source`.
///
/// # Errors
/// When the destination fails.
pub async fn demote(
    destination: &dyn Destination,
    repository: &str,
    source: &str,
    clock: &Clock,
) -> Result<Mark> {
    let mark = Mark {
        source: source.into(),
        repository: repository.into(),
        since: rfc3339(clock.now_ms()),
        ..Mark::default()
    };
    put_mark(destination, &mark).await?;
    Ok(mark)
}

/// Makes the replica on `destination` a repository that takes backups. Returns the mark it had.
/// With `force` also when a replication into it seems to be under way; should it live, it commits
/// nothing more.
///
/// # Errors
/// [`ErrorKind::Role`] when it is no replica; [`ErrorKind::Conflict`] while a replication into
/// it is under way.
pub async fn promote(destination: &dyn Destination, clock: &Clock, force: bool) -> Result<Mark> {
    let Some(mark) = mark(destination).await? else {
        let text = format!("the repository at {} is no replica", destination.location());
        return Err(RepositoryError::new(ErrorKind::Role, text));
    };
    if force {
        for object in list_all(destination, COPIES).await? {
            destination.delete(&object.key).await?;
        }
    } else {
        no_copy_under_way(destination, clock).await?;
    }
    destination.delete(&mark_key()).await?;
    Ok(mark)
}

/// Refuses a backup into a replica.
///
/// # Errors
/// [`ErrorKind::Role`]; or the destination fails.
pub async fn refuse_backup(destination: &dyn Destination) -> Result<()> {
    match destination.head(&mark_key()).await {
        Err(error) if error.kind() == DestinationKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => {
            let place = destination.location();
            let source = mark(destination).await?.unwrap_or_default().source;
            let text = format!(
                "{place} is a replica of {source} and takes no backups; back up there, or make \
                 this the primary with `sluice replicate promote`"
            );
            Err(RepositoryError::new(ErrorKind::Role, text))
        }
    }
}

/// Refuses what must not happen while a copy writes here, and tells copies that are taken for dead
/// that they are. A collection calls it after it has put its plan, and before it lists anything.
///
/// # Errors
/// [`ErrorKind::Conflict`]; or the destination fails.
pub async fn no_copy_under_way(destination: &dyn Destination, clock: &Clock) -> Result<()> {
    let copies = copies(destination, clock, None).await?;
    if let Some((_, copy)) = copies.iter().find(|(_, copy)| copy.is_alive) {
        let text = format!(
            "a copy into {} has been under way since {}; wait for it",
            destination.location(),
            rfc3339(copy.record.started_ms)
        );
        return Err(RepositoryError::new(ErrorKind::Conflict, text));
    }
    for (key, _) in &copies {
        destination.delete(key).await?;
    }
    Ok(())
}

/// A copy under way, as it tells others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct CopyRecord {
    /// A hash: who reads the destination need not learn the names of hosts.
    host: String,
    process: u32,
    process_start: u64,
    started_ms: u64,
    heartbeat_ms: u64,
}

fn this_host() -> String {
    blake3::hash(host::scope().as_bytes()).to_hex()[..32].to_owned()
}

struct Copying {
    record: CopyRecord,
    is_alive: bool,
}

/// All copies under way. `own` is the object of one that was written just now.
async fn copies(
    destination: &dyn Destination,
    clock: &Clock,
    own: Option<&Key>,
) -> Result<Vec<(Key, Copying)>> {
    let mut found = Vec::new();
    let objects = list_all(destination, COPIES).await?;
    let now = match own {
        Some(own) => objects.iter().find(|one| one.key == *own).and_then(|one| one.modified),
        None if objects.iter().all(|object| object.modified.is_none()) => None,
        None => time_there(destination, clock).await?,
    };
    for object in objects {
        let range = ByteRange::Span { offset: 0, length: MAX_MARK };
        // One that cannot be read was written when the destination says, or just now.
        let written = object.modified.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let written = written.map_or(clock.now_ms(), |at| at.as_millis() as u64);
        let unknown =
            || CopyRecord { started_ms: written, heartbeat_ms: written, ..CopyRecord::default() };
        let record: CopyRecord = match destination.get(&object.key, range).await {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|_| unknown()),
            Err(error) if error.kind() == DestinationKind::InvalidRange => unknown(),
            Err(error) if error.kind() == DestinationKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        let silent = match (now, object.modified) {
            (Some(now), Some(at)) => now.duration_since(at).unwrap_or_default() > SILENT,
            _ => clock.now_ms().saturating_sub(record.heartbeat_ms) > SILENT_MS,
        };
        let gone = record.host == this_host()
            && host::process_start(record.process) != Some(record.process_start);
        found.push((object.key, Copying { record, is_alive: !silent && !gone }));
    }
    Ok(found)
}

/// The time by the destination's clock, of a fresh object; nothing where there is no room for one.
async fn time_there(destination: &dyn Destination, clock: &Clock) -> Result<Option<SystemTime>> {
    let key = Key::new(format!("probe/{}-time", SessionId::new(clock.now_ms(), random()?)))?;
    match destination.put(&key, Bytes::from_static(b"time")).await {
        Err(error) if error.kind() == DestinationKind::NoSpace => return Ok(None),
        other => other?,
    }
    let meta = destination.head(&key).await;
    destination.delete(&key).await?;
    Ok(meta?.modified)
}

/// This process' own copy under way. Dropped without [`end`](Self::end), its object stays until
/// the next replication finds that the process is gone.
#[derive(Debug)]
pub(crate) struct Underway {
    key: Key,
    record: CopyRecord,
    /// Numbers of the collections that were over when it began.
    over: BTreeSet<u64>,
}

impl Underway {
    /// Says that a copy is under way, removes what dead ones left, and makes sure that no
    /// collection is unfinished.
    pub(crate) async fn begin(destination: &dyn Destination, clock: &Clock) -> Result<Self> {
        let now = clock.now_ms();
        let process = std::process::id();
        let record = CopyRecord {
            host: this_host(),
            process,
            process_start: host::process_start(process).unwrap_or_default(),
            started_ms: now,
            heartbeat_ms: now,
        };
        let key = Key::new(format!("{COPIES}{}", SessionId::new(now, random()?)))?;
        let mut this = Self { key, record, over: BTreeSet::new() };
        this.put(destination).await?;
        for (key, copy) in copies(destination, clock, Some(&this.key)).await? {
            if !copy.is_alive {
                destination.delete(&key).await?;
            }
        }
        let known = collections(destination).await?;
        if let Some((generation, false)) = known.last_key_value() {
            this.end(destination).await;
            let text = format!(
                "a collection (number {generation}) is under way at {}; let it end, then run \
                 this again",
                destination.location()
            );
            return Err(RepositoryError::new(ErrorKind::Conflict, text));
        }
        this.over = known.into_keys().collect();
        Ok(this)
    }

    /// Fails when a collection has ended that had not when the copy was planned: what the plan
    /// found here, and so does not bring, may be gone.
    pub(crate) async fn planned(
        self,
        destination: &dyn Destination,
        over: &BTreeSet<u64>,
    ) -> Result<Self> {
        let Some(number) = self.over.difference(over).next().copied() else { return Ok(self) };
        self.end(destination).await;
        let text = format!(
            "a collection (number {number}) has run at {} since this was planned; run it again",
            destination.location()
        );
        Err(RepositoryError::new(ErrorKind::Conflict, text))
    }

    async fn put(&self, destination: &dyn Destination) -> Result<()> {
        let body = serde_json::to_vec(&self.record).expect("the record is plain JSON");
        Ok(destination.put(&self.key, Bytes::from(body)).await?)
    }

    /// Shows a sign of life, if the last one was some time ago; as [`beat`](Self::beat).
    pub(crate) async fn beat_if_due(
        &mut self,
        destination: &dyn Destination,
        clock: &Clock,
    ) -> Result<()> {
        match clock.now_ms().saturating_sub(self.record.heartbeat_ms) > HEARTBEAT_MS {
            true => self.beat(destination, clock).await,
            false => Ok(()),
        }
    }

    /// Shows a sign of life. Fails when others have taken this copy for dead: what it wrote may
    /// have been collected.
    pub(crate) async fn beat(
        &mut self,
        destination: &dyn Destination,
        clock: &Clock,
    ) -> Result<()> {
        match destination.head(&self.key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => Err(RepositoryError::new(
                ErrorKind::Conflict,
                "this copy was taken for dead, or the replica was promoted; run it again",
            )),
            Err(error) => Err(error.into()),
            Ok(_) => {
                self.record.heartbeat_ms = clock.now_ms();
                self.put(destination).await?;
                self.was_counted(destination).await
            }
        }
    }

    /// Fails when a collection has begun since: it may have looked for copies between the look for
    /// this one's object and the put, which brought the object back.
    async fn was_counted(&self, destination: &dyn Destination) -> Result<()> {
        let known = collections(destination).await?;
        let Some((number, _)) = known.iter().find(|(number, _)| !self.over.contains(*number))
        else {
            return Ok(());
        };
        let text = format!(
            "a collection (number {number}) has begun at {} meanwhile; run this again once it \
             has ended",
            destination.location()
        );
        Err(RepositoryError::new(ErrorKind::Conflict, text))
    }

    pub(crate) async fn end(self, destination: &dyn Destination) {
        if let Err(error) = destination.delete(&self.key).await {
            tracing::warn!(%error, "the record of a replication stays behind");
        }
    }
}

/// Numbers of the collections that are over: those that are done, and all before one that is, of
/// which a record may be left. A plan takes note of them before it lists anything.
pub(crate) async fn collections_over(destination: &dyn Destination) -> Result<BTreeSet<u64>> {
    let known = collections(destination).await?;
    let newest = known.iter().rev().find(|(_, done)| **done).map(|(number, _)| *number);
    Ok(known.into_keys().filter(|number| newest >= Some(*number)).collect())
}

/// Numbers of collections, ascending, and whether they are done.
async fn collections(destination: &dyn Destination) -> Result<BTreeMap<u64, bool>> {
    let mut known = BTreeMap::new();
    for object in list_all(destination, "g/").await? {
        let mut parts = object.key.as_str().split('/').skip(1);
        if let (Some(Ok(number)), Some(what)) = (parts.next().map(str::parse), parts.next()) {
            *known.entry(number).or_default() |= what.starts_with("done");
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use sluice_destination::filesystem::FilesystemDestination;
    use sluice_destination::memory::MemoryDestination;

    use super::*;

    async fn put(destination: &dyn Destination, key: &str, body: &'static [u8]) {
        destination.put(&Key::new(key).unwrap(), Bytes::from_static(body)).await.unwrap();
    }

    #[tokio::test]
    async fn a_mark_refuses_backups_until_it_is_promoted() {
        let destination = MemoryDestination::new();
        let clock = Clock::system();
        refuse_backup(&destination).await.unwrap();
        assert_eq!(promote(&destination, &clock, false).await.unwrap_err().kind(), ErrorKind::Role);
        demote(&destination, "00", "s3://far/away", &clock).await.unwrap();
        let refused = refuse_backup(&destination).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Role);
        assert!(refused.to_string().contains("s3://far/away"), "{refused}");
        assert_eq!(promote(&destination, &clock, false).await.unwrap().source, "s3://far/away");
        refuse_backup(&destination).await.unwrap();
        // What cannot be read is a mark too: better refused once too often.
        put(&destination, "replica", b"").await;
        assert_eq!(mark(&destination).await.unwrap(), Some(Mark::default()));
        refuse_backup(&destination).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_copy_and_a_collection_keep_out_of_each_others_way() {
        let destination = MemoryDestination::new();
        let (clock, hand) = Clock::manual(1_000_000);
        no_copy_under_way(&destination, &clock).await.unwrap();
        let mut copy = Underway::begin(&destination, &clock).await.unwrap();
        no_copy_under_way(&destination, &clock).await.unwrap_err();
        demote(&destination, "00", "x", &clock).await.unwrap();
        assert_eq!(
            promote(&destination, &clock, false).await.unwrap_err().kind(),
            ErrorKind::Conflict
        );
        copy.beat(&destination, &clock).await.unwrap();
        promote(&destination, &clock, true).await.unwrap();
        let gone = copy.beat(&destination, &clock).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::Conflict);
        let mut copy = Underway::begin(&destination, &clock).await.unwrap();
        // Silent for so long that the next one takes it for dead, which it must notice.
        hand.store(1_000_000 + SILENT_MS + 1, std::sync::atomic::Ordering::SeqCst);
        let next = Underway::begin(&destination, &clock).await.unwrap();
        let fenced = copy.beat(&destination, &clock).await.unwrap_err();
        assert_eq!(fenced.kind(), ErrorKind::Conflict);
        next.end(&destination).await;
        no_copy_under_way(&destination, &clock).await.unwrap();
        // What cannot be read is taken for a living one, until its object is old.
        for body in [b"".as_slice(), b"{", b"\x00\xff"] {
            put(&destination, "o/0", body).await;
            no_copy_under_way(&destination, &clock).await.unwrap_err();
            destination.delete(&Key::new("o/0").unwrap()).await.unwrap();
        }
        for (key, free) in [
            ("g/9/plan", false),
            ("g/9/done", true),
            ("g/10/plan", false),
            ("g/10/condemned", false),
        ] {
            put(&destination, key, b"x").await;
            let begun = Underway::begin(&destination, &clock).await;
            assert_eq!(begun.is_ok(), free, "{key}");
            if let Ok(begun) = begun {
                begun.end(&destination).await;
            }
        }
        no_copy_under_way(&destination, &clock).await.unwrap();
    }

    #[tokio::test]
    async fn a_copy_is_told_that_a_collection_took_it_for_dead() {
        let destination = MemoryDestination::new();
        let (clock, hand) = Clock::manual(1_000_000);
        let mut copy = Underway::begin(&destination, &clock).await.unwrap();
        hand.fetch_add(SILENT_MS + 1, std::sync::atomic::Ordering::SeqCst);
        no_copy_under_way(&destination, &clock).await.unwrap();
        let fenced = copy.beat(&destination, &clock).await.unwrap_err();
        assert_eq!(fenced.kind(), ErrorKind::Conflict);
        // Also when it has put its object once more at the same moment.
        copy.put(&destination).await.unwrap();
        put(&destination, "g/1/plan", b"x").await;
        put(&destination, "g/1/done", b"x").await;
        let fenced = copy.beat(&destination, &clock).await.unwrap_err();
        assert_eq!(fenced.kind(), ErrorKind::Conflict);
        copy.end(&destination).await;
        // One that has run since a copy was planned may have taken what the plan counts on.
        let copy = Underway::begin(&destination, &clock).await.unwrap();
        let late = copy.planned(&destination, &BTreeSet::new()).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Conflict);
        assert!(list_all(&destination, COPIES).await.unwrap().is_empty(), "it is over");
        let copy = Underway::begin(&destination, &clock).await.unwrap();
        let over = collections_over(&destination).await.unwrap();
        copy.planned(&destination, &over).await.unwrap().end(&destination).await;
        // A record that the tidying up of the next collection has left is of one that is over.
        put(&destination, "g/0/plan", b"x").await;
        let over = collections_over(&destination).await.unwrap();
        let copy = Underway::begin(&destination, &clock).await.unwrap();
        copy.planned(&destination, &over).await.unwrap().end(&destination).await;
        // One that was over when the copy began means nothing.
        let mut copy = Underway::begin(&destination, &clock).await.unwrap();
        copy.beat(&destination, &clock).await.unwrap();
        hand.fetch_add(HEARTBEAT_MS, std::sync::atomic::Ordering::SeqCst);
        put(&destination, "g/2/plan", b"x").await;
        copy.beat_if_due(&destination, &clock).await.unwrap();
        hand.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        copy.beat_if_due(&destination, &clock).await.unwrap_err();
    }

    #[tokio::test]
    async fn how_long_a_copy_is_silent_is_told_by_the_destination_s_clock() {
        let folder = tempfile::tempdir().unwrap();
        let destination = FilesystemDestination::create(folder.path()).await.unwrap();
        let system = Clock::system();
        let mut copy = Underway::begin(&destination, &system).await.unwrap();
        // A collector whose clock is two days ahead, and one whose clock is behind.
        for ahead in [2 * SILENT_MS as i64, -2 * SILENT_MS as i64] {
            let clock = Clock::manual(system.now_ms().saturating_add_signed(ahead)).0;
            let alive = no_copy_under_way(&destination, &clock).await.unwrap_err();
            assert_eq!(alive.kind(), ErrorKind::Conflict);
        }
        copy.beat(&destination, &system).await.unwrap();
        // What is old is dead, whatever it says of itself.
        copy.record.heartbeat_ms = system.now_ms() + SILENT_MS;
        copy.put(&destination).await.unwrap();
        let file = std::fs::File::open(folder.path().join(copy.key.as_str())).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.set_modified(modified - SILENT - Duration::from_secs(60)).unwrap();
        no_copy_under_way(&destination, &system).await.unwrap();
        copy.beat(&destination, &system).await.unwrap_err();
        assert_eq!(list_all(&destination, "").await.unwrap(), [], "nothing is left");
    }
}
