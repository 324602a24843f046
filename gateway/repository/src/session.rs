//! One backup run: begin, write images, commit (or suspend).
//!
//! # Order of things
//!
//! 1. Put the session record, which names the parent and so protects it.
//! 2. Check that the parent was not pruned meanwhile.
//! 3. Write packs. Each becomes durable on its own; none is referenced yet.
//! 4. Wait until all are durable, put the index segment, then the manifest with
//!    put-if-absent. This is the commit; before it the run leaves no trace a reader can see.
//! 5. Delete the session record.
//!
//! A run that dies leaves packs that nothing references and its session record. The next run of
//! the same chain finds the record, reads the tables of those packs, and stores nothing twice.

mod fence;
mod newest;
mod presence;
mod takeover;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sluice_destination::{ErrorKind as DestinationKind, Key, list_after};

use crate::allowance::Allowance;
use crate::bounded::{get_record, is_exactly};
use crate::chunk_writer::{ChunkWriter, WriteCounters};
use crate::crypto::random;
use crate::defragment::Defragment;
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::header::Kind;
use crate::format::id::{
    ChainId, PointId, SessionId, commit_key, segment_key, segments_prefix, session_key,
    tombstone_key,
};
use crate::format::manifest::{BackupStats, CommitPlain, ImageRecord, ManifestBody};
use crate::format::record::{SegmentBody, SessionRecord, from_cbor, session_object, to_cbor};
use crate::format::segment;
use crate::host;
use crate::image_reader::ImageReader;
use crate::index::{DedupIndex, SortedEntries};
use crate::lock::Locker;
use crate::points::RestorePoint;
use crate::replicate::{Copied, NewId};
use crate::repository::{Repository, Shared, parse_error};
use newest::Newest;
use presence::Presence;

/// A session of another host without a sign of life for this long is taken for dead.
const SILENT: Duration = Duration::from_secs(24 * 3600);
/// Tables of a dead session read side by side. As packs become durable out of order, but only so
/// few at a time, this many missing in a row mean the end.
const HARVEST: u32 = 16;
/// How often a commit is sent.
const ATTEMPTS: u32 = 3;
/// Entries in one index segment: 32 MiB.
const SEGMENT_ENTRIES: usize = 1 << 20;

/// What to back up, as far as the repository must know.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// zstd level for chunks; negative ones are faster.
    pub level: i32,
    /// Use the local index and the repository's index segments.
    pub dedup: bool,
    /// Put together what lies scattered.
    pub defragment: Option<Defragment>,
    /// Build on this point instead of the chain's newest. It may be of another chain; the caller
    /// holds a pin on it up to the commit, for then the session's record does not protect it. A
    /// point that was removed is not built on.
    pub parent: Option<RestorePoint>,
    /// How much may be stored; more ends the session's writes with [`ErrorKind::Allowance`].
    pub allowance: Arc<Allowance>,
    /// The id of a copy; that of a backup comes after all others of its chain.
    pub id: Option<NewId>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        let allowance = Arc::default();
        Self { level: 1, dedup: true, defragment: None, parent: None, allowance, id: None }
    }
}

/// What is said of a point when it is committed.
#[derive(Debug, Clone, Default)]
pub struct CommitInfo {
    /// Metadata as JSON text.
    pub metadata: Option<String>,
    /// Consistency of the images.
    pub consistency: String,
    /// How the changes were found.
    pub method: String,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Not to be pruned before, in ms since 1970.
    pub retain_until_ms: Option<u64>,
    /// What a copy of another repository's point keeps of it.
    pub copied: Option<Copied>,
    /// Not to be pruned until released.
    pub hold: bool,
}

/// A session of the same chain that seems to be alive.
#[derive(Debug, Clone)]
pub struct OtherSession {
    /// The host that runs it.
    pub host: String,
    /// When it began, in ms since 1970.
    pub started_ms: u64,
    /// Its last sign of life, in ms since 1970.
    pub heartbeat_ms: u64,
}

