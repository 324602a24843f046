//! What is the same of every request in the OpenAPI document, said once.

use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};

/// What every request may be answered: problems, in their own content type.
const REFUSALS: [(&str, &str); 2] = [
    ("4XX", "The request is refused, and nothing was done"),
    ("5XX", "The server or its database cannot answer now"),
];

/// The document with the problems that every request may be answered.
pub(super) fn completed(mut document: OpenApi) -> OpenApi {
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            for (status, text) in REFUSALS {
                let problem = RefOr::T(problem(text));
                operation.responses.responses.insert(status.to_owned(), problem);
            }
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let methods = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
    methods.into_iter().flatten()
}

fn problem(text: &str) -> Response {
    let schema = Ref::from_schema_name("Problem");
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(text).content("application/problem+json", content).build()
}
