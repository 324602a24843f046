//! Listings from a key on.
//!
//! The service takes no key to begin after, only its own mark of where a page ended. Whoever lists
//! page after page is served from the marks of the pages before; anyone else waits until the
//! objects before the key have been passed, five thousand with each request.

use std::collections::VecDeque;

use http::Method;
use parking_lot::Mutex;

use super::AzblobDestination;
use super::answer::check;
use super::wire::{Listing, parse_listing};
use crate::key::may_start_key;
use crate::web::Ask;
use crate::{DestinationError, Key, ListPage, Result, page_limit};

/// Ends of pages that are remembered: of that many listings at a time, which are few.
const REMEMBERED: usize = 64;

/// The most objects the service sends at a time.
const MOST: usize = 5000;

/// Where pages ended.
#[derive(Debug, Default)]
pub(super) struct Pages(Mutex<VecDeque<End>>);

#[derive(Debug)]
struct End {
    prefix: String,
    last: Key,
    mark: String,
}

impl Pages {
    fn remember(&self, prefix: &str, last: &Key, mark: &str) {
        let mut ends = self.0.lock();
        ends.retain(|end| end.prefix != prefix || end.last != *last);
        if ends.len() == REMEMBERED {
            ends.pop_front();
        }
        ends.push_back(End { prefix: prefix.into(), last: last.clone(), mark: mark.into() });
    }

    /// The mark to go on from for objects after this key: the furthest that is not behind it.
    fn find(&self, prefix: &str, after: &Key) -> Option<String> {
        let ends = self.0.lock();
        let ends = ends.iter().filter(|end| end.prefix == prefix && end.last <= *after);
        ends.max_by(|a, b| a.last.cmp(&b.last)).map(|end| end.mark.clone())
    }
}

impl AzblobDestination {
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
        let limit = page_limit(limit);
        let mut mark = after.and_then(|after| self.pages.find(prefix, after));
        let mut skips = after.is_some() && mark.is_none();
        let mut last: Option<Key> = None;
        loop {
            // One more than wanted shows whether more follow, and costs the mark of this page.
            let wanted = limit - page.objects.len();
            let size = if skips { MOST } else { wanted.max(1) };
            let listing = self.part(prefix, mark.as_deref(), size).await?;
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
                skips = false;
                if page.objects.len() == limit {
                    page.more = true;
                    return Ok(page);
                }
                page.objects.push(object);
            }
            let Some(next) = listing.next else { return Ok(page) };
            if let Some(last) = &last {
                self.pages.remember(prefix, last, &next);
            }
            mark = Some(next);
        }
    }

    /// What the service sends at a time.
    async fn part(&self, prefix: &str, mark: Option<&str>, size: usize) -> Result<Listing> {
        let subject = self.subject("list", prefix);
        let mut ask = Ask::new(Method::GET, self.container())
            .parameter("restype", "container")
            .parameter("comp", "list")
            .parameter("maxresults", size.to_string());
        let prefix = self.name(prefix);
        for (name, value) in [("prefix", Some(prefix.as_str())), ("marker", mark)] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                ask = ask.parameter(name, value);
            }
        }
        let answer = self.send(&subject, ask).await?;
        if self.is_still_to_be_made(&answer) {
            return Ok(Listing::default());
        }
        let answer = check(&subject, answer)?;
        self.seen();
        let found = std::str::from_utf8(&answer.body).ok();
        let found = found.and_then(|text| parse_listing(text, &self.name("")));
        found.ok_or_else(|| DestinationError::unfit(format!("{subject}: the answer is no listing")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_furthest_mark_that_is_not_behind_is_found() {
        let pages = Pages::default();
        let key = |text: &str| Key::new(text).unwrap();
        for (last, mark) in [("b", "1"), ("d", "2"), ("f", "3")] {
            pages.remember("", &key(last), mark);
        }
        pages.remember("p/", &key("p/e"), "4");
        for (after, mark) in [("a", None), ("b", Some("1")), ("c", Some("1")), ("z", Some("3"))] {
            assert_eq!(pages.find("", &key(after)).as_deref(), mark, "{after}");
        }
        for at in 0..REMEMBERED {
            pages.remember("q/", &key(&format!("q/{at}")), "5");
        }
        assert_eq!(pages.find("", &key("z")), None, "the oldest are forgotten");
    }
}
