use utoipa::IntoParams;

use super::{ApiKey, Status};
use crate::domain::id::Kind;
use crate::domain::page::Query;
use crate::domain::search::{SearchQuery, SearchWords, Searchable};

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
    /// Only keys that these words describe: 1 to 3 words, each of which begins a word of the name, the `start` or the
    /// id. Words are runs of at least 2 letters or digits, and case is ignored. If few of many keys match, a page may
    /// have fewer results than `limit`, even none, and a cursor that continues the search.
    #[param(value_type = Option<String>, max_length = 200, pattern = "[^ -/:-@\\[-`{-~]{2}", example = "production")]
    pub(crate) q: Option<SearchQuery>,
}

impl ApiKeyFilter {
    pub(crate) fn read(query: &mut Query) -> Self {
        Self {
            organization_id: query.text("organization_id"),
            user_id: query.text("user_id"),
            status: query.one_of("status"),
            scope: query.text("scope"),
            q: SearchQuery::read(query, Kind::ApiKey),
        }
    }
}

impl Searchable for ApiKey {
    const KIND: Kind = Kind::ApiKey;

    fn words(&self) -> SearchWords {
        SearchWords::default().with_text(&self.name).with_text(&self.start).with_id(&self.id)
    }
}
