//! `/admin/v1/config`

use super::call::Call;
use super::openapi::params::RequiredIfMatch;
use crate::domain::settings::{Settings, SettingsPatch};
use crate::error::Result;
use crate::service::operation::Operation;
use crate::service::settings;

/// Get the configuration
///
/// Returns the settings that can be changed while the server runs. Their initial values come from the
/// server's configuration file and environment; after that, only this API changes them.
#[utoipa::path(
    get, path = "/admin/v1/config", tag = "Configuration", operation_id = "getConfiguration",
    responses((status = 200, description = "The configuration.", body = Settings, headers(("ETag")))),
)]
pub(crate) async fn get(call: Call) -> Result<Operation> {
    call.reject_query()?;
    Ok(settings::get())
}

/// Update the configuration
///
/// Takes effect before the response is sent, for every request that hasn't been decided yet. `If-Match` is
/// required, so that concurrent changes don't overwrite each other.
#[utoipa::path(
    patch, path = "/admin/v1/config", tag = "Configuration", operation_id = "updateConfiguration",
    params(RequiredIfMatch),
    request_body = SettingsPatch,
    responses(
        (status = 200, description = "The updated configuration.", body = Settings, headers(("ETag"))),
        (status = 409, description = "`CONFLICT`: a plan to be removed is still in use by an organization, or is `standard`, which can't be removed."),
        (status = 428, description = "`PRECONDITION_REQUIRED`: the `If-Match` header is missing."),
    ),
)]
pub(crate) async fn update(call: Call) -> Result<Operation> {
    call.reject_query()?;
    settings::update(&call.ctx, call.require_body()?)
}
