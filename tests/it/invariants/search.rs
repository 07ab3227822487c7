//! Searches by words find what the caller's lists show, and nothing else, also while names change.

use serde_json::{Value, json};

use crate::support::{Answer, Client, Server};

#[track_caller]
fn expect_ok(answer: Answer, status: u16) -> Value {
    assert_eq!((answer.status, answer.code()), (status, ""), "{}", answer.text);
    answer.json["data"].clone()
}

/// A field of each row of a list.
fn column(list: &Value, field: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|row| row[field].as_str().unwrap().to_owned()).collect()
}

/// The ids that a list has for a query.
async fn found(client: &Client, list: &str, query: &str) -> Vec<String> {
    let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
    column(&expect_ok(client.get(&format!("/{list}?limit=100&q={query}")).await, 200), "id")
}

async fn create(client: &Client, path: &str, body: Value) -> Value {
    expect_ok(client.post(path, body).await, 201)
}

/// An organization never finds another's rows: by no word of a name, an email address, an external id, an id or a
/// `start`, also together with a word of its own.
#[tokio::test]
async fn i5_no_word_finds_another_organizations_rows() {
    let server = Server::start().await;
    let admin = server.admin();
    for id in ["org_alpha", "org_bravo"] {
        let name = format!("{} Unlimited", &id[4..]);
        let email = format!("office@{}.example", &id[4..]);
        create(&admin, "/organizations", json!({"id": id, "name": name, "email": email})).await;
    }
    let (alpha, _) = server.key(Some("org_alpha"), &["*"]).await;
    let (bravo, _) = server.key(Some("org_bravo"), &["*"]).await;
    let user = json!({"name": "Zoë Quill", "email": "zoe.q@bravo.example", "external_id": "auth0|77ab"});
    let user = create(&bravo, "/users", user).await;
    let key = create(&bravo, "/api-keys", json!({"name": "Quarterly Report", "scopes": []})).await;
    let start = key["start"].as_str().unwrap();
    let key_id = key["id"].as_str().unwrap();
    let user_id = user["id"].as_str().unwrap();
    for (list, id, queries) in [
        (
            "organizations",
            "org_bravo",
            &["bravo", "BRAVO unlimited", "org_bravo", "office@bravo.example"][..],
        ),
        (
            "users",
            user_id,
            &["zoë", "quill zo", "zoe.q@bravo.example", "auth0|77ab", "77ab", user_id, &user_id[..12]],
        ),
        ("api-keys", key_id, &["quarterly", "rep quart", start, &start[5..], key_id, &key_id[..20]]),
    ] {
        for query in queries {
            let own = found(&bravo, list, query).await;
            assert!(own.iter().any(|found| found == id), "{list} {query}: {own:?}");
            let all = found(&admin, list, query).await;
            assert!(all.iter().any(|found| found == id), "{list} {query}: {all:?}");
            let others = found(&alpha, list, query).await;
            assert!(!others.iter().any(|found| found == id), "{list} {query}: {others:?}");
        }
    }
    // The user joins the other organization, and is found there as long as the membership lasts.
    let member = json!({"user_id": user_id, "role": "member"});
    create(&admin, "/organizations/org_alpha/members", member).await;
    assert_eq!(found(&alpha, "users", "quill").await, [user_id]);
    expect_ok(admin.patch(&format!("/users/{user_id}"), json!({"name": "Zoë Feather"})).await, 200);
    for client in [&alpha, &bravo, &admin] {
        assert_eq!(found(client, "users", "quill").await, [""; 0]);
        assert_eq!(found(client, "users", "feather").await, [user_id]);
    }
    expect_ok(admin.delete(&format!("/organizations/org_bravo/members/{user_id}")).await, 200);
    assert_eq!(found(&bravo, "users", "feather").await, [""; 0]);
    assert_eq!(found(&alpha, "users", "feather").await, [user_id]);
}

