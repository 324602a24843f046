//! Removing objects, many with one request where the server can.

use http::Method;

use super::wire::{parse_bulk, parse_bulk_limit};
use super::{Ask, SwiftDestination, check, refusal};
use crate::many::{conclude, side_by_side};
use crate::{Key, Result};

/// The most objects removed with one request; Swift takes ten times as many by default.
pub(super) const BATCH: usize = 1000;

/// What removing an object costs a server, in bytes of a body that take as long.
const WORK: u64 = 16 << 10;

impl SwiftDestination {
    pub(super) async fn delete_one(&self, key: &Key) -> Result<()> {
        let subject = self.subject("delete", key.as_str());
        let answer = self.call(&subject, &Ask::new(Method::DELETE, self.path(key))).await?;
        if answer.status == 404 { Ok(()) } else { check(&subject, answer).map(drop) }
    }

    /// Removes any number of objects, a batch after the other.
    pub(super) async fn delete_batches(&self, keys: &[Key]) -> Result<()> {
        let limit = if keys.len() > 1 { self.bulk_limit().await? } else { None };
        let Some(limit) = limit else {
            return side_by_side(keys.iter().map(|key| self.delete_one(key)).collect()).await;
        };
        let mut failures = Vec::new();
        for batch in keys.chunks(limit.clamp(1, BATCH)) {
            failures.extend(self.delete_batch(batch).await.err());
        }
        conclude(failures)
    }

    async fn delete_batch(&self, keys: &[Key]) -> Result<()> {
        let subject = format!("delete {} objects of swift://{}", keys.len(), self.config.container);
        let mut ask = Ask::new(Method::POST, "?bulk-delete".into());
        ask.headers.push(("Content-Type", "text/plain".into()));
        ask.headers.push(("Accept", "application/json".into()));
        let names = keys.iter().map(|key| format!("{}\n", self.path(key)));
        ask.body = names.collect::<String>().into();
        ask.extra = WORK * keys.len() as u64;
        let answer = check(&subject, self.call(&subject, &ask).await?)?;
        let failures = parse_bulk(&answer.body)?;
        conclude(
            failures
                .into_iter()
                .map(|(status, words)| {
                    let words: String =
                        words.chars().filter(|c| !c.is_control()).take(300).collect();
                    refusal(&format!("{subject}: {words}"), status)
                })
                .collect(),
        )
    }

    /// How many objects the server removes with one request, asked once.
    async fn bulk_limit(&self) -> Result<Option<usize>> {
        let limit = self.bulk.get_or_try_init(|| async {
            let session = self.sessions.get(&self.http).await?;
            let Some((root, _)) = session.storage.split_once("/v1") else { return Ok(None) };
            let subject = format!("ask {root} for what it can do");
            let request = http::Request::get(format!("{root}/info")).body(Default::default());
            let Ok(request) = request else { return Ok(None) };
            let answer = self.http.send(&subject, request, 0).await?;
            // A server that does not tell is asked for nothing special.
            Ok(answer.is_success().then(|| parse_bulk_limit(&answer.body)).flatten())
        });
        limit.await.copied()
    }
}
