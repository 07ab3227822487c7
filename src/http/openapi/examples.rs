//! The examples of the OpenAPI document. They are in `examples.json`: requests that succeed on a server with sample data
//! (`--dev`), and the responses to them. A test sends each request and compares the response with its example; another
//! one provokes each error.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::openapi::example::Example;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Components, Ref, RefOr};

use crate::error::{Code, Error, Result};
use crate::http::route::Endpoint;

const EXAMPLES: &str = include_str!("examples.json");

/// The media type of an export as CSV.
const CSV: &str = "text/csv; charset=utf-8; header=present";

/// The examples of all operations.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Examples {
    /// When a code is returned, for the summaries of examples.
    summaries: BTreeMap<String, String>,
    /// The `error` of responses that are the same for many operations, by code.
    common: BTreeMap<String, Value>,
    /// By operation id.
    operations: BTreeMap<String, OperationExamples>,
}

/// The examples of one operation.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OperationExamples {
    request: Option<Value>,
    /// The body of the successful response.
    response: Option<Value>,
    /// The body of the successful response as CSV.
    csv: Option<Value>,
    /// The `error` of responses, by status and code such as `400 INVALID_REQUEST`; of introspection the whole body.
    errors: BTreeMap<String, Value>,
}

impl Examples {
    /// Parses the examples.
    ///
    /// # Errors
    /// `INTERNAL` if the examples aren't valid.
    pub(super) fn load() -> Result<Self> {
        serde_json::from_str(EXAMPLES).map_err(Error::internal)
    }

    /// Adds the examples of errors that operations share.
    pub(super) fn add_common(&self, components: &mut Components) {
        for (code, error) in &self.common {
            let example = self.example(code, envelope(error));
            components.examples.insert(code.clone(), example);
        }
    }

    /// Adds the examples of an operation's request and of its successful response.
    pub(super) fn add_to(&self, operation: &mut Operation) {
        let id = operation.operation_id.as_deref().unwrap_or_default();
        let Some(examples) = self.operations.get(id) else { return };
        if let (Some(request), Some(RefOr::T(body))) = (&examples.request, &mut operation.request_body) {
            for content in body.content.values_mut() {
                let RefOr::T(content) = content else { continue };
                content.example = Some(request.clone());
            }
        }
        for (status, response) in &mut operation.responses.responses {
            let RefOr::T(response) = response else { continue };
            if !status.starts_with('2') {
                continue;
            }
            for (media_type, content) in &mut response.content {
                let RefOr::T(content) = content else { continue };
                content.example = match media_type.as_str() {
                    CSV => examples.csv.clone(),
                    // The page at `/`.
                    "text/html" => None,
                    _ => examples.response.clone(),
                };
            }
        }
    }

    /// The examples of the errors with this status of the operation with this id, by code: its own, and for each of `codes`
    /// that it has none of the common one.
    pub(super) fn of_errors(
        &self,
        id: &str,
        status: u16,
        codes: &[Code],
    ) -> BTreeMap<String, RefOr<Example>> {
        let mut examples = BTreeMap::new();
        for code in codes.iter().map(|code| code.name()).filter(|code| self.common.contains_key(*code)) {
            let reference = Ref::new(format!("#/components/examples/{code}"));
            examples.insert(code.to_owned(), RefOr::Ref(reference));
        }
        for (code, error) in self.own_errors(id, status) {
            examples.insert(code.to_owned(), self.example(code, envelope(error)));
        }
        examples
    }

    /// The examples of the errors of an endpoint of the data plane with this status, in the endpoint's format.
    pub(super) fn of_endpoint_errors(
        &self,
        id: &str,
        endpoint: Endpoint,
        status: u16,
    ) -> BTreeMap<String, RefOr<Example>> {
        let is_oauth = endpoint == Endpoint::Introspect;
        let of_server = [Code::Internal, Code::Unavailable, Code::StorageFull];
        let codes: Vec<_> = of_server.into_iter().filter(|code| code.status() == status).collect();
        if !is_oauth {
            return self.of_errors(id, status, &codes);
        }
        let mut examples: BTreeMap<_, _> = self
            .own_errors(id, status)
            .map(|(code, body)| (code.to_owned(), self.example(code, body.clone())))
            .collect();
        for error in codes.iter().filter_map(|code| self.common.get(code.name())) {
            let code = if status == 500 { "server_error" } else { "temporarily_unavailable" };
            let body = json!({ "error": code, "error_description": error["message"] });
            examples.entry(code.to_owned()).or_insert_with(|| self.example(code, body));
        }
        examples
    }

    /// The statuses of the operation's own errors.
    pub(super) fn error_statuses(&self, id: &str) -> impl Iterator<Item = u16> {
        let errors = self.operations.get(id).into_iter().flat_map(|examples| examples.errors.keys());
        errors.filter_map(|key| key.split(' ').next()?.parse().ok())
    }

    /// The codes and examples of the operation's own errors with this status.
    fn own_errors(&self, id: &str, status: u16) -> impl Iterator<Item = (&str, &Value)> {
        let errors = self.operations.get(id).into_iter().flat_map(|examples| &examples.errors);
        errors.filter_map(move |(key, error)| {
            let (of, code) = key.split_once(' ')?;
            (of.parse() == Ok(status)).then_some((code, error))
        })
    }

    fn example(&self, code: &str, body: Value) -> RefOr<Example> {
        let mut example = Example::new();
        example.summary = self.summaries.get(code).cloned().unwrap_or_default();
        example.value = Some(body);
        RefOr::T(example)
    }
}

/// The body of an error response.
fn envelope(error: &Value) -> Value {
    let metadata =
        json!({ "timestamp": "2026-11-23T07:08:09.123Z", "requestId": "req_01JD6ZK3V7Q9W8E5R2T4Y6V8A0" });
    json!({ "success": false, "error": error, "metadata": metadata })
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    /// Codes that no documented response has: of undocumented methods, and of operations within a batch.
    const UNDOCUMENTED: &[Code] = &[Code::MethodNotAllowed, Code::FailedDependency];

    #[test]
    fn every_code_has_a_summary() {
        let examples = Examples::load().unwrap();
        for code in Code::VARIANTS {
            let has_summary = examples.summaries.contains_key(code.name());
            assert_ne!(has_summary, UNDOCUMENTED.contains(code), "{code:?}");
        }
    }

    #[test]
    fn errors_of_the_server_have_their_real_messages() {
        let common = Examples::load().unwrap().common;
        for error in [Error::internal("cause"), Error::storage_full()] {
            let expected = json!({ "code": error.code.name(), "message": error.message, "details": [] });
            assert_eq!(common.get(error.code.name()), Some(&expected));
        }
        for code in [Code::Unavailable, Code::OutcomeUnknown] {
            assert_eq!(common[code.name()]["code"], code.name());
        }
    }

    /// The secret in the examples is that of the sample data.
    #[test]
    fn the_secret_in_the_examples_is_well_formed() {
        let example = &Examples::load().unwrap().operations["verifyKey"].request;
        let secret = example.as_ref().unwrap()["key"].as_str().unwrap();
        let known = crate::domain::secret_prefix::KnownPrefixes::of_new_database(&["toll".to_owned()]);
        assert!(crate::verify::secret::is_plausible(&known, secret));
    }
}
