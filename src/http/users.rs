//! `/admin/v1/users`

use super::call::Call;
use super::openapi::params::{IfMatch, PageQuery, UserPath, UserQuery};
use super::reply::{Deleted, Reply};
use crate::domain::membership::Membership;
use crate::domain::user::{NewUser, User, UserPatch};
use crate::error::Result;
use crate::service::{etag, users};

fn tag(user: &User) -> String {
    etag(user.created_at, user.revision)
}

/// Create a user
///
/// One that an organization's key creates becomes a `member` there.
#[utoipa::path(
    post, path = "/admin/v1/users", tag = "Users", operation_id = "createUser",
    request_body = NewUser,
    responses(
        (status = 201, description = "Created.", body = User, headers(("ETag"))),
        (status = 409, description = "`ALREADY_EXISTS`: the e-mail address or the `id` is taken. `CONFLICT`: the calling key's organization, of which the user would be a member, may have no more on its plan."),
    ),
)]
pub(crate) async fn create(call: Call) -> Result<Reply> {
    call.no_query()?;
    let created = users::create(&call.app, &call.ctx, call.body()?).await?;
    Reply::created(&created, Some(tag(&created)))
}

/// List users
///
/// An organization's key sees its members alone.
#[utoipa::path(
    get, path = "/admin/v1/users", tag = "Users", operation_id = "listUsers",
    params(PageQuery, UserQuery),
    responses((status = 200, description = "A page.", body = Vec<User>)),
)]
pub(crate) async fn list(call: Call) -> Result<Reply> {
    Reply::list(&users::list(&call.app, &call.ctx, call.query()).await?)
}

/// Get a user
#[utoipa::path(
    get, path = "/admin/v1/users/{id}", tag = "Users", operation_id = "getUser",
    params(UserPath),
    responses((status = 200, description = "Found.", body = User, headers(("ETag")))),
)]
pub(crate) async fn get(call: Call) -> Result<Reply> {
    call.no_query()?;
    let found = users::get(&call.app, &call.ctx, call.param(0)).await?;
    Reply::tagged(&found, tag(&found))
}

/// Change a user
///
/// Only by platform keys: a user may be a member of several organizations.
#[utoipa::path(
    patch, path = "/admin/v1/users/{id}", tag = "Users", operation_id = "updateUser",
    params(UserPath, IfMatch),
    request_body = UserPatch,
    responses(
        (status = 200, description = "As it is now.", body = User, headers(("ETag"))),
        (status = 409, description = "`ALREADY_EXISTS`: the e-mail address is taken."),
    ),
)]
pub(crate) async fn update(call: Call) -> Result<Reply> {
    call.no_query()?;
    let updated = users::update(&call.app, &call.ctx, call.param(0), call.body()?).await?;
    Reply::tagged(&updated, tag(&updated))
}

/// Delete a user
///
/// For good, and only by platform keys. Its memberships end, the keys that it owns are revoked, and its
/// e-mail address is free again.
#[utoipa::path(
    delete, path = "/admin/v1/users/{id}", tag = "Users", operation_id = "deleteUser",
    params(UserPath, IfMatch),
    responses(
        (status = 200, description = "Deleted.", body = Deleted),
        (status = 409, description = "`CONFLICT`: it is the last owner of an organization."),
    ),
)]
pub(crate) async fn delete(call: Call) -> Result<Reply> {
    call.no_query()?;
    let id = users::delete(&call.app, &call.ctx, call.param(0)).await?;
    Reply::ok(&Deleted { id, deleted: true })
}

/// List a user's memberships
///
/// An organization's key sees the one in its own organization.
#[utoipa::path(
    get, path = "/admin/v1/users/{id}/memberships", tag = "Users", operation_id = "listUserMemberships",
    params(UserPath, PageQuery),
    responses((status = 200, description = "A page.", body = Vec<Membership>)),
)]
pub(crate) async fn memberships(call: Call) -> Result<Reply> {
    Reply::list(&users::memberships(&call.app, &call.ctx, call.param(0), call.query()).await?)
}
