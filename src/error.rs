//! Errors, as clients see them.
//!
//! One table assigns each error code its HTTP status. An [`Error`] has a code, a message that says what to
//! do, the individual faults ([`Detail`]), and the cause, which is only logged.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error codes of the API. [`Code::name`] is the name that clients see, [`Code::status`] the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are self-explanatory; the table below lists them.
pub enum Code {
    InvalidJson,
    InvalidRequest,
    InvalidCursor,
    SecretInField,
    Unauthenticated,
    InvalidApiKey,
    InsufficientScope,
    PlatformKeyRequired,
    IpNotAllowed,
    SecretSuperseded,
    NotFound,
    MethodNotAllowed,
    AlreadyExists,
    Conflict,
    BatchFailed,
    PreconditionFailed,
    PreconditionRequired,
    PayloadTooLarge,
    UnsupportedMediaType,
    IdempotencyMismatch,
    FailedDependency,
    RateLimited,
    Internal,
    Unavailable,
    OutcomeUnknown,
    StorageFull,
}

/// All error codes, each with its name in responses and its HTTP status.
pub const CODES: &[(Code, &str, u16)] = &[
    (Code::InvalidJson, "INVALID_JSON", 400),
    (Code::InvalidRequest, "INVALID_REQUEST", 400),
    (Code::InvalidCursor, "INVALID_CURSOR", 400),
    (Code::SecretInField, "SECRET_IN_FIELD", 400),
    (Code::Unauthenticated, "UNAUTHENTICATED", 401),
    (Code::InvalidApiKey, "INVALID_API_KEY", 401),
    (Code::InsufficientScope, "INSUFFICIENT_SCOPE", 403),
    (Code::PlatformKeyRequired, "PLATFORM_KEY_REQUIRED", 403),
    (Code::IpNotAllowed, "IP_NOT_ALLOWED", 403),
    (Code::SecretSuperseded, "SECRET_SUPERSEDED", 403),
    (Code::NotFound, "NOT_FOUND", 404),
    (Code::MethodNotAllowed, "METHOD_NOT_ALLOWED", 405),
    (Code::AlreadyExists, "ALREADY_EXISTS", 409),
    (Code::Conflict, "CONFLICT", 409),
    (Code::BatchFailed, "BATCH_FAILED", 409),
    (Code::PreconditionFailed, "PRECONDITION_FAILED", 412),
    (Code::PayloadTooLarge, "PAYLOAD_TOO_LARGE", 413),
    (Code::UnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE", 415),
    (Code::IdempotencyMismatch, "IDEMPOTENCY_MISMATCH", 422),
    (Code::FailedDependency, "FAILED_DEPENDENCY", 424),
    (Code::PreconditionRequired, "PRECONDITION_REQUIRED", 428),
    (Code::RateLimited, "RATE_LIMITED", 429),
    (Code::Internal, "INTERNAL", 500),
    (Code::Unavailable, "UNAVAILABLE", 503),
    (Code::OutcomeUnknown, "OUTCOME_UNKNOWN", 503),
    (Code::StorageFull, "STORAGE_FULL", 507),
];

impl Code {
    fn name_and_status(self) -> (&'static str, u16) {
        CODES
            .iter()
            .find(|(code, ..)| *code == self)
            .map_or(("INTERNAL", 500), |(_, name, status)| (name, *status))
    }

    /// The name of the code in responses, in `UPPER_SNAKE_CASE`.
    pub(crate) fn name(self) -> &'static str {
        self.name_and_status().0
    }

    /// The HTTP status of a response with this code.
    pub(crate) fn status(self) -> u16 {
        self.name_and_status().1
    }
}

