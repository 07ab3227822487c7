use utoipa::IntoParams;

use super::Status;
use crate::domain::page::Query;

/// The filters of the list of API keys.
#[derive(Clone, Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ApiKeyFilter {
    /// Only keys of this organization.
    #[param(max_length = 200)]
    pub(crate) organization_id: Option<String>,
    /// Only keys owned by this user.
    #[param(max_length = 200)]
    pub(crate) user_id: Option<String>,
    /// Only keys with this status.
    pub(crate) status: Option<Status>,
    /// Only keys that were granted exactly this scope.
    #[param(max_length = 200)]
    pub(crate) scope: Option<String>,
    /// Only keys with a name that begins with this.
    #[param(max_length = 200)]
    pub(crate) q: Option<String>,
}

impl ApiKeyFilter {
    pub(crate) fn read(query: &mut Query) -> Self {
        Self {
            organization_id: query.text("organization_id"),
            user_id: query.text("user_id"),
            status: query.one_of("status"),
            scope: query.text("scope"),
            q: query.text("q"),
        }
    }
}
