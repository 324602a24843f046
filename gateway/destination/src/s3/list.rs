//! Listing in order of key, also on servers that list in another order.
//!
//! S3 lists by the bytes of the whole name: `vm-1/x` comes before `vm/x`, as `-` comes before
//! `/`. Servers that keep objects in folders may list folder by folder, `vm/x` first. A page that
//! ends there, and the next one that begins after it, would then miss `vm-1/x` without a sign.
//!
//! Such a server is known by its name, or found out by names out of order. It is asked folder by
//! folder, and what it answers is sorted as a file system's folders are (see [`crate::order`]).
//! On any other server one request is one page.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

use super::error::translate;
use super::{S3Destination, time};
use crate::order::{Wanted, folder_of};
use crate::{DestinationError, Key, ListPage, MAX_PAGE, ObjectMeta, Result};

/// Whether the server is known to list folder by folder.
#[derive(Debug, Clone, Default)]
pub(super) struct ServerOrder {
    by_folder: Arc<AtomicBool>,
}

impl ServerOrder {
    fn is_by_folder(&self) -> bool {
        self.by_folder.load(Ordering::Relaxed)
    }

    fn set_by_folder(&self) {
        self.by_folder.store(true, Ordering::Relaxed);
    }
}

impl Intercept for ServerOrder {
    fn name(&self) -> &'static str {
        "ServerOrder"
    }

    /// Learns from the server's name, which it sends with every answer.
    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let server = context.response().headers().get("server");
        if server.is_some_and(|name| name.starts_with("SeaweedFS")) {
            self.set_by_folder();
        }
        Ok(())
    }
}

/// Which part of a listing to ask for.
#[derive(Default)]
struct Ask<'a> {
    prefix: &'a str,
    after: Option<&'a Key>,
    limit: usize,
    /// Tells the folders below the prefix instead of what they hold.
    folders: bool,
    token: Option<String>,
}

/// A name in a folder: an object, or a folder with a slash at its end.
enum Entry {
    Object(ObjectMeta),
    Folder(String),
}

impl Entry {
    fn name(&self) -> &str {
        match self {
            Self::Object(object) => object.key.as_str(),
            Self::Folder(name) => name,
        }
    }
}

impl S3Destination {
    /// One page of at most `limit` objects, ascending.
    pub(super) async fn list_in_order(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<ListPage> {
        let mut ask = Ask { prefix, after, limit, ..Ask::default() };
        while after.is_none() || !self.order.is_by_folder() {
            let answer = self.ask(&ask).await?;
            let mut objects = self.objects(&answer);
            let more = answer.is_truncated().unwrap_or(false);
            let by_folder = self.order.is_by_folder();
            if by_folder && more {
                break;
            }
            if by_folder && ask.token.is_none() {
                // All there is, in one answer: its order does not matter.
                objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            }
            if !in_order(after, &objects) {
                self.order.set_by_folder();
                if after.is_some() {
                    // Earlier pages may have missed objects; the next listing will not.
                    let subject = self.subject("list", prefix);
                    return Err(DestinationError::unfit(format!(
                        "{subject}: the server lists out of order"
                    )));
                }
                break;
            }
            // A page of foreign names only says nothing: go on to the next.
            ask.token = answer.next_continuation_token;
            if !objects.is_empty() || !more || ask.token.is_none() {
                return Ok(ListPage { objects, more });
            }
        }
        self.walk(prefix, after, limit).await
    }

    /// One page gathered folder by folder, depth first.
    async fn walk(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        let wanted = Wanted::new(prefix, after);
        let mut page = ListPage::default();
        let mut open = vec![self.entries(prefix, wanted).await?];
        while let Some(folder) = open.last_mut() {
            match folder.pop_front() {
                None => drop(open.pop()),
                Some(Entry::Folder(name)) => open.push(self.entries(&name, wanted).await?),
                Some(Entry::Object(_)) if page.objects.len() == limit => {
                    page.more = true;
                    break;
                }
                Some(Entry::Object(object)) => page.objects.push(object),
            }
        }
        Ok(page)
    }

    /// The wanted names that start with `prefix`, up to the next slash, in order of key.
    async fn entries(&self, prefix: &str, wanted: Wanted<'_>) -> Result<VecDeque<Entry>> {
        let mut ask = Ask { prefix, limit: MAX_PAGE, folders: true, ..Ask::default() };
        let mut entries = Vec::new();
        loop {
            let answer = self.ask(&ask).await?;
            entries.extend(self.objects(&answer).into_iter().map(Entry::Object));
            entries.extend(self.folders(&answer).map(Entry::Folder));
            // A folder that is the one asked for would be asked for again, for ever.
            entries.retain(|entry| entry.name() != prefix && wanted.includes(entry.name()));
            ask.token = answer.next_continuation_token;
            if !answer.is_truncated.unwrap_or(false) || ask.token.is_none() {
                entries.sort_unstable_by(|a, b| a.name().cmp(b.name()));
                return Ok(entries.into());
            }
        }
    }

    async fn ask(&self, ask: &Ask<'_>) -> Result<ListObjectsV2Output> {
        let subject = self.subject("list", ask.prefix);
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.config.bucket)
            .prefix(self.name(ask.prefix))
            .set_delimiter(ask.folders.then(|| "/".to_owned()))
            .set_start_after(ask.after.map(|key| self.name(key.as_str())))
            .set_continuation_token(ask.token.clone())
            // At most MAX_PAGE.
            .max_keys(ask.limit as i32)
            .send();
        let request = async { request.await.map_err(|error| translate(&subject, error)) };
        self.within(&subject, 0, request).await
    }

    /// The objects of an answer that are ours: foreign names are no keys, and not listed.
    fn objects(&self, answer: &ListObjectsV2Output) -> Vec<ObjectMeta> {
        let base = self.name("");
        let ours = answer.contents().iter().filter_map(|object| {
            let key = Key::new(object.key()?.strip_prefix(&base)?).ok()?;
            let size = u64::try_from(object.size()?).ok()?;
            Some(ObjectMeta { key, size, modified: object.last_modified().and_then(time) })
        });
        ours.collect()
    }

    /// The folders of an answer in which keys can be, each with its slash.
    fn folders<'a>(&self, answer: &'a ListObjectsV2Output) -> impl Iterator<Item = String> + 'a {
        let base = self.name("");
        answer.common_prefixes().iter().filter_map(move |folder| {
            let name = folder.prefix()?.strip_prefix(&base)?;
            folder_of(name).then(|| name.to_owned())
        })
    }
}

/// Whether the objects ascend, from after `after` on.
fn in_order(after: Option<&Key>, objects: &[ObjectMeta]) -> bool {
    let keys = objects.iter().map(|object| &object.key);
    after.into_iter().chain(keys).is_sorted_by(|earlier, later| earlier < later)
}
