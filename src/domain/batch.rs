//! Batches: several operations in one request.

use super::fields::{Faults, Fields, Json};
use super::rules;
use crate::error::Result;

/// The maximum number of operations in a batch.
pub(crate) const MAX_OPERATIONS: usize = 100;

/// A request that contains several operations.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[schema(as = Batch)]
#[serde(deny_unknown_fields)]
pub(crate) struct Batch {
    /// If `true` or omitted, all operations succeed or none is applied; if `false`, each operation is independent.
    #[schema(required = false, example = true)]
    pub(crate) atomic: bool,
    /// The operations of the batch, executed in order. An operation changes resources or reads a single
    /// resource.
    #[schema(min_items = 1, max_items = 100, example = json!([
        {"id": "acme", "method": "POST", "path": "/organizations", "body": {"name": "Acme Corporation", "email": "admin@acme.com"}},
        {"method": "GET", "path": "/organizations/org_123"},
    ]))]
    pub(crate) operations: Vec<Operation>,
}

/// An operation of a batch.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[schema(as = BatchOperation)]
#[serde(deny_unknown_fields)]
pub(crate) struct Operation {
    /// Custom id of the operation, returned with its result. Unique within the batch.
    #[schema(min_length = 1, max_length = 200, example = "acme")]
    pub(crate) id: Option<String>,
    /// HTTP method of the operation.
    pub(crate) method: Method,
    /// URL path and query of the operation, relative to `/admin/v1`. The path may also include that prefix.
    #[schema(min_length = 1, max_length = 2000, pattern = "^/", example = "/organizations")]
    pub(crate) path: String,
    /// Request body of the operation, if the operation accepts a body.
    #[schema(value_type = Option<Object>, nullable = false)]
    pub(crate) body: Option<Json>,
    /// Value of the `If-Match` header: the operation runs only if the resource has this ETag.
    #[schema(min_length = 1, max_length = 2000, example = "\"1a2073bcba8-1\"")]
    pub(crate) if_match: Option<String>,
}

/// The HTTP method of a batch operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, utoipa::ToSchema)]
#[schema(as = BatchMethod, rename_all = "UPPERCASE")]
#[derive(strum::EnumString, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "UPPERCASE")]
#[allow(missing_docs)]
pub(crate) enum Method {
    #[default]
    Get,
    Post,
    Patch,
    Delete,
}

impl Method {
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

impl Batch {
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        let value = Self {
            atomic: fields.optional("atomic", rules::parse_bool).unwrap_or(true),
            operations: fields.required("operations", parse_operations),
        };
        fields.finish(value)
    }
}

fn parse_operations(json: &Json, faults: &mut Faults) -> Option<Vec<Operation>> {
    let items = faults.expect_array(json)?;
    if !(1..=MAX_OPERATIONS).contains(&items.len()) {
        let message = format!("Must have 1 to {MAX_OPERATIONS} operations; has {}.", items.len());
        faults.add("INVALID_LENGTH", message);
        return None;
    }
    let mut operations: Vec<Operation> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        faults.at_child(&index.to_string(), |faults| {
            let operation = parse_operation(item, faults);
            if operation.id.is_some() && operations.iter().any(|earlier| earlier.id == operation.id) {
                faults.at_child("id", |faults| faults.add("DUPLICATE_ID", "Must be unique in the batch."));
            }
            operations.push(operation);
        });
    }
    Some(operations)
}

fn parse_operation(json: &Json, faults: &mut Faults) -> Operation {
    let mut fields = Fields::of_nested_object(json, faults);
    let operation = Operation {
        id: fields.nullable("id", rules::parse_name).into_option(),
        method: fields.required("method", rules::parse_one_of),
        path: fields.required("path", parse_path),
        body: fields.shared_value("body"),
        if_match: fields
            .nullable("if_match", |json, faults| rules::parse_text(json, faults, 2000))
            .into_option(),
    };
    fields.finish_nested(faults);
    operation
}

/// Parses a path. Like the path of a separate request it may hold a secret, which is recorded redacted.
fn parse_path(json: &Json, faults: &mut Faults) -> Option<String> {
    let path = faults.expect_unstored_string(json)?;
    if !rules::check_text(path, faults, 2000) {
        return None;
    }
    if path.starts_with('/') {
        return Some(path.to_owned());
    }
    faults.add("INVALID_PATH", "Must start with a slash, such as /organizations.");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers_and_codes(body: &str) -> Vec<(String, String)> {
        let details = Batch::read(&Json::parse(body.as_bytes()).unwrap()).unwrap_err().details;
        details.into_iter().map(|d| (d.pointer.unwrap_or_default(), d.code.into_owned())).collect()
    }

    #[test]
    fn a_batch_reports_all_faults_of_all_operations() {
        let body = r#"{"atomic": 1, "operations": [
            {"id": "a", "method": "PUT", "path": "organizations"},
            {"id": "a", "method": "GET", "path": "/users", "boddy": {}},
            7]}"#;
        let expected = [
            ("/atomic", "INVALID_TYPE"),
            ("/operations/0/method", "INVALID_VALUE"),
            ("/operations/0/path", "INVALID_PATH"),
            ("/operations/1/boddy", "UNKNOWN_FIELD"),
            ("/operations/1/id", "DUPLICATE_ID"),
            ("/operations/2", "INVALID_TYPE"),
            ("/operations/2/method", "REQUIRED"),
            ("/operations/2/path", "REQUIRED"),
        ];
        assert_eq!(
            pointers_and_codes(body),
            expected.map(|(pointer, code)| (pointer.to_owned(), code.to_owned()))
        );
        for body in [r#"{"operations": []}"#, &format!(r#"{{"operations": [{}1]}}"#, "1,".repeat(100))] {
            assert_eq!(pointers_and_codes(body), [("/operations".to_owned(), "INVALID_LENGTH".to_owned())]);
        }
    }

    #[test]
    fn a_null_body_is_distinguished_from_no_body() {
        let read = |operation: &str| {
            let body = format!(r#"{{"operations": [{operation}]}}"#);
            let batch = Batch::read(&Json::parse(body.as_bytes()).unwrap()).unwrap();
            assert!(batch.atomic);
            batch.operations.into_iter().next().unwrap().body
        };
        assert_eq!(read(r#"{"method": "POST", "path": "/x", "body": null}"#), Some(Json::Null));
        assert_eq!(read(r#"{"method": "POST", "path": "/x"}"#), None);
    }
}
