use base64::Engine as _;

use super::secrets::HashEncoding;
use super::*;

fn now() -> Timestamp {
    Timestamp::parse("2026-11-23T07:08:09Z").unwrap()
}

fn parse_line(line: &str) -> Result<ImportLine> {
    ImportLine::read(&Json::parse(line.as_bytes())?, &ImportDefaults::default(), now())
}

fn parse_key_with(extra_fields: &str) -> Result<NewKey> {
    let line = format!(
        r#"{{"organization_id":null,"name":"n","scopes":[],"hash_encoding":"hex","hash":"{}"{extra_fields}}}"#,
        "ab".repeat(32)
    );
    match parse_line(&line)? {
        ImportLine::Record(record) => match record.thing {
            ImportedResource::ApiKey(new) => Ok(*new),
            thing => panic!("{thing:?}"),
        },
        line => panic!("{line:?}"),
    }
}

#[test]
fn hashes_are_read_in_every_encoding_and_other_text_is_refused() {
    let hash = sha256(b"secret");
    let hex = hex::encode(hash);
    let base64 = base64::engine::general_purpose::STANDARD.encode(hash);
    let url = base64::engine::general_purpose::URL_SAFE.encode(hash);
    for (encoding, text) in [
        (HashEncoding::Hex, hex.as_str()),
        (HashEncoding::Hex, &hex.to_uppercase()),
        (HashEncoding::Base64, &base64),
        (HashEncoding::Base64, base64.trim_end_matches('=')),
        (HashEncoding::Base64Url, &url),
        (HashEncoding::Base64Url, url.trim_end_matches('=')),
    ] {
        assert_eq!(encoding.decode(text), Some(hash), "{encoding:?} {text}");
    }
    for text in ["", "secret", &hex[2..], &base64[4..], "$2b$10$abcdefghijklmnopqrstuv"] {
        for encoding in [HashEncoding::Hex, HashEncoding::Base64, HashEncoding::Base64Url] {
            assert_eq!(encoding.decode(text), None, "{encoding:?} {text}");
        }
    }
}

#[test]
fn keys_keep_their_status_and_the_states_of_their_secrets() {
    let plain = parse_key_with("").unwrap();
    assert_eq!((plain.key.status, plain.key.created_at, plain.secrets.len()), (Status::Active, now(), 1));
    let revoked =
        parse_key_with(r#","status":"revoked","revoked_at":"2026-01-01T00:00:00Z","revoked_reason":"r""#)
            .unwrap();
    assert_eq!(revoked.key.revoked_reason.as_deref(), Some("r"));
    assert_eq!(parse_key_with(r#","status":"revoked""#).unwrap().key.revoked_at, Some(now()));
    let expired = parse_key_with(r#","status":"expired","expires_at":"2026-01-01T00:00:00Z""#).unwrap();
    assert_eq!(expired.key.status, Status::Active, "expired is derived from expires_at");
    let previous = format!(
        r#","previous_hash":"{}","retired_hashes":["{}"],"previous_secret_expires_at":"2026-12-01T00:00:00Z""#,
        "cd".repeat(32),
        "ef".repeat(32)
    );
    let states: Vec<_> = parse_key_with(&previous).unwrap().secrets.iter().map(|(_, state)| *state).collect();
    assert_eq!(
        states,
        [ImportedSecretState::Current, ImportedSecretState::Previous, ImportedSecretState::Retired]
    );
}

#[test]
fn contradictory_key_records_are_refused() {
    let duplicate_hash = format!(
        r#","previous_hash":"{}","previous_secret_expires_at":"2026-12-01T00:00:00Z""#,
        "ab".repeat(32)
    );
    for (extra_fields, pointer) in [
        (r#","status":"expired""#, "/status"),
        (r#","revoked_at":"2026-01-01T00:00:00Z""#, "/revoked_at"),
        (r#","user_id":"u""#, "/user_id"),
        (r#","created_at":"2027-01-01T00:00:00Z""#, "/created_at"),
        (r#","start":"012345678901234567890123456789012""#, "/start"),
        (r#","revision":0"#, "/revision"),
        (duplicate_hash.as_str(), "/hash"),
    ] {
        let details = parse_key_with(extra_fields).unwrap_err().details;
        assert_eq!(details[0].pointer.as_deref(), Some(pointer), "{extra_fields}");
    }
}

#[test]
fn first_and_last_lines_of_an_export_are_distinguished_from_records() {
    assert!(matches!(parse_line(r#"{"type":"export","version":1}"#), Ok(ImportLine::Begin)));
    assert!(matches!(parse_line(r#"{"type":"end","records":7}"#), Ok(ImportLine::End(7))));
    assert!(parse_line(r#"{"type":"export","version":2}"#).unwrap_err().message.contains("reads up to 1"));
    assert_eq!(parse_line("{}").unwrap_err().details[0].pointer.as_deref(), Some("/type"));
    assert_eq!(parse_line("[]").unwrap_err().details[0].code, "INVALID_TYPE");
}
