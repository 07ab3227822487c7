//! `/admin/v1/organizations`

use super::call::Call;
use super::openapi::params::{IfMatch, OrganizationPathParams};
use super::reply::Reply;
use crate::domain::organization::{NewOrganization, Organization, OrganizationFilter, OrganizationPatch};
use crate::domain::page::PageQuery;
use crate::error::Result;
use crate::service::operation::{Deleted, Operation};
use crate::service::organizations;

/// Create an organization
#[utoipa::path(
    post, path = "/admin/v1/organizations", tag = "Organizations", operation_id = "createOrganization",
    request_body = NewOrganization,
    responses(
        (status = 201, description = "Created.", body = Organization, headers(("ETag"))),
        (status = 409, description = "`ALREADY_EXISTS`: another organization, possibly a deleted one, already has this `id`."),
    ),
)]
pub(crate) async fn create(call: Call) -> Result<Operation> {
    call.reject_query()?;
    organizations::create(&call.app, &call.ctx, call.require_body()?).await
}

/// List organizations
///
/// With an organization key, returns only its own organization.
#[utoipa::path(
    get, path = "/admin/v1/organizations", tag = "Organizations", operation_id = "listOrganizations",
    params(PageQuery, OrganizationFilter),
    responses((status = 200, description = "A page of organizations.", body = Vec<Organization>)),
)]
pub(crate) async fn list(call: Call) -> Result<Reply> {
    Reply::list(&organizations::list(&call.app, &call.ctx, call.parse_query()).await?)
}

/// Get an organization
#[utoipa::path(
    get, path = "/admin/v1/organizations/{id}", tag = "Organizations", operation_id = "getOrganization",
    params(OrganizationPathParams),
    responses((status = 200, description = "The organization.", body = Organization, headers(("ETag")))),
)]
pub(crate) async fn get(call: Call) -> Result<Operation> {
    call.reject_query()?;
    Ok(organizations::get(call.path_param(0)))
}

/// Update an organization
///
/// Only platform keys can set `plan` and `status`. Suspending an organization takes effect immediately: its
/// keys are refused from the next request on. The previous secret of a rotated key can't change the status
/// (`SECRET_SUPERSEDED`).
#[utoipa::path(
    patch, path = "/admin/v1/organizations/{id}", tag = "Organizations", operation_id = "updateOrganization",
    params(OrganizationPathParams, IfMatch),
    request_body = OrganizationPatch,
    responses((status = 200, description = "The updated organization.", body = Organization, headers(("ETag")))),
)]
pub(crate) async fn update(call: Call) -> Result<Operation> {
    call.reject_query()?;
    organizations::update(&call.app, &call.ctx, call.path_param(0), call.require_body()?).await
}

/// Delete an organization
///
/// Deletes the organization permanently, revokes its keys and ends its memberships. Its audit log is
/// kept, and its `id` can't be reused. Only platform keys can delete organizations.
#[utoipa::path(
    delete, path = "/admin/v1/organizations/{id}", tag = "Organizations", operation_id = "deleteOrganization",
    params(OrganizationPathParams, IfMatch),
    responses((status = 200, description = "Deleted.", body = Deleted)),
)]
pub(crate) async fn delete(call: Call) -> Result<Operation> {
    call.reject_query()?;
    Ok(organizations::delete(&call.ctx, call.path_param(0)))
}
