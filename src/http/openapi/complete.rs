//! Adds the required scopes, error responses and headers to all operations of the OpenAPI document. They come
//! from the route table and the table of error codes, so that the document can't disagree with these tables.

use std::collections::{BTreeMap, BTreeSet};

use strum::VariantArray;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{AdditionalProperties, Schema, SchemaType, Type};
use utoipa::openapi::{
    Components, Header, KnownFormat, ObjectBuilder, OpenApi, PathItem, Ref, RefOr, Required, Response,
    SchemaFormat,
};

use super::examples::Examples;
use super::responses::{
    ETAG, IDEMPOTENT_REPLAYED, RATE_LIMIT_HEADERS, REQUEST_ID, RESPONSE_HEADERS, describe_codes,
    error_response, header_references, response_name_of,
};
use super::security::{self, BEARER_SCHEME, X_API_KEY_SCHEME};
use super::{data_plane, envelope};
use crate::error::Code;
use crate::http::idempotency::MAX_IDEMPOTENCY_KEY_LENGTH;
use crate::http::route::{ANY, AuthRequirement, Body, Dispatch, Endpoint, Route};

/// The description of a PATCH body. `application/merge-patch+json` is not documented, because some generators refuse a body
/// with two media types.
const MERGE_PATCH_DESCRIPTION: &str = "A JSON merge patch (RFC 7396): omitted fields keep their values, and `null` clears a field \
 that is optional.";

const IF_MATCH: &str = "If-Match";

/// Statuses whose error responses are the same for all operations that have no description or example of their own.
const SHARED_STATUSES: &[u16] = &[401, 412, 413, 415, 422, 429, 500, 507];

/// Completes the OpenAPI document generated from the handlers' attributes. In these attributes, the `body` of
/// a response is the type of `data` in the envelope.
pub(crate) fn complete_document(api: &mut OpenApi, routes: &[Route], examples: &Examples) {
    let components = api.components.get_or_insert_with(Components::new);
    let mut shared = BTreeMap::new();
    for route in routes {
        let item = api.paths.paths.get_mut(route.path);
        if let Some(operation) = item.and_then(|item| find_operation(item, route.method)) {
            if !matches!(route.dispatch, Dispatch::DataPlane(Endpoint::Introspect)) {
                wrap_in_envelopes(operation, components);
            }
            shared.extend(complete_operation(operation, route, examples));
            examples.add_to(operation);
        }
    }
    security::add_schemes(components);
    for schema in components.schemas.values_mut() {
        let RefOr::T(Schema::Object(object)) = schema else { continue };
        for property in object.properties.values_mut() {
            merge_number_range(property);
            open_object(property);
        }
    }
    examples.add_common(components);
    components.headers = RESPONSE_HEADERS
        .iter()
        .chain(data_plane::DATA_PLANE_HEADERS)
        .map(|(name, kind, example, description)| {
            let mut header = Header::new(ObjectBuilder::new().schema_type(kind.clone()).build());
            header.description = Some((*description).to_owned());
            header.example = Some(match kind {
                Type::Integer => example.parse::<u64>().map(Into::into).unwrap_or_default(),
                _ => (*example).into(),
            });
            ((*name).to_owned(), RefOr::T(header))
        })
        .collect();
    for (status, response) in shared {
        components.responses.insert(response_name_of(status), RefOr::T(response));
    }
}

fn find_operation<'a>(item: &'a mut PathItem, method: &str) -> Option<&'a mut Operation> {
    match method {
        // A route for any method is documented as a GET, which has no body.
        "GET" | ANY => item.get.as_mut(),
        "POST" => item.post.as_mut(),
        "PATCH" => item.patch.as_mut(),
        "DELETE" => item.delete.as_mut(),
        _ => None,
    }
}

