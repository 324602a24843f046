//! The page `/account`, where people log in with a browser and see to their passkeys, which only a
//! browser can make. It has no more than that, and does nothing but ask the API.
//!
//! It is the only page that scripts run in: those of this server, and no others.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::state::Shared;

const PAGE: &str = include_str!("account/page.html");
const SCRIPT: &str = include_str!("account/page.js");
const STYLE: &str = include_str!("account/page.css");

/// What browsers are told to refuse, whatever should find its way into the page.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-cache"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

fn told(kind: &'static str, text: &'static str) -> Response {
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The page and what belongs to it.
pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/account", get(async || told("text/html; charset=utf-8", PAGE)))
        .route("/account/page.js", get(async || told("text/javascript; charset=utf-8", SCRIPT)))
        .route("/account/page.css", get(async || told("text/css; charset=utf-8", STYLE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_says_what_browsers_are_to_refuse() {
        let page = told("text/html; charset=utf-8", PAGE);
        let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        for word in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(word), "{word}");
        }
        assert!(!policy.contains("unsafe"));
        for (name, value) in HEADERS {
            assert_eq!(page.headers()[&name], value);
        }
    }

    #[test]
    fn nothing_in_it_is_what_the_policy_refuses() {
        for word in ["<style", "style=", " onclick", " onsubmit", "javascript:", "<script>"] {
            assert!(!PAGE.contains(word), "{word}");
        }
        for word in ["innerHTML", "insertAdjacentHTML", "document.write", "eval(", ".style."] {
            assert!(!SCRIPT.contains(word), "{word}");
        }
        for path in ["/account/page.js", "/account/page.css"] {
            assert!(PAGE.contains(path), "{path}");
        }
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
    }
}
