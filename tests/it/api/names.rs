//! Names and email addresses: which are accepted, and which count as the same.

use serde_json::json;

use super::{expect_error, expect_invalid, expect_ok};
use crate::support::Server;

#[tokio::test]
async fn emails_that_differ_in_case_normalization_or_domain_notation_are_one() {
    let server = Server::start().await;
    let admin = server.admin();
    for (id, typed, same) in [
        ("user_1", "ΣΣ@example.com", &["σσ@example.com", "σς@EXAMPLE.COM"][..]),
        ("user_2", "Jo\u{308}rg@example.com", &["j\u{f6}rg@example.com", "JÖRG@example.com"]),
        ("user_3", "Strauß@example.com", &["STRAUSS@example.com"]),
        ("user_4", "ann@BÜCHER.example", &["ann@xn--bcher-kva.example", "ANN@bu\u{308}cher.example"]),
    ] {
        let created =
            expect_ok(admin.post("/users", json!({"id": id, "email": typed, "name": "n"})).await, 201);
        assert_eq!(created["email"], typed, "the address is shown as it was typed");
        for email in same {
            let answer = admin.post("/users", json!({"email": email, "name": "n"})).await;
            expect_error(&answer, 409, "ALREADY_EXISTS");
            for filter in ["email", "q"] {
                let query = format!("/users?{}", query_string(&[(filter, email)]));
                let found = expect_ok(admin.get(&query).await, 200);
                assert_eq!(found[0]["id"], id, "{query}");
            }
        }
    }
    // IDNA 2008 keeps these two domains apart, so that the addresses belong to different people.
    for email in ["eve@straße.example", "eve@strasse.example"] {
        expect_ok(admin.post("/users", json!({"email": email, "name": "n"})).await, 201);
    }
    let beginning = query_string(&[("q", "ANN@bü")]);
    assert_eq!(expect_ok(admin.get(&format!("/users?{beginning}")).await, 200)[0]["id"], "user_4");
}

fn query_string(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

#[tokio::test]
async fn names_are_found_without_regard_to_case_and_normalization() {
    let server = Server::start().await;
    let admin = server.admin();
    let body = json!({"id": "org_1", "name": "Cafe\u{301} STRASSE", "email": "a@example.com"});
    expect_ok(admin.post("/organizations", body).await, 201);
    for q in ["caf\u{e9}", "CAFE\u{301} straße", "CAFÉ ST"] {
        let query = query_string(&[("q", q)]);
        let found = expect_ok(admin.get(&format!("/organizations?{query}")).await, 200);
        assert_eq!(found[0]["id"], "org_1", "{q}");
    }
    assert_eq!(expect_ok(admin.get("/organizations?q=cafx").await, 200), json!([]));
}

#[tokio::test]
async fn names_are_visible_and_have_no_direction_controls() {
    let server = Server::start().await;
    let admin = server.admin();
    for name in [
        " ",
        "\u{a0}\u{3000}",
        "\u{200b}",
        "\u{200d}\u{feff}",
        "\u{3164}",
        "\u{2800}",
        "\u{ad}",
        "invoice\u{202e}fdp",
        "\u{2066}a\u{2069}",
        "a\u{200f}",
        "a\u{61c}",
    ] {
        let expected = [("/name", "INVALID_CHARACTER")];
        let email = "a@example.com";
        expect_invalid(&admin.post("/organizations", json!({"name": name, "email": email})).await, &expected);
        expect_invalid(&admin.post("/users", json!({"name": name, "email": email})).await, &expected);
        expect_invalid(&admin.post("/api-keys", json!({"name": name, "scopes": []})).await, &expected);
    }
    // Joiners are part of names in some scripts and of emoji.
    for name in [" a ", "a\u{301}", "می\u{200c}خواهم", "👩\u{200d}💻", "שלום", "\u{1f3f3}\u{fe0f}"]
    {
        let created = admin.post("/organizations", json!({"name": name, "email": "a@example.com"})).await;
        assert_eq!(expect_ok(created, 201)["name"], name);
    }
    for email in ["a\u{200b}@example.com", "a\u{202e}@example.com", "a@exam\u{ad}ple.com", "a\u{3164}@b"] {
        let answer = admin.post("/users", json!({"name": "n", "email": email})).await;
        expect_invalid(&answer, &[("/email", "INVALID_EMAIL")]);
    }
}