/// An open backup of one instance.
#[derive(Debug)]
pub struct BackupSession {
    shared: Arc<Shared>,
    record: SessionRecord,
    parent: Option<RestorePoint>,
    /// There was a newer point than the parent.
    overtaken: bool,
    others: Vec<OtherSession>,
    /// Dead sessions whose packs this one took over.
    inherited: Vec<SessionRecord>,
    resumed_packs: u64,
    resumed_bytes: u64,
    writer: Arc<ChunkWriter>,
    presence: Arc<Presence>,
    pub(crate) defragment: Option<Defragment>,
    segments: AtomicU32,
    heartbeat: tokio::task::JoinHandle<()>,
}

impl Repository {
    /// Begins a backup of `instance`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an unusable name; or the destination fails.
    pub async fn begin(&self, instance: &str, options: &SessionOptions) -> Result<BackupSession> {
        check_name("instance", instance)?;
        crate::replicate::state::refuse_backup(&*self.shared.destination).await?;
        let shared = self.shared.clone();
        let chain = shared.keys.chain(instance);
        let id = SessionId::new(shared.clock.now_ms(), random()?);
        let unbegun = Unbegun(id);
        let (record, parent, overtaken) = shared.open_session(id, chain, instance, options).await?;
        let index = shared.open_index(options.dedup).await;
        let bad = shared.bad_slots().await?;
        let terms = shared.session_terms(&session_key(id), parent.as_ref()).await?;
        let locker = Locker::new(&shared, terms).await?;
        let limits = (options.level, options.allowance.clone());
        let writer = ChunkWriter::new(shared.clone(), id, limits, index, bad, locker);
        let presence = Presence::new(shared.clone(), writer.clone(), record.clone());
        presence.learn().await?;
        let presence = Arc::new(presence);
        let heartbeat = tokio::spawn(presence.clone().beat());
        // From here on the session itself says when it ends.
        std::mem::forget(unbegun);
        let mut session = BackupSession {
            shared,
            record,
            parent,
            overtaken,
            others: Vec::new(),
            inherited: Vec::new(),
            resumed_packs: 0,
            resumed_bytes: 0,
            writer,
            presence,
            defragment: options.defragment,
            segments: AtomicU32::new(0),
            heartbeat,
        };
        session.take_over_dead_sessions().await?;
        Ok(session)
    }
}

/// A session that has a record and does not begin: nobody must wait for it.
struct Unbegun(SessionId);

impl Drop for Unbegun {
    fn drop(&mut self) {
        live::drop_session(self.0);
    }
}

/// Whether the session can surely do nothing any more: its process is gone, or it failed within
/// this very process and left its record behind.
pub(crate) fn is_dead(record: &SessionRecord) -> bool {
    let runs = host::process_start(record.process) == Some(record.process_start);
    (record.host == host::scope() && !runs) || live::was_dropped(record.session)
}

/// Checks a name people give to an instance or image.
///
/// # Errors
/// [`ErrorKind::Invalid`].
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name.len() > 200
        || name.starts_with('.')
        || name.chars().any(|c| c.is_control() || c == '/' || c == '@' || c == ':');
    if !bad {
        return Ok(());
    }
    Err(RepositoryError::new(
        ErrorKind::Invalid,
        format!(
            "{name:?} cannot name an {what}: use 1 to 200 bytes without '/', '@', ':' or control \
             characters, not starting with a dot"
        ),
    ))
}

