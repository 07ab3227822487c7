//! `/admin/v1/config`

use super::call::Call;
use super::openapi::params::RequiredIfMatch;
use super::reply::Reply;
use crate::domain::settings::{Settings, SettingsPatch};
use crate::error::Result;
use crate::service::settings;

/// Get the configuration
///
/// What can be changed while the server runs. Its first values come from the server's configuration file and
/// environment, which don't change it afterwards.
#[utoipa::path(
    get, path = "/admin/v1/config", tag = "Configuration", operation_id = "getConfiguration",
    responses((status = 200, description = "As it is now.", body = Settings, headers(("ETag")))),
)]
pub(crate) async fn get(call: Call) -> Result<Reply> {
    call.no_query()?;
    let found = settings::get(&call.app, &call.ctx).await?;
    Reply::tagged(&found.settings, found.etag)
}

/// Change the configuration
///
/// In force when it is answered, for every call and verification that begins then or has not been decided yet.
/// `If-Match` is required, so that of two who change it at once one hears of the other.
#[utoipa::path(
    patch, path = "/admin/v1/config", tag = "Configuration", operation_id = "updateConfiguration",
    params(RequiredIfMatch),
    request_body = SettingsPatch,
    responses(
        (status = 200, description = "As it is now.", body = Settings, headers(("ETag"))),
        (status = 409, description = "`CONFLICT`: an organization is on a plan that was to go, or it is `standard`."),
        (status = 428, description = "`PRECONDITION_REQUIRED`: there was no `If-Match`."),
    ),
)]
pub(crate) async fn update(call: Call) -> Result<Reply> {
    call.no_query()?;
    let updated = settings::update(&call.app, &call.ctx, call.body()?).await?;
    Reply::tagged(&updated.settings, updated.etag)
}
