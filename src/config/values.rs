//! Deserializers and serializers of single settings.
//!
//! Their errors have the form "found …, expected …"; the part after "expected" describes the valid values.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};
use ipnet::IpNet;
use jiff::SignedDuration;
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde::ser::{self, Serialize, Serializer};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::{CheckpointMode, ListenAddress, LogFormat};
use crate::domain::redaction::Redactor;

const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Deserializes a whole number from `MIN` to `MAX`.
pub(crate) fn deserialize_integer_in_range<'de, const MIN: u64, const MAX: u64, N, D>(
    deserializer: D,
) -> Result<N, D::Error>
where
    N: TryFrom<u64>,
    D: Deserializer<'de>,
{
    convert_integer(deserializer.deserialize_u64(IntegerVisitor {
        min: MIN,
        max: MAX,
        or_zero: false,
        accepts_unit: false,
    })?)
}

/// Deserializes a number of bytes from `MIN` to `MAX`: a whole number, or a text with a unit, such as `256MiB`.
pub(crate) fn deserialize_size_in_range<'de, const MIN: u64, const MAX: u64, N, D>(
    deserializer: D,
) -> Result<N, D::Error>
where
    N: TryFrom<u64>,
    D: Deserializer<'de>,
{
    convert_integer(deserializer.deserialize_any(IntegerVisitor {
        min: MIN,
        max: MAX,
        or_zero: false,
        accepts_unit: true,
    })?)
}

/// Deserializes a number of bytes like [`deserialize_size_in_range`], or 0, which has a special meaning.
pub(crate) fn deserialize_size_in_range_or_zero<'de, const MIN: u64, const MAX: u64, N, D>(
    deserializer: D,
) -> Result<N, D::Error>
where
    N: TryFrom<u64>,
    D: Deserializer<'de>,
{
    convert_integer(deserializer.deserialize_any(IntegerVisitor {
        min: MIN,
        max: MAX,
        or_zero: true,
        accepts_unit: true,
    })?)
}

/// Parses a whole number of bytes with a unit: B, KiB, MiB, GiB, TiB (powers of 1024), or kB, MB, GB, TB (powers
/// of 1000). The case of the letters doesn't matter, because no unit of this list differs only in it.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'_').count();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.replace('_', "").parse::<u64>().ok()?.checked_mul(factor)
}

fn convert_integer<N: TryFrom<u64>, E: Error>(number: u64) -> Result<N, E> {
    N::try_from(number).map_err(|_| E::custom(format_args!("{number} is too large for this machine")))
}

struct IntegerVisitor {
    min: u64,
    max: u64,
    or_zero: bool,
    /// True for a number of bytes, which may also be a text with a unit.
    accepts_unit: bool,
}

impl IntegerVisitor {
    fn admits(&self, number: u64) -> bool {
        (self.min..=self.max).contains(&number) || (self.or_zero && number == 0)
    }
}

impl Visitor<'_> for IntegerVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, max, or_zero, accepts_unit } = self;
        write!(f, "a whole number from {min} to {max}{}", if *or_zero { ", or 0" } else { "" })?;
        if *accepts_unit { f.write_str(r#", optionally with a unit, such as "256MiB""#) } else { Ok(()) }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        if self.admits(number) {
            Ok(number)
        } else {
            Err(E::invalid_value(Unexpected::Unsigned(number), &self))
        }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        if !self.accepts_unit {
            return Err(E::invalid_type(Unexpected::Str(text), &self));
        }
        let size = parse_size(text).filter(|size| self.admits(*size));
        size.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// Deserializes a text with `parse`, which returns `None` for an invalid text. `expected` describes a valid
/// text in the error message.
fn deserialize_text<'de, D, T>(
    deserializer: D,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    deserializer.deserialize_str(TextVisitor { expected, parse })
}

struct TextVisitor<P> {
    expected: &'static str,
    parse: P,
}

impl<T, P: FnOnce(&str) -> Option<T>> Visitor<'_> for TextVisitor<P> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| {
            let shown = Redactor::default().redact(text);
            E::invalid_value(Unexpected::Str(&shown), &self.expected)
        })
    }
}

/// Deserializes the address of a listener.
pub(crate) fn deserialize_listen_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<ListenAddress, D::Error> {
    deserialize_text(deserializer, ListenAddress::EXPECTED, ListenAddress::parse)
}

/// Deserializes the path of a directory.
pub(crate) fn deserialize_directory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    deserialize_text(deserializer, "the path of a directory", |text| (!text.is_empty()).then(|| text.into()))
}

/// Deserializes the path of a file; an empty text becomes `None`.
pub(crate) fn deserialize_optional_file<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    let expected = "the path of a file, or an empty string";
    deserialize_text(deserializer, expected, |text| Some((!text.is_empty()).then(|| text.into())))
}

/// Serializes the path of a file in the form that [`deserialize_optional_file`] reads.
pub(crate) fn serialize_optional_file<S: Serializer>(
    file: &Option<PathBuf>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    file.clone().unwrap_or_default().serialize(serializer)
}

/// Deserializes the address of a listener; an empty text becomes `None`.
pub(crate) fn deserialize_optional_listen_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ListenAddress>, D::Error> {
    let expected = r#"a port ("9464", from this machine only), ":9464" (all addresses), "localhost:9464", an address and a port ("127.0.0.1:9464"), or an empty string"#;
    deserialize_text(deserializer, expected, |text| match text {
        "" => Some(None),
        text => ListenAddress::parse(text).map(Some),
    })
}

