//! Getting objects and ranges of them, and refusing other bytes than asked for.

use bytes::Bytes;
use http::Method;

use super::wire::parse_seconds;
use super::{Ask, SwiftDestination, check, md5};
use crate::web::{Answer, is_part};
use crate::{ByteRange, DestinationError, ErrorKind, Key, ObjectMeta, Result, range};

impl SwiftDestination {
    pub(super) async fn read(&self, key: &Key, asked: ByteRange) -> Result<Bytes> {
        let Some(header) = range::header(asked) else {
            // HTTP has no words for these; only whether the object is there is asked.
            self.meta(key).await?;
            return range::nothing(key, asked);
        };
        let subject = self.subject("get", key.as_str());
        let mut ask = Ask::new(Method::GET, self.path(key));
        ask.headers.extend(header.map(|range| ("Range", range)));
        let answer = self.call(&subject, &ask).await?;
        match answer.status {
            404 => Err(self.missing(&subject).await),
            416 => range::nothing(key, asked),
            _ => {
                let answer = check(&subject, answer)?;
                check_body(&subject, asked, &answer).await?;
                Ok(answer.body)
            }
        }
    }

    pub(super) async fn meta(&self, key: &Key) -> Result<ObjectMeta> {
        let subject = self.subject("head", key.as_str());
        let answer = self.call(&subject, &Ask::new(Method::HEAD, self.path(key))).await?;
        if answer.status == 404 {
            return Err(self.missing(&subject).await);
        }
        let answer = check(&subject, answer)?;
        let size = answer.header("Content-Length").and_then(|size| size.parse().ok());
        let Some(size) = size else {
            return Err(DestinationError::unfit(format!("{subject}: the answer tells no size")));
        };
        let modified = answer.header("X-Timestamp").and_then(parse_seconds);
        Ok(ObjectMeta { key: key.clone(), size, modified })
    }
}

async fn check_body(subject: &str, asked: ByteRange, answer: &Answer) -> Result<()> {
    if is_part(subject, asked, answer)? {
        return Ok(());
    }
    let segmented = answer.header("X-Static-Large-Object").is_some()
        || answer.header("X-Object-Manifest").is_some();
    let etag = answer.header("ETag").map(|etag| etag.trim_matches('"'));
    if let Some(etag) = etag.filter(|etag| etag.len() == 32 && !segmented)
        && md5(&answer.body).await? != etag
    {
        let context = format!("{subject}: the body was damaged on its way");
        return Err(DestinationError::new(ErrorKind::Unavailable, context));
    }
    Ok(())
}
