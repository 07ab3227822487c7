//! The query plans of lists. Each page is read through an index in the order of the list, so its cost doesn't
//! depend on the number of rows before and after it.

use super::*;
use crate::domain::api_key::{ApiKeyFilter, Status};
use crate::domain::audit;
use crate::domain::id::Kind;
use crate::domain::organization::{self, OrganizationFilter};
use crate::domain::search::SearchQuery;
use crate::domain::time::Timestamp;
use crate::domain::user::{self, UserFilter};
use crate::store::search::Lookup;
use crate::store::test_database::open_new_database;
use crate::store::{
    api_keys, audit as audit_store, organizations as organization_store, users as user_store,
};

/// SQLite's query plan for a page other than the first: the step that reads the first table, and the steps
/// that sort.
fn query_plan(tx: &Tx<'_>, list: ListQuery, seq: &str, order: Order) -> Result<String> {
    let (sql, values) = list.page_statement(seq, &Page { limit: 20, order, after: Some(1000) });
    let explain = format!("EXPLAIN QUERY PLAN {sql}");
    let steps = tx.query_all(&explain, &values, |row| row.get(3))?;
    let relevant = |(index, step): &(usize, String)| *index == 0 || step.contains("TEMP");
    Ok(steps.into_iter().enumerate().filter(relevant).map(|(_, step)| step).collect::<Vec<_>>().join(", "))
}

#[tokio::test]
async fn every_page_of_events_is_read_through_an_index_in_its_order() {
    let (_dir, db) = open_new_database();
    let checked = db.read(|tx| {
        let all = audit::AuditFilter::default();
        let some = || Some("x".to_owned());
        let from = Some(Timestamp::from_millis(1));
        let organization = audit::AuditFilter { org_id: some(), ..all.clone() };
        let cases = [
            ("e USING INTEGER PRIMARY KEY", all.clone()),
            ("e USING INTEGER PRIMARY KEY", audit::AuditFilter { from, to: from, ..all.clone() }),
            (
                "e USING INTEGER PRIMARY KEY",
                audit::AuditFilter { outcome: Some(audit::Outcome::Success), ..all.clone() },
            ),
            (
                "e USING INDEX audit_events_outcome",
                audit::AuditFilter { outcome: Some(audit::Outcome::Denied), ..all.clone() },
            ),
            (
                "e USING INDEX audit_events_action",
                audit::AuditFilter { action: some(), outcome: Some(audit::Outcome::Denied), ..all.clone() },
            ),
            (
                "e USING INDEX audit_events_organization",
                audit::AuditFilter { from, action: some(), ..organization.clone() },
            ),
            (
                "e USING INDEX audit_events_actor",
                audit::AuditFilter { actor_id: some(), ..organization.clone() },
            ),
            (
                "e USING INDEX audit_events_target",
                audit::AuditFilter { target_id: some(), actor_id: some(), ..organization },
            ),
        ];
        for (expected, filter) in cases {
            for order in [Order::Desc, Order::Asc] {
                let plan = query_plan(tx, audit_store::list_query(tx, &filter)?, "e.seq", order)?;
                assert!(plan.starts_with(&format!("SEARCH {expected} (")), "{filter:?}: {plan}");
                assert!(plan.contains("seq") || plan.contains("rowid"), "{filter:?}: {plan}");
                assert!(!plan.contains("TEMP"), "{filter:?}: {plan}");
            }
        }
        Ok(())
    });
    checked.await.unwrap();
}

