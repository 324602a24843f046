//! Removing many objects with one request.

use aws_sdk_s3::operation::delete_objects::DeleteObjectsOutput;
use aws_sdk_s3::types::{Delete, Error as Refusal, ObjectIdentifier};
use data_encoding::BASE64;
use md5::{Digest, Md5};

use super::error::{refused_in_batch, translate};
use super::{S3Destination, has_status};
use crate::many::{conclude, side_by_side};
use crate::{Destination, DestinationError, ErrorKind, Key, Result};

/// The most names S3 takes in one request.
pub(super) const BATCH: usize = 1000;

impl S3Destination {
    /// Removes any number of objects, a batch after the other.
    pub(super) async fn delete_batches(&self, keys: &[Key]) -> Result<()> {
        let mut failures = Vec::new();
        for batch in keys.chunks(BATCH) {
            failures.extend(self.delete_batch(batch).await.err());
        }
        conclude(failures)
    }

    /// Removes at most [`BATCH`] objects with one request; with one each where the server does
    /// not know that request.
    async fn delete_batch(&self, keys: &[Key]) -> Result<()> {
        let one = match keys {
            [key] => return self.delete(key).await,
            [key, ..] => key,
            [] => return Ok(()),
        };
        let subject =
            self.subject(&format!("delete {} objects, one of them", keys.len()), one.as_str());
        match self.send_batch(&subject, keys).await? {
            Some(answer) => conclude(self.failures(&answer)),
            None => side_by_side(keys.iter().map(|key| self.delete(key)).collect()).await,
        }
    }

    /// The server's answer; none when it does not know the request.
    async fn send_batch(&self, subject: &str, keys: &[Key]) -> Result<Option<DeleteObjectsOutput>> {
        let name = |key: &Key| ObjectIdentifier::builder().key(self.name(key.as_str())).build();
        let names: Result<Vec<_>, _> = keys.iter().map(name).collect();
        let delete =
            names.and_then(|names| Delete::builder().set_objects(Some(names)).quiet(true).build());
        let delete = delete.map_err(|error| {
            DestinationError::caused(ErrorKind::Other, "cannot ask to delete objects", error)
        })?;
        let request = self.client.delete_objects().bucket(&self.config.bucket).delete(delete);
        // The checksum from before there were others: some servers insist on it.
        let request = request.customize().mutate_request(|request| {
            if let Some(body) = request.body().bytes() {
                let sum = BASE64.encode(&Md5::digest(body));
                request.headers_mut().insert("content-md5", sum);
            }
        });
        let request = async {
            match request.send().await {
                Ok(answer) => Ok(Some(answer)),
                Err(error) if has_status(&error, 405) || has_status(&error, 501) => Ok(None),
                Err(error) => Err(translate(subject, error)),
            }
        };
        self.within(subject, 0, request).await
    }

    fn failures(&self, answer: &DeleteObjectsOutput) -> Vec<DestinationError> {
        let failure = |refusal: &Refusal| {
            let name = refusal.key().unwrap_or_default();
            let subject = format!("delete s3://{}/{name}", self.config.bucket);
            refused_in_batch(&subject, refusal.code().unwrap_or_default(), refusal.message())
        };
        answer.errors().iter().filter_map(failure).collect()
    }
}
