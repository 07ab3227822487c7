//! The control-plane requests that create the sample data, oldest first.

use crate::domain::action::Action;

/// A request to the control plane, performed at a time in the past.
pub(crate) struct Step {
    /// The time of the request, in minutes before now.
    pub(crate) minutes_ago: i64,
    pub(crate) action: Action,
    /// The HTTP method of the request.
    pub(crate) method: &'static str,
    /// The URL path of the request, including the id of the resource.
    pub(crate) path: &'static str,
    /// The request body, as JSON.
    pub(crate) body: &'static str,
}

const fn step(
    minutes_ago: i64,
    action: Action,
    method: &'static str,
    path: &'static str,
    body: &'static str,
) -> Step {
    Step { minutes_ago, action, method, path, body }
}

/// The id of the API key that users can try a verification with.
pub(crate) const SHOWN_KEY: &str = "key_123";

/// The secret of [`SHOWN_KEY`], which the examples of the API reference verify. It is published, so it may only exist in
/// sample data.
pub(crate) const SHOWN_SECRET: &str = "toll_4sZgkHnPb2LqTxW8vYcR3mJ7dF6aE9iU117KKs";

/// All requests of the sample data, oldest first.
#[rustfmt::skip]
pub(crate) static SCRIPT: &[Step] = &[
    step(43_171, Action::CreateOrganization, "POST", "/admin/v1/organizations", r#"{"id": "org_123", "name": "Acme Corporation", "email": "admin@acme.com", "plan": "enterprise", "metadata": {"region": "eu-central", "crm": "4711"}}"#),
    step(43_056, Action::CreateUser, "POST", "/admin/v1/users", r#"{"id": "user_123", "name": "Ada Brandt", "email": "ada@acme.com"}"#),
    step(43_041, Action::CreateMembership, "POST", "/admin/v1/organizations/org_123/members", r#"{"user_id": "user_123", "role": "owner"}"#),
    step(42_984, Action::CreateUser, "POST", "/admin/v1/users", r#"{"id": "user_jonas", "name": "Jonas Weber", "email": "jonas@acme.com"}"#),
    step(42_969, Action::CreateMembership, "POST", "/admin/v1/organizations/org_123/members", r#"{"user_id": "user_jonas", "role": "owner"}"#),
    step(42_768, Action::CreateScope, "POST", "/admin/v1/scopes", r#"{"scope": "invoices:read", "description": "Read invoices"}"#),
    step(42_753, Action::CreateScope, "POST", "/admin/v1/scopes", r#"{"scope": "invoices:write", "description": "Issue invoices"}"#),
    step(42_624, Action::CreateApiKey, "POST", "/admin/v1/api-keys", r#"{"id": "key_123", "name": "Production API Key", "scopes": ["workflows:read", "transactions:write"], "organization_id": "org_123", "self_rotation": true, "metadata": {"environment": "production"}}"#),
    step(42_609, Action::CreateApiKey, "POST", "/admin/v1/api-keys", r#"{"id": "key_gateway", "name": "Edge gateway", "scopes": ["keys:verify"], "metadata": {"host": "edge-1"}}"#),
    step(42_595, Action::CreateOrganization, "POST", "/admin/v1/organizations", r#"{"id": "org_kestrel", "name": "Kestrel Analytics", "email": "ops@kestrel.example", "plan": "enterprise", "metadata": {"region": "us-east"}}"#),
    step(42_480, Action::CreateUser, "POST", "/admin/v1/users", r#"{"id": "user_priya", "name": "Priya Natarajan", "email": "priya@kestrel.example"}"#),
    step(42_465, Action::CreateMembership, "POST", "/admin/v1/organizations/org_kestrel/members", r#"{"user_id": "user_priya", "role": "owner"}"#),
    step(41_760, Action::CreateApiKey, "POST", "/admin/v1/api-keys", r#"{"id": "key_kestrel", "name": "Ingest", "scopes": ["workflows:*"], "organization_id": "org_kestrel", "metadata": {"environment": "production"}}"#),
    step(40_752, Action::CreateUser, "POST", "/admin/v1/users", r#"{"id": "user_mei", "name": "Mei Tanaka", "email": "mei@acme.com"}"#),
    step(40_737, Action::CreateMembership, "POST", "/admin/v1/organizations/org_123/members", r#"{"user_id": "user_mei", "role": "member"}"#),
    step(40_320, Action::CreateApiKey, "POST", "/admin/v1/api-keys", r#"{"id": "key_acme-batch", "name": "Nightly exports", "scopes": ["transactions:read"], "organization_id": "org_123", "limits": [{"limit": 50000, "period": "day"}]}"#),
    step(40_147, Action::CreateOrganization, "POST", "/admin/v1/organizations", r#"{"id": "org_nordlicht", "name": "Nordlicht Energie", "email": "it@nordlicht.example", "plan": "standard", "metadata": {"region": "eu-north"}}"#),
    step(40_032, Action::CreateUser, "POST", "/admin/v1/users", r#"{"id": "user_sven", "name": "Sven Lindqvist", "email": "sven@nordlicht.example"}"#),
    step(40_017, Action::CreateMembership, "POST", "/admin/v1/organizations/org_nordlicht/members", r#"{"user_id": "user_sven", "role": "owner"}"#),
    step(38_880, Action::CreateApiKey, "POST", "/admin/v1/api-keys", r#"{"id": "key_nordlicht", "name": "Metering", "scopes": ["transactions:write"], "organization_id": "org_nordlicht"}"#),
    step(38_808, Action::CreateApiKey, "POST", "/admin/v1/api-keys", r#"{"id": "key_nordlicht-old", "name": "Metering (old site)", "scopes": ["transactions:write"], "organization_id": "org_nordlicht"}"#),
    step(38_736, Action::CreateUser, "POST", "/admin/v1/users", r#"{"id": "user_ines", "name": "Inês Duarte", "email": "ines@nordlicht.example"}"#),
    step(38_721, Action::CreateMembership, "POST", "/admin/v1/organizations/org_nordlicht/members", r#"{"user_id": "user_ines", "role": "member"}"#),
    step(37_728, Action::CreateApiKey, "POST", "/admin/v1/api-keys", r#"{"id": "key_acme-mobile", "name": "Mobile app", "scopes": ["workflows:read"], "organization_id": "org_123", "limits": [{"limit": 3000, "window_seconds": 60}]}"#),
    step(36_000, Action::CreateApiKey, "POST", "/admin/v1/api-keys", r#"{"id": "key_acme-console", "name": "Acme administration", "scopes": ["admin:users", "admin:keys", "admin:audit", "admin:analytics"], "organization_id": "org_123", "user_id": "user_123"}"#),
    step(34_819, Action::CreateOrganization, "POST", "/admin/v1/organizations", r#"{"id": "org_papaya", "name": "Papaya Pay", "email": "developers@papaya.example", "plan": "standard", "metadata": {"region": "ap-south"}}"#),
    step(34_704, Action::CreateUser, "POST", "/admin/v1/users", r#"{"id": "user_arjun", "name": "Arjun Mehta", "email": "arjun@papaya.example"}"#),
    step(34_689, Action::CreateMembership, "POST", "/admin/v1/organizations/org_papaya/members", r#"{"user_id": "user_arjun", "role": "owner"}"#),
    step(34_560, Action::CreateApiKey, "POST", "/admin/v1/api-keys", r#"{"id": "key_papaya", "name": "Checkout", "scopes": ["transactions:read", "transactions:write"], "organization_id": "org_papaya"}"#),
    step(34_416, Action::CreateApiKey, "POST", "/admin/v1/api-keys", r#"{"id": "key_papaya-trial", "name": "Trial", "scopes": ["transactions:read"], "organization_id": "org_papaya"}"#),
    step(32_255, Action::ReadUsage, "GET", "/admin/v1/analytics/usage", "{}"),
    step(29_232, Action::CreateApiKey, "POST", "/admin/v1/api-keys", r#"{"id": "key_kestrel-ci", "name": "Continuous integration", "scopes": ["workflows:read"], "organization_id": "org_kestrel", "allowed_ips": ["203.0.113.0/24"]}"#),
    step(28_368, Action::CreateUser, "POST", "/admin/v1/users", r#"{"id": "user_tomas", "name": "Tomás Rivera", "email": "tomas@acme.com"}"#),
    step(28_353, Action::CreateMembership, "POST", "/admin/v1/organizations/org_123/members", r#"{"user_id": "user_tomas", "role": "viewer"}"#),
    step(26_784, Action::UpdateOrganization, "PATCH", "/admin/v1/organizations/org_nordlicht", r#"{"email": "platform@nordlicht.example", "metadata": {"contract": "2026-114"}}"#),
    step(23_587, Action::CreateOrganization, "POST", "/admin/v1/organizations", r#"{"id": "org_bluebird", "name": "Bluebird Travel", "email": "hello@bluebird.example", "plan": "standard"}"#),
    step(23_472, Action::CreateUser, "POST", "/admin/v1/users", r#"{"id": "user_chloe", "name": "Chloé Martin", "email": "chloe@bluebird.example"}"#),
    step(23_457, Action::CreateMembership, "POST", "/admin/v1/organizations/org_bluebird/members", r#"{"user_id": "user_chloe", "role": "owner"}"#),
    step(23_040, Action::CreateApiKey, "POST", "/admin/v1/api-keys", r#"{"id": "key_bluebird", "name": "Bookings", "scopes": ["workflows:read", "workflows:write"], "organization_id": "org_bluebird"}"#),
    step(20_448, Action::RotateApiKey, "POST", "/admin/v1/api-keys/key_kestrel/rotate", r#"{"grace_period_seconds": 86400}"#),
    step(17_395, Action::CreateOrganization, "POST", "/admin/v1/organizations", r#"{"id": "org_harbour", "name": "Harbour Logistics", "email": "api@harbour.example", "plan": "standard"}"#),
    step(17_280, Action::CreateUser, "POST", "/admin/v1/users", r#"{"id": "user_liam", "name": "Liam O’Connor", "email": "liam@harbour.example"}"#),
    step(17_265, Action::CreateMembership, "POST", "/admin/v1/organizations/org_harbour/members", r#"{"user_id": "user_liam", "role": "owner"}"#),
    step(16_992, Action::CreateApiKey, "POST", "/admin/v1/api-keys", r#"{"id": "key_harbour", "name": "Tracking", "scopes": ["workflows:read"], "organization_id": "org_harbour"}"#),
    step(13_680, Action::RevokeApiKey, "POST", "/admin/v1/api-keys/key_nordlicht-old/revoke", r#"{"reason": "The old site was closed"}"#),
    step(10_512, Action::UpdateApiKey, "PATCH", "/admin/v1/api-keys/key_papaya-trial", r#"{"status": "disabled"}"#),
    step(7_343, Action::UpdateOrganization, "PATCH", "/admin/v1/organizations/org_harbour", r#"{"status": "suspended"}"#),
    step(6_048, Action::UpdateUser, "PATCH", "/admin/v1/users/user_tomas", r#"{"status": "suspended"}"#),
    step(4_896, Action::ListOrganizations, "GET", "/admin/v1/organizations", "{}"),
    step(3_168, Action::UpdateApiKey, "PATCH", "/admin/v1/api-keys/key_acme-mobile", r#"{"limits": [{"limit": 6000, "window_seconds": 60}]}"#),
    step(1_872, Action::RotateApiKey, "POST", "/admin/v1/api-keys/key_acme-batch/rotate", r#"{"grace_period_seconds": 604800}"#),
    step(576, Action::ReadUsage, "GET", "/admin/v1/analytics/usage", "{}"),
];
