//! Signing requests with the account's key.
//!
//! <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key>

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use jiff::Timestamp;

use super::VERSION;
use super::config::{AzblobConfig, Permission};
use crate::web::Ask;
use crate::web::escape;

/// What a request has besides what was asked for.
pub(super) struct Signed {
    pub(super) url: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) authorization: Option<http::HeaderValue>,
}

/// Headers in the order in which their values are signed, except for the length.
const STANDARD: [&str; 10] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
];

/// The address and signature of a request made now.
pub(super) fn sign(config: &AzblobConfig, ask: &Ask) -> Signed {
    #[expect(clippy::disallowed_methods, reason = "a request is signed with the time it is made")]
    let now = Timestamp::now();
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    sign_at(config, ask, date)
}

fn sign_at(config: &AzblobConfig, ask: &Ask, date: String) -> Signed {
    let headers = vec![("x-ms-date", date), ("x-ms-version", VERSION.to_owned())];
    let mut query: Vec<_> =
        ask.query.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    let authorization = match &config.permission {
        Permission::Signature(signature) => {
            query.push(signature.reveal().to_owned());
            None
        }
        Permission::Key(key) => {
            let text = text_to_sign(config, ask, &headers);
            // It was decoded when the configuration was read.
            let key = BASE64.decode(key.reveal().as_bytes()).unwrap_or_default();
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes());
            let value = format!("SharedKey {}:{}", config.account, BASE64.encode(tag.as_ref()));
            http::HeaderValue::try_from(value).ok().map(|mut value| {
                value.set_sensitive(true);
                value
            })
        }
    };
    let mut url = format!("{}{}", config.endpoint, ask.path);
    if !query.is_empty() {
        url.push_str(&format!("?{}", query.join("&")));
    }
    Signed { url, headers, authorization }
}

fn text_to_sign(config: &AzblobConfig, ask: &Ask, more: &[(&'static str, String)]) -> String {
    let value = |name: &str| {
        ask.headers.iter().find(|(header, _)| *header == name).map_or("", |(_, value)| value)
    };
    let length = match ask.body.len() {
        0 => String::new(),
        length => length.to_string(),
    };
    let mut text = format!("{}\n", ask.method);
    for name in STANDARD {
        text.push_str(if name == "content-length" { &length } else { value(name) });
        text.push('\n');
    }
    text.push_str(value("range"));
    text.push('\n');
    let mut own: Vec<_> = ask.headers.iter().chain(more).collect();
    own.retain(|(name, _)| name.starts_with("x-ms-"));
    own.sort();
    for (name, value) in own {
        text.push_str(&format!("{name}:{value}\n"));
    }
    // The path as it is sent, below the account.
    let rest = config.endpoint.split_once("://").map_or("", |(_, rest)| rest);
    let above = rest.find('/').map_or("", |slash| &rest[slash..]);
    text.push_str(&format!("/{}{above}{}", config.account, ask.path));
    let mut query: Vec<_> = ask.query.iter().collect();
    query.sort();
    for (name, value) in query {
        text.push_str(&format!("\n{name}:{value}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoint: &str, settings: &str) -> AzblobConfig {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), settings).unwrap();
        let url = format!(
            "azblob://backup?account=acme&endpoint={endpoint}&credentials={}",
            file.path().display()
        );
        AzblobConfig::from_url(&url.parse().unwrap()).unwrap()
    }

    fn ask() -> Ask {
        let mut ask = Ask::new(http::Method::PUT, "/backup/a%20b".into())
            .parameter("restype", "container")
            .parameter("comp", "x y")
            .header("x-ms-blob-type", "BlockBlob")
            .header("if-none-match", "*");
        ask.body = "four".into();
        ask
    }

    #[test]
    fn everything_that_matters_is_signed() {
        let config = config("http://h:1/acme", "AZURE_STORAGE_KEY=aGk=");
        let text = text_to_sign(&config, &ask(), &[("x-ms-date", "now".into())]);
        assert_eq!(
            text,
            "PUT\n\n\n4\n\n\n\n\n\n*\n\n\nx-ms-blob-type:BlockBlob\nx-ms-date:now\n\
             /acme/acme/backup/a%20b\ncomp:x y\nrestype:container"
        );
        let signed = sign_at(&config, &ask(), "now".into());
        assert_eq!(signed.url, "http://h:1/acme/backup/a%20b?restype=container&comp=x%20y");
        let authorization = signed.authorization.unwrap();
        assert!(authorization.is_sensitive());
        assert!(authorization.to_str().unwrap().starts_with("SharedKey acme:"));
    }

    #[test]
    fn a_shared_access_signature_goes_along_as_it_is() {
        let config = config("https://h", "AZURE_STORAGE_SAS_TOKEN=?sv=1&sig=a%2Bb");
        let signed = sign_at(&config, &ask(), "now".into());
        assert!(signed.authorization.is_none());
        assert!(signed.url.ends_with("&comp=x%20y&sv=1&sig=a%2Bb"), "{}", signed.url);
    }
}
