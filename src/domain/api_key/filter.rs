use utoipa::IntoParams;

use super::{ApiKey, Status};
use crate::domain::id::Kind;
use crate::domain::page::Query;
use crate::domain::search::{SearchQuery, SearchWords, Searchable};
use crate::domain::time::Timestamp;
use crate::domain::time_buckets::{buckets_of, buckets_of_range};

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
    /// Only keys that expire before this time, or have. Keys without `expires_at` never expire.
    #[param(value_type = Option<String>, format = DateTime)]
    pub(crate) expires_before: Option<Timestamp>,
    /// Only keys that expire after this time. Keys without `expires_at` never expire.
    #[param(value_type = Option<String>, format = DateTime)]
    pub(crate) expires_after: Option<Timestamp>,
    /// Only keys that were last used before this day, in UTC: a date such as `2026-11-23`, or a time, of which only the
    /// date counts. Keys that were never used are found with `never_used`.
    #[param(value_type = Option<String>, pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}", example = "2026-11-23")]
    pub(crate) last_used_before: Option<Timestamp>,
    /// `true` for keys that were never used, `false` for those that were.
    pub(crate) never_used: Option<bool>,
}

/// A list of keys by the buckets of a time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TimeFilter {
    /// Keys whose `expires_at` is in one of these buckets.
    Expiry(Vec<String>),
    /// Keys whose `last_used_at` is in one of these buckets; the bucket [`NEVER_USED`] has those without.
    LastUse(Vec<String>),
}

/// The bucket of keys that were never used.
const NEVER_USED: &str = "never";

/// The buckets of a key's `last_used_at`.
pub(crate) fn buckets_of_last_use(last_used_at: Option<Timestamp>) -> Vec<String> {
    last_used_at.map_or_else(|| vec![NEVER_USED.to_owned()], |at| buckets_of(at).to_vec())
}

/// The buckets of a key's `expires_at`; none if the key never expires.
pub(crate) fn buckets_of_expiry(expires_at: Option<Timestamp>) -> Vec<String> {
    expires_at.map(|at| buckets_of(at).to_vec()).unwrap_or_default()
}

impl ApiKeyFilter {
    pub(crate) fn read(query: &mut Query) -> Self {
        Self {
            organization_id: query.text("organization_id"),
            user_id: query.text("user_id"),
            status: query.one_of("status"),
            scope: query.text("scope"),
            q: SearchQuery::read(query, Kind::ApiKey),
            expires_before: query.time("expires_before"),
            expires_after: query.time("expires_after"),
            last_used_before: query.date("last_used_before"),
            never_used: query.boolean("never_used"),
        }
    }

    /// The buckets that contain the keys of the list, if it has a filter by time. Of several, the one that usually leaves
    /// the fewest keys.
    pub(crate) fn by_time(&self, now: Timestamp) -> Option<TimeFilter> {
        if self.never_used == Some(true) {
            return Some(TimeFilter::LastUse(vec![NEVER_USED.to_owned()]));
        }
        if let Some(day) = self.last_used_before {
            let day_before = Timestamp::from_millis(day.as_millis() - 1);
            return Some(TimeFilter::LastUse(buckets_of_range(None, Some(day_before))));
        }
        let expired_before = (self.status == Some(Status::Expired)).then_some(now);
        let before = self.expires_before.into_iter().chain(expired_before).min();
        if before.is_some() || self.expires_after.is_some() {
            return Some(TimeFilter::Expiry(buckets_of_range(self.expires_after, before)));
        }
        let is_used = self.never_used == Some(false);
        is_used.then(|| TimeFilter::LastUse(buckets_of_range(None, None)))
    }
}

impl Searchable for ApiKey {
    const KIND: Kind = Kind::ApiKey;

    fn words(&self) -> SearchWords {
        SearchWords::default().with_text(&self.name).with_text(&self.start).with_id(&self.id)
    }
}