/// One fault of the request: where it is and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = ErrorDetail)]
pub(crate) struct ErrorDetail {
    /// JSON Pointer (RFC 6901) into the request body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "/scopes/0")]
    pub(crate) pointer: Option<String>,
    /// Name of the query parameter or header.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "limit")]
    pub(crate) parameter: Option<String>,
    /// Code of the fault, in `UPPER_SNAKE_CASE`.
    #[schema(value_type = String, example = "UNKNOWN_SCOPE")]
    pub(crate) code: Cow<'static, str>,
    /// What is wrong and what is expected.
    pub(crate) message: String,
}

/// What is wrong with the database's file or its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseFault {
    /// A part of the file is damaged. It stays so until the file is repaired.
    Damage,
    /// The disk or the file system failed. It may work again later.
    Io,
}

/// The error of a request: refused, or failed in the server.
#[derive(Clone, Debug)]
pub struct Error {
    /// The error code, for client programs.
    pub code: Code,
    /// The message for people: what is wrong and what to do.
    pub(crate) message: Cow<'static, str>,
    /// The individual faults of the request.
    pub(crate) details: Vec<ErrorDetail>,
    /// The internal cause, which is logged and never shown to a client.
    pub(crate) cause: Option<String>,
    /// Whole seconds after which a retry can succeed (`Retry-After`).
    pub(crate) retry_after: Option<u64>,
    /// For `INSUFFICIENT_SCOPE`: the scope that the key lacks, for the `WWW-Authenticate` header.
    pub(crate) missing_scope: Option<Box<str>>,
    /// True if the request caused the error although its status is 5xx; later operations of a batch may
    /// continue then.
    pub(crate) caused_by_request: bool,
    /// The fault of the database that caused the error, if one did.
    pub(crate) database_fault: Option<DatabaseFault>,
}

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
            cause: None,
            retry_after: None,
            missing_scope: None,
            caused_by_request: false,
            database_fault: None,
        }
    }

    /// `INVALID_REQUEST` with the faults of the request; `SECRET_IN_FIELD` if a field holds a secret.
    pub(crate) fn invalid_request(details: Vec<ErrorDetail>) -> Self {
        let message = match details.as_slice() {
            [detail] => detail.message.clone(),
            details => format!("The request has {} errors. See details.", details.len()),
        };
        let has_secret = details.iter().any(|detail| detail.code == Code::SecretInField.name());
        let code = if has_secret { Code::SecretInField } else { Code::InvalidRequest };
        Self { details, ..Self::new(code, message) }
    }

    /// `NOT_FOUND`, also for a resource of another organization.
    pub(crate) fn not_found(resource: &'static str) -> Self {
        Self::new(Code::NotFound, format!("There is no such {resource}."))
    }

    /// `INTERNAL`. The cause is logged and not shown to the client.
    pub(crate) fn internal(cause: impl fmt::Display) -> Self {
        let message = "An internal error occurred. The server log has the cause under this request id.";
        Self { cause: Some(cause.to_string()), ..Self::new(Code::Internal, message) }
    }

    /// `STORAGE_FULL`: the disk is full, or the database has reached its size limit.
    pub(crate) fn storage_full() -> Self {
        let message = "The disk is full or the database has reached its size limit. Nothing was stored.";
        Self { retry_after: Some(30), ..Self::new(Code::StorageFull, message) }
    }

    /// `STORAGE_FULL` for a change that would store more than the withdrawal of access, while only that is
    /// accepted. Other operations of a batch may succeed.
    pub(crate) fn only_withdrawals_accepted() -> Self {
        let message = "The disk is full or the database has reached its size limit. Nothing was stored. Only \
                       changes that take access away are accepted, without an Idempotency-Key.";
        Self { message: message.into(), caused_by_request: true, ..Self::storage_full() }
    }

    /// `UNAVAILABLE`; a retry after `retry_after` seconds can succeed.
    pub(crate) fn unavailable(message: impl Into<Cow<'static, str>>, retry_after: u64) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(Code::Unavailable, message) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)?;
        if let Some(cause) = &self.cause {
            write!(f, " ({cause})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
