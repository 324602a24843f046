//! What a server's answer means, and what to do about it.

use std::error::Error as StdError;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::{DestinationError, ErrorKind};

/// The most characters of a server's own words that are repeated.
const MAX_WORDS: usize = 200;

/// The destination's error for a failed request; `subject` says what was asked of whom.
pub(super) fn translate<E>(subject: &str, error: SdkError<E, HttpResponse>) -> DestinationError
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let (status, error) = (answer.raw().status().as_u16(), answer.err());
            refused(subject, status, error.code().unwrap_or_default(), error.message())
        }
        SdkError::ResponseError(answer) => {
            let status = answer.raw().status().as_u16();
            let kind = Answer::of(status, "").kind;
            let kind = if kind == ErrorKind::Other { ErrorKind::Unavailable } else { kind };
            let context = format!("{subject}: the answer (HTTP {status}) cannot be understood");
            DestinationError::caused(kind, context, SdkError::<E, _>::ResponseError(answer))
        }
        SdkError::DispatchFailure(ref failure) => {
            let (kind, advice) = if failure.is_user() {
                (ErrorKind::InvalidConfig, "the request cannot be sent; check the endpoint")
            } else {
                let advice = "the server cannot be reached; check the endpoint and the network";
                (ErrorKind::Unavailable, advice)
            };
            DestinationError::caused(kind, format!("{subject}: {advice}"), error)
        }
        SdkError::TimeoutError(_) => {
            let context = format!("{subject}: no answer in time");
            DestinationError::caused(ErrorKind::Unavailable, context, error)
        }
        other => {
            let context = format!("{subject}: the request cannot be made");
            DestinationError::caused(ErrorKind::Other, context, other)
        }
    }
}

/// The error of one object of a request for many; none when the object is not there.
pub(super) fn refused_in_batch(
    subject: &str,
    code: &str,
    words: Option<&str>,
) -> Option<DestinationError> {
    // The codes that come with a status of their own when one object is asked for.
    let status = match code {
        "NoSuchKey" | "NoSuchVersion" => return None,
        "AccessDenied" | "ObjectLocked" => 403,
        "SlowDown" | "ServiceUnavailable" => 503,
        "OperationAborted" => 409,
        "InternalError" => 500,
        _ => 400,
    };
    Some(refused(subject, status, code, words))
}

fn refused(subject: &str, status: u16, code: &str, words: Option<&str>) -> DestinationError {
    let answer = Answer::of(status, code);
    let mut context = format!("{subject}: HTTP {status}");
    for part in [code, words.unwrap_or_default()].iter().filter(|part| !part.is_empty()) {
        let plain: String = part.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
        context.push_str(&format!(" {plain}"));
    }
    if !answer.advice.is_empty() {
        context.push_str("; ");
        context.push_str(answer.advice);
    }
    DestinationError::new(answer.kind, context)
}

/// The meaning of a status and a code of
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
struct Answer {
    kind: ErrorKind,
    advice: &'static str,
}

impl Answer {
    fn of(status: u16, code: &str) -> Self {
        let (kind, advice) = match (status, code) {
            (_, "NoSuchBucket") => {
                (ErrorKind::InvalidConfig, "create the bucket, or correct its name")
            }
            (_, "RequestTimeTooSkewed" | "RequestExpired") => (
                ErrorKind::AccessDenied,
                "this machine's clock differs from the server's; set the clocks right",
            ),
            (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch") => {
                (ErrorKind::AccessDenied, "check the access key and its secret")
            }
            (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => {
                (ErrorKind::AccessDenied, "get new temporary credentials")
            }
            (301 | 307, _)
            | (_, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
                (ErrorKind::InvalidConfig, "correct region=... in the URL")
            }
            (_, "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull") | (507, _) => {
                (ErrorKind::NoSpace, "make room, or raise the quota")
            }
            // Damaged or interrupted on the way: the same bytes may arrive the next time.
            (
                400,
                "BadDigest"
                | "InvalidDigest"
                | "XAmzContentChecksumMismatch"
                | "XAmzContentSHA256Mismatch"
                | "IncompleteBody"
                | "RequestTimeout",
            ) => (ErrorKind::Unavailable, ""),
            (401 | 403, _) => {
                (ErrorKind::AccessDenied, "check that these credentials may do this to the bucket")
            }
            (404, _) => (ErrorKind::NotFound, ""),
            (409, _) => (ErrorKind::Unavailable, "another request is changing the same object"),
            (412, _) => (ErrorKind::AlreadyExists, ""),
            (416, _) => (ErrorKind::InvalidRange, ""),
            (501, _) => (ErrorKind::Unfit, "the server does not have this function"),
            (408 | 429 | 500..=599, _) => (ErrorKind::Unavailable, ""),
            _ => (ErrorKind::Other, ""),
        };
        Self { kind, advice }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_kind_a_caller_acts_on() {
        for (status, code, kind) in [
            (404, "NoSuchKey", ErrorKind::NotFound),
            (404, "NoSuchBucket", ErrorKind::InvalidConfig),
            (403, "AccessDenied", ErrorKind::AccessDenied),
            (403, "RequestTimeTooSkewed", ErrorKind::AccessDenied),
            (400, "ExpiredToken", ErrorKind::AccessDenied),
            (400, "AuthorizationHeaderMalformed", ErrorKind::InvalidConfig),
            (301, "PermanentRedirect", ErrorKind::InvalidConfig),
            (400, "BadDigest", ErrorKind::Unavailable),
            (400, "InvalidArgument", ErrorKind::Other),
            (409, "ConditionalRequestConflict", ErrorKind::Unavailable),
            (412, "PreconditionFailed", ErrorKind::AlreadyExists),
            (416, "InvalidRange", ErrorKind::InvalidRange),
            (429, "", ErrorKind::Unavailable),
            (500, "InternalError", ErrorKind::Unavailable),
            (501, "NotImplemented", ErrorKind::Unfit),
            (503, "SlowDown", ErrorKind::Unavailable),
            (507, "", ErrorKind::NoSpace),
            (403, "QuotaExceeded", ErrorKind::NoSpace),
        ] {
            assert_eq!(refused("s3://b", status, code, None).kind(), kind, "{status} {code}");
        }
    }

    #[test]
    fn errors_of_a_batch_have_a_kind_too() {
        for (code, kind) in [
            ("NoSuchKey", None),
            ("AccessDenied", Some(ErrorKind::AccessDenied)),
            ("SlowDown", Some(ErrorKind::Unavailable)),
            ("InternalError", Some(ErrorKind::Unavailable)),
            ("Odd", Some(ErrorKind::Other)),
        ] {
            let error = refused_in_batch("s3://b", code, None);
            assert_eq!(error.map(|error| error.kind()), kind, "{code}");
        }
    }

    #[test]
    fn messages_say_what_to_do_and_hold_no_control_characters() {
        let skewed = refused("put s3://b/k", 403, "RequestTimeTooSkewed", Some("a\r\nb\u{1b}[0m"));
        assert_eq!(
            skewed.to_string(),
            "put s3://b/k: HTTP 403 RequestTimeTooSkewed ab[0m; this machine's clock differs from \
             the server's; set the clocks right"
        );
        let long = refused("s3://b", 500, "", Some(&"x".repeat(100_000)));
        assert!(long.to_string().len() < 300);
    }
}
