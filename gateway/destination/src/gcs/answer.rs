//! What the service's answers mean, and what to do about them.

use super::wire;
use crate::web::{Answer, is_part};
use crate::{ByteRange, DestinationError, ErrorKind, Result};

/// Refuses an answer that is not a success.
pub(super) fn check(subject: &str, answer: Answer) -> Result<Answer> {
    if answer.is_success() {
        return Ok(answer);
    }
    let refusal = wire::parse_refusal(&answer.body);
    if is_damaged(&answer) {
        return Err(damaged(subject));
    }
    Err(refused(subject, answer.status, &refusal.reason))
}

/// Whether the body that was sent is not the one its checksum is of.
pub(super) fn is_damaged(answer: &Answer) -> bool {
    // The reason says no more than `invalid`.
    let message = || wire::parse_refusal(&answer.body).message.to_ascii_lowercase();
    answer.status == 400 && message().contains("match calculated crc32c")
}

/// The error of a bucket that is not there.
pub(super) fn no_bucket(subject: &str) -> DestinationError {
    let context = format!("{subject}: there is no such bucket; create it, or correct its name");
    DestinationError::new(ErrorKind::InvalidConfig, context)
}

pub(super) fn damaged(subject: &str) -> DestinationError {
    let context = format!("{subject}: the body was damaged on its way");
    DestinationError::new(ErrorKind::Unavailable, context)
}

/// The error of a status and a reason of
/// <https://cloud.google.com/storage/docs/json_api/v1/status-codes>.
fn refused(subject: &str, status: u16, reason: &str) -> DestinationError {
    let (kind, advice) = match (status, reason) {
        (403 | 429, reason) if reason.to_ascii_lowercase().contains("ratelimitexceeded") => {
            (ErrorKind::Unavailable, "the service asks to come back")
        }
        (401, _) => (
            ErrorKind::AccessDenied,
            "the token is not accepted; check the credentials, and this machine's clock",
        ),
        (403, "retentionPolicyNotMet" | "objectUnderActiveHold") => {
            (ErrorKind::AccessDenied, "a retention policy or a hold forbids it")
        }
        (403, _) => {
            (ErrorKind::AccessDenied, "check that these credentials may do this to the bucket")
        }
        (412, _) => (ErrorKind::AlreadyExists, "the key is taken"),
        (409, _) => (ErrorKind::Unavailable, "another request is changing the same object"),
        (404, _) => (ErrorKind::NotFound, "there is no such object"),
        (416, _) => (ErrorKind::InvalidRange, "the object has no such range"),
        (501, _) => (ErrorKind::Unfit, "the server does not have this function"),
        (507, _) => (ErrorKind::NoSpace, "make room, or raise the quota"),
        (408 | 429 | 500..=599, _) => (ErrorKind::Unavailable, "the service asks to come back"),
        _ => (ErrorKind::Other, "check the URL of the destination"),
    };
    let reason: String = reason.chars().filter(char::is_ascii_alphanumeric).take(60).collect();
    let reason = if reason.is_empty() { reason } else { format!(" {reason}") };
    DestinationError::new(kind, format!("{subject}: HTTP {status}{reason}; {advice}"))
}

/// Refuses other bytes than asked for.
pub(super) fn check_body(subject: &str, asked: ByteRange, answer: &Answer) -> Result<()> {
    if is_part(subject, asked, answer)? {
        return Ok(());
    }
    let sums = answer.headers.get_all("x-goog-hash").iter().filter_map(|sum| sum.to_str().ok());
    match sums.filter_map(wire::crc32c_of).next() {
        Some(sum) if sum != wire::checksum(&answer.body) => Err(damaged(subject)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    #[test]
    fn answers_have_the_kind_a_caller_acts_on() {
        for (status, reason, kind) in [
            (404, "notFound", ErrorKind::NotFound),
            (412, "conditionNotMet", ErrorKind::AlreadyExists),
            (409, "conflict", ErrorKind::Unavailable),
            (401, "authError", ErrorKind::AccessDenied),
            (403, "forbidden", ErrorKind::AccessDenied),
            (403, "retentionPolicyNotMet", ErrorKind::AccessDenied),
            (403, "userRateLimitExceeded", ErrorKind::Unavailable),
            (429, "rateLimitExceeded", ErrorKind::Unavailable),
            (429, "", ErrorKind::Unavailable),
            (400, "invalid", ErrorKind::Other),
            (416, "requestedRangeNotSatisfiable", ErrorKind::InvalidRange),
            (500, "backendError", ErrorKind::Unavailable),
            (503, "backendError", ErrorKind::Unavailable),
        ] {
            assert_eq!(refused("x", status, reason).kind(), kind, "{status} {reason}");
        }
        let odd = refused("x", 400, "a\u{1b}[0m\r\n").to_string();
        assert!(!odd.contains(char::is_control), "{odd}");
    }

    #[test]
    fn a_refused_checksum_is_an_accident_on_the_way() {
        let refusal = |message: &str| Answer {
            status: 400,
            headers: HeaderMap::new(),
            body: format!(r#"{{"error":{{"code":400,"message":"{message}"}}}}"#).into(),
        };
        let sum = refusal("Provided CRC32C AAAAAA== doesn't match calculated CRC32C mnG7TA==.");
        assert_eq!(check("x", sum).unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(check("x", refusal("Bad.")).unwrap_err().kind(), ErrorKind::Other);
    }

    #[test]
    fn a_whole_body_has_the_sum_it_came_with() {
        let answer = |body: &'static str, sums: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for sum in sums {
                headers.append("x-goog-hash", sum.parse().unwrap());
            }
            Answer { status: 200, headers, body: Bytes::from_static(body.as_bytes()) }
        };
        let (md5, crc) = ("md5=XUFAKrxLKna5cZ2REBfFkg==", "crc32c=mnG7TA==");
        let both = "crc32c=mnG7TA==,md5=XUFAKrxLKna5cZ2REBfFkg==";
        for sums in [&[crc, md5][..], &[md5, crc], &[both]] {
            check_body("x", ByteRange::Full, &answer("hello", sums)).unwrap();
            let error = check_body("x", ByteRange::Full, &answer("hellO", sums)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
        }
        let suffix = ByteRange::Suffix(2);
        let error = check_body("x", suffix, &answer("hello", &[crc])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unfit);
    }
}
