//! Searches find what a comparison with every row finds, in the order of the list, whatever their source of rows is.

use super::*;
use crate::domain::membership::{Membership, Role};
use crate::domain::organization::{self, Organization};
use crate::domain::time::Timestamp;
use crate::domain::user::{self, User, UserFilter};
use crate::domain::{id::Kind, patch::Metadata};
use crate::store::db::{Db, Options};
use crate::store::test_database::test_options;
use crate::store::words::{ALL_ROWS, EVERY_ROW};
use crate::store::{check_words, memberships, organizations, users};

const USERS: usize = 4000;
const SYLLABLES: [&str; 8] = ["ma", "el", "Zü", "ør", "12", "7", "b", "日本"];
const SEPARATORS: [&str; 6] = [" ", "-", ".", "'", "_", " & "];

fn open_new_database() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    // One read compares many searches with all rows.
    let read_timeout = std::time::Duration::from_secs(300);
    let db = Db::open(&Options { read_timeout, ..test_options(dir.path()) }, |_| ()).unwrap();
    (dir, db)
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_795_417_689_000)
}

/// One to four random words.
fn random_text(random: &mut fastrand::Rng) -> String {
    let mut text = String::new();
    for index in 0..random.usize(1..=4) {
        if index > 0 {
            text.push_str(random.choice(SEPARATORS).unwrap());
        }
        for _ in 0..random.usize(1..=3) {
            text.push_str(random.choice(SYLLABLES).unwrap());
        }
    }
    text
}

fn user(number: usize, name: String, external_id: Option<String>) -> User {
    User {
        id: format!("user_u{number}"),
        email: format!("{number}@mail{}.example", number % 7),
        name,
        external_id,
        status: user::Status::Active,
        metadata: Metadata::new(),
        created_at: now(),
        updated_at: now(),
        revision: 1,
    }
}

fn organization(id: &str) -> Organization {
    Organization {
        id: id.to_owned(),
        name: id.to_owned(),
        email: "a@b".to_owned(),
        plan: "standard".to_owned(),
        limits: None,
        status: organization::Status::Active,
        metadata: Metadata::new(),
        created_at: now(),
        updated_at: now(),
        revision: 1,
    }
}

fn join(tx: &Tx<'_>, organization_id: &str, user: &User) -> Result<()> {
    let membership = Membership {
        organization_id: organization_id.to_owned(),
        user_id: user.id.clone(),
        role: Role::Member,
        user: user.clone(),
        created_at: now(),
        updated_at: now(),
        revision: 1,
    };
    memberships::insert(tx, &membership).map(drop)
}

/// True if each word of the query begins a word of one of the texts. All texts here are lower-cased in the same way as
/// they are folded.
fn is_match(user: &User, query: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let lower = text.to_lowercase();
        lower.split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect()
    };
    let id = &user.id["user_".len()..];
    let texts = [user.name.as_str(), &user.email, id, user.external_id.as_deref().unwrap_or_default()];
    let stored: Vec<String> = texts.iter().flat_map(|text| words(text)).collect();
    let is_found = |word: &String| stored.iter().any(|stored| stored.starts_with(word.as_str()));
    words(query).iter().filter(|word| !word.is_empty()).all(is_found)
}

/// Reads all pages of a search. Returns the ids and the number of pages.
fn search_all(tx: &Tx<'_>, filter: &UserFilter, order: Order, limit: usize) -> Result<(Vec<String>, usize)> {
    read_pages(order, limit, |page| users::list(tx, filter, page))
}

fn read_pages(
    order: Order,
    limit: usize,
    read: impl Fn(&Page) -> Result<Rows<User>>,
) -> Result<(Vec<String>, usize)> {
    let mut page = Page { limit, order, after: None };
    let mut ids = Vec::new();
    let mut pages = 0;
    loop {
        let found = read(&page)?;
        assert!(found.rows.len() <= limit);
        ids.extend(found.rows.into_iter().map(|user| user.id));
        pages += 1;
        match found.next {
            None => return Ok((ids, pages)),
            next => page.after = next,
        }
    }
}