impl Shared {
    /// Puts the session record, then makes sure its parent is still there.
    async fn open_session(
        self: &Arc<Self>,
        id: SessionId,
        chain: ChainId,
        instance: &str,
        options: &SessionOptions,
    ) -> Result<(SessionRecord, Option<RestorePoint>, bool)> {
        let mut chosen = options.parent.as_ref();
        loop {
            let Newest { point, overtaken, last } = self.newest(chain).await?;
            let now = self.clock.now_ms();
            let parent = chosen.cloned().or(point);
            let in_chain = parent.as_ref().filter(|parent| parent.chain == chain);
            let process = std::process::id();
            // Points sort by id, so a clock that went back must not put this one before others
            // of the chain.
            let after = now.max(last + 1);
            let record = SessionRecord {
                session: id,
                chain,
                instance: instance.to_owned(),
                point: options.id.unwrap_or(NewId::Last(random()?)).at(after),
                parent: in_chain.map(|parent| parent.id),
                host: host::scope(),
                process,
                started_ms: now,
                heartbeat_ms: now,
                seen_gen: 0,
                needs: None,
                process_start: host::process_start(process).unwrap_or_default(),
            };
            self.put_session(&record).await?;
            let Some(parent) = parent else { return Ok((record, None, overtaken)) };
            match self.destination.head(&tombstone_key(parent.chain, parent.id)).await {
                Err(error) if error.kind() == DestinationKind::NotFound => {
                    return Ok((record, Some(parent), overtaken));
                }
                Err(error) => return Err(error.into()),
                Ok(_) => chosen = None, // pruned before this session was seen: choose again
            }
        }
    }

    /// Opens the local index and brings it up to date. Its failure costs space, not the backup.
    async fn open_index(self: &Arc<Self>, wanted: bool) -> DedupIndex {
        let Some(folder) = self.settings.cache_dir.as_ref().filter(|_| wanted) else {
            return DedupIndex::none();
        };
        let folder = folder.join(self.id.hex()).join("index");
        let opened = self.pool.run(move || DedupIndex::open(&folder)).await.and_then(|index| index);
        match opened {
            Ok(index) => {
                if let Err(error) = self.sync_index(&index).await {
                    tracing::warn!(%error, "the dedup index is not up to date");
                }
                index
            }
            Err(error) => {
                tracing::warn!(%error, "going on without the local dedup index");
                DedupIndex::none()
            }
        }
    }

    async fn sync_index(&self, index: &DedupIndex) -> Result<()> {
        let known = index.known_segments();
        let prefix = segments_prefix();
        for object in list_after(&*self.destination, &prefix, None).await? {
            let name = object.key.as_str()[prefix.len()..].to_owned();
            if known.contains(&name) {
                continue;
            }
            let bytes = get_record(&*self.destination, &object.key).await?;
            match self.open_segment(&object.key, &name, &bytes) {
                Ok(entries) => index.add(&name, &entries)?,
                Err(error) => tracing::warn!(%error, "skipping an index segment"),
            }
        }
        index.compact()
    }

    fn open_segment(&self, key: &Key, name: &str, bytes: &[u8]) -> Result<SortedEntries> {
        let session = name.split('-').next().unwrap_or_default();
        let session = SessionId::parse(session).map_err(|error| parse_error(key, error))?;
        let body = self.open_record(key, Kind::Segment, session_object(session.0), bytes)?;
        let body: SegmentBody = from_cbor(&body).map_err(|error| parse_error(key, error))?;
        let mut entries = body
            .entries
            .chunks_exact(segment::ENTRY_LEN)
            .map(|entry| segment::decode(entry, &body.packs))
            .collect::<Result<SortedEntries, _>>()
            .map_err(|error| parse_error(key, error))?;
        entries.sort_by_key(|(id, _)| *id);
        Ok(entries)
    }
}

impl BackupSession {
    /// The point this session will commit.
    pub fn point(&self) -> PointId {
        self.record.point
    }

    /// The point it builds on.
    pub fn parent(&self) -> Option<&RestorePoint> {
        self.parent.as_ref()
    }

    /// Sessions of the same chain that seem to be alive. Both will become points.
    pub fn others(&self) -> &[OtherSession] {
        &self.others
    }

    /// Packs of interrupted runs that need not be sent again.
    pub fn resumed_packs(&self) -> u64 {
        self.resumed_packs
    }

    /// Bytes that interrupted runs have left: blocks that it has taken over, and pages, which only
    /// a collection takes away. They count against its allowance.
    pub fn resumed_bytes(&self) -> u64 {
        self.resumed_bytes
    }

