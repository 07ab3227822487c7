//! A route: its path, who may call it, and which part of the server handles it.

use std::future::Future;
use std::pin::Pin;

use super::call::Call;
use super::reply::Reply;
use crate::domain::action::{Action, LimitClass};
use crate::domain::audit::Target;
use crate::domain::redaction::Redactor;
use crate::error::Result;
use crate::service::operation::Operation;

/// The future of a handler's response.
pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result<Reply>> + Send>>;

/// A handler of the control plane.
pub(crate) type Handler = fn(Call) -> HandlerFuture;

/// Prepares an operation on a single resource.
pub(crate) type Prepare = fn(Call) -> Pin<Box<dyn Future<Output = Result<Operation>> + Send>>;

/// Which part of the server handles a route.
#[derive(Clone, Copy)]
pub enum Dispatch {
    /// The control plane's request pipeline with an operation on a single resource: rate limited, audited, in a task that
    /// outlives the connection.
    Operation(Prepare),
    /// The pipeline with a batch of operations.
    Batch,
    /// The pipeline with another handler, such as that of a list.
    Pipeline(Handler),
    /// The data plane, which bypasses the pipeline.
    DataPlane(Endpoint),
    /// A file of the console or the API reference, which are not part of the API.
    Page,
}

/// The endpoints of the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /v1/keys/verify`.
    Verify,
    /// `POST /v1/keys/verify-batch`.
    VerifyBatch,
    /// `POST /v1/keys/usage`.
    ReportUsage,
    /// `POST /v1/introspect` (RFC 7662).
    Introspect,
    /// `/v1/forward-auth`, for reverse proxies.
    ForwardAuth,
}

impl Endpoint {
    /// The path of the endpoint's route.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Endpoint::Verify => "/v1/keys/verify",
            Endpoint::VerifyBatch => "/v1/keys/verify-batch",
            Endpoint::ReportUsage => "/v1/keys/usage",
            Endpoint::Introspect => "/v1/introspect",
            Endpoint::ForwardAuth => "/v1/forward-auth",
        }
    }
}

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthRequirement {
    /// Anyone may call the route without a key; its calls are not audited.
    Open,
    /// Any valid key.
    AnyKey,
    /// Any valid key, as a bearer token or in `X-Api-Key`. The route is about the calling key, whose id takes the place of
    /// a path parameter.
    OwnKey,
    /// A key with one of these scopes.
    Scope(&'static [&'static str]),
    /// A platform key with one of these scopes. Routes with a path that can name another organization's
    /// resource use [`Scope`](Self::Scope) instead, and their handler requires the platform key, because such
    /// a resource must be a 404.
    Platform(&'static [&'static str]),
}

impl AuthRequirement {
    /// Any one of these scopes suffices; empty means no scope is required.
    pub(crate) fn scopes(self) -> &'static [&'static str] {
        match self {
            AuthRequirement::Open | AuthRequirement::AnyKey | AuthRequirement::OwnKey => &[],
            AuthRequirement::Scope(scopes) | AuthRequirement::Platform(scopes) => scopes,
        }
    }

    /// True if only platform keys are admitted.
    pub(crate) fn requires_platform_key(self) -> bool {
        matches!(self, AuthRequirement::Platform(_))
    }
}

/// Whether a route has a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The route has no request body; a body that is sent is drained and ignored.
    None,
    /// The body may be omitted.
    Optional,
    /// The body is required.
    Required,
}

/// An entry of [`ROUTES`](super::routes::ROUTES).
pub struct Route {
    /// `GET`, `POST`, `PATCH`, `DELETE`, or [`ANY`]; `HEAD` is supported wherever `GET` is.
    pub method: &'static str,
    /// The route's URL path, with `{name}` for parameters.
    pub path: &'static str,
    /// The action in the audit log.
    pub action: Action,
    /// Who may call the route.
    pub auth: AuthRequirement,
    /// Whether the route has a request body.
    pub body: Body,
    /// Which part of the server handles the route.
    pub dispatch: Dispatch,
}

impl Route {
    /// True if the route can be an operation of a batch.
    pub fn is_in_batch(&self) -> bool {
        matches!(self.dispatch, Dispatch::Operation(_)) && self.auth != AuthRequirement::OwnKey
    }

    /// True if the route honors the `Idempotency-Key` header. Routes about the calling key don't need it: a repeated
    /// request comes with a secret that the first one ended or superseded.
    pub fn is_idempotent_by_key(&self) -> bool {
        self.method == "POST" && (self.is_in_batch() || matches!(self.dispatch, Dispatch::Batch))
    }

    /// True if the route refuses the previous secret of a rotated key. The revocation of the calling key doesn't, because
    /// with a previous secret it ends only that secret.
    pub(crate) fn requires_current_secret(&self) -> bool {
        let ends_only_itself = self.auth == AuthRequirement::OwnKey && self.action == Action::RevokeApiKey;
        self.action.requires_current_secret() && !ends_only_itself
    }

    /// The rate limits that apply to a request.
    pub(super) fn limit_class(&self) -> LimitClass {
        match self.auth {
            AuthRequirement::OwnKey => LimitClass::OwnKey,
            _ => self.action.limit_class(),
        }
    }

    /// The resource that a request's path names, for the audit event. Usually it exists, so a header that isn't used must
    /// not hide its id.
    pub(super) fn audit_target(&self, params: &[String], redactor: &Redactor) -> Option<Target> {
        let kind = self.action.target_kind()?;
        params.last().map(|id| Target {
            kind: kind.into(),
            id: Some(redactor.for_stored_values().recorded_text(id)),
            name: None,
        })
    }
}

/// The [`Route::method`] of routes that accept any method.
pub const ANY: &str = "ANY";