/// Adds scopes, error responses and headers to an operation. Returns the shared error responses that it refers to, by
/// status.
fn complete_operation(
    operation: &mut Operation,
    route: &Route,
    examples: &Examples,
) -> BTreeMap<u16, Response> {
    let description = operation.description.take().filter(|description| !description.is_empty());
    let mut access = describe_required_access(route);
    if route.requires_current_secret() {
        access.push_str(" The previous secret of a rotated key is refused with `403` (`SECRET_SUPERSEDED`).");
    }
    let paragraphs: Vec<_> = description.into_iter().chain([access]).collect();
    operation.description = Some(paragraphs.join("\n\n"));
    let schemes: &[_] = match route.auth {
        AuthRequirement::OwnKey => &[BEARER_SCHEME, X_API_KEY_SCHEME],
        _ => &[BEARER_SCHEME],
    };
    operation.security =
        Some(schemes.iter().flat_map(|scheme| security::requirements(route.auth, scheme)).collect());
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        body.required = Some(if route.body == Body::Required { Required::True } else { Required::False });
        if route.method == "PATCH" {
            body.description = Some(MERGE_PATCH_DESCRIPTION.to_owned());
        }
    }
    if let Dispatch::DataPlane(endpoint) = route.dispatch {
        data_plane::complete_operation(operation, route.auth, endpoint, examples);
        return BTreeMap::new();
    }
    if route.is_idempotent_by_key() {
        operation.parameters.get_or_insert_default().push(RefOr::T(idempotency_key_parameter()));
    }
    let id = operation.operation_id.clone().unwrap_or_default();
    let codes = error_codes(operation, route);
    // The codes that follow from the route, and those that the handler describes.
    let examples_of = |status: u16, description: &str| {
        let is_described = |code: &Code| description.contains(&format!("`{}`", code.name()));
        let of_status = Code::VARIANTS.iter().filter(|code| code.status() == status);
        let codes: Vec<_> =
            of_status.filter(|code| codes.contains(code) || is_described(code)).copied().collect();
        examples.of_errors(&id, status, &codes)
    };
    let mut errors: BTreeSet<u16> = codes.iter().map(|code| code.status()).collect();
    errors.extend(examples.error_statuses(&id));
    for (status, response) in &mut operation.responses.responses {
        let (Ok(status), RefOr::T(response)) = (status.parse::<u16>(), response) else { continue };
        errors.remove(&status);
        if status >= 400 {
            let description = std::mem::take(&mut response.description);
            let examples = examples_of(status, &description);
            *response = error_response(status, description, examples);
            continue;
        }
        let etag = response.headers.contains_key(ETAG).then_some(ETAG);
        let limits = if route.auth == AuthRequirement::Open { &[] } else { RATE_LIMIT_HEADERS };
        let replayed = route.is_idempotent_by_key().then_some(IDEMPOTENT_REPLAYED);
        let names = etag.iter().chain(&replayed).chain([&REQUEST_ID]).chain(limits);
        response.headers = header_references(names.copied());
    }
    let mut shared = BTreeMap::new();
    for status in errors {
        let examples = examples_of(status, "");
        let has_own_example = examples.values().any(|example| matches!(example, RefOr::T(_)));
        let response = error_response(status, describe_codes(examples.keys()), examples);
        let response = if has_own_example || !SHARED_STATUSES.contains(&status) {
            RefOr::T(response)
        } else {
            shared.insert(status, response);
            RefOr::Ref(Ref::from_response_name(response_name_of(status)))
        };
        operation.responses.responses.insert(status.to_string(), response);
    }
    shared
}

/// The `Idempotency-Key` parameter of every POST of the Admin API. It has no example, because the API
/// reference would send the example with every request that a user tries.
fn idempotency_key_parameter() -> Parameter {
    let description = format!(
        "A unique value, such as a UUID, that makes it safe to retry the request. For 24 hours, a repeated \
         request with the same idempotency key, API key, path and body gets the original response again, with \
         `{IDEMPOTENT_REPLAYED}: true`, and no change is made. Successful responses and errors with status \
         404 or 409 are stored. Using the key for a different request returns `422`; repeating the request \
         while the first one is still running returns `409`. A response that contains a secret is only \
         replayed to the bearer token that received it. After that token was rotated, the request returns `409` \
         with the new token, and `403` with the previous one. A replay is authorized again: `403` if the API key \
         has lost a scope that the request, or an operation of a batch, requires. The reads of a batch run again \
         and return their current results. If there is no room to store the response, nothing is changed and \
         the request returns `503`; it can be sent without an idempotency key."
    );
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MAX_IDEMPOTENCY_KEY_LENGTH));
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

