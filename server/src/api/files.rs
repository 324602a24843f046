//! Files of mounted restore points: looked at, and downloaded, through the server.

use std::ops::Range;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use data_encoding::BASE64;
use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::json;
use sluice_catalog::{Mount, MountId, MountProtocol, MountState};
use sluice_node_api::{
    FileEntry, FileKind, LARGEST_PIECE, Look, LookAnswer, MOST_ENTRIES, escaped, unescaped,
};
use utoipa::ToSchema;

use crate::access::{At, Permission};
use crate::api::query::{FileQuery, FolderQuery};
use crate::api::{Path, Query, most};
use crate::auth::Actor;
use crate::looks::{self, Visit};
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// Pieces of a download that are asked for at a time: while one is sent, the next is read.
const AHEAD: usize = 2;

/// What something in a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FileKindView {
    File,
    Folder,
    Link,
    Other,
}

/// A file, folder or link of a mount.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FileView {
    /// Its name. `%` and two digits stand for a byte that is `%`, a control character, or no part
    /// of UTF-8.
    name: String,
    /// Where it is below the mount, in the same letters: what to give as `path`.
    path: String,
    kind: FileKindView,
    /// In bytes.
    size: u64,
    /// When it was changed, in milliseconds since 1970.
    modified_ms: u64,
    /// Where a link leads. Those that lead out of the mount are shown and not followed.
    target: Option<String>,
}

/// A part of what a folder of a mount holds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FolderView {
    /// What is there, in the order of the bytes of names.
    items: Vec<FileView>,
    /// What to give as `after` for the next part; nothing at the end.
    next: Option<String>,
}

/// The path's own text, without slashes at its ends.
fn plain(path: &str) -> Result<String> {
    let bytes = unescaped(path).map_err(Problem::invalid)?;
    let text = escaped(&bytes);
    Ok(text.trim_matches('/').to_owned())
}

fn view(folder: &str, entry: FileEntry) -> FileView {
    let path = match (folder, entry.name.as_str()) {
        ("", name) => format!("/{name}"),
        (folder, "") => format!("/{folder}"),
        (folder, name) => format!("/{folder}/{name}"),
    };
    let kind = match entry.kind {
        FileKind::File => FileKindView::File,
        FileKind::Folder => FileKindView::Folder,
        FileKind::Link => FileKindView::Link,
        FileKind::Other => FileKindView::Other,
    };
    let FileEntry { name, size, modified_ms, target, .. } = entry;
    FileView { name, path, kind, size, modified_ms, target }
}

/// A mount whose files the caller may read, and a place to do so.
async fn readable(shared: &Shared, actor: &Actor, id: MountId) -> Result<(Mount, Visit)> {
    let mount = shared.catalog.read().await?.mount(id, &actor.visible()).await?;
    // Whoever may mount it could read it as well.
    actor.require(Permission::Operate, At::instance(mount.new.project, mount.new.instance))?;
    let no = |text: &str| Err(Problem::new(StatusCode::CONFLICT, "not-mounted", text));
    if mount.new.spec.protocol != MountProtocol::Fuse {
        return no("only mounts by fuse have files; the others are disks for their clients");
    }
    if mount.state != MountState::Ready {
        return no("this mount is not ready");
    }
    let visit = shared.looks.enter(mount.new.project)?;
    Ok((mount, visit))
}

