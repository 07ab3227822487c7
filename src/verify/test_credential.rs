//! A key for the tests of this part.

use crate::domain::api_key::{ApiKey, Credential, Status, Tenant};
use crate::domain::organization;
use crate::domain::time::Timestamp;

/// The active key `key_{seq}` of the organization `org_{organization}`, which is on the plan `standard`. It has no scopes,
/// no limits of its own, and no expiry.
pub(super) fn test_credential(organization: i64, seq: i64) -> Credential {
    let at = Timestamp::from_millis(0);
    let key = ApiKey {
        id: format!("key_{seq}"),
        organization_id: Some(format!("org_{organization}")),
        user_id: None,
        name: "n".to_owned(),
        start: String::new(),
        scopes: Vec::new(),
        status: Status::Active,
        expires_at: None,
        allowed_ips: None,
        limits: None,
        self_rotation: false,
        metadata: Default::default(),
        created_by: None,
        created_at: at,
        updated_at: at,
        last_used_at: None,
        rotated_at: None,
        previous_secret_expires_at: None,
        revoked_at: None,
        revoked_reason: None,
        revision: 1,
    };
    let organization = Some(Tenant {
        seq: organization,
        name: "One".to_owned(),
        plan: "standard".to_owned(),
        status: organization::Status::Active,
        limits: None,
    });
    Credential {
        seq,
        key,
        secret_ends_at: None,
        organization,
        owner: None,
        owner_external_id: None,
        memo: Default::default(),
    }
}
