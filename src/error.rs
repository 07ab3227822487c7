//! Errors, as clients see them.
//!
//! Each error code has an HTTP status and a [class](CodeClass). An [`Error`] has a code, a message that says what to
//! do, the individual faults ([`ErrorDetail`]), and the cause, which is only logged.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;

use serde::Serialize;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error code of the API.
// In the order of the HTTP statuses, in which the documentation lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(as = ErrorCode, rename_all = "SCREAMING_SNAKE_CASE")]
#[derive(strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)] // The names are self-explanatory.
pub enum Code {
    InvalidJson,
    InvalidRequest,
    InvalidCursor,
    SecretInField,
    UnknownMeter,
    Unauthenticated,
    InvalidApiKey,
    InsufficientScope,
    PlatformKeyRequired,
    IpNotAllowed,
    SecretSuperseded,
    SelfRotationNotAllowed,
    NotFound,
    MethodNotAllowed,
    AlreadyExists,
    Conflict,
    BatchFailed,
    PreconditionFailed,
    PayloadTooLarge,
    UnsupportedMediaType,
    IdempotencyMismatch,
    FailedDependency,
    PreconditionRequired,
    RateLimited,
    Internal,
    Unavailable,
    OutcomeUnknown,
    StorageFull,
}

/// What an error code says about the cause, and so about what the client can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeClass {
    /// The request is not valid, or conflicts with what is stored.
    Request,
    /// The request has no valid credential.
    Authentication,
    /// The credential is valid and does not permit the request.
    Permission,
    /// The client sends too many requests.
    RateLimit,
    /// The server has a bug.
    Bug,
    /// The server can't serve the request at the moment.
    Unavailable,
}

impl Code {
    /// The name of the code in responses, in `SCREAMING_SNAKE_CASE`.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The HTTP status of a response with this code.
    pub fn status(self) -> u16 {
        match self {
            Code::InvalidJson
            | Code::InvalidRequest
            | Code::InvalidCursor
            | Code::SecretInField
            | Code::UnknownMeter => 400,
            Code::Unauthenticated | Code::InvalidApiKey => 401,
            Code::InsufficientScope
            | Code::PlatformKeyRequired
            | Code::IpNotAllowed
            | Code::SecretSuperseded
            | Code::SelfRotationNotAllowed => 403,
            Code::NotFound => 404,
            Code::MethodNotAllowed => 405,
            Code::AlreadyExists | Code::Conflict | Code::BatchFailed => 409,
            Code::PreconditionFailed => 412,
            Code::PayloadTooLarge => 413,
            Code::UnsupportedMediaType => 415,
            Code::IdempotencyMismatch => 422,
            Code::FailedDependency => 424,
            Code::PreconditionRequired => 428,
            Code::RateLimited => 429,
            Code::Internal => 500,
            Code::Unavailable | Code::OutcomeUnknown => 503,
            Code::StorageFull => 507,
        }
    }

    pub(crate) fn class(self) -> CodeClass {
        match self {
            Code::InvalidJson
            | Code::InvalidRequest
            | Code::InvalidCursor
            | Code::SecretInField
            | Code::UnknownMeter
            | Code::NotFound
            | Code::MethodNotAllowed
            | Code::AlreadyExists
            | Code::Conflict
            | Code::BatchFailed
            | Code::PreconditionFailed
            | Code::PayloadTooLarge
            | Code::UnsupportedMediaType
            | Code::IdempotencyMismatch
            | Code::FailedDependency
            | Code::PreconditionRequired => CodeClass::Request,
            Code::Unauthenticated | Code::InvalidApiKey => CodeClass::Authentication,
            Code::InsufficientScope
            | Code::PlatformKeyRequired
            | Code::IpNotAllowed
            | Code::SecretSuperseded
            | Code::SelfRotationNotAllowed => CodeClass::Permission,
            Code::RateLimited => CodeClass::RateLimit,
            Code::Internal => CodeClass::Bug,
            Code::Unavailable | Code::OutcomeUnknown | Code::StorageFull => CodeClass::Unavailable,
        }
    }

    /// True if the operation itself decided the error, by what is stored: not the checks before it, and not the state
    /// of the server.
    pub(crate) fn is_decided_by_operation(self) -> bool {
        matches!(self, Code::NotFound | Code::AlreadyExists | Code::Conflict | Code::BatchFailed)
    }

    /// True if the cause is the server and not the request.
    pub(crate) fn is_server_error(self) -> bool {
        matches!(self.class(), CodeClass::Bug | CodeClass::Unavailable)
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
    /// The internal cause with all its own causes, which is logged and never shown to a client.
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

    /// `UNKNOWN_METER` if that is what is wrong with each field of an `INVALID_REQUEST`.
    pub(crate) fn with_code_of_details(self) -> Self {
        let is_unknown_meter = |detail: &ErrorDetail| detail.code == Code::UnknownMeter.name();
        match !self.details.is_empty() && self.details.iter().all(is_unknown_meter) {
            true => Self { code: Code::UnknownMeter, ..self },
            false => self,
        }
    }

    /// `NOT_FOUND`, also for a resource of another organization.
    pub(crate) fn not_found(resource: &'static str) -> Self {
        Self::new(Code::NotFound, format!("There is no such {resource}."))
    }

    /// `INTERNAL`. The cause is logged and not shown to the client.
    pub(crate) fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let message = "An internal error occurred. The server log has the cause under this request id.";
        Self { cause: Some(text_with_sources(&*cause.into())), ..Self::new(Code::Internal, message) }
    }

    /// `INTERNAL`: the file system refused something at this path, which the cause names.
    pub(crate) fn at_path(path: &Path, error: io::Error) -> Self {
        Self::internal(format!("{}: {}", path.display(), text_with_sources(&error)))
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

// No `source`: `Display` has the cause with its sources.
impl StdError for Error {}

/// The text of an error and of its sources. Some libraries leave their sources out of the text, others repeat them.
pub(crate) fn text_with_sources(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let source_text = error.to_string();
        if !text.contains(&source_text) {
            text = format!("{text}: {source_text}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    #[test]
    fn the_class_of_a_code_fits_its_status() {
        for code in Code::VARIANTS {
            let expected = match code.status() {
                401 => CodeClass::Authentication,
                403 => CodeClass::Permission,
                429 => CodeClass::RateLimit,
                500 => CodeClass::Bug,
                501.. => CodeClass::Unavailable,
                _ => CodeClass::Request,
            };
            assert_eq!(code.class(), expected, "{code:?}");
            // The documentation of Idempotency-Key names the statuses.
            assert_eq!(code.is_decided_by_operation(), matches!(code.status(), 404 | 409), "{code:?}");
        }
    }

    #[tokio::test]
    async fn the_cause_of_an_error_has_the_texts_of_all_its_sources() {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let failed = client.get("http://127.0.0.1:0").send().await.unwrap_err();
        let text = failed.to_string();
        let sources = std::iter::successors(failed.source(), |&error| StdError::source(error));
        let reason = sources.last().unwrap().to_string();
        assert!(!text.contains(&reason), "{text}");
        let cause = Error::internal(failed).cause.unwrap();
        assert!(cause.starts_with(&text) && cause.contains(&reason), "{cause}");
        // The text of this error has that of its source.
        let repeating = tempfile::NamedTempFile::new().unwrap().persist("/missing/file").unwrap_err();
        let text = repeating.to_string();
        assert!(repeating.source().is_some());
        assert_eq!(Error::internal(repeating).cause.unwrap(), text);
    }
}