async fn note(
    shared: &Shared,
    actor: &Actor,
    mount: &Mount,
    (action, detail): (&'static str, serde_json::Value),
) -> Result<()> {
    let mut tx = shared.catalog.begin().await?;
    let entry = actor.did(action, mount.id, mount.new.project, detail);
    tx.audit(entry, shared.now()).await?;
    Ok(tx.commit().await?)
}

fn not_understood() -> Problem {
    let text = "the node's answer is not understood; is it of another release?";
    Problem::new(StatusCode::CONFLICT, "no-node", text)
}

/// List what a folder of a mount by `fuse` holds
#[utoipa::path(get, path = "/api/v1/mounts/{id}/files", tag = "mount",
    operation_id = "list-mount-files", params(("id" = MountId, Path), FolderQuery), responses(
    (status = 200, body = FolderView), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<MountId>,
    Query(query): Query<FolderQuery>,
) -> Result<Json<FolderView>> {
    let path = plain(&query.path)?;
    let limit = most(query.limit.or(Some(MOST_ENTRIES)))?;
    let (mount, _visit) = readable(&shared, &actor, id).await?;
    // Parts that follow are of the same look.
    if query.after.is_none() {
        note(&shared, &actor, &mount, ("mount.browse", json!({ "path": path }))).await?;
    }
    let what = Look::List { after: query.after, limit };
    let told = looks::ask(&shared, mount.new.node, &id.to_string(), (&path, what)).await?;
    let LookAnswer::Folder { entries, more } = told else { return Err(not_understood()) };
    let next = entries.last().filter(|_| more).map(|entry| entry.name.clone());
    let items = entries.into_iter().map(|entry| view(&path, entry)).collect();
    Ok(Json(FolderView { items, next }))
}

/// Read what a file, folder or link of a mount by `fuse` is
#[utoipa::path(get, path = "/api/v1/mounts/{id}/file", tag = "mount",
    operation_id = "get-mount-file", params(("id" = MountId, Path), FileQuery), responses(
    (status = 200, body = FileView), (status = "4XX", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<MountId>,
    Query(query): Query<FileQuery>,
) -> Result<Json<FileView>> {
    let path = plain(&query.path)?;
    let (mount, _visit) = readable(&shared, &actor, id).await?;
    let (node, name) = (mount.new.node, id.to_string());
    let told = looks::ask(&shared, node, &name, (&path, Look::Stat {})).await?;
    let LookAnswer::Entry { entry } = told else { return Err(not_understood()) };
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    Ok(Json(view(folder, entry)))
}

/// Download a file of a mount by `fuse`, or one range of it
#[utoipa::path(get, path = "/api/v1/mounts/{id}/content", tag = "mount",
    operation_id = "download-mount-file", params(("id" = MountId, Path), FileQuery,
    ("range" = Option<String>, Header, description = "One range of bytes"),
    ("if-range" = Option<String>, Header, description = "The range counts for this ETag only")),
    responses(
    (status = 200, content_type = "application/octet-stream", body = Vec<u8>),
    (status = 206, content_type = "application/octet-stream", body = Vec<u8>),
    (status = "4XX", body = Problem)))]
pub(crate) async fn content(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<MountId>,
    Query(query): Query<FileQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let path = plain(&query.path)?;
    let (mount, visit) = readable(&shared, &actor, id).await?;
    let (node, name) = (mount.new.node, id.to_string());
    let told = looks::ask(&shared, node, &name, (&path, Look::Open {})).await?;
    let LookAnswer::Entry { entry } = told else { return Err(not_understood()) };
    let tag = format!("\"{}\"", entry.version);
    let (size, wanted) = (entry.size, range(&headers, &tag, entry.size));
    let (status, part) = match wanted {
        Wanted::All => (StatusCode::OK, 0..size),
        Wanted::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Wanted::Nothing => return Ok(outside(size)),
    };
    let detail = json!({"path": path, "from": part.start, "bytes": part.end - part.start});
    note(&shared, &actor, &mount, ("mount.download", detail)).await?;
    let mut answer = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        // It is somebody's file: browsers keep it, and do not show it.
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::CONTENT_DISPOSITION, disposition(&entry.name))
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, tag)
        .header(header::CONTENT_LENGTH, part.end - part.start);
    if status == StatusCode::PARTIAL_CONTENT {
        let shown = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        answer = answer.header(header::CONTENT_RANGE, shown);
    }
    let file = File { shared, node, mount: name, path, version: entry.version };
    let body = Body::from_stream(pieces(file, part, visit));
    answer.body(body).map_err(|_| not_understood())
}

/// A file that is being read.
struct File {
    shared: Shared,
    node: sluice_catalog::NodeId,
    mount: String,
    path: String,
    version: String,
}