/// Whatever is deleted is found by none of its words. Revoked keys are listed, so they are found.
#[tokio::test]
async fn what_was_deleted_is_not_found() {
    let server = Server::start().await;
    let admin = server.admin();
    let organization = json!({"id": "org_1", "name": "Gone Soon", "email": "mail@gone.example"});
    create(&admin, "/organizations", organization).await;
    let user =
        json!({"id": "user_1a", "name": "Gone Too", "email": "too@gone.example", "external_id": "gone-9"});
    create(&admin, "/users", user).await;
    create(&admin, "/organizations/org_1/members", json!({"user_id": "user_1a", "role": "member"})).await;
    let key = json!({"id": "key_1a", "organization_id": "org_1", "user_id": "user_1a", "name": "Gone Key", "scopes": []});
    create(&admin, "/api-keys", key).await;
    for list in ["organizations", "users", "api-keys"] {
        assert_eq!(found(&admin, list, "gone").await.len(), 1, "{list}");
    }
    expect_ok(admin.delete("/organizations/org_1").await, 200);
    assert_eq!(found(&admin, "organizations", "gone").await, [""; 0]);
    assert_eq!(found(&admin, "users", "gone").await, ["user_1a"]);
    expect_ok(admin.delete("/users/user_1a").await, 200);
    for word in ["gone", "too", "1a", "user_1a", "gone-9"] {
        assert_eq!(found(&admin, "users", word).await, [""; 0], "{word}");
    }
    assert_eq!(found(&admin, "api-keys", "gone").await, ["key_1a"]);
}

/// A search sees each row before or after a change: with a name that it searched for, and never without a row that it
/// finds by another word.
#[tokio::test]
async fn searches_beside_renames_find_current_names() {
    const RENAMES: usize = 150;
    let server = Server::start().await;
    let admin = server.admin();
    create(&admin, "/users", json!({"id": "user_moving", "name": "Otter 0", "email": "a@b"})).await;
    let renames = tokio::spawn({
        let admin = admin.clone();
        async move {
            for number in 1..=RENAMES {
                let animal = ["Otter", "Badger"][number % 2];
                let name = format!("{animal} {number}");
                expect_ok(admin.patch("/users/user_moving", json!({"name": name})).await, 200);
            }
        }
    });
    let mut searches = 0;
    while !renames.is_finished() || searches == 0 {
        for animal in ["otter", "badger"] {
            let listed = expect_ok(admin.get(&format!("/users?q={animal}")).await, 200);
            for name in column(&listed, "name") {
                assert!(name.to_lowercase().starts_with(animal), "{animal}: {name}");
            }
        }
        assert_eq!(found(&admin, "users", "moving").await, ["user_moving"]);
        searches += 1;
    }
    renames.await.unwrap();
    assert_eq!(found(&admin, "users", &format!("otter {RENAMES}")).await, ["user_moving"]);
    assert_eq!(found(&admin, "users", "badger").await, [""; 0]);
}

/// A name may have 200 characters. The first 16 words of it are found, and a change of it stores no more.
#[tokio::test]
async fn the_words_of_a_long_name_are_limited() {
    let server = Server::start().await;
    let admin = server.admin();
    let words: Vec<String> = (0..50).map(|number| format!("ö{number:02}")).collect();
    let key = json!({"id": "key_long", "name": words.join(" "), "scopes": []});
    create(&admin, "/api-keys", key).await;
    for (number, word) in words.iter().enumerate() {
        assert_eq!(
            found(&admin, "api-keys", word).await.contains(&"key_long".to_owned()),
            number < 16,
            "{word}"
        );
    }
    let wide = "𐐨".repeat(200);
    create(&admin, "/api-keys", json!({"id": "key_wide", "name": wide, "scopes": []})).await;
    assert_eq!(found(&admin, "api-keys", &"𐐀".repeat(199)).await, ["key_wide"]);
    assert_eq!(found(&admin, "api-keys", &format!("{}a", "𐐀".repeat(100))).await, [""; 0]);
}

/// A query is answered or refused, whatever it contains, and its special characters of SQL, patterns and indexes have no
/// meaning.
#[tokio::test]
async fn no_query_is_more_than_words() {
    let server = Server::start().await;
    let admin = server.admin();
    create(
        &admin,
        "/api-keys",
        json!({"id": "key_plain", "name": "Plain 100% \"quoted\" name_x", "scopes": []}),
    )
    .await;
    let long_word = "plain".repeat(40);
    let many_words = ["plain"; 33].join(" ");
    for (query, expected) in [
        ("100%", Ok(true)),
        ("\"quoted\"", Ok(true)),
        ("quot*", Ok(true)),
        ("name_x", Ok(true)),
        ("pl%", Ok(true)),
        ("p%n", Err("INVALID_LENGTH")),
        ("%", Err("INVALID_VALUE")),
        ("%_*\"'\\--;", Err("INVALID_VALUE")),
        ("\u{200b}\u{202e}", Err("INVALID_VALUE")),
        ("🎉🎉", Err("INVALID_VALUE")),
        ("\u{301}\u{301}", Ok(false)),
        ("plain' OR 1=1", Err("INVALID_LENGTH")),
        ("plain OR NOT name", Err("TOO_MANY")),
        ("pl\u{10ffff}", Ok(true)),
        ("\u{10ffff}\u{10ffff}", Err("INVALID_VALUE")),
        ("ｐｌａｉｎ", Ok(false)),
        ("ΠLAIN", Ok(false)),
        ("PLAIN name QUOTED", Ok(true)),
        (&long_word, Ok(false)),
        (&many_words, Ok(true)),
        ("pl\0ain", Err("INVALID_CHARACTER")),
    ] {
        let encoded: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let answer = admin.get(&format!("/api-keys?q={encoded}")).await;
        match expected {
            Ok(is_found) => {
                let ids = column(&expect_ok(answer, 200), "id");
                assert_eq!(ids.contains(&"key_plain".to_owned()), is_found, "{query:?}");
            }
            Err(code) => {
                assert_eq!((answer.status, answer.code()), (400, "INVALID_REQUEST"), "{query:?}");
                let detail = &answer.json["error"]["details"][0];
                assert_eq!((&detail["parameter"], &detail["code"]), (&json!("q"), &json!(code)), "{query:?}");
            }
        }
        let search = admin.get(&format!("/search?q={encoded}")).await;
        assert!([200, 400].contains(&search.status), "{query:?}: {}", search.text);
    }
}