    /// Live counters.
    pub fn counters(&self) -> Arc<WriteCounters> {
        self.writer.counters.clone()
    }

    pub(crate) fn writer(&self) -> &Arc<ChunkWriter> {
        &self.writer
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The parent's image of this name, when the block size is the same.
    ///
    /// # Errors
    /// Damage in the parent's manifest.
    pub fn parent_image(&self, name: &str, block_size: u32) -> Result<Option<ImageReader>> {
        let Some(parent) = &self.parent else { return Ok(None) };
        let fits = |image: &&ImageRecord| image.name == name && image.block_size == block_size;
        match parent.images.iter().find(fits) {
            Some(image) => self.shared.open_image(parent, image).map(Some),
            None => Ok(None),
        }
    }

    /// Waits until more blocks may be written; call before each piece of work.
    ///
    /// # Errors
    /// When a put has failed.
    pub async fn ready(&self) -> Result<()> {
        self.writer.ready().await?;
        let entries = self.writer.take_durable(false);
        if entries.is_empty() { Ok(()) } else { self.put_segments(entries).await }
    }

    /// Puts index segments and takes them into the local index.
    async fn put_segments(&self, entries: SortedEntries) -> Result<()> {
        for part in entries.chunks(SEGMENT_ENTRIES) {
            let number = self.segments.fetch_add(1, Ordering::Relaxed);
            let mut body = SegmentBody { packs: Vec::new(), entries: Vec::new() };
            let mut known = std::collections::HashMap::new();
            for (id, location) in part {
                let pack = *known.entry(location.pack).or_insert_with(|| {
                    body.packs.push(location.pack);
                    body.packs.len() as u32 - 1
                });
                body.entries.extend_from_slice(&segment::encode(*id, pack, location));
            }
            let key = segment_key(self.record.session, number);
            let object = session_object(self.record.session.0);
            let sealed = self.shared.seal_record(Kind::Segment, object, &[], &to_cbor(&body))?;
            self.shared.destination.put(&key, sealed).await?;
            let name = key.as_str()[segments_prefix().len()..].to_owned();
            let (writer, part) = (self.writer.clone(), part.to_vec());
            let added = self.shared.pool.run(move || writer.index().add(&name, &part)).await?;
            if let Err(error) = added {
                tracing::warn!(%error, "the local dedup index was not extended");
            }
        }
        Ok(())
    }

    /// Makes the images a restore point. Returns it.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the session was fenced; or the destination fails. Unless the
    /// commit was reached, no point exists.
    pub async fn commit(self, images: Vec<ImageRecord>, info: CommitInfo) -> Result<RestorePoint> {
        self.writer.barrier().await?;
        let entries = self.writer.take_durable(true);
        self.put_segments(entries).await?;
        let (plain, body) = self.manifest(images, info)?;
        let (chain, point) = (plain.chain, plain.point);
        if let Some(locker) = &self.writer.locker {
            locker.cover(&self.shared, &body.images, plain.retain_until_ms).await?;
        }
        let sealed =
            self.shared.seal_record(Kind::Commit, point.0, &to_cbor(&plain), &to_cbor(&body))?;
        let key = commit_key(chain, point);
        let published = match self.presence.learn().await {
            Ok(()) => self.publish(&key, &sealed, plain.retain_until_ms).await,
            failed => failed,
        };
        // What was fenced was seen to be so, as a commit was: the record has done its service.
        // After anything else the commit may be under way, and the record stays.
        self.heartbeat.abort();
        match published {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                self.remove_record(&self.record).await;
                return Err(error);
            }
            other => other?,
        }
        self.remove_record(&self.record).await;
        for record in &self.inherited {
            match self.shared.fence(record).await {
                Ok(()) => self.remove_record(record).await,
                Err(error) => tracing::warn!(%error, "the record of a dead session stays behind"),
            }
        }
        let read = self.shared.parse_point(&key, chain, point, &sealed)?;
        read.ok_or_else(|| RepositoryError::damaged(&key, "it turned into an abort"))
    }

