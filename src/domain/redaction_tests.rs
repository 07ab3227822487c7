use super::super::secret_format::checksum_digits;
use super::*;

fn generated(prefix: &str) -> String {
    let body = format!("{prefix}_0123456789abcdefghijABCDEFGHIJxy");
    format!("{body}{}", std::str::from_utf8(&checksum_digits(&body)).unwrap())
}

fn presenting(secrets: &[&str]) -> Redactor {
    Redactor::new(secrets.iter().map(|secret| (*secret).to_owned()), std::iter::empty())
}

fn encode(text: &str, encode_char: impl Fn(usize, char) -> String) -> String {
    text.chars().enumerate().map(|(index, c)| encode_char(index, c)).collect()
}

/// The text as it is, and encoded in all ways that are recognized.
fn encodings(text: &str) -> Vec<String> {
    let percent = |_: usize, c: char| format!("%{:02x}", u32::from(c));
    let json = |_: usize, c: char| format!("\\u{:04X}", u32::from(c));
    let mixed = |index: usize, c: char| match index % 4 {
        0 => format!("%{:02X}", u32::from(c)),
        1 => format!("\\u{:04x}", u32::from(c)),
        2 => format!("%{:02x}", u32::from(c)),
        _ => c.to_string(),
    };
    let first = |index: usize, c: char| if index == 0 { json(index, c) } else { c.to_string() };
    let twice = encode(&encode(text, percent), percent);
    let json_in_percent = encode(&encode(text, json), percent);
    let escaped_json = encode(text, json).replace('\\', "\\\\");
    let once = [encode(text, percent), encode(text, json), encode(text, mixed), encode(text, first)];
    once.into_iter().chain([text.to_owned(), twice, json_in_percent, escaped_json]).collect()
}

#[test]
fn i6_a_secret_is_cut_to_its_start_in_every_encoding() {
    let foreign = "sk-live/0123\\4567\"89";
    let redactor = presenting(&[foreign]);
    for (secret, start) in [
        (generated("toll"), "toll_0123…"),
        (generated("acme_live"), "acme_live_0123…"),
        (foreign.to_owned(), "sk-l…"),
    ] {
        for encoded in encodings(&secret) {
            for (before, after) in [("", ""), ("/é%/", "\\é"), ("a%20", "%zz"), ("%", "u")] {
                let text = format!("{before}{encoded}{after}");
                assert_eq!(redactor.redact(&text), format!("{before}{start}{after}"), "{text}");
                let twice = format!("{text} {text}");
                assert_eq!(redactor.redact(&twice), format!("{before}{start}{after} {before}{start}{after}"));
                assert!(redactor.contains_secret(&text));
            }
        }
    }
}

#[test]
fn a_text_without_secrets_stays_as_it_is() {
    let redactor = presenting(&["a presented secret", "only 15 letters", ""]);
    for text in [
        "",
        "%",
        "\\",
        "%2",
        "\\u12",
        "\\u00e9",
        "100 % \\n",
        "_",
        "key_1",
        "a presente%64 secret_",
        "only 15 letters",
    ] {
        let expected = text.strip_prefix("a presente%64 secret").map(|rest| format!("a pr…{rest}"));
        assert_eq!(redactor.redact(text), expected.as_deref().unwrap_or(text));
    }
    let foreign = "a-foreign-secret";
    assert_eq!(Redactor::default().redact(foreign), foreign);
    assert_eq!(presenting(&[foreign]).redact(foreign), "a-fo…");
}

#[test]
fn overlapping_secrets_are_cut_out_together() {
    let redactor = presenting(&["0123456789abcdefgh", "89abcdefghijklmnop", "23456789abcdefgh"]);
    assert_eq!(redactor.redact("-0123456789abcdefghijklmnop-"), "-0123…-");
}

/// A truncated secret would not be recognized any more, but would still be most of the secret.
#[test]
fn a_secret_at_the_limit_of_the_length_is_cut_out_before_the_text_is_truncated() {
    let secret = generated("toll");
    for length in 0..MAX_RECORDED_CHARS + 2 {
        let text = format!("{}{secret}{}", "x".repeat(length), "y".repeat(300));
        let recorded = Redactor::default().recorded_text(&text);
        assert!(!recorded.contains(&secret[..10]), "{recorded}");
        assert_eq!(recorded.chars().count(), MAX_RECORDED_CHARS + 1);
    }
}

#[test]
fn a_body_is_flagged_wherever_it_holds_a_secret() {
    let secret = generated("toll");
    let body =
        format!(r#"{{"a": ["x", "{secret}", {{"b": "\u0074{}"}}], "{secret}": 1, "c": null}}"#, &secret[1..]);
    let mut json = Json::parse(body.as_bytes()).unwrap();
    Redactor::default().flag_secrets(&mut json);
    let flagged = Json::Secret(secret.clone());
    let object = |name: &str, value: Json| (name.to_owned(), value);
    let inner = Json::Object(vec![object("b", flagged.clone())].into());
    let items = vec![Json::String("x".to_owned()), flagged, inner];
    let expected = vec![
        object("a", Json::Array(items.into())),
        object(&secret, Json::Secret(String::new())),
        object("c", Json::Null),
    ];
    assert!(json.holds_secret());
    assert_eq!(json, Json::Object(expected.into()));
}

/// Anyone can send these texts. With time that grows faster than their length, this test would run for hours.
#[test]
fn i12_long_texts_that_are_costly_to_search_are_searched() {
    let candidate = format!("{}_{}", "a".repeat(64), "0".repeat(38));
    let token = format!("b{}", "a".repeat(511));
    let redactor = presenting(&[&token]);
    for unit in [candidate.as_str(), "_", "%25", "%2525", "\\\\", "a", "a_"] {
        assert!(!redactor.contains_secret(&unit.repeat((1 << 20) / unit.len())), "{unit}");
    }
}

#[test]
fn a_logged_text_has_no_mistyped_secret() {
    let redactor = Redactor::default();
    let mistyped = format!("toll_4sZg{}", "x".repeat(34));
    let logged = |text: &str| redactor.logged_text(text);
    assert_eq!(logged(&format!("/keys/{mistyped}/a?{mistyped}x")), "/keys/toll_4sZg…/a?toll_4sZg…");
    assert_eq!(logged(&format!("é_{}", &mistyped[5..])), "é_4sZg…");
    assert_eq!(logged(&format!("/keys/{}?", &mistyped[5..])), "/keys/4sZg…?");
    assert_eq!(logged(&mistyped[3..]), "l_4sZg…");
    let hash = "0123456789abcdef".repeat(4);
    assert!(has_mistyped_secret(&format!("a.{mistyped}-b")) && !has_mistyped_secret(&hash));
    assert!(!has_mistyped_secret(&mistyped[..mistyped.len() - 1]) && !has_mistyped_secret(""));
    for kept in [
        "",
        "_",
        "é_é",
        "a_b__c",
        "/users/user_01M85RGW127J6FPZPNCVY2FV90",
        &mistyped[..mistyped.len() - 1],
        &hash,
    ] {
        assert_eq!(logged(kept), kept);
    }
    assert_eq!(logged(&format!("_{hash}")), "_0123…");
    let percent = |text: &str| encode(text, |_, c| format!("%{:02x}", u32::from(c)));
    let secret = generated("toll");
    let encoded = percent(&percent(&percent(&secret)));
    assert_eq!(logged(&encoded), "toll_0123…");
    assert_eq!(logged(&percent(&encoded)), "…");
    let at_the_end = format!("{}{mistyped}", "-".repeat(240));
    assert!(!logged(&at_the_end).contains("xx"), "cut before it is truncated");
}