/// Serializes the address of a listener in the form that [`deserialize_optional_listen_address`] reads.
pub(crate) fn serialize_optional_listen_address<S: Serializer>(
    listen: &Option<ListenAddress>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&listen.map(|listen| listen.to_string()).unwrap_or_default())
}

/// Serializes a section with an empty text in place of each missing value, because TOML has no `null`.
pub(crate) fn serialize_without_null<S: Serializer>(
    section: &impl Serialize,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut section = serde_json::to_value(section).map_err(ser::Error::custom)?;
    let values = section.as_object_mut().into_iter().flat_map(|section| section.values_mut());
    values.filter(|value| value.is_null()).for_each(|value| *value = "".into());
    section.serialize(serializer)
}

/// Deserializes a duration that is longer than zero and at most `MAX_TIMEOUT`.
pub(crate) fn deserialize_nonzero_timeout<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let expected = r#"a duration longer than 0s and at most 1h, such as "10s" or "1m 30s""#;
    deserialize_text(deserializer, expected, |text| {
        parse_timeout(text).filter(|duration| !duration.is_zero())
    })
}

/// Deserializes a duration from zero to `MAX_TIMEOUT`.
pub(crate) fn deserialize_timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserialize_text(deserializer, r#"a duration of at most 1h, such as "10s" or "1m 30s""#, parse_timeout)
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let duration = Duration::try_from(text.parse::<SignedDuration>().ok()?).ok()?;
    (duration <= MAX_TIMEOUT).then_some(duration)
}

/// Serializes a duration in the form that [`deserialize_timeout`] reads.
pub(crate) fn serialize_duration<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let duration = SignedDuration::try_from(*duration).map_err(ser::Error::custom)?;
    serializer.collect_str(&format_args!("{duration:#}"))
}

/// Deserializes a list of CIDR networks; a bare address is the network of that one host. The error names all
/// invalid entries of the list.
pub(crate) fn deserialize_networks<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let invalid: Vec<&str> =
        texts.iter().map(String::as_str).filter(|text| parse_network(text).is_none()).collect();
    if invalid.is_empty() {
        return Ok(texts.iter().filter_map(|text| parse_network(text)).collect());
    }
    let expected = r#"IP addresses or CIDR networks without host bits, such as "10.0.0.0/8""#;
    Err(D::Error::invalid_value(Unexpected::Str(&invalid.join(", ")), &expected))
}

/// Parses a CIDR network. An IPv4-mapped IPv6 network is rejected: client addresses are converted to IPv4
/// before the comparison, so such a network would never match any client.
fn parse_network(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().into(),
        Err(_) => text.parse::<IpNet>().ok()?,
    };
    let is_mapped = matches!(network, IpNet::V6(network) if network.addr().to_ipv4_mapped().is_some());
    (network == network.trunc() && !is_mapped).then_some(network)
}

/// Deserializes directives of `EnvFilter`. `EnvFilter` treats a single word that is not a level (the typo
/// `inf`) as the name of a module, and then logs only that module, so such a word is rejected.
pub(crate) fn deserialize_log_filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserialize_text(deserializer, LOG_FILTER_FORM, |text| is_log_filter(text).then(|| text.to_owned()))
}

/// The form of a log filter, for error messages.
pub(crate) const LOG_FILTER_FORM: &str =
    r#"a level (error, warn, info, debug, trace, off) or directives such as "info,tollhouse=debug""#;

/// True if the text consists of valid log directives; a directive that is a single word must be a level.
pub(crate) fn is_log_filter(text: &str) -> bool {
    let has_form = |directive: &str| {
        directive.contains(['=', '[', ']'])
            || (!directive.is_empty() && directive.parse::<LevelFilter>().is_ok())
    };
    text.split(',').all(has_form) && text.parse::<EnvFilter>().is_ok()
}

/// Deserializes the format of log lines from its name only; a deserializer derived with serde would also
/// accept the index of the variant.
pub(crate) fn deserialize_log_format<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<LogFormat, D::Error> {
    deserialize_text(deserializer, r#""auto", "human" or "json""#, |text| match text {
        "auto" => Some(LogFormat::Auto),
        "human" => Some(LogFormat::Human),
        "json" => Some(LogFormat::Json),
        _ => None,
    })
}

/// Deserializes who checkpoints the write-ahead log, from the name only.
pub(crate) fn deserialize_checkpoint_mode<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<CheckpointMode, D::Error> {
    deserialize_text(deserializer, r#""internal" or "external""#, |text| match text {
        "internal" => Some(CheckpointMode::Internal),
        "external" => Some(CheckpointMode::External),
        _ => None,
    })
}

/// Parses the value of an environment variable as the type of the setting's default. A list is comma-separated, or in
/// TOML or JSON. A value that can't be parsed stays a text, which the setting's deserializer rejects.
pub(super) fn parse_like_default(text: String, default: &Value) -> Value {
    match default {
        Value::Num(..) => text.trim().parse::<i64>().map_or(text.into(), Value::from),
        Value::Bool(..) => text.trim().parse::<bool>().map_or(text.into(), Value::from),
        Value::Array(..) if text.trim_start().starts_with('[') => {
            let list = Toml::from_str::<Dict>(&format!("list = {text}"));
            let list = list.ok().and_then(|mut list| list.remove("list"));
            list.or_else(|| serde_json::from_str(&text).ok()).unwrap_or(text.into())
        }
        Value::Array(..) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(str::to_owned).collect::<Vec<_>>().into()
        }
        _ => text.into(),
    }
}
