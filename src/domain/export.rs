//! The NDJSON lines of an export. [`import`](super::import) parses them.

use serde::Serialize;

use super::api_key::ApiKey;
use super::api_key::SecretHash;
use super::audit::ChainHash;
use super::import::{EXPORT_FORMAT_VERSION, ImportedSecretState};
use super::membership::Role;
use super::organization::Organization;
use super::secret_prefix::KnownPrefixes;
use super::settings::Settings;
use super::time::Timestamp;
use super::user::User;
use crate::error::{Error, Result};

/// One line of an export.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs)]
pub(crate) enum ExportLine<'a> {
    /// The first line of an export. It identifies the file as an export.
    #[serde(rename = "export")]
    Begin {
        version: u64,
        exported_at: Timestamp,
        audit_head: String,
    },
    /// The last line of an export, with the number of records before it. A file without this line is
    /// truncated.
    End {
        records: u64,
    },
    Settings {
        #[serde(flatten)]
        settings: &'a Settings,
        known_prefixes: &'a KnownPrefixes,
    },
    Scope {
        scope: &'a str,
        description: Option<&'a str>,
        created_at: Timestamp,
    },
    Organization {
        #[serde(flatten)]
        organization: &'a Organization,
        deleted_at: Option<Timestamp>,
        revision: i64,
    },
    User {
        #[serde(flatten)]
        user: &'a User,
        deleted_at: Option<Timestamp>,
        revision: i64,
    },
    Membership {
        organization_id: &'a str,
        user_id: &'a str,
        role: Role,
        created_at: Timestamp,
        updated_at: Timestamp,
        revision: i64,
    },
    ApiKey {
        #[serde(flatten)]
        key: &'a ApiKey,
        revision: i64,
        hash_encoding: &'static str,
        hash: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        previous_hash: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        retired_hashes: Vec<String>,
    },
}

impl<'a> ExportLine<'a> {
    /// Creates the first line of an export from the time of the export and the head of the audit chain at
    /// that time.
    pub(crate) fn begin(exported_at: Timestamp, (seq, hash): (i64, ChainHash)) -> Self {
        Self::Begin {
            version: EXPORT_FORMAT_VERSION,
            exported_at,
            audit_head: format!("{seq}:{}", hex::encode(hash)),
        }
    }

    /// Creates the line of an API key from the key and the hashes of its secrets.
    pub(crate) fn api_key(key: &'a ApiKey, secrets: &[(SecretHash, ImportedSecretState)]) -> Self {
        let hashes = |wanted| {
            secrets.iter().filter(move |(_, state)| *state == wanted).map(|(hash, _)| hex::encode(hash))
        };
        Self::ApiKey {
            key,
            revision: key.revision,
            hash_encoding: "hex",
            hash: hashes(ImportedSecretState::Current).next().unwrap_or_default(),
            previous_hash: hashes(ImportedSecretState::Previous).next(),
            retired_hashes: hashes(ImportedSecretState::Retired).collect(),
        }
    }

    /// Formats the line as JSON, with a line break at its end.
    ///
    /// # Errors
    /// `INTERNAL` if serialization fails, which does not happen.
    pub(crate) fn to_json_line(&self) -> Result<String> {
        serde_json::to_string(self).map(|text| text + "\n").map_err(Error::internal)
    }
}
