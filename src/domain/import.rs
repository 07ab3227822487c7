//! Parses the records of an import: each line describes one resource.
//!
//! Records follow the rules of the API. In addition they may contain state that API clients can't set:
//! status, timestamps, revocation and deletion. Ids of other systems are [converted](Kind::adopt).

mod secrets;

use std::sync::Arc;

use serde::Serialize;

use super::api_key::SecretHash;
use super::api_key::{ApiKey, Status};
use super::cidr;
use super::fields::{Faults, Fields, Json};
use super::id::Kind;
use super::limits;
use super::membership::Role;
use super::organization::Organization;
use super::patch::Patch;
use super::rules;
use super::scope;
use super::secret_prefix::KnownPrefixes;
use super::settings::{STANDARD_PLAN, SettingsPatch};
use super::sha256::sha256;
use super::sql_time::parse_time;
use super::time::Timestamp;
use super::user::User;
use crate::error::{Error, Result};
pub(crate) use secrets::ImportedSecretState;
use secrets::parse_secrets;

/// The version of the export format that this program writes. An import accepts this version and lower ones.
pub(crate) const EXPORT_FORMAT_VERSION: u64 = 1;

/// The maximum length of `start`, the first characters of a secret. It is short so that `start` can't contain
/// a complete secret.
const MAX_START_CHARS: usize = 32;

/// The kind of resource that a record describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[derive(strum::EnumString, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "snake_case")]
#[allow(missing_docs)]
pub(crate) enum RecordKind {
    Settings,
    Scope,
    Organization,
    User,
    Membership,
    ApiKey,
}

impl RecordKind {
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// A parsed line of an import file.
#[derive(Clone, Debug)]
pub(crate) enum ImportLine {
    /// The first line of an export.
    Begin,
    /// The last line of an export, with the number of records before it.
    End(u64),
    /// A line that describes a resource.
    Record(Box<Record>),
}

/// A parsed record: a resource to import and the names of the fields it had.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) thing: ImportedResource,
    /// The names of the fields that the record contains. If the resource exists already, these fields must be
    /// equal to the stored ones.
    pub(crate) given: Vec<String>,
}

/// A resource as the import will store it.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub(crate) enum ImportedResource {
    Settings(Box<NewSettings>),
    Scope(NewScope),
    Organization { new: Organization, deleted_at: Option<Timestamp> },
    User { new: User, own_id: bool, deleted_at: Option<Timestamp> },
    Membership(NewMembership),
    ApiKey(Box<NewKey>),
}

/// Settings to import.
#[derive(Clone, Debug)]
pub(crate) struct NewSettings {
    pub(crate) patch: SettingsPatch,
    /// The prefixes that the exporting server knew.
    pub(crate) known_prefixes: KnownPrefixes,
}

/// A scope to add to the catalogue.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub(crate) struct NewScope {
    pub(crate) scope: String,
    pub(crate) description: Option<String>,
    pub(crate) created_at: Timestamp,
}

/// A membership to import. Its user is looked up when the membership is stored.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub(crate) struct NewMembership {
    pub(crate) organization_id: String,
    pub(crate) user_id: String,
    pub(crate) role: Role,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) revision: i64,
}

/// An API key to import, with the hashes of all its secrets.
#[derive(Clone, Debug)]
pub(crate) struct NewKey {
    /// The API key. Its id is empty if the record contains no id.
    pub(crate) key: ApiKey,
    /// SHA-256 hashes of the key's secrets, that of the current secret first.
    pub(crate) secrets: Vec<(SecretHash, ImportedSecretState)>,
}

/// Values from the command line for fields that the import file omits.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImportDefaults {
    /// The organization of keys whose record names no organization.
    pub(crate) organization_id: Option<String>,
}

