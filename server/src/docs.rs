//! The page `/api/v1/docs`, where people browse the API and try it out, with a token that they give
//! it. It is Swagger UI, served from here: nothing is asked of other machines.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::map_response;
use axum::response::Response;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::state::Shared;

const PATH: &str = "/api/v1/docs";
const DOCUMENT: &str = "/api/v1/openapi.json";

/// What browsers are told to refuse. The page writes styles into what it shows, and has pictures
/// in its own text.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
         img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

async fn guarded(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The page and what belongs to it.
pub(crate) fn router() -> Router<Shared> {
    // Tokens are not kept, and no stranger is asked whether the document is right.
    let config = Config::from(DOCUMENT).validator_url("none").persist_authorization(false);
    let config = config.deep_linking(true).filter(true).display_request_duration(true);
    // There is one document, and no box to name another.
    let config = config.use_base_layout();
    Router::from(SwaggerUi::new(PATH).config(config)).layer(map_response(guarded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn browsers_are_told_what_to_refuse() {
        let told = guarded(Response::default()).await;
        let policy = told.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("script-src 'self';") && policy.contains("default-src 'none'"));
        for (name, value) in HEADERS {
            assert_eq!(told.headers()[&name], value);
        }
    }
}
