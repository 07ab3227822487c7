use std::sync::Arc;

use super::*;
use crate::domain::action::Action;
use crate::domain::api_key::Status;
use crate::domain::json::Json;
use crate::domain::time::Timestamp;
use crate::verify::test_credential::test_credential;

fn credential(id: &str, organization_id: Option<&str>, scopes: &[&str]) -> Credential {
    let mut credential = test_credential(1, 1);
    id.clone_into(&mut credential.key.id);
    credential.key.organization_id = organization_id.map(str::to_owned);
    credential.key.scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
    credential.organization = credential.organization.filter(|_| organization_id.is_some());
    credential
}

fn platform_caller() -> Caller {
    Caller::Key(Arc::new(credential("key_admin", None, &["*"])))
}

fn change(action: Action, id: &str, body: &str) -> AccessChange {
    let body = Json::parse(body.as_bytes()).unwrap();
    AccessChange::from_request(action, &[id.to_owned()], Some(&body)).unwrap()
}

#[test]
fn i10_blocks_are_bounded_and_organizations_leave_room_for_the_platform() {
    let blocks = AccessBlocks::default();
    let mut added = 0;
    for organization in 0..6 {
        let id = format!("org_{organization}");
        let caller = Caller::Key(Arc::new(credential("key_caller", Some(&id), &["admin:keys"])));
        for key in 0..=MAX_BLOCKS_PER_ORGANIZATION {
            let revoke = change(Action::RevokeApiKey, &format!("key_{organization}_{key}"), "{}");
            added += usize::from(blocks.add(revoke, caller.clone()));
        }
        let of_organizations =
            ((organization + 1) * MAX_BLOCKS_PER_ORGANIZATION).min(MAX_BLOCKS_OF_ORGANIZATIONS);
        assert_eq!((added, blocks.len()), (of_organizations, of_organizations));
    }
    let revoke = |key: usize| change(Action::RevokeApiKey, &format!("key_{key}"), "{}");
    while blocks.len() < MAX_BLOCKS {
        assert!(blocks.add(revoke(blocks.len()), platform_caller()));
    }
    assert!(!blocks.add(revoke(MAX_BLOCKS), platform_caller()));
    assert!(blocks.add(revoke(MAX_BLOCKS - 1), platform_caller()), "a repeated change needs no room");
    let stored: Vec<_> = (0..MAX_BLOCKS).map(|key| Invalidation::Access(revoke(key))).collect();
    blocks.lift_stored(&stored);
    assert_eq!(blocks.len(), MAX_BLOCKS_OF_ORGANIZATIONS);
}

