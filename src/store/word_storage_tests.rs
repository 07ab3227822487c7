//! When changes of the table `words` are stored.

use super::*;
use crate::domain::id::Kind;
use crate::domain::page::{Order, Page};
use crate::domain::patch::Metadata;
use crate::domain::search::SearchQuery;
use crate::domain::user::{Status, User, UserFilter};
use crate::store::{check_words, users};

fn user(number: usize) -> User {
    User {
        id: format!("user_{number}"),
        email: format!("{number}@example.com"),
        name: format!("Name {number}"),
        external_id: None,
        status: Status::Active,
        metadata: Metadata::new(),
        created_at: Timestamp::from_millis(0),
        updated_at: Timestamp::from_millis(0),
        revision: 1,
    }
}

fn add(tx: &Tx<'_>, number: usize) -> Result<()> {
    users::insert(tx, &user(number), None)
}

async fn stored_users(db: &Db) -> Vec<String> {
    let sql = "SELECT id FROM users ORDER BY seq";
    db.read(move |tx| tx.query_all(sql, &[], |row| row.get(0))).await.unwrap()
}

#[tokio::test]
async fn i2_words_of_changes_that_are_rolled_back_are_not_stored() {
    let (_dir, db, _) = open_new_database().await;
    let release = block_writer(&db).await;
    let failed = poll_once(db.write(|tx| {
        add(tx, 1)?;
        Err::<(), _>(Error::internal("on purpose"))
    }))
    .await;
    let panicked = poll_once(db.write::<(), _>(|tx| {
        add(tx, 2)?;
        panic!("on purpose")
    }))
    .await;
    let partly_failed = poll_once(db.write(|tx| {
        add(tx, 3)?;
        let part = tx.run_in_savepoint(|tx| {
            add(tx, 4)?;
            users::update(tx, &user(3), &User { name: "Other".to_owned(), ..user(3) })?;
            users::delete(tx, "user_3", Timestamp::from_millis(1))?;
            Err::<(), _>(Error::internal("on purpose"))
        })?;
        assert!(part.is_err());
        add(tx, 5)
    }))
    .await;
    drop(release);
    failed.await.unwrap_err();
    panicked.await.unwrap_err();
    partly_failed.await.unwrap();
    assert_eq!(stored_users(&db).await, ["user_3", "user_5"]);
    assert_eq!(db.read(check_words::find_wrong_words).await.unwrap(), [""; 0]);
}

/// A row that is added, changed and deleted in one group, by several mutations.
#[tokio::test]
async fn words_follow_all_changes_of_a_group() {
    let (_dir, db, _) = open_new_database().await;
    let release = block_writer(&db).await;
    let added = poll_once(db.write(|tx| (1..=3).try_for_each(|number| add(tx, number)))).await;
    let renamed = poll_once(db.write(|tx| {
        users::update(tx, &user(1), &User { name: "Other".to_owned(), ..user(1) })?;
        users::update(tx, &User { name: "Other".to_owned(), ..user(1) }, &user(1))?;
        users::update(tx, &user(2), &User { name: "Other".to_owned(), ..user(2) })
    }))
    .await;
    let deleted = poll_once(db.write(|tx| users::delete(tx, "user_3", Timestamp::from_millis(1)))).await;
    drop(release);
    added.await.unwrap();
    renamed.await.unwrap();
    deleted.await.unwrap();
    assert_eq!(db.read(check_words::find_wrong_words).await.unwrap(), [""; 0]);
    let rows = "SELECT coalesce(sum(length(offsets)), 0) FROM words WHERE word = ?1";
    for (word, expected) in [("name", 1), ("other", 1), ("3", 0), ("example", 2)] {
        let count = db.read(move |tx| tx.query_first::<i64>(rows, params![word], |row| row.get(0)));
        assert_eq!(count.await.unwrap(), Some(expected), "{word}");
    }
}

/// A damaged table `words` fails only the changes of a group that change words.
#[tokio::test]
async fn i13_changes_without_words_are_stored_although_those_of_their_group_fail() {
    let (_dir, db, _) = open_new_database().await;
    db.write(|tx| add(tx, 1)).await.unwrap();
    db.write(|tx| tx.execute("DROP TABLE words", &[])).await.unwrap();
    let release = block_writer(&db).await;
    let added = poll_once(db.write(|tx| add(tx, 2))).await;
    let suspended =
        poll_once(db.write(|tx| users::update(tx, &user(1), &User { status: Status::Suspended, ..user(1) })))
            .await;
    drop(release);
    added.await.unwrap_err();
    suspended.await.unwrap();
    let status = db.read(|tx| Ok(users::get(tx, "user_1")?.map(|user| user.status))).await.unwrap();
    assert_eq!(status, Some(Status::Suspended));
    assert_eq!(stored_users(&db).await, ["user_1"]);
}

/// The ids of the users with this word, the newest first.
fn search(tx: &Tx<'_>, word: &str) -> Result<Vec<String>> {
    let q = Some(SearchQuery::parse(word, Kind::User).unwrap());
    let page = Page { limit: 20, order: Order::Desc, after: None };
    let found = users::list(tx, &UserFilter { q, ..UserFilter::default() }, &page)?;
    Ok(found.rows.into_iter().map(|user| user.id).collect())
}

/// A search stores the words of all mutations before it. What a savepoint takes back is stored again with the group.
#[tokio::test]
async fn a_search_finds_what_its_transaction_has_changed() {
    let (_dir, db, _) = open_new_database().await;
    let release = block_writer(&db).await;
    let added = poll_once(db.write(|tx| add(tx, 1))).await;
    let searched = poll_once(db.write(|tx| {
        add(tx, 2)?;
        let part = tx.run_in_savepoint(|tx| {
            add(tx, 3)?;
            users::delete(tx, "user_1", Timestamp::from_millis(1))?;
            assert_eq!(search(tx, "name")?, ["user_3", "user_2"]);
            Err::<(), _>(Error::internal("on purpose"))
        })?;
        assert!(part.is_err());
        let found = search(tx, "name")?;
        add(tx, 4)?;
        users::delete(tx, "user_2", Timestamp::from_millis(1))?;
        Ok((found, search(tx, "name")?))
    }))
    .await;
    let failed = poll_once(db.write(|tx| {
        users::delete(tx, "user_1", Timestamp::from_millis(1))?;
        assert_eq!(search(tx, "name")?, ["user_4"]);
        Err::<(), _>(Error::internal("on purpose"))
    }))
    .await;
    let last = poll_once(db.write(|tx| add(tx, 5))).await;
    drop(release);
    added.await.unwrap();
    let expected = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    assert_eq!(searched.await.unwrap(), (expected(&["user_2", "user_1"]), expected(&["user_4", "user_1"])));
    failed.await.unwrap_err();
    last.await.unwrap();
    assert_eq!(db.read(|tx| search(tx, "name")).await.unwrap(), ["user_5", "user_4", "user_1"]);
    assert_eq!(db.read(check_words::find_wrong_words).await.unwrap(), [""; 0]);
}
