//! The list of exports, for people and for programs.

use std::time::SystemTime;

use http::header::{ACCEPT, HeaderMap};
use serde::Serialize;

use crate::export::{Exports, Served};

#[derive(Serialize)]
struct Index<'a> {
    exports: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    /// Relative to the list.
    path: String,
    description: &'a str,
    size: u64,
    etag: &'a str,
    modified: String,
}

impl<'a> From<&'a Served> for Entry<'a> {
    fn from(served: &'a Served) -> Self {
        Self {
            name: &served.export.name,
            path: served.export.path(),
            description: &served.export.description,
            size: served.export.device.size(),
            etag: &served.etag,
            modified: date(served.modified),
        }
    }
}

/// Whether a client prefers JSON to a page.
pub(crate) fn wants_json(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let mut types = values
        .flat_map(|value| value.split(','))
        .map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    types
        .find(|kind| ["text/html", "application/json"].contains(&kind.as_str()))
        .is_some_and(|first| first == "application/json")
}

/// The list as JSON.
pub(crate) fn json(exports: &Exports) -> String {
    let index = Index { exports: exports.iter().map(Entry::from).collect() };
    // Text and numbers only: this does not fail.
    serde_json::to_string(&index).unwrap_or_default()
}

/// The list as a page. Links are relative: they stay under the token that opened it.
pub(crate) fn html(exports: &Exports) -> String {
    let mut rows = String::new();
    for entry in exports.iter().map(Entry::from) {
        rows += &format!(
            "<tr><td><a href=\"./{}\">{}</a></td><td>{}</td>\
             <td class=\"n\">{}</td><td>{}</td></tr>\n",
            escape(&entry.path),
            escape(entry.name),
            escape(entry.description),
            entry.size,
            escape(&entry.modified),
        );
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Exports</title>\n\
         <style>body{{font-family:sans-serif;margin:2em}}td,th{{padding:.3em 1em;text-align:left}}\
         .n{{text-align:right}}</style></head>\n<body><h1>Exports</h1>\n<table>\n\
         <tr><th>Disk</th><th>Restore point</th><th class=\"n\">Bytes</th><th>Made</th></tr>\n\
         {rows}</table>\n<p>Read-only. Programs read <a href=\"./index.json\">index.json</a>.</p>\n\
         </body></html>\n"
    )
}

/// A moment as headers write it.
pub(crate) fn date(moment: SystemTime) -> String {
    httpdate::fmt_http_date(moment)
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '&' => escaped += "&amp;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::Export;
    use sluice_block::MemoryDisk;

    fn exports(name: &str) -> Exports {
        let device = Arc::new(MemoryDisk::new(4096));
        let export = Export {
            name: name.to_owned(),
            description: "a <b>&\"'".to_owned(),
            tag: "abc".to_owned(),
            modified: UNIX_EPOCH,
            device,
        };
        Exports::new(vec![export]).unwrap()
    }

    #[test]
    fn a_page_has_no_markup_from_names() {
        let page = html(&exports("<script>'\""));
        assert!(!page.contains("<script>") && !page.contains("<b>"), "{page}");
        assert!(page.contains("&lt;script&gt;&#39;&quot;"));
        assert!(page.contains("href=\"./%3Cscript%3E%27%22.raw\""), "{page}");
    }

    #[test]
    fn the_json_names_path_size_and_tag() {
        let list: serde_json::Value = serde_json::from_str(&json(&exports("a b"))).unwrap();
        let entry = &list["exports"][0];
        assert_eq!(entry["path"], "a%20b.raw");
        assert_eq!(entry["size"], 4096);
        assert_eq!(entry["etag"], "\"abc\"");
        assert_eq!(entry["modified"], "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn json_is_for_who_names_it_first() {
        let wants =
            |accept: &str| wants_json(&HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]));
        assert!(
            wants("application/json") && wants("text/plain, application/json;q=0.9, text/html")
        );
        assert!(!wants("text/html,application/json") && !wants("*/*"));
        assert!(!wants_json(&HeaderMap::new()));
    }
}
