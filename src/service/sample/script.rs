//! What was done in the month, oldest first.

/// A call of the control plane.
pub(crate) struct Step {
    /// How many minutes ago.
    pub(crate) minutes_ago: i64,
    /// What the audit log calls it.
    pub(crate) action: &'static str,
    /// The HTTP method.
    pub(crate) method: &'static str,
    /// The path; the thing's id stands in it.
    pub(crate) path: &'static str,
    /// The body, as JSON.
    pub(crate) body: &'static str,
}

const fn deed(
    minutes_ago: i64,
    action: &'static str,
    method: &'static str,
    path: &'static str,
    body: &'static str,
) -> Step {
    Step { minutes_ago, action, method, path, body }
}

/// The key whose secret is told, so that there is one to verify.
pub(crate) const SHOWN_KEY: &str = "key_123";

/// All of it.
#[rustfmt::skip]
pub(crate) static DIARY: &[Step] = &[
    deed(43_171, "organization.create", "POST", "/admin/v1/organizations", r#"{"id": "org_123", "name": "Acme Corporation", "email": "admin@acme.com", "plan": "enterprise", "metadata": {"region": "eu-central", "crm": "4711"}}"#),
    deed(43_056, "user.create", "POST", "/admin/v1/users", r#"{"id": "user_123", "name": "Ada Brandt", "email": "ada@acme.com"}"#),
    deed(43_041, "membership.create", "POST", "/admin/v1/organizations/org_123/members", r#"{"user_id": "user_123", "role": "owner"}"#),
    deed(42_984, "user.create", "POST", "/admin/v1/users", r#"{"id": "user_jonas", "name": "Jonas Weber", "email": "jonas@acme.com"}"#),
    deed(42_969, "membership.create", "POST", "/admin/v1/organizations/org_123/members", r#"{"user_id": "user_jonas", "role": "admin"}"#),
    deed(42_768, "scope.create", "POST", "/admin/v1/scopes", r#"{"scope": "invoices:read", "description": "Read invoices"}"#),
    deed(42_753, "scope.create", "POST", "/admin/v1/scopes", r#"{"scope": "invoices:write", "description": "Issue invoices"}"#),
    deed(42_624, "api_key.create", "POST", "/admin/v1/api-keys", r#"{"id": "key_123", "name": "Production API Key", "scopes": ["workflows:read", "transactions:write"], "organization_id": "org_123", "metadata": {"environment": "production"}}"#),
    deed(42_609, "api_key.create", "POST", "/admin/v1/api-keys", r#"{"id": "key_gateway", "name": "Edge gateway", "scopes": ["keys:verify"], "metadata": {"host": "edge-1"}}"#),
    deed(42_595, "organization.create", "POST", "/admin/v1/organizations", r#"{"id": "org_kestrel", "name": "Kestrel Analytics", "email": "ops@kestrel.example", "plan": "enterprise", "metadata": {"region": "us-east"}}"#),
    deed(42_480, "user.create", "POST", "/admin/v1/users", r#"{"id": "user_priya", "name": "Priya Natarajan", "email": "priya@kestrel.example"}"#),
    deed(42_465, "membership.create", "POST", "/admin/v1/organizations/org_kestrel/members", r#"{"user_id": "user_priya", "role": "owner"}"#),
    deed(41_760, "api_key.create", "POST", "/admin/v1/api-keys", r#"{"id": "key_kestrel", "name": "Ingest", "scopes": ["workflows:*"], "organization_id": "org_kestrel", "metadata": {"environment": "production"}}"#),
    deed(40_752, "user.create", "POST", "/admin/v1/users", r#"{"id": "user_mei", "name": "Mei Tanaka", "email": "mei@acme.com"}"#),
    deed(40_737, "membership.create", "POST", "/admin/v1/organizations/org_123/members", r#"{"user_id": "user_mei", "role": "member"}"#),
    deed(40_320, "api_key.create", "POST", "/admin/v1/api-keys", r#"{"id": "key_acme-batch", "name": "Nightly exports", "scopes": ["transactions:read"], "organization_id": "org_123", "quota": {"limit": 50000, "period": "day"}}"#),
    deed(40_147, "organization.create", "POST", "/admin/v1/organizations", r#"{"id": "org_nordlicht", "name": "Nordlicht Energie", "email": "it@nordlicht.example", "plan": "standard", "metadata": {"region": "eu-north"}}"#),
    deed(40_032, "user.create", "POST", "/admin/v1/users", r#"{"id": "user_sven", "name": "Sven Lindqvist", "email": "sven@nordlicht.example"}"#),
    deed(40_017, "membership.create", "POST", "/admin/v1/organizations/org_nordlicht/members", r#"{"user_id": "user_sven", "role": "owner"}"#),
    deed(38_880, "api_key.create", "POST", "/admin/v1/api-keys", r#"{"id": "key_nordlicht", "name": "Metering", "scopes": ["transactions:write"], "organization_id": "org_nordlicht"}"#),
    deed(38_808, "api_key.create", "POST", "/admin/v1/api-keys", r#"{"id": "key_nordlicht-old", "name": "Metering (old site)", "scopes": ["transactions:write"], "organization_id": "org_nordlicht"}"#),
    deed(38_736, "user.create", "POST", "/admin/v1/users", r#"{"id": "user_ines", "name": "Inês Duarte", "email": "ines@nordlicht.example"}"#),
    deed(38_721, "membership.create", "POST", "/admin/v1/organizations/org_nordlicht/members", r#"{"user_id": "user_ines", "role": "member"}"#),
    deed(37_728, "api_key.create", "POST", "/admin/v1/api-keys", r#"{"id": "key_acme-mobile", "name": "Mobile app", "scopes": ["workflows:read"], "organization_id": "org_123", "rate_limit": {"limit": 3000, "window_seconds": 60}}"#),
    deed(36_000, "api_key.create", "POST", "/admin/v1/api-keys", r#"{"id": "key_acme-console", "name": "Acme administration", "scopes": ["admin:users", "admin:keys", "admin:audit", "admin:analytics"], "organization_id": "org_123", "user_id": "user_123"}"#),
    deed(34_819, "organization.create", "POST", "/admin/v1/organizations", r#"{"id": "org_papaya", "name": "Papaya Pay", "email": "developers@papaya.example", "plan": "standard", "metadata": {"region": "ap-south"}}"#),
    deed(34_704, "user.create", "POST", "/admin/v1/users", r#"{"id": "user_arjun", "name": "Arjun Mehta", "email": "arjun@papaya.example"}"#),
    deed(34_689, "membership.create", "POST", "/admin/v1/organizations/org_papaya/members", r#"{"user_id": "user_arjun", "role": "owner"}"#),
    deed(34_560, "api_key.create", "POST", "/admin/v1/api-keys", r#"{"id": "key_papaya", "name": "Checkout", "scopes": ["transactions:read", "transactions:write"], "organization_id": "org_papaya"}"#),
    deed(34_416, "api_key.create", "POST", "/admin/v1/api-keys", r#"{"id": "key_papaya-trial", "name": "Trial", "scopes": ["transactions:read"], "organization_id": "org_papaya"}"#),
    deed(32_255, "usage.read", "GET", "/admin/v1/analytics/usage", "{}"),
    deed(29_232, "api_key.create", "POST", "/admin/v1/api-keys", r#"{"id": "key_kestrel-ci", "name": "Continuous integration", "scopes": ["workflows:read"], "organization_id": "org_kestrel", "allowed_ips": ["203.0.113.0/24"]}"#),
    deed(28_368, "user.create", "POST", "/admin/v1/users", r#"{"id": "user_tomas", "name": "Tomás Rivera", "email": "tomas@acme.com"}"#),
    deed(28_353, "membership.create", "POST", "/admin/v1/organizations/org_123/members", r#"{"user_id": "user_tomas", "role": "viewer"}"#),
    deed(26_784, "organization.update", "PATCH", "/admin/v1/organizations/org_nordlicht", r#"{"email": "platform@nordlicht.example", "metadata": {"contract": "2026-114"}}"#),
    deed(23_587, "organization.create", "POST", "/admin/v1/organizations", r#"{"id": "org_bluebird", "name": "Bluebird Travel", "email": "hello@bluebird.example", "plan": "standard"}"#),
    deed(23_472, "user.create", "POST", "/admin/v1/users", r#"{"id": "user_chloe", "name": "Chloé Martin", "email": "chloe@bluebird.example"}"#),
    deed(23_457, "membership.create", "POST", "/admin/v1/organizations/org_bluebird/members", r#"{"user_id": "user_chloe", "role": "owner"}"#),
    deed(23_040, "api_key.create", "POST", "/admin/v1/api-keys", r#"{"id": "key_bluebird", "name": "Bookings", "scopes": ["workflows:read", "workflows:write"], "organization_id": "org_bluebird"}"#),
    deed(20_448, "api_key.rotate", "POST", "/admin/v1/api-keys/key_kestrel/rotate", r#"{"grace_period_seconds": 86400}"#),
    deed(17_395, "organization.create", "POST", "/admin/v1/organizations", r#"{"id": "org_harbour", "name": "Harbour Logistics", "email": "api@harbour.example", "plan": "standard"}"#),
    deed(17_280, "user.create", "POST", "/admin/v1/users", r#"{"id": "user_liam", "name": "Liam O’Connor", "email": "liam@harbour.example"}"#),
    deed(17_265, "membership.create", "POST", "/admin/v1/organizations/org_harbour/members", r#"{"user_id": "user_liam", "role": "owner"}"#),
    deed(16_992, "api_key.create", "POST", "/admin/v1/api-keys", r#"{"id": "key_harbour", "name": "Tracking", "scopes": ["workflows:read"], "organization_id": "org_harbour"}"#),
    deed(13_680, "api_key.revoke", "POST", "/admin/v1/api-keys/key_nordlicht-old/revoke", r#"{"reason": "The old site was closed"}"#),
    deed(10_512, "api_key.update", "PATCH", "/admin/v1/api-keys/key_papaya-trial", r#"{"status": "disabled"}"#),
    deed(7_343, "organization.update", "PATCH", "/admin/v1/organizations/org_harbour", r#"{"status": "suspended"}"#),
    deed(6_048, "user.update", "PATCH", "/admin/v1/users/user_tomas", r#"{"status": "suspended"}"#),
    deed(4_896, "organization.list", "GET", "/admin/v1/organizations", "{}"),
    deed(3_168, "api_key.update", "PATCH", "/admin/v1/api-keys/key_acme-mobile", r#"{"rate_limit": {"limit": 6000, "window_seconds": 60}}"#),
    deed(1_872, "api_key.rotate", "POST", "/admin/v1/api-keys/key_acme-batch/rotate", r#"{"grace_period_seconds": 604800}"#),
    deed(576, "usage.read", "GET", "/admin/v1/analytics/usage", "{}"),
];
