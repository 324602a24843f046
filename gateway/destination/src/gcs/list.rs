//! Listings from a key on. The service begins at a name, which is then part of the listing.

use http::Method;

use super::GcsDestination;
use super::answer::{check, no_bucket};
use super::wire::{Listing, parse_listing};
use crate::key::may_start_key;
use crate::web::Ask;
use crate::{DestinationError, Key, ListPage, MAX_PAGE, Result, page_limit};

/// What is asked for besides a page: the key to begin after, and one object more that shows
/// whether more follow. So one request is enough.
const BESIDES: usize = 2;

impl GcsDestination {
    pub(super) async fn list_page(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<ListPage> {
        let mut page = ListPage::default();
        if !may_start_key(prefix) {
            return Ok(page);
        }
        let limit = page_limit(limit).min(MAX_PAGE - BESIDES);
        let mut mark: Option<String> = None;
        let mut last: Option<Key> = None;
        loop {
            let size = limit - page.objects.len() + BESIDES;
            let listing = self.part(prefix, after, mark.as_deref(), size).await?;
            for object in listing.objects {
                if last.as_ref().is_some_and(|last| *last >= object.key) {
                    let subject = self.subject("list", prefix);
                    return Err(DestinationError::unfit(format!(
                        "{subject}: the server lists out of order"
                    )));
                }
                last = Some(object.key.clone());
                if after.is_some_and(|after| object.key <= *after) {
                    continue;
                }
                if page.objects.len() == limit {
                    page.more = true;
                    return Ok(page);
                }
                page.objects.push(object);
            }
            let Some(next) = listing.next else { return Ok(page) };
            if mark.as_ref() == Some(&next) {
                let subject = self.subject("list", prefix);
                return Err(DestinationError::unfit(format!(
                    "{subject}: the listing does not go on"
                )));
            }
            mark = Some(next);
        }
    }

    /// What the service sends at a time.
    async fn part(
        &self,
        prefix: &str,
        after: Option<&Key>,
        mark: Option<&str>,
        size: usize,
    ) -> Result<Listing> {
        let subject = self.subject("list", prefix);
        let mut ask = Ask::new(Method::GET, self.objects())
            .parameter("maxResults", size.to_string())
            .parameter("fields", "items(name,size,updated),nextPageToken");
        let prefix = self.name(prefix);
        let start = after.map(|after| self.name(after.as_str()));
        let parameters = [("prefix", Some(prefix.as_str())), ("startOffset", start.as_deref())];
        for (name, value) in parameters.into_iter().chain([("pageToken", mark)]) {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                ask = ask.parameter(name, value);
            }
        }
        let answer = self.send(&subject, ask).await?;
        if answer.status == 404 {
            return Err(no_bucket(&subject));
        }
        let answer = check(&subject, answer)?;
        self.seen();
        let found = parse_listing(&answer.body, &self.name(""));
        found.ok_or_else(|| DestinationError::unfit(format!("{subject}: the answer is no listing")))
    }
}
