//! `/admin/v1/scopes`

use super::call::Call;
use super::openapi::params::ScopePathParams;
use super::reply::Reply;
use crate::domain::page::PageQuery;
use crate::domain::scope::{NewScope, Scope};
use crate::error::Result;
use crate::service::operation::Operation;
use crate::service::scopes::{self, DeletedScope};

/// List scopes
#[utoipa::path(
    get, path = "/admin/v1/scopes", tag = "Scopes", operation_id = "listScopes",
    params(PageQuery),
    responses((status = 200, description = "A page of scopes.", body = Vec<Scope>)),
)]
pub(crate) async fn list(call: Call) -> Result<Reply> {
    Reply::list(&scopes::list(&call.app, &call.ctx, call.parse_query()).await?)
}

/// Create a scope
#[utoipa::path(
    post, path = "/admin/v1/scopes", tag = "Scopes", operation_id = "createScope",
    request_body = NewScope,
    responses(
        (status = 201, description = "Created.", body = Scope),
        (status = 409, description = "`ALREADY_EXISTS`: a scope with this name already exists."),
    ),
)]
pub(crate) async fn create(call: Call) -> Result<Operation> {
    call.reject_query()?;
    scopes::create(&call.ctx, call.require_body()?)
}

/// Delete a scope
#[utoipa::path(
    delete, path = "/admin/v1/scopes/{scope}", tag = "Scopes", operation_id = "deleteScope",
    params(ScopePathParams),
    responses(
        (status = 200, description = "Deleted.", body = DeletedScope),
        (status = 409, description = "`CONFLICT`: the scope is built in, or a key that isn't revoked has it."),
    ),
)]
pub(crate) async fn delete(call: Call) -> Result<Operation> {
    call.reject_query()?;
    Ok(scopes::delete(call.path_param(0)))
}
