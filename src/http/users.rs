//! `/admin/v1/users`

use super::call::Call;
use super::openapi::params::{IfMatch, MembershipExpandParams, UserPathParams};
use super::reply::Reply;
use crate::domain::expand::ExpandedMembership;
use crate::domain::page::PageQuery;
use crate::domain::user::{NewUser, User, UserFilter, UserPatch};
use crate::error::Result;
use crate::service::operation::{Deleted, Operation};
use crate::service::users;

/// Create a user
///
/// A user created with an organization key becomes a `member` of that organization.
#[utoipa::path(
    post, path = "/admin/v1/users", tag = "Users", operation_id = "createUser",
    request_body = NewUser,
    responses(
        (status = 201, description = "Created.", body = User, headers(("ETag"))),
        (status = 409, description = "`ALREADY_EXISTS`: the email address or the `id` is already in use. `CONFLICT`: the user would join the calling key's organization, which has reached its plan's member limit."),
    ),
)]
pub(crate) async fn create(call: Call) -> Result<Operation> {
    call.reject_query()?;
    users::create(&call.app, &call.ctx, call.require_body()?)
}

/// List users
///
/// With an organization key, returns only the members of its organization.
#[utoipa::path(
    get, path = "/admin/v1/users", tag = "Users", operation_id = "listUsers",
    params(PageQuery, UserFilter),
    responses((status = 200, description = "A page of users.", body = Vec<User>)),
)]
pub(crate) async fn list(call: Call) -> Result<Reply> {
    Reply::list(&users::list(&call.app, &call.ctx, call.parse_query()).await?)
}

/// Get a user
#[utoipa::path(
    get, path = "/admin/v1/users/{id}", tag = "Users", operation_id = "getUser",
    params(UserPathParams),
    responses((status = 200, description = "The user.", body = User, headers(("ETag")))),
)]
pub(crate) async fn get(call: Call) -> Result<Operation> {
    call.reject_query()?;
    Ok(users::get(call.path_param(0)))
}

/// Update a user
///
/// Only platform keys can update users, because a user can be a member of several organizations. Changing the
/// status also requires every administrative scope that a key of the user has; otherwise the response is `403`
/// and names the key. The previous secret of a rotated key can't change the status (`SECRET_SUPERSEDED`).
#[utoipa::path(
    patch, path = "/admin/v1/users/{id}", tag = "Users", operation_id = "updateUser",
    params(UserPathParams, IfMatch),
    request_body = UserPatch,
    responses(
        (status = 200, description = "The updated user.", body = User, headers(("ETag"))),
        (status = 409, description = "`ALREADY_EXISTS`: the email address is already in use."),
    ),
)]
pub(crate) async fn update(call: Call) -> Result<Operation> {
    call.reject_query()?;
    users::update(&call.ctx, call.path_param(0), call.require_body()?)
}

/// Delete a user
///
/// Deletes the user permanently: memberships end, keys that the user owns are revoked, and the email address
/// can be used again. Only platform keys can delete users. If a key that the user owns has administrative
/// scopes that the calling key lacks, the response is `403` and names it.
#[utoipa::path(
    delete, path = "/admin/v1/users/{id}", tag = "Users", operation_id = "deleteUser",
    params(UserPathParams, IfMatch),
    responses(
        (status = 200, description = "Deleted.", body = Deleted),
        (status = 409, description = "`CONFLICT`: the user is the last owner of an organization."),
    ),
)]
pub(crate) async fn delete(call: Call) -> Result<Operation> {
    call.reject_query()?;
    Ok(users::delete(&call.ctx, call.path_param(0)))
}

/// List a user's memberships
///
/// With an organization key, returns only the membership in its organization.
#[utoipa::path(
    get, path = "/admin/v1/users/{id}/memberships", tag = "Users", operation_id = "listUserMemberships",
    params(UserPathParams, PageQuery, MembershipExpandParams),
    responses((status = 200, description = "A page of memberships.", body = Vec<ExpandedMembership>)),
)]
pub(crate) async fn list_memberships(call: Call) -> Result<Reply> {
    Reply::list(&users::memberships(&call.app, &call.ctx, call.path_param(0), call.parse_query()).await?)
}
