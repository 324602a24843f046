//! Listings and dates, as the service writes them.
//!
//! Only what a listing of blobs needs is understood of XML: elements without attributes that
//! matter, and text with references. What is left out is no error, what is cut short is.

use std::time::SystemTime;

use crate::{Key, ObjectMeta};

/// What the service sends of a listing at a time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) objects: Vec<ObjectMeta>,
    /// The mark where the next part begins.
    pub(super) next: Option<String>,
}

/// A part of a listing; `base` stands before every key. None when it is none, or incomplete.
pub(super) fn parse_listing(text: &str, base: &str) -> Option<Listing> {
    let root = &text[text.find("<EnumerationResults")?..];
    let root = &root[..root.rfind("</EnumerationResults>")?];
    let mut rest = match root.find("<Blobs>") {
        Some(start) => &root[start..root.rfind("</Blobs>")?],
        // `<Blobs />`
        None => "",
    };
    let mut objects = Vec::new();
    while let Some(start) = rest.find("<Blob>") {
        let end = start + rest[start..].find("</Blob>")?;
        let blob = &rest[start..end];
        rest = &rest[end..];
        let name = unescape(element(blob, "Name")?)?;
        let size = element(blob, "Content-Length")?.parse().ok()?;
        // Names that no key can have are not ours.
        let Some(Ok(key)) = name.strip_prefix(base).map(Key::new) else { continue };
        let modified = element(blob, "Last-Modified").and_then(parse_date);
        objects.push(ObjectMeta { key, size, modified });
    }
    let next = element(root, "NextMarker").and_then(unescape).filter(|mark| !mark.is_empty());
    Some(Listing { objects, next })
}

/// The text of the first element of that name.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = text;
    loop {
        rest = &rest[rest.find('<')? + 1..];
        let Some(after) = rest.strip_prefix(name) else { continue };
        match after.chars().next()? {
            '>' => {}
            // `<Name Encoded="true">` holds what no key has; `<NextMarker />` holds nothing.
            _ => continue,
        }
        let content = &after[1..];
        let end = content.find("</")?;
        return content[end + 2..].starts_with(name).then_some(&content[..end]);
    }
}

/// Text without references to characters.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        let (name, after) = rest[at + 1..].split_once(';')?;
        plain.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = name.strip_prefix('#')?;
                let code = match number.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => number.parse().ok()?,
                };
                char::from_u32(code)?
            }
        });
        rest = after;
    }
    plain.push_str(rest);
    Some(plain)
}

/// `Sat, 21 Nov 2026 10:00:00 GMT`.
pub(super) fn parse_date(text: &str) -> Option<SystemTime> {
    jiff::fmt::rfc2822::parse(text).ok().map(|time| time.timestamp().into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LISTING: &str = "<?xml version=\"1.0\"?>\
        <EnumerationResults ServiceEndpoint=\"http://h/\">\
        <Prefix>p&amp;q/</Prefix><Blobs><Blob><Name>p&amp;q/a/b</Name><Properties>\
        <Last-Modified>Thu, 01 Jan 1970 00:01:00 GMT</Last-Modified><Content-Length>7\
        </Content-Length></Properties></Blob><Blob><Name>p&#38;q/.odd</Name><Properties>\
        <Content-Length>1</Content-Length></Properties></Blob></Blobs>\
        <NextMarker>2!&lt;x</NextMarker></EnumerationResults>";

    #[test]
    fn a_listing_is_read() {
        let listing = parse_listing(LISTING, "p&q/").unwrap();
        assert_eq!(listing.next.as_deref(), Some("2!<x"));
        let [object] = &listing.objects[..] else { panic!("{listing:?}") };
        assert_eq!((object.key.as_str(), object.size), ("a/b", 7));
        let minute = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        assert_eq!(object.modified, Some(minute));
    }

    #[test]
    fn the_end_has_no_mark() {
        for end in ["<NextMarker/>", "<NextMarker />", "<NextMarker></NextMarker>", ""] {
            let text = format!("<EnumerationResults><Blobs />{end}</EnumerationResults>");
            assert_eq!(parse_listing(&text, ""), Some(Listing::default()), "{end}");
        }
    }

    #[test]
    fn what_is_cut_short_is_no_listing() {
        for cut in 0..LISTING.len() {
            assert_eq!(parse_listing(&LISTING[..cut], "p&q/"), None, "{cut}");
        }
        let bad = LISTING.replace("&amp;q/a", "&bad;q/a");
        assert_eq!(parse_listing(&bad, "p&q/"), None);
    }
}