#[tokio::test]
async fn every_page_of_keys_is_read_through_an_index_in_its_order() {
    let (_dir, db) = open_new_database();
    let checked = db.read(|tx| {
        let all = ApiKeyFilter::default();
        let some = || Some("x".to_owned());
        let disabled = ApiKeyFilter { status: Some(Status::Disabled), ..all.clone() };
        let organization = ApiKeyFilter { organization_id: some(), ..disabled.clone() };
        let cases = [
            ("k USING INTEGER PRIMARY KEY", all.clone()),
            ("k USING INDEX api_keys_status", disabled.clone()),
            ("k USING INDEX api_keys_status", ApiKeyFilter { status: Some(Status::Active), ..all.clone() }),
            ("k USING INDEX api_keys_organization", organization.clone()),
            ("k USING INDEX api_keys_organization", ApiKeyFilter { scope: some(), ..organization.clone() }),
            ("k USING INDEX api_keys_user", ApiKeyFilter { user_id: some(), ..organization }),
            ("s USING PRIMARY KEY", ApiKeyFilter { scope: some(), ..disabled }),
        ];
        for (expected, filter) in cases {
            for order in [Order::Desc, Order::Asc] {
                let now = Timestamp::from_millis(1);
                let list = api_keys::list_query(&filter, now, Lookup::ByConditions);
                let plan = query_plan(tx, list, api_keys::order_column(&filter, now), order)?;
                assert!(plan.starts_with(&format!("SEARCH {expected} (")), "{filter:?}: {plan}");
                assert!(plan.contains("seq") || plan.contains("rowid"), "{filter:?}: {plan}");
                assert!(!plan.contains("TEMP"), "{filter:?}: {plan}");
            }
        }
        Ok(())
    });
    checked.await.unwrap();
}

/// Rows that were found by words are looked up one by one, whatever other indexes the conditions fit.
#[tokio::test]
async fn rows_of_a_search_are_looked_up_by_seq() {
    let (_dir, db) = open_new_database();
    let checked = db.read(|tx| {
        let some = || Some("x".to_owned());
        let query = SearchQuery::parse("word", Kind::ApiKey).ok();
        let all = ApiKeyFilter { q: query, ..ApiKeyFilter::default() };
        let scope = ApiKeyFilter { scope: some(), ..all.clone() };
        let status = ApiKeyFilter { status: Some(Status::Disabled), ..all.clone() };
        for filter in [all, scope, status.clone(), ApiKeyFilter { organization_id: some(), ..status }] {
            for order in [Order::Desc, Order::Asc] {
                let now = Timestamp::from_millis(1);
                let seq = api_keys::order_column(&filter, now);
                let list = api_keys::list_query(&filter, now, Lookup::BySeq);
                let plan = query_plan(tx, list.and_seq_in(seq, &[1, 2], 20), seq, order)?;
                assert!(
                    plan.starts_with("SEARCH k USING INTEGER PRIMARY KEY (rowid=?)"),
                    "{filter:?}: {plan}"
                );
            }
        }
        Ok(())
    });
    checked.await.unwrap();
}

#[tokio::test]
async fn each_filter_of_organizations_and_users_uses_an_index_in_the_order_of_the_list() {
    let (_dir, db) = open_new_database();
    let checked = db.read(|tx| {
        let some = || Some("x".to_owned());
        let suspended = OrganizationFilter {
            status: Some(organization::Status::Suspended),
            ..OrganizationFilter::default()
        };
        let organizations = [
            ("INTEGER PRIMARY KEY", OrganizationFilter::default()),
            (
                "INDEX organizations_plan",
                OrganizationFilter { plan: some(), ..OrganizationFilter::default() },
            ),
            ("INDEX organizations_plan", OrganizationFilter { plan: some(), ..suspended.clone() }),
            ("INDEX organizations_status", suspended),
        ];
        let suspended = UserFilter { status: Some(user::Status::Suspended), ..UserFilter::default() };
        let users = [
            ("INTEGER PRIMARY KEY", UserFilter::default()),
            ("INDEX users_external_id", UserFilter { external_id: some(), ..suspended.clone() }),
            ("INDEX users_email", UserFilter { email: some(), external_id: some(), ..suspended.clone() }),
            ("INDEX users_status", suspended),
        ];
        let organizations = organizations.map(|(expected, filter)| {
            (expected, "seq", organization_store::list_query(&filter, Lookup::ByConditions))
        });
        let users = users.map(|(expected, filter)| {
            (expected, "u.seq", user_store::list_query(&filter, Lookup::ByConditions))
        });
        for (expected, seq, list) in organizations.into_iter().chain(users) {
            for order in [Order::Desc, Order::Asc] {
                let plan = query_plan(tx, list.clone(), seq, order)?;
                assert!(plan.contains(&format!(" USING {expected}")), "{expected}: {plan}");
                assert!(!plan.contains("TEMP"), "{expected}: {plan}");
            }
        }
        Ok(())
    });
    checked.await.unwrap();
}
