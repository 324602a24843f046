//! What is the same of every request in the OpenAPI document, said once.

use std::collections::BTreeMap;

use crate::approvals::MAY_WAIT;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{Object, Schema};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};

/// What every request may be answered: problems, in their own content type.
const REFUSALS: [(&str, &str); 2] = [
    ("4XX", "The request is refused, and nothing was done"),
    ("5XX", "The server or its database cannot answer now"),
];

/// The document with the problems that every request may be answered, with what is answered to who
/// has it already, and with what is told instead where a second person must agree.
pub(super) fn completed(mut document: OpenApi) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            if MAY_WAIT.iter().any(|(word, template, _)| *word == method && template == path) {
                let accepted = RefOr::T(accepted());
                operation.responses.responses.insert("202".to_owned(), accepted);
            }
            // Nothing else has a tag that is compared.
            if method == "GET" && tells_json(operation) {
                let text = "It is what `If-None-Match` names, by the `ETag` that it came with";
                let same = RefOr::T(ResponseBuilder::new().description(text).build());
                operation.responses.responses.insert("304".to_owned(), same);
            }
            for (status, text) in REFUSALS {
                let problem = RefOr::T(problem(text));
                operation.responses.responses.insert(status.to_owned(), problem);
            }
        }
    }
    if let Some(components) = &mut document.components {
        unite_variants(&mut components.schemas);
    }
    document
}

/// Makes one object of each variant that is put together from a record, which forbids members that
/// it does not have, and from the member that tells which variant it is: no value is both.
fn unite_variants(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    let all = schemas.clone();
    for schema in schemas.values_mut() {
        let RefOr::T(Schema::OneOf(variants)) = schema else { continue };
        for variant in &mut variants.items {
            let RefOr::T(Schema::AllOf(parts)) = &*variant else { continue };
            let parts: Option<Vec<&Object>> = parts.items.iter().map(|p| object(p, &all)).collect();
            if let Some(parts) = parts {
                *variant = RefOr::T(Schema::Object(united(&parts)));
            }
        }
    }
}

fn object<'a>(
    part: &'a RefOr<Schema>,
    all: &'a BTreeMap<String, RefOr<Schema>>,
) -> Option<&'a Object> {
    match part {
        RefOr::T(Schema::Object(object)) => Some(object),
        RefOr::Ref(there) => match all.get(there.ref_location.rsplit('/').next()?)? {
            RefOr::T(Schema::Object(object)) => Some(object),
            _ => None,
        },
        RefOr::T(_) => None,
    }
}

fn united(parts: &[&Object]) -> Object {
    let mut whole = Object::new();
    for part in parts {
        whole.description = whole.description.or_else(|| part.description.clone());
        whole.required.extend(part.required.iter().cloned());
        whole.properties.extend(part.properties.clone());
        let strict = || part.additional_properties.clone();
        whole.additional_properties = whole.additional_properties.or_else(strict);
    }
    whole
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

/// Whether what an operation answers is a document.
fn tells_json(operation: &Operation) -> bool {
    match operation.responses.responses.get("200") {
        Some(RefOr::T(answer)) => answer.content.contains_key("application/json"),
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    #[test]
    fn only_documents_are_said_to_be_had_already() {
        let document: Value = serde_json::from_str(&crate::api::openapi()).unwrap();
        let same = |path: &str| !document["paths"][path]["get"]["responses"]["304"].is_null();
        assert!(same("/api/v1/instances") && same("/api/v1/nodes/{id}"));
        for path in ["mounts/{id}/content", "tasks/{id}/events", "restore-tests/{id}/screenshot"] {
            let path = format!("/api/v1/{path}");
            assert!(document["paths"][&path]["get"].is_object() && !same(&path), "{path}");
        }
    }
}
