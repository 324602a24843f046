//! What the service's answers mean, and what to do about them.

use data_encoding::BASE64;

use crate::web::{Answer, is_part, md5};
use crate::{ByteRange, DestinationError, ErrorKind, Result};

/// Refuses an answer that is not a success.
pub(super) fn check(subject: &str, answer: Answer) -> Result<Answer> {
    if answer.is_success() {
        return Ok(answer);
    }
    let code = answer.header("x-ms-error-code").unwrap_or_default();
    Err(refusal(subject, answer.status, code))
}

/// Whether the container is what is not there.
pub(super) fn is_no_container(answer: &Answer) -> bool {
    answer.status == 404 && answer.header("x-ms-error-code") == Some("ContainerNotFound")
}

/// Whether the body that was sent is not the one its checksum is of. Azurite has a code of its own
/// for that.
pub(super) fn is_damaged(answer: &Answer) -> bool {
    let code = answer.header("x-ms-error-code");
    answer.status == 400 && matches!(code, Some("Md5Mismatch" | "InvalidOperation"))
}

/// The error of a container that is not there.
pub(super) fn no_container(subject: &str) -> DestinationError {
    refusal(subject, 404, "ContainerNotFound")
}

/// The error of a status and a code of
/// <https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes>.
fn refusal(subject: &str, status: u16, code: &str) -> DestinationError {
    let (kind, advice) = match (status, code) {
        (404, "ContainerNotFound") => {
            (ErrorKind::InvalidConfig, "create the container, or correct its name")
        }
        (409, "BlobAlreadyExists") => (ErrorKind::AlreadyExists, "the key is taken"),
        (412, "LeaseIdMissing") | (409, "BlobImmutableDueToPolicy") => {
            (ErrorKind::AccessDenied, "a lease or a policy of the container forbids it")
        }
        (412, _) => (ErrorKind::AlreadyExists, "the key is taken"),
        (_, "AuthenticationFailed") => (
            ErrorKind::AccessDenied,
            "check the account's key, or when the shared access signature ends, and this \
             machine's clock",
        ),
        (409, "AccountIsDisabled") | (401 | 403, _) => {
            (ErrorKind::AccessDenied, "check that these credentials may do this to the container")
        }
        // Damaged or interrupted on the way: the same bytes may arrive the next time.
        (400, "Md5Mismatch") => (ErrorKind::Unavailable, "the body was damaged on its way"),
        (409, _) => (ErrorKind::Unavailable, "another request is changing the same object"),
        (404, _) => (ErrorKind::NotFound, "there is no such object"),
        (416, _) => (ErrorKind::InvalidRange, "the object has no such range"),
        (501, _) => (ErrorKind::Unfit, "the server does not have this function"),
        (507, _) => (ErrorKind::NoSpace, "make room, or raise the quota"),
        (408 | 429 | 500..=599, _) => (ErrorKind::Unavailable, "the service asks to come back"),
        _ => (ErrorKind::Other, "check the URL of the destination"),
    };
    let code: String = code.chars().filter(char::is_ascii_alphanumeric).take(60).collect();
    let code = if code.is_empty() { code } else { format!(" {code}") };
    DestinationError::new(kind, format!("{subject}: HTTP {status}{code}; {advice}"))
}

/// Refuses other bytes than asked for.
pub(super) async fn check_body(subject: &str, asked: ByteRange, answer: &Answer) -> Result<()> {
    if is_part(subject, asked, answer)? {
        return Ok(());
    }
    if let Some(sum) = answer.header("content-md5")
        && BASE64.encode(&md5(&answer.body).await?) != sum
    {
        let context = format!("{subject}: the body was damaged on its way");
        return Err(DestinationError::new(ErrorKind::Unavailable, context));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_kind_a_caller_acts_on() {
        for (status, code, kind) in [
            (404, "BlobNotFound", ErrorKind::NotFound),
            (404, "ContainerNotFound", ErrorKind::InvalidConfig),
            (409, "BlobAlreadyExists", ErrorKind::AlreadyExists),
            (412, "ConditionNotMet", ErrorKind::AlreadyExists),
            (412, "LeaseIdMissing", ErrorKind::AccessDenied),
            (409, "ContainerBeingDeleted", ErrorKind::Unavailable),
            (409, "BlobImmutableDueToPolicy", ErrorKind::AccessDenied),
            (403, "AuthenticationFailed", ErrorKind::AccessDenied),
            (403, "AuthorizationPermissionMismatch", ErrorKind::AccessDenied),
            (400, "Md5Mismatch", ErrorKind::Unavailable),
            (400, "InvalidUri", ErrorKind::Other),
            (416, "InvalidRange", ErrorKind::InvalidRange),
            (500, "InternalError", ErrorKind::Unavailable),
            (503, "ServerBusy", ErrorKind::Unavailable),
        ] {
            assert_eq!(refusal("x", status, code).kind(), kind, "{status} {code}");
        }
        let odd = refusal("x", 400, "a\u{1b}[0m\r\n").to_string();
        assert!(!odd.contains(char::is_control), "{odd}");
    }
}
