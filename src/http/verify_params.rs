//! The bodies of verifications.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Deserialize;

use super::costs::{self, CostFault, Costs};
use crate::domain::fields::{Faults, Fields, Json};
use crate::domain::meter::{MAX_COST, Meter};
use crate::domain::scope::{self, Catalogue};
use crate::domain::{cidr, rules};
use crate::error::{Error, Result};

/// A key to verify.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerifyKey<'a> {
    /// The key that the client sent.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, nullable = false, example = "toll_4sZgkHnPb2LqTxW8vYcR3mJ7dF6aE9iU117KKs")]
    key: Option<Cow<'a, str>>,
    /// The key's id, instead of `key`, for callers with `admin:keys`. The key is then only checked: nothing is charged or
    /// counted.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, nullable = false, min_length = 1, max_length = 69, example = "key_123")]
    key_id: Option<Cow<'a, str>>,
    /// The required scopes. The key must have all of them.
    #[schema(value_type = Option<Vec<String>>, max_items = 100, example = json!(["workflows:read"]))]
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// The client's IP address, in any form that proxies write: with a port (`203.0.113.7:4711`), in
    /// brackets, or with a zone. Without it, a key with an allowlist is denied.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, example = "203.0.113.7")]
    ip: Option<Cow<'a, str>>,
    /// The cost on the meter `requests`; 1 if omitted.
    #[schema(minimum = 0, maximum = 1_000_000_000, example = 1)]
    #[serde(default)]
    cost: Option<u32>,
    #[serde(default)]
    #[schema(schema_with = costs::nullable_schema, required = false)]
    costs: Option<Costs>,
    /// If `true`, the key is only checked: nothing is charged or counted. `false` if omitted.
    #[schema(example = false)]
    #[serde(default)]
    dry_run: Option<bool>,
}

/// Keys to verify.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerifyKeys<'a> {
    /// The verifications, which are decided and counted in this order.
    #[serde(borrow)]
    #[schema(min_items = 1, max_items = 100, example = json!([{"key": "toll_4sZgkHnPb2LqTxW8vYcR3mJ7dF6aE9iU117KKs"}]))]
    verifications: Vec<VerifyKey<'a>>,
}

/// The maximum number of verifications in one request.
pub(super) const MAX_VERIFICATIONS: usize = 100;

/// The longest id of a key.
const MAX_ID_CHARS: usize = 69;

/// The key of a verification.
pub(super) enum GivenKey<'a> {
    Secret(Cow<'a, str>),
    Id(String),
}

/// The scopes and meters that exist.
#[derive(Clone, Copy)]
pub(super) struct KnownNames<'a> {
    pub(super) catalogue: &'a Catalogue,
    pub(super) meters: &'a [Meter],
}

/// A parsed and validated [`VerifyKey`].
pub(super) struct VerifyParams<'a> {
    pub(super) key: GivenKey<'a>,
    pub(super) scopes: Vec<String>,
    pub(super) ip: Option<IpAddr>,
    pub(super) costs: Costs,
    pub(super) dry_run: bool,
}

impl<'a> VerifyParams<'a> {
    /// Parses a valid body in one pass. `None` if this fast path can't parse the body; then
    /// [`parse_reporting_faults`] parses the body again and reports what is wrong.
    ///
    /// [`parse_reporting_faults`]: Self::parse_reporting_faults
    pub(super) fn parse(body: &'a [u8], known: &KnownNames<'_>) -> Option<Self> {
        is_object(body).then(|| Self::check(serde_json::from_slice(body).ok()?, known)).flatten()
    }

    /// Like [`parse`](Self::parse), for a body with several verifications.
    pub(super) fn parse_list(body: &'a [u8], known: &KnownNames<'_>) -> Option<Vec<Self>> {
        if !is_object(body) {
            return None;
        }
        let VerifyKeys { verifications } = serde_json::from_slice(body).ok()?;
        let is_valid = (1..=MAX_VERIFICATIONS).contains(&verifications.len());
        is_valid.then(|| verifications.into_iter().map(|item| Self::check(item, known)).collect())?
    }

    fn check(body: VerifyKey<'a>, known: &KnownNames<'_>) -> Option<Self> {
        let VerifyKey { key, key_id, scopes, ip, cost, costs, dry_run } = body;
        let key = match (key, key_id) {
            // Only an escaped U+0000 is valid JSON, and a text with an escape is owned.
            (Some(Cow::Owned(key)), None) if key.contains('\0') => return None,
            (Some(key), None) => GivenKey::Secret(key),
            // Ids are checked by the slower path.
            _ => return None,
        };
        let scopes = scopes.unwrap_or_default();
        if scopes.len() > scope::MAX_SCOPES {
            return None;
        }
        let scopes = distinct(scopes);
        let ip = match ip {
            Some(ip) => Some(cidr::parse_address(&ip)?),
            None => None,
        };
        let costs = costs.unwrap_or_default().with_cost(cost).ok()?;
        let is_valid = scopes.iter().all(|wanted| known.catalogue.is_known_grant(wanted))
            && costs.are_known(known.meters);
        is_valid.then_some(Self { key, scopes, ip, costs, dry_run: dry_run.unwrap_or(false) })
    }