impl ImportLine {
    /// Parses a line of an import file. A record with a `hash` but without a `type` is an API key.
    pub(crate) fn read(json: &Json, defaults: &ImportDefaults, now: Timestamp) -> Result<Self> {
        let mut fields = Fields::of(json);
        let value_of = |name: &str| match json {
            Json::Object(pairs) => pairs.iter().find(|(given, _)| given == name).map(|(_, value)| value),
            _ => None,
        };
        let text = |json: &Json, faults: &mut Faults| faults.expect_string(json).map(str::to_owned);
        let kind = match fields.optional("type", text).as_deref() {
            Some("export") => return parse_first_line(fields),
            Some("end") => return parse_last_line(fields),
            None if value_of("hash").is_some() => Some(RecordKind::ApiKey),
            _ => fields.required("type", |json, faults| rules::parse_one_of(json, faults).map(Some)),
        };
        let thing = match kind {
            None => return fields.finish(ImportLine::Begin),
            Some(RecordKind::Settings) => parse_settings(json),
            Some(RecordKind::Scope) => parse_scope(fields, now),
            Some(RecordKind::Organization) => parse_organization(fields, now),
            Some(RecordKind::User) => parse_user(fields, now),
            Some(RecordKind::Membership) => parse_membership(fields, now),
            Some(RecordKind::ApiKey) => parse_key(fields, defaults, now),
        }?;
        let given = match json {
            Json::Object(pairs) => pairs.iter().map(|(name, _)| name.clone()).collect(),
            _ => Vec::new(),
        };
        Ok(ImportLine::Record(Box::new(Record { thing, given })))
    }
}

impl Record {
    pub(crate) fn kind(&self) -> RecordKind {
        match self.thing {
            ImportedResource::Settings(_) => RecordKind::Settings,
            ImportedResource::Scope(_) => RecordKind::Scope,
            ImportedResource::Organization { .. } => RecordKind::Organization,
            ImportedResource::User { .. } => RecordKind::User,
            ImportedResource::Membership(_) => RecordKind::Membership,
            ImportedResource::ApiKey(_) => RecordKind::ApiKey,
        }
    }
}

fn parse_first_line(mut fields: Fields<'_>) -> Result<ImportLine> {
    let version = fields.required("version", rules::integer_parser(1, i64::MAX as u64));
    fields.optional("exported_at", rules::parse_time);
    fields.optional("audit_head", |json, faults| faults.expect_string(json).map(str::to_owned));
    fields.finish(())?;
    if version > EXPORT_FORMAT_VERSION {
        let message = format!(
            "The export has version {version}; this version of Tollhouse reads up to {EXPORT_FORMAT_VERSION}."
        );
        return Err(Error::new(crate::error::Code::Conflict, message));
    }
    Ok(ImportLine::Begin)
}

fn parse_last_line(mut fields: Fields<'_>) -> Result<ImportLine> {
    let records = fields.required("records", rules::integer_parser(0, i64::MAX as u64));
    fields.finish(ImportLine::End(records))
}

/// The fields `created_at`, `updated_at` and `revision`, which most records have.
struct Timestamps {
    created_at: Timestamp,
    updated_at: Timestamp,
    revision: i64,
}

impl Timestamps {
    fn read(fields: &mut Fields<'_>, now: Timestamp) -> Self {
        let created_at = fields.optional("created_at", past_time_parser(now)).unwrap_or(now);
        let updated_at = fields.optional("updated_at", parse_time).unwrap_or(created_at);
        let revision = fields.optional("revision", rules::integer_parser(1, MAX_REVISION)).unwrap_or(1);
        Self { created_at, updated_at, revision: i64::try_from(revision).unwrap_or(1) }
    }
}

/// The highest revision that can be imported. It leaves room for changes, and JSON clients can represent it.
const MAX_REVISION: u64 = (1 << 53) - 1;

/// Returns a parser of timestamps that are not in the future. Times up to a day after `now` are accepted,
/// because the clock of the other system may be wrong.
fn past_time_parser(now: Timestamp) -> impl FnOnce(&Json, &mut Faults) -> Option<Timestamp> {
    move |json, faults| {
        let time = parse_time(json, faults)?;
        if time > now + std::time::Duration::from_secs(86_400) {
            faults.add("NOT_PAST", "Must not be in the future.");
        }
        Some(time)
    }
}

/// Returns a parser that accepts an id of Tollhouse or of another system and converts the latter.
fn id_parser(kind: Kind) -> impl FnOnce(&Json, &mut Faults) -> Option<String> {
    move |json, faults| rules::parse_text(json, faults, 200).map(|text| kind.convert_foreign_id(&text))
}