impl File {
    /// A piece of it, which must be there.
    async fn piece(&self, part: Range<u64>) -> std::io::Result<Bytes> {
        let length = u32::try_from(part.end - part.start).unwrap_or(LARGEST_PIECE);
        let what = Look::Read { offset: part.start, length };
        let told = looks::ask(&self.shared, self.node, &self.mount, (&self.path, what)).await;
        let told = told.map_err(|problem| std::io::Error::other(problem.detail))?;
        let LookAnswer::Piece { version, bytes } = told else {
            return Err(std::io::Error::other(not_understood().detail));
        };
        let bytes = BASE64.decode(bytes.as_bytes()).map_err(std::io::Error::other)?;
        if version != self.version || bytes.len() as u64 != part.end - part.start {
            return Err(std::io::Error::other("the file has changed while it was read"));
        }
        Ok(Bytes::from(bytes))
    }
}

/// The pieces of a part, in order. What cannot be read ends the connection, so that nobody takes
/// half of a file for all of it.
fn pieces(
    file: File,
    part: Range<u64>,
    visit: Visit,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> {
    let file = std::sync::Arc::new((file, visit));
    let step = u64::from(LARGEST_PIECE);
    let begin = part.clone().step_by(LARGEST_PIECE as usize);
    stream::iter(begin)
        .map(move |from| {
            let (file, end) = (std::sync::Arc::clone(&file), part.end);
            async move {
                let read = file.0.piece(from..end.min(from + step)).await;
                read.inspect_err(|error| tracing::warn!("a download has ended early: {error}"))
            }
        })
        .buffered(AHEAD)
}

/// What is wanted of a file.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part(Range<u64>),
    /// It ends before that.
    Nothing,
}

/// What the headers say. What is no single range of bytes says nothing.
fn range(headers: &HeaderMap, tag: &str, size: u64) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|wanted| wanted != tag) {
        return Wanted::All;
    }
    let range = text(header::RANGE).and_then(|text| text.trim().strip_prefix("bytes="));
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        return Wanted::All;
    };
    let part = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..size,
        (Err(_), Ok(many)) if first.trim().is_empty() => size.saturating_sub(many)..size,
        _ => return Wanted::All,
    };
    if part.is_empty() { Wanted::Nothing } else { Wanted::Part(part) }
}

/// What is said to a range that the file does not have.
fn outside(size: u64) -> Response {
    let text = format!("the file has {size} bytes");
    let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "no-range", text);
    let headers = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
    (headers, problem.into_response()).into_response()
}

/// How a file is to be called where it is kept (RFC 8187).
fn disposition(name: &str) -> String {
    // What was no text stays as it was told.
    let mut own = "attachment; filename*=UTF-8''".to_owned();
    for byte in name.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => own.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => own.push(char::from(byte)),
            byte => own.push_str(&format!("%{byte:02X}")),
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Wanted {
        let headers = HeaderMap::from_iter([(header::RANGE, text.parse().unwrap())]);
        range(&headers, "\"v\"", 100)
    }

    #[test]
    fn one_range_of_bytes_is_a_part_and_all_else_is_the_file() {
        assert_eq!(wanted("bytes=0-9"), Wanted::Part(0..10));
        assert_eq!(wanted("bytes=90-"), Wanted::Part(90..100));
        assert_eq!(wanted("bytes=90-1000"), Wanted::Part(90..100));
        assert_eq!(wanted("bytes=-10"), Wanted::Part(90..100));
        assert_eq!(wanted("bytes=-1000"), Wanted::Part(0..100));
        assert_eq!(wanted(&format!("bytes=5-{}", u64::MAX)), Wanted::Part(5..100));
        for nothing in ["bytes=100-", "bytes=200-300", "bytes=-0"] {
            assert_eq!(wanted(nothing), Wanted::Nothing, "{nothing}");
        }
        for other in ["bytes=0-1,5-6", "lines=1-2", "bytes=9-1", "bytes=-", "bytes=a-b"] {
            assert_eq!(wanted(other), Wanted::All, "{other}");
        }
        let mut headers = HeaderMap::from_iter([(header::RANGE, "bytes=0-9".parse().unwrap())]);
        headers.insert(header::IF_RANGE, "\"w\"".parse().unwrap());
        assert_eq!(range(&headers, "\"v\"", 100), Wanted::All, "it is another file by now");
    }

    #[test]
    fn names_for_browsers_have_letters_only() {
        assert_eq!(disposition("a\"b é.raw"), "attachment; filename*=UTF-8''a%22b%20%C3%A9.raw");
    }
}