/// Replaces the alternatives of a number, such as 0 or 30 to 36,500, by one range that contains them: generators would make
/// a type of each. The description says what is valid.
fn merge_number_range(property: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::AnyOf(any_of)) = property
        && let Some(RefOr::T(Schema::Object(range))) = any_of.items.last()
        && range.schema_type == SchemaType::Type(Type::Integer)
    {
        let mut merged = range.clone();
        merged.minimum = Some(0.into());
        merged.format = Some(SchemaFormat::KnownFormat(KnownFormat::Int32));
        merged.description.clone_from(&any_of.description);
        *property = RefOr::T(merged.into());
    }
}

/// Says of an object without declared fields that it has any: some generators take it for one that has none.
fn open_object(schema: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::Object(object)) = schema
        && object.schema_type == SchemaType::Type(Type::Object)
        && object.properties.is_empty()
    {
        object.additional_properties.get_or_insert_with(|| Box::new(AdditionalProperties::FreeForm(true)));
    }
}

/// Replaces the schema of each response's data by the schema of its envelope.
fn wrap_in_envelopes(operation: &mut Operation, components: &mut Components) {
    let is_paged = operation
        .parameters
        .iter()
        .flatten()
        .any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.name == "cursor"));
    for response in operation.responses.responses.values_mut() {
        let RefOr::T(response) = response else { continue };
        for content in response.content.values_mut() {
            let RefOr::T(content) = content else { continue };
            if let Some((name, envelope)) =
                content.schema.as_ref().and_then(|data| envelope::envelope_schema(data, is_paged))
            {
                content.schema = Some(RefOr::Ref(Ref::from_schema_name(name.as_str())));
                components.schemas.insert(name, RefOr::T(envelope));
            }
            if let Some(schema) = &mut content.schema {
                open_object(schema);
            }
        }
    }
}

/// The sentence about who may call the operation, for the end of its description.
fn describe_required_access(route: &Route) -> String {
    let any_of = |scopes: &[&str]| {
        let names: Vec<_> = scopes.iter().map(|scope| format!("`{scope}`")).collect();
        format!("the scope {}", names.join(" or "))
    };
    match route.auth {
        AuthRequirement::Open if matches!(route.dispatch, Dispatch::DataPlane(Endpoint::ForwardAuth)) => {
            "The proxy needs no key of its own; the key is the client's.".to_owned()
        }
        AuthRequirement::Open => "Requires no API key.".to_owned(),
        AuthRequirement::AnyKey => "Requires a valid API key with any scopes.".to_owned(),
        AuthRequirement::OwnKey => {
            "Requires a valid API key with any scopes, as a bearer token or in `X-Api-Key`.".to_owned()
        }
        AuthRequirement::Scope(scopes) => format!("Requires an API key with {}.", any_of(scopes)),
        AuthRequirement::Platform(scopes) => format!("Requires a platform key with {}.", any_of(scopes)),
    }
}

/// The error codes that follow from an operation's route and parameters. Others are in its examples.
fn error_codes(operation: &Operation, route: &Route) -> BTreeSet<Code> {
    let mut codes = BTreeSet::from([Code::Internal]);
    if route.auth != AuthRequirement::Open {
        // Every operation that requires a key parses the query, if only to reject it.
        codes.extend([Code::InvalidRequest, Code::Unauthenticated, Code::InvalidApiKey, Code::IpNotAllowed]);
        codes.extend([Code::RateLimited, Code::Unavailable]);
        codes.extend((!route.auth.scopes().is_empty()).then_some(Code::InsufficientScope));
        codes.extend((route.method != "GET").then_some(Code::OutcomeUnknown));
        // Most write the audit log.
        codes.extend(route.action.is_audited().then_some(Code::StorageFull));
    }
    codes.extend(route.path.contains('{').then_some(Code::NotFound));
    if route.body != Body::None {
        codes.extend([Code::InvalidJson, Code::PayloadTooLarge, Code::UnsupportedMediaType]);
    }
    let has_parameter = |name: &str| {
        let mut parameters = operation.parameters.iter().flatten();
        parameters.any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.name == name))
    };
    codes.extend(has_parameter("cursor").then_some(Code::InvalidCursor));
    codes.extend(has_parameter(IF_MATCH).then_some(Code::PreconditionFailed));
    if route.is_idempotent_by_key() {
        codes.extend([Code::Conflict, Code::IdempotencyMismatch]);
    }
    codes
}