fn search_users(tx: &Tx<'_>, search: &Search<'_>, page: &Page) -> Result<Rows<User>> {
    let list = |lookup: Lookup| {
        let sql = format!("SELECT u.seq, {} FROM users u{}", users::COLUMNS, lookup.hint());
        ListQuery::new(&format!("{sql} WHERE u.deleted_at IS NULL"))
    };
    fetch_page(tx, list, "u.seq", page, search, |row| users::user_from_row(row, 1))
}

fn filter(query: &str, organization_id: Option<&str>) -> UserFilter {
    UserFilter {
        q: Some(SearchQuery::parse(query, Kind::User).unwrap()),
        organization_id: organization_id.map(str::to_owned),
        ..UserFilter::default()
    }
}

#[tokio::test]
async fn a_search_finds_what_a_comparison_with_every_row_finds() {
    let (_dir, db) = open_new_database();
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stored: Vec<(User, bool)> = (0..USERS)
        .map(|number| {
            let external_id = random.bool().then(|| random_text(&mut random));
            (user(number, random_text(&mut random), external_id), random.u8(..) < 8)
        })
        .collect();
    let rows = stored.clone();
    let written = db.write(move |tx| {
        for id in ["org_few", "org_none"] {
            organizations::insert(tx, &organization(id), None)?;
        }
        for (user, is_member) in &rows {
            users::insert(tx, user, None)?;
            if *is_member {
                join(tx, "org_few", user)?;
            }
        }
        Ok(())
    });
    written.await.unwrap();

    // Some are renamed, some removed from the organization, some deleted.
    let mut changes = Vec::new();
    for (index, (user, is_member)) in stored.iter_mut().enumerate().filter(|(index, _)| index % 10 == 0) {
        let before = user.clone();
        user.name = random_text(&mut random);
        let is_removed = *is_member && index % 20 == 0;
        *is_member &= !is_removed;
        changes.push((before, user.clone(), is_removed, index % 50 == 0));
    }
    let deleted: Vec<String> =
        changes.iter().filter(|(.., is_deleted)| *is_deleted).map(|(before, ..)| before.id.clone()).collect();
    stored.retain(|(user, _)| !deleted.contains(&user.id));
    let written = db.write(move |tx| {
        for (before, after, is_removed, is_deleted) in &changes {
            users::update(tx, before, after)?;
            if *is_removed {
                memberships::delete(tx, "org_few", &after.id)?;
            }
            if *is_deleted {
                memberships::delete_all_of_user(tx, &after.id)?;
                users::delete(tx, &after.id, now())?;
            }
        }
        Ok(())
    });
    written.await.unwrap();
    assert_eq!(db.read(check_words::find_wrong_words).await.unwrap(), [""; 0]);

    let checked = db.read(move |tx| {
        let mut queries: Vec<String> =
            ["mail", "mail3", "example", "ma", "12", "user", "u1 example", "el zü"]
                .into_iter()
                .map(str::to_owned)
                .collect();
        queries.extend((0..60).map(|_| {
            let (user, _) = random.choice(&stored).unwrap();
            let text =
                if random.bool() { &user.name } else { user.external_id.as_ref().unwrap_or(&user.email) };
            // Beginnings of words of a row that is there.
            let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.chars().count() > 1);
            let beginnings = words.map(|word| word.chars().take(random.usize(2..6)).collect::<String>());
            beginnings.take(3).collect::<Vec<_>>().join(" ")
        }));
        for query in queries.iter().map(String::as_str).filter(|query| !query.is_empty()) {
            for organization_id in [None, Some("org_few"), Some("org_none"), Some("org_missing")] {
                let order = *random.choice(&[Order::Asc, Order::Desc]).unwrap();
                let limit = *random.choice(&[1, 20, 100]).unwrap();
                let limit = if organization_id.is_none() { limit.max(20) } else { limit };
                let is_listed = |is_member: bool| match organization_id {
                    None => true,
                    Some(id) => id == "org_few" && is_member,
                };
                let wanted = if query == "user" { "" } else { query };
                let expected =
                    stored.iter().filter(|(user, member)| is_listed(*member) && is_match(user, wanted));
                let mut expected: Vec<_> = expected.map(|(user, _)| user.id.clone()).collect();
                if order == Order::Desc {
                    expected.reverse();
                }
                let filter = filter(query, organization_id);
                let (found, _) = search_all(tx, &filter, order, limit)?;
                assert_eq!(found, expected, "seed {seed}: {query:?} {organization_id:?} {order:?} {limit}");
                // The same from the list itself, if too many rows would have to be sorted.
                let is_compared = random.u8(..) < 32;
                if let Some(query) = filter.q.as_ref().filter(|query| is_compared && query.has_words()) {
                    let search = match organization_id {
                        None => Search::new(query, ALL_ROWS, ListAccess::InOrder),
                        Some(id) => Search::new(query, words::tenant(tx, Some(id))?, ListAccess::NotInOrder),
                    };
                    let search = Search { max_sorted_rows: 3, ..search };
                    let (found, _) = read_pages(order, limit, |page| search_users(tx, &search, page))?;
                    assert_eq!(found, expected, "seed {seed}: {query:?} {order:?} {limit}");
                }
            }
        }
        Ok(())
    });
    checked.await.unwrap();
}

