//! What is the same of every request in the OpenAPI document, said once.

use crate::approvals::MAY_WAIT;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};

/// What every request may be answered: problems, in their own content type.
const REFUSALS: [(&str, &str); 2] = [
    ("4XX", "The request is refused, and nothing was done"),
    ("5XX", "The server or its database cannot answer now"),
];

/// The document with the problems that every request may be answered, and with what is told
/// instead where a second person must agree.
pub(super) fn completed(mut document: OpenApi) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            if MAY_WAIT.iter().any(|(word, template, _)| *word == method && template == path) {
                let accepted = RefOr::T(accepted());
                operation.responses.responses.insert("202".to_owned(), accepted);
            }
            for (status, text) in REFUSALS {
                let problem = RefOr::T(problem(text));
                operation.responses.responses.insert(status.to_owned(), problem);
            }
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let methods = [
        ("GET", &mut item.get),
        ("PUT", &mut item.put),
        ("POST", &mut item.post),
        ("DELETE", &mut item.delete),
        ("PATCH", &mut item.patch),
    ];
    methods.into_iter().filter_map(|(word, operation)| Some((word, operation.as_mut()?)))
}

fn accepted() -> Response {
    let schema = Ref::from_schema_name("ApprovalView");
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let text = "It waits for a second person, as the access rules want it";
    ResponseBuilder::new().description(text).content("application/json", content).build()
}

fn problem(text: &str) -> Response {
    let schema = Ref::from_schema_name("Problem");
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(text).content("application/problem+json", content).build()
}