/// A cursor continues the list that it is of: another query or filter refuses it, and one that was created before a change
/// skips and repeats nothing.
#[tokio::test]
async fn cursors_of_searches_belong_to_their_query() {
    let server = Server::start().await;
    let admin = server.admin();
    for number in 0..9 {
        let key = json!({"id": format!("key_{number}"), "name": format!("Otter {number}"), "scopes": []});
        create(&admin, "/api-keys", key).await;
    }
    let first = admin.get("/api-keys?q=otter&limit=4&never_used=true").await;
    assert_eq!(column(&first.json["data"], "id"), ["key_8", "key_7", "key_6", "key_5"]);
    let cursor = first.json["metadata"]["nextCursor"].as_str().unwrap().to_owned();
    for other in [
        "q=ott&never_used=true",
        "q=otter",
        "never_used=true",
        "q=otter&never_used=false",
        "q=otter&never_used=true&status=active",
        "q=otter&never_used=true&order=asc",
        "q=otter&never_used=true&expires_before=2027-01-01T00:00:00Z",
        "q=otter&never_used=true&last_used_before=2027-01-01",
    ] {
        let answer = admin.get(&format!("/api-keys?{other}&cursor={cursor}")).await;
        assert_eq!((answer.status, answer.code()), (400, "INVALID_CURSOR"), "{other}");
    }
    // One of the first page matches no more, one is new, and one that is still to come matches no more.
    for id in ["key_6", "key_3"] {
        expect_ok(admin.patch(&format!("/api-keys/{id}"), json!({"name": "Badger"})).await, 200);
    }
    create(&admin, "/api-keys", json!({"id": "key_9", "name": "Otter 9", "scopes": []})).await;
    let rest = admin.get(&format!("/api-keys?q=otter&limit=100&never_used=true&cursor={cursor}")).await;
    assert_eq!(column(&expect_ok(rest, 200), "id"), ["key_4", "key_2", "key_1", "key_0"]);
}

/// All members are listed in the order in which the users were stored, page by page, with and without filters.
#[tokio::test]
async fn members_are_listed_as_any_users() {
    let server = Server::start().await;
    let admin = server.admin();
    create(&admin, "/organizations", json!({"id": "org_1", "name": "One", "email": "a@b.example"})).await;
    let (key, _) = server.key(Some("org_1"), &["admin:users"]).await;
    for number in 0..30 {
        let name = format!("Member{number}");
        let id = format!("user_{number:02}");
        create(&admin, "/users", json!({"id": id, "name": name, "email": format!("{number}@b.example")}))
            .await;
    }
    let mut members: Vec<String> = Vec::new();
    for number in (0..30).rev().filter(|number| number % 3 != 0) {
        let id = format!("user_{number:02}");
        create(&admin, "/organizations/org_1/members", json!({"user_id": id, "role": "member"})).await;
        members.push(id);
    }
    for (query, order) in [("", "desc"), ("", "asc"), ("&q=member", "desc"), ("&status=active", "asc")] {
        let mut ids = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = key.get(&format!("/users?limit=7&order={order}{query}{cursor}")).await;
            ids.extend(column(&page.json["data"], "id"));
            match page.json["metadata"]["nextCursor"].as_str() {
                None => break,
                Some(next) => cursor = format!("&cursor={next}"),
            }
        }
        if order == "asc" {
            ids.reverse();
        }
        assert_eq!(ids, members, "{query} {order}");
    }
    assert_eq!(found(&admin, "users", "member").await.len(), 30);
}