/// Words that many rows have, but none has together, don't make one page read them all.
#[tokio::test]
async fn the_rows_that_are_read_for_a_page_are_limited() {
    let (_dir, db) = open_new_database();
    let written = db.write(|tx| {
        for number in 0..2 * MAX_READ_ROWS + 500 {
            let name = match number {
                0 => "alpha beta".to_owned(),
                number if number % 2 == 0 => "alpha".to_owned(),
                _ => "beta".to_owned(),
            };
            users::insert(tx, &user(number, name, None), None)?;
        }
        Ok(())
    });
    written.await.unwrap();
    let checked = db.read(|tx| {
        let page = Page { limit: 20, order: Order::Desc, after: None };
        let first = users::list(tx, &filter("alpha beta", None), &page)?;
        assert!(first.rows.is_empty() && first.next.is_some(), "{first:?}");
        let (found, pages) = search_all(tx, &filter("alpha beta", None), Order::Desc, 20)?;
        assert_eq!((found, pages), (vec!["user_u0".to_owned()], 2));
        let (found, pages) = search_all(tx, &filter("alpha beta", None), Order::Asc, 20)?;
        assert_eq!((found, pages), (vec!["user_u0".to_owned()], 2));
        Ok(())
    });
    checked.await.unwrap();
}

/// Which rows are sorted depends on how many there are.
#[tokio::test]
async fn a_search_for_a_beginning_of_many_words_reads_the_list_if_they_have_too_many_rows() {
    let (_dir, db) = open_new_database();
    let written = db.write(|tx| {
        for number in 0..100 {
            let name = format!("alpha{number}");
            users::insert(tx, &user(number, name, None), None)?;
        }
        Ok(())
    });
    written.await.unwrap();
    let checked = db.read(|tx| {
        let query = SearchQuery::parse("alpha", Kind::User).unwrap();
        for (max_sorted_rows, list_access, expected) in [
            (100, ListAccess::InOrder, "rows"),
            (99, ListAccess::InOrder, "list"),
            (1, ListAccess::InOrder, "list"),
            (100, ListAccess::NotInOrder, "rows"),
            (99, ListAccess::NotInOrder, "every row"),
            (100, ListAccess::FewRows, "list"),
        ] {
            let search = Search { max_sorted_rows, ..Search::new(&query, ALL_ROWS, list_access) };
            let source = match find_source::<User>(tx, &search)? {
                Source::Rows(rows) if rows == (1..=100).collect::<Vec<_>>() => "rows",
                Source::Words { words, .. } if words == [EVERY_ROW] => "every row",
                Source::List => "list",
                _ => "other",
            };
            assert_eq!(source, expected, "{max_sorted_rows}");
        }
        Ok(())
    });
    checked.await.unwrap();
}