    /// Parses a body field by field and reports all faults of the body.
    pub(super) fn parse_reporting_faults(body: &[u8], known: &KnownNames<'_>) -> Result<Self> {
        let json = Json::parse(body)?;
        let mut fields = Fields::of(&json);
        let params = Self::read(&mut fields, known);
        fields.finish(params).map_err(Error::with_code_of_details)
    }

    /// Like [`parse_reporting_faults`](Self::parse_reporting_faults), for a body with several verifications.
    pub(super) fn parse_list_reporting_faults(body: &[u8], known: &KnownNames<'_>) -> Result<Vec<Self>> {
        let json = Json::parse(body)?;
        let mut fields = Fields::of(&json);
        let list = fields.required("verifications", |json, faults| {
            let items = faults.expect_array(json)?;
            if !(1..=MAX_VERIFICATIONS).contains(&items.len()) {
                let message = format!("Must have 1 to {MAX_VERIFICATIONS} items; has {}.", items.len());
                faults.add("INVALID_LENGTH", message);
                return None;
            }
            let read = |(index, item): (usize, &Json)| {
                faults.at_child(&index.to_string(), |faults| {
                    let mut fields = Fields::of_nested_object(item, faults);
                    let params = Self::read(&mut fields, known);
                    fields.finish_nested(faults);
                    params
                })
            };
            Some(items.iter().enumerate().map(read).collect::<Vec<_>>())
        });
        fields.finish(list).map_err(Error::with_code_of_details)
    }

    fn read(fields: &mut Fields<'_>, known: &KnownNames<'_>) -> Self {
        let key = fields.optional("key", rules::parse_secret);
        let key_id = fields.optional("key_id", |json, faults| rules::parse_text(json, faults, MAX_ID_CHARS));
        let scopes = fields
            .nullable("scopes", |json, faults| scope::parse_scopes(Some(known.catalogue), json, faults));
        let ip = fields.nullable("ip", parse_ip_address).into_option();
        let cost = fields.nullable("cost", rules::integer_parser(0, MAX_COST.into())).into_option();
        let costs = fields.nullable("costs", |json, faults| Costs::read(known.meters, json, faults));
        let costs = costs.into_option().unwrap_or_default();
        let costs = costs.with_cost(cost.and_then(|cost| u32::try_from(cost).ok()));
        match costs {
            Err(CostFault::Repeated) => {
                let message = "cost and costs.requests have different values. Send only one of them.";
                fields.add_fault("cost", "CONFLICT", message);
            }
            Err(_) => {
                fields.add_fault("cost", "TOO_MANY", "At most 8 costs are allowed, including this one.")
            }
            Ok(_) => {}
        }
        let dry_run = fields.nullable("dry_run", rules::parse_bool).into_option();
        let key = match (key, key_id) {
            (Some(_), Some(_)) => {
                fields.add_fault("key_id", "CONFLICT", "Give either key or key_id.");
                None
            }
            (Some(key), None) => Some(GivenKey::Secret(key.into())),
            (None, Some(id)) => Some(GivenKey::Id(id)),
            (None, None) => {
                if !fields.is_given("key") && !fields.is_given("key_id") {
                    fields.add_fault("key", "REQUIRED", "Required.");
                }
                None
            }
        };
        Self {
            key: key.unwrap_or(GivenKey::Id(String::new())),
            scopes: distinct(scopes.into_option().unwrap_or_default()),
            ip,
            costs: costs.unwrap_or_default(),
            dry_run: dry_run.unwrap_or(false),
        }
    }
}

/// Each of these scopes once, because checking one takes time.
fn distinct(mut scopes: Vec<String>) -> Vec<String> {
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

/// True if a body can be a JSON object. serde would also accept an array of the fields' values.
fn is_object(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
}

fn parse_ip_address(json: &Json, faults: &mut Faults) -> Option<IpAddr> {
    let address = cidr::parse_address(faults.expect_string(json)?);
    if address.is_none() {
        faults.add("INVALID_ADDRESS", "Must be an IP address, such as 203.0.113.7 or 2001:db8::1.");
    }
    address
}