/// Parses a record with settings. Its fields are `type`, `known_prefixes` and those of `PATCH /config`.
fn parse_settings(json: &Json) -> Result<ImportedResource> {
    let mut json = json.clone();
    let mut faults = Faults::default();
    let mut known_prefixes = KnownPrefixes::default();
    if let Json::Object(pairs) = &mut json {
        let pairs = Arc::make_mut(pairs);
        pairs.retain(|(name, _)| name != "type");
        if let Some(index) = pairs.iter().position(|(name, _)| name == "known_prefixes") {
            let (name, given) = pairs.remove(index);
            let parsed = faults.at_child(&name, |faults| KnownPrefixes::parse(&given, faults));
            known_prefixes = parsed.unwrap_or_default();
        }
    }
    let patch = SettingsPatch::read(&json)?;
    faults.finish(ImportedResource::Settings(Box::new(NewSettings { patch, known_prefixes })))
}

fn parse_scope(mut fields: Fields<'_>, now: Timestamp) -> Result<ImportedResource> {
    let new = NewScope {
        scope: fields.required("scope", scope::parse_custom_scope),
        description: fields.nullable("description", rules::parse_name).into_option(),
        created_at: fields.optional("created_at", past_time_parser(now)).unwrap_or(now),
    };
    fields.finish(ImportedResource::Scope(new))
}

fn parse_organization(mut fields: Fields<'_>, now: Timestamp) -> Result<ImportedResource> {
    let timestamps = Timestamps::read(&mut fields, now);
    let new = Organization {
        id: fields.required("id", id_parser(Kind::Organization)),
        name: fields.required("name", rules::parse_name),
        email: fields.required("email", rules::parse_email),
        plan: fields.optional("plan", parse_plan_name).unwrap_or_else(|| STANDARD_PLAN.to_owned()),
        limits: fields.nullable("limits", limits::parse_limits).into_option(),
        status: fields.optional("status", rules::parse_one_of).unwrap_or_default(),
        metadata: fields.optional("metadata", rules::parse_metadata).unwrap_or_default(),
        created_at: timestamps.created_at,
        updated_at: timestamps.updated_at,
        revision: timestamps.revision,
    };
    let deleted_at = fields.nullable("deleted_at", past_time_parser(now)).into_option();
    fields.finish(ImportedResource::Organization { new, deleted_at })
}

/// Parses the name of a plan. Whether the plan exists is checked when the organization is stored.
fn parse_plan_name(json: &Json, faults: &mut Faults) -> Option<String> {
    rules::parse_text(json, faults, 32)
}

fn parse_user(mut fields: Fields<'_>, now: Timestamp) -> Result<ImportedResource> {
    let timestamps = Timestamps::read(&mut fields, now);
    let given_id = fields.optional("id", id_parser(Kind::User));
    let own_id = given_id.is_some();
    let new = User {
        id: given_id.unwrap_or_default(),
        email: fields.required("email", rules::parse_email),
        name: fields.required("name", rules::parse_name),
        external_id: fields.nullable("external_id", rules::parse_name).into_option(),
        status: fields.optional("status", rules::parse_one_of).unwrap_or_default(),
        metadata: fields.optional("metadata", rules::parse_metadata).unwrap_or_default(),
        created_at: timestamps.created_at,
        updated_at: timestamps.updated_at,
        revision: timestamps.revision,
    };
    let deleted_at = fields.nullable("deleted_at", past_time_parser(now)).into_option();
    fields.finish(ImportedResource::User { new, own_id, deleted_at })
}

fn parse_membership(mut fields: Fields<'_>, now: Timestamp) -> Result<ImportedResource> {
    let timestamps = Timestamps::read(&mut fields, now);
    let new = NewMembership {
        organization_id: fields.required("organization_id", id_parser(Kind::Organization)),
        user_id: fields.required("user_id", id_parser(Kind::User)),
        role: fields.required("role", rules::parse_one_of),
        created_at: timestamps.created_at,
        updated_at: timestamps.updated_at,
        revision: timestamps.revision,
    };
    fields.finish(ImportedResource::Membership(new))
}

