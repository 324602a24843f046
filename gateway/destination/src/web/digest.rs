//! The hash by which some stores check what they are sent.

use bytes::Bytes;
use md5::{Digest, Md5};

use crate::{DestinationError, ErrorKind, Result};

/// Bodies of this size and more are hashed where they do not keep other requests waiting.
const LARGE: usize = 256 << 10;

/// The MD5 of a body, computed where it does not keep other requests waiting.
pub(crate) async fn md5(body: &Bytes) -> Result<[u8; 16]> {
    let hash = |body: &Bytes| Md5::digest(body).into();
    if body.len() < LARGE {
        return Ok(hash(body));
    }
    let body = body.clone();
    tokio::task::spawn_blocking(move || hash(&body)).await.map_err(|error| {
        DestinationError::caused(ErrorKind::Other, "hashing a body was cut off", error)
    })
}
