//! `/admin/v1/organizations/{id}/members`

use super::call::Call;
use super::openapi::params::{IfMatch, MemberPathParams, MembershipExpandParams, OrganizationPathParams};
use super::reply::Reply;
use crate::domain::expand::ExpandedMembership;
use crate::domain::membership::{Membership, MembershipFilter, MembershipPatch, NewMember};
use crate::domain::page::PageQuery;
use crate::error::Result;
use crate::service::memberships::{self, DeletedMembership};
use crate::service::operation::Operation;

/// Add a member
///
/// An organization key can only add users that it can already see.
#[utoipa::path(
    post, path = "/admin/v1/organizations/{id}/members", tag = "Members", operation_id = "createMember",
    params(OrganizationPathParams),
    request_body = NewMember,
    responses(
        (status = 201, description = "Added.", body = Membership, headers(("ETag"))),
        (status = 409, description = "`ALREADY_EXISTS`: the user is already a member. `CONFLICT`: the organization has reached its plan's member limit."),
    ),
)]
pub(crate) async fn create(call: Call) -> Result<Operation> {
    call.reject_query()?;
    memberships::create(&call.ctx, call.path_param(0), call.require_body()?)
}

/// List members
///
/// Each membership includes its user.
#[utoipa::path(
    get, path = "/admin/v1/organizations/{id}/members", tag = "Members", operation_id = "listMembers",
    params(OrganizationPathParams, PageQuery, MembershipFilter, MembershipExpandParams),
    responses((status = 200, description = "A page of memberships.", body = Vec<ExpandedMembership>)),
)]
pub(crate) async fn list(call: Call) -> Result<Reply> {
    Reply::list(&memberships::list(&call.app, &call.ctx, call.path_param(0), call.parse_query()).await?)
}

/// Get a member
#[utoipa::path(
    get, path = "/admin/v1/organizations/{id}/members/{user_id}", tag = "Members", operation_id = "getMember",
    params(MemberPathParams, MembershipExpandParams),
    responses((status = 200, description = "The membership.", body = ExpandedMembership, headers(("ETag")))),
)]
pub(crate) async fn get(call: Call) -> Result<Operation> {
    memberships::get(&call.ctx, call.path_param(0), call.path_param(1), call.parse_query())
}

/// Update a member's role
#[utoipa::path(
    patch, path = "/admin/v1/organizations/{id}/members/{user_id}", tag = "Members", operation_id = "updateMember",
    params(MemberPathParams, IfMatch),
    request_body = MembershipPatch,
    responses(
        (status = 200, description = "The updated membership.", body = Membership, headers(("ETag"))),
        (status = 409, description = "`CONFLICT`: the organization's last owner can't be given another role."),
    ),
)]
pub(crate) async fn update(call: Call) -> Result<Operation> {
    call.reject_query()?;
    memberships::update(&call.ctx, call.path_param(0), call.path_param(1), call.require_body()?)
}

/// Remove a member
///
/// Revokes the keys that the user owns in this organization. If one of them has administrative scopes that
/// the calling key lacks, the response is `403` and names it.
#[utoipa::path(
    delete, path = "/admin/v1/organizations/{id}/members/{user_id}", tag = "Members", operation_id = "deleteMember",
    params(MemberPathParams, IfMatch),
    responses(
        (status = 200, description = "Removed.", body = DeletedMembership),
        (status = 409, description = "`CONFLICT`: the organization's last owner can't be removed."),
    ),
)]
pub(crate) async fn delete(call: Call) -> Result<Operation> {
    call.reject_query()?;
    Ok(memberships::delete(&call.ctx, call.path_param(0), call.path_param(1)))
}