    fn manifest(
        &self,
        images: Vec<ImageRecord>,
        info: CommitInfo,
    ) -> Result<(CommitPlain, ManifestBody)> {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.writer.counters;
        let now = self.shared.clock.now_ms();
        let stats = BackupStats {
            image_bytes: images.iter().map(|image| image.size).sum(),
            read_bytes: info.read_bytes,
            new_bytes: load(&counters.new),
            stored_bytes: load(&counters.stored),
            dedup_bytes: load(&counters.dedup),
            unchanged_bytes: load(&counters.unchanged),
            zero_bytes: load(&counters.zero),
            meta_bytes: load(&counters.meta),
            duration_ms: now.saturating_sub(self.record.started_ms),
        };
        let mut plain = CommitPlain {
            chain: self.record.chain,
            point: self.record.point,
            parent: self.record.parent,
            created_ms: self.record.started_ms,
            retain_until_ms: info.retain_until_ms,
            hold: info.hold,
            roots: images.iter().map(|image| image.root).collect(),
            nonce: random()?,
        };
        let mut body = ManifestBody {
            instance: self.record.instance.clone(),
            images,
            metadata: info.metadata,
            stats,
            tool: concat!("sluice ", env!("CARGO_PKG_VERSION")).into(),
            host: host::name(),
            consistency: info.consistency,
            method: info.method,
            origin: None,
        };
        if let Some(copied) = info.copied {
            copied.apply(&mut plain, &mut body);
        }
        Ok((plain, body))
    }

    async fn remove_record(&self, record: &SessionRecord) {
        let key = session_key(record.session);
        if let Err(error) = self.shared.destination.delete(&key).await {
            tracing::warn!(%key, %error, "a session record stays behind");
        }
    }

    /// Puts the commit record. After a lost answer the key is taken by our own record: its
    /// bytes tell, for they hold a nonce of their own. When nothing is there, the request may
    /// still be under way, and is sent again.
    async fn publish(&self, key: &Key, sealed: &Bytes, retain_until: Option<u64>) -> Result<()> {
        let mut attempt = 1;
        loop {
            let put = match &self.writer.locker {
                Some(locker) => {
                    locker.put_manifest(&self.shared, key, sealed.clone(), retain_until).await
                }
                None => self.shared.destination.put_new(key, sealed.clone()).await,
            };
            let error = match put {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match is_exactly(&*self.shared.destination, key, sealed).await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(fence::declared_dead()),
                Err(no) if no.kind() == DestinationKind::NotFound && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                Err(_) => {
                    let kind = ErrorKind::Destination(error.kind());
                    let text = format!("writing {key} failed");
                    return Err(RepositoryError::caused(kind, text, error));
                }
            }
        }
    }

    /// Ends the run without a point, keeping what was stored for the next run of this chain.
    ///
    /// # Errors
    /// When the last packs could not be put.
    pub async fn suspend(self) -> Result<()> {
        self.writer.barrier().await?;
        let entries = self.writer.take_durable(true);
        self.put_segments(entries).await
    }
}

impl Drop for BackupSession {
    fn drop(&mut self) {
        self.heartbeat.abort();
        live::drop_session(self.record.session);
    }
}

/// Sessions of this process that ended without a commit.
mod live {
    use std::collections::HashSet;
    use std::sync::OnceLock;

    use parking_lot::Mutex;

    use crate::format::id::SessionId;

    fn dropped() -> &'static Mutex<HashSet<SessionId>> {
        static DROPPED: OnceLock<Mutex<HashSet<SessionId>>> = OnceLock::new();
        DROPPED.get_or_init(Mutex::default)
    }

    pub(super) fn drop_session(session: SessionId) {
        dropped().lock().insert(session);
    }

    pub(super) fn was_dropped(session: SessionId) -> bool {
        dropped().lock().contains(&session)
    }
}
