//! Parses the hashes of an imported key's secrets, in the encodings that other systems use.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::domain::api_key::SecretHash;
use crate::domain::chain;
use crate::domain::fields::{Faults, Fields, Json};
use crate::domain::rules;
use crate::domain::sha256::sha256;

/// The maximum number of retired secrets of an imported key.
const MAX_RETIRED_SECRETS: usize = 10_000;

/// The state of an imported key's secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum ImportedSecretState {
    /// The secret that was issued last.
    Current,
    /// The secret from before the last rotation, which is valid until its grace period ends.
    Previous,
    /// A secret that is no longer valid and can't be reused.
    Retired,
}

impl ImportedSecretState {
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// The text encoding of an imported hash.
#[derive(Clone, Copy, Debug, Default, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub(super) enum HashEncoding {
    #[default]
    Hex,
    /// Base64 with or without padding.
    Base64,
    Base64Url,
}

impl HashEncoding {
    pub(super) fn decode(self, text: &str) -> Option<SecretHash> {
        let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let alphabet = match self {
            HashEncoding::Hex => return chain::parse_hash(text),
            HashEncoding::Base64 => &STANDARD,
            HashEncoding::Base64Url => &URL_SAFE,
        };
        GeneralPurpose::new(alphabet, lenient).decode(text).ok()?.try_into().ok()
    }
}

/// The names that Unkey's migration API uses for the encodings.
#[derive(Clone, Copy, Debug, Default, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "snake_case")]
enum UnkeyVariant {
    #[default]
    Sha256Hex,
    Sha256Base64,
}

impl From<UnkeyVariant> for HashEncoding {
    fn from(variant: UnkeyVariant) -> Self {
        match variant {
            UnkeyVariant::Sha256Hex => HashEncoding::Hex,
            UnkeyVariant::Sha256Base64 => HashEncoding::Base64,
        }
    }
}

/// Returns a parser of hashes in this encoding. Its error messages never repeat the value, because the client
/// may have sent the secret itself by mistake.
fn hash_parser(encoding: HashEncoding) -> impl Fn(&Json, &mut Faults) -> Option<SecretHash> {
    move |json, faults| {
        let hash = encoding.decode(faults.expect_string(json)?);
        match hash {
            None => faults
                .add("INVALID_HASH", "Must be the SHA-256 of the complete key, encoded as hash_encoding."),
            Some(hash) if hash == sha256(b"") => {
                faults.add("INVALID_HASH", "Must not be the hash of an empty string.")
            }
            Some(_) => {}
        }
        hash
    }
}

/// Parses the hashes of a key's current, previous and retired secrets.
pub(super) fn parse_secrets(fields: &mut Fields<'_>) -> Vec<(SecretHash, ImportedSecretState)> {
    let encoding = fields.optional("hash_encoding", rules::parse_one_of);
    let current = fields.required("hash", |json, faults| match json {
        // An object has the format of Unkey's migration API.
        Json::Object(_) => {
            let mut inner = Fields::of_nested_object(json, faults);
            let variant = inner.required("variant", rules::parse_one_of::<UnkeyVariant>);
            let hash = inner.required("value", hash_parser(variant.into()));
            inner.finish_nested(faults);
            Some(hash)
        }
        _ if encoding.is_none() => {
            faults.add("REQUIRED", "Requires hash_encoding: hex, base64 or base64url.");
            None
        }
        json => hash_parser(encoding.unwrap_or_default())(json, faults),
    });
    let encoding = encoding.unwrap_or_default();
    let previous = fields.nullable("previous_hash", hash_parser(encoding)).into_option();
    let retired = fields.optional("retired_hashes", |json, faults| {
        let items = faults.expect_array(json)?;
        if items.len() > MAX_RETIRED_SECRETS {
            faults.add("TOO_MANY", format!("At most {MAX_RETIRED_SECRETS} hashes are allowed."));
            return None;
        }
        let read_item = |(index, item): (usize, &Json)| {
            faults.at_child(&index.to_string(), |faults| hash_parser(encoding)(item, faults))
        };
        Some(items.iter().enumerate().filter_map(read_item).collect::<Vec<_>>())
    });
    let mut secrets = vec![(current, ImportedSecretState::Current)];
    secrets.extend(previous.map(|hash| (hash, ImportedSecretState::Previous)));
    secrets.extend(retired.unwrap_or_default().into_iter().map(|hash| (hash, ImportedSecretState::Retired)));
    let distinct: BTreeSet<_> = secrets.iter().map(|(hash, _)| hash).collect();
    if distinct.len() < secrets.len() {
        fields.add_fault("hash", "DUPLICATE_HASH", "The same hash is given twice.");
    }
    secrets
}
