//! The parameters of the operations that revoke and rotate a key.

use crate::domain::fields::{Fields, Json};
use crate::domain::rules;
use crate::error::Result;

/// Parameters for revoking a key.
#[derive(Clone, Debug, Default, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revocation {
    /// Why the key is revoked. The reason is stored with the key.
    #[schema(min_length = 1, max_length = 200, example = "Leaked in a log")]
    pub(crate) reason: Option<String>,
}

impl Revocation {
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        let value = Self { reason: fields.nullable("reason", rules::parse_name).into_option() };
        fields.finish(value)
    }
}

/// Parameters for rotating a key's secret.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    /// Seconds for which the old secret keeps working; 86,400 (one day) if omitted. The grace period ends at the latest
    /// when the key expires.
    #[schema(required = false, minimum = 0, maximum = 604_800, example = 3600)]
    pub(crate) grace_period_seconds: u32,
}

/// The default grace period after a rotation: one day.
const DEFAULT_GRACE_SECONDS: u32 = 86_400;
/// The longest grace period after a rotation: one week.
const MAX_GRACE_SECONDS: u32 = 604_800;

impl Default for Rotation {
    fn default() -> Self {
        Self { grace_period_seconds: DEFAULT_GRACE_SECONDS }
    }
}

impl Rotation {
    pub(crate) fn read(body: &Json) -> Result<Self> {
        let mut fields = Fields::of(body);
        let grace =
            fields.optional("grace_period_seconds", rules::integer_parser(0, MAX_GRACE_SECONDS.into()));
        let grace = grace.and_then(|seconds| u32::try_from(seconds).ok());
        fields.finish(Self { grace_period_seconds: grace.unwrap_or(DEFAULT_GRACE_SECONDS) })
    }
}