#[test]
fn changes_of_one_key_are_bounded() {
    let blocks = AccessBlocks::default();
    let narrow = |n: usize| change(Action::UpdateApiKey, "key_1", &format!(r#"{{"scopes": ["s:{n}"]}}"#));
    for n in 0..MAX_BLOCKS_PER_ID {
        assert!(blocks.add(narrow(n), platform_caller()));
    }
    assert!(!blocks.add(narrow(MAX_BLOCKS_PER_ID), platform_caller()));
    assert!(
        blocks.add(change(Action::RevokeApiKey, "key_1", "{}"), platform_caller()),
        "a revocation has room"
    );
}

/// A row that can't be read could belong to any organization.
#[test]
fn i5_organizations_leave_room_for_each_other_and_the_platform_to_block_one_key() {
    let blocks = AccessBlocks::default();
    let narrow = |n: usize| change(Action::UpdateApiKey, "key_1", &format!(r#"{{"scopes": ["s:{n}"]}}"#));
    let caller = |id: &str| Caller::Key(Arc::new(credential("key_caller", Some(id), &["admin:keys"])));
    for n in 0..MAX_BLOCKS_PER_ID {
        assert!(blocks.add(narrow(n), caller("org_1")));
    }
    assert!(!blocks.add(narrow(MAX_BLOCKS_PER_ID), caller("org_1")));
    assert!(blocks.add(narrow(0), caller("org_2")));
    assert!(blocks.add(narrow(0), platform_caller()));
}

#[test]
fn an_update_that_is_not_stored_gives_nothing() {
    let blocks = AccessBlocks::default();
    let update = r#"{"status": "active", "scopes": ["a:read", "b:read"], "expires_at": "2030-01-01T00:00:00Z", "self_rotation": true}"#;
    assert!(blocks.add(change(Action::UpdateApiKey, "key_1", update), platform_caller()));
    let mut disabled = credential("key_1", None, &["a:*"]);
    disabled.key.status = Status::Disabled;
    disabled.key.expires_at = Some(Timestamp::from_millis(5));
    blocks.apply(&mut disabled);
    assert_eq!(disabled.key.scopes, ["a:read"]);
    assert!(!disabled.key.self_rotation);
    assert_eq!(
        (disabled.key.status, disabled.key.expires_at),
        (Status::Disabled, Some(Timestamp::from_millis(5)))
    );
}

#[test]
fn the_end_of_self_rotation_is_blocked_and_its_permission_is_not() {
    let update = |body: &str| change(Action::UpdateApiKey, "key_1", body);
    assert!(!update(r#"{"self_rotation": true, "status": "active"}"#).takes_access_away());
    let end = update(r#"{"self_rotation": false}"#);
    assert!(end.takes_access_away());
    let blocks = AccessBlocks::default();
    assert!(blocks.add(end, platform_caller()));
    let mut key = credential("key_1", None, &[]);
    key.key.self_rotation = true;
    blocks.apply(&mut key);
    assert!(!key.key.self_rotation);
}

#[test]
fn only_a_change_of_the_same_access_ends_a_block() {
    let revoke = || change(Action::RevokeApiKey, "key_1", "{}");
    let update = |body: &str| change(Action::UpdateApiKey, "key_1", body);
    let suspend = || change(Action::UpdateOrganization, "org_1", r#"{"status": "suspended"}"#);
    let suspend_user = || change(Action::UpdateUser, "user_1", r#"{"status": "suspended"}"#);
    let member = ["org_1".to_owned(), "user_1".to_owned()];
    let remove = || AccessChange::from_request(Action::DeleteMembership, &member, None).unwrap();
    for (blocked, stored, ends) in [
        (revoke(), revoke(), true),
        // Nobody but the revocation itself ends its block: a stored revocation can't be undone either.
        (revoke(), update(r#"{"status": "active"}"#), false),
        (revoke(), update(r#"{"status": "disabled"}"#), false),
        (revoke(), update(r#"{"scopes": []}"#), false),
        (revoke(), change(Action::RotateApiKey, "key_1", "{}"), false),
        (revoke(), change(Action::RevokeApiKey, "key_2", "{}"), false),
        (update(r#"{"status": "disabled"}"#), update(r#"{"status": "active"}"#), true),
        (update(r#"{"status": "disabled"}"#), update(r#"{"scopes": ["a"]}"#), false),
        (update(r#"{"scopes": [], "status": "disabled"}"#), update(r#"{"scopes": ["a"]}"#), false),
        (update(r#"{"scopes": []}"#), update(r#"{"scopes": ["a"], "status": "active"}"#), true),
        (update(r#"{"scopes": []}"#), revoke(), true),
        (update(r#"{"self_rotation": false}"#), update(r#"{"self_rotation": true}"#), true),
        (update(r#"{"self_rotation": false}"#), update(r#"{"scopes": []}"#), false),
        (
            change(Action::ExpirePreviousSecret, "key_1", "{}"),
            change(Action::RotateApiKey, "key_1", "{}"),
            true,
        ),
        (suspend(), change(Action::UpdateOrganization, "org_1", r#"{"status": "active"}"#), true),
        (suspend(), change(Action::DeleteOrganization, "org_1", "{}"), true),
        (change(Action::DeleteOrganization, "org_1", "{}"), suspend(), false),
        (remove(), suspend_user(), false),
        (remove(), change(Action::DeleteUser, "user_1", "{}"), true),
        (suspend_user(), remove(), false),
    ] {
        let blocks = AccessBlocks::default();
        blocks.add(blocked.clone(), platform_caller());
        blocks.lift_stored(&[Invalidation::Id(blocked.id.clone()), Invalidation::All]);
        assert_eq!(blocks.len(), 1);
        blocks.lift_stored(&[Invalidation::Access(stored.clone())]);
        assert_eq!(blocks.len() == 0, ends, "{stored:?} after {blocked:?}");
    }
}