fn parse_key(mut fields: Fields<'_>, defaults: &ImportDefaults, now: Timestamp) -> Result<ImportedResource> {
    let timestamps = Timestamps::read(&mut fields, now);
    let secrets = parse_secrets(&mut fields);
    let organization_id = match fields.nullable("organization_id", id_parser(Kind::Organization)) {
        Patch::Set(id) => Some(id),
        Patch::Clear => None,
        Patch::Keep if defaults.organization_id.is_some() => defaults.organization_id.clone(),
        // A missing organization is a fault: an empty cell of a CSV file must not create a platform key,
        // which can access every organization.
        Patch::Keep => {
            fields.add_fault("organization_id", "REQUIRED", "Required; null creates a platform key.");
            None
        }
    };
    let user_id = fields.nullable("user_id", id_parser(Kind::User)).into_option();
    if organization_id.is_none() && user_id.is_some() {
        fields.add_fault("user_id", "NEEDS_ORGANIZATION", "A platform key can't have an owner.");
    }
    let expires_at = fields.nullable("expires_at", parse_time).into_option();
    let status = match fields.optional("status", rules::parse_one_of) {
        Some(Status::Expired) if expires_at.is_none_or(|end| end > now) => {
            fields.add_fault("status", "INVALID_VALUE", "Requires an expires_at in the past.");
            Status::Active
        }
        // The status `expired` is not stored, because it is derived from `expires_at`.
        Some(Status::Expired) | None => Status::Active,
        Some(status) => status,
    };
    let revoked = status == Status::Revoked;
    let revoked_at = fields.nullable("revoked_at", past_time_parser(now)).into_option();
    let start = fields.optional("start", |json, faults| match faults.expect_string(json)? {
        "" => Some(String::new()),
        _ => rules::parse_text(json, faults, MAX_START_CHARS),
    });
    let start = start.unwrap_or_default();
    if !start.is_empty() && secrets.iter().any(|(hash, _)| *hash == sha256(start.as_bytes())) {
        fields.add_fault(
            "start",
            "WHOLE_SECRET",
            "Must be the first few characters of the secret, not the complete secret.",
        );
    }
    let key = ApiKey {
        id: fields.optional("id", id_parser(Kind::ApiKey)).unwrap_or_default(),
        organization_id,
        user_id,
        name: fields.required("name", rules::parse_name),
        start,
        scopes: fields.required("scopes", parse_scope_names),
        status,
        expires_at,
        allowed_ips: fields.nullable("allowed_ips", cidr::parse_allowlist).into_option(),
        limits: fields.nullable("limits", limits::parse_limits).into_option(),
        self_rotation: fields.optional("self_rotation", rules::parse_bool).unwrap_or_default(),
        metadata: fields.optional("metadata", rules::parse_metadata).unwrap_or_default(),
        created_by: fields.nullable("created_by", id_parser(Kind::ApiKey)).into_option(),
        created_at: timestamps.created_at,
        updated_at: timestamps.updated_at,
        last_used_at: fields.nullable("last_used_at", past_time_parser(now)).into_option(),
        rotated_at: fields.nullable("rotated_at", past_time_parser(now)).into_option(),
        previous_secret_expires_at: fields.nullable("previous_secret_expires_at", parse_time).into_option(),
        revoked_at: if revoked { revoked_at.or(Some(now)) } else { None },
        revoked_reason: fields
            .nullable("revoked_reason", rules::parse_name)
            .into_option()
            .filter(|_| revoked),
        revision: timestamps.revision,
    };
    if revoked_at.is_some() && !revoked {
        fields.add_fault("revoked_at", "INVALID_VALUE", "Requires the status revoked.");
    }
    let has_previous = secrets.iter().any(|(_, state)| *state == ImportedSecretState::Previous);
    if has_previous && key.previous_secret_expires_at.is_none() {
        fields.add_fault("previous_secret_expires_at", "REQUIRED", "Required with previous_hash.");
    }
    fields.finish(ImportedResource::ApiKey(Box::new(NewKey { key, secrets })))
}

/// Parses the scopes of a key. Whether the scopes exist in the catalogue is checked when the key is stored.
fn parse_scope_names(json: &Json, faults: &mut Faults) -> Option<Vec<String>> {
    let items = faults.expect_array(json)?;
    if items.len() > scope::MAX_SCOPES {
        faults.add(
            "TOO_MANY",
            format!("At most {} scopes are allowed; {} were given.", scope::MAX_SCOPES, items.len()),
        );
        return None;
    }
    let mut scopes: Vec<String> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        faults.at_child(&index.to_string(), |faults| {
            let Some(scope) = rules::parse_text(item, faults, 65) else { return };
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        });
    }
    Some(scopes)
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
