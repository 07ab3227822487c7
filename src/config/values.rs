//! Deserializers and serializers of single settings.
//!
//! Errors have the form "found …, expected …"; the second half always describes the valid values.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use jiff::SignedDuration;
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde::ser::{self, Serialize, Serializer};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::LogFormat;
use crate::domain::settings::is_prefix;

const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// A whole number from `MIN` to `MAX`.
pub(crate) fn number<'de, const MIN: u64, const MAX: u64, N, D>(deserializer: D) -> Result<N, D::Error>
where
    N: TryFrom<u64>,
    D: Deserializer<'de>,
{
    convert(deserializer.deserialize_u64(Number { min: MIN, max: MAX, or_zero: false })?)
}

/// A whole number from `MIN` to `MAX`, or 0, which has a special meaning.
pub(crate) fn number_or_zero<'de, const MIN: u64, const MAX: u64, N, D>(
    deserializer: D,
) -> Result<N, D::Error>
where
    N: TryFrom<u64>,
    D: Deserializer<'de>,
{
    convert(deserializer.deserialize_u64(Number { min: MIN, max: MAX, or_zero: true })?)
}

fn convert<N: TryFrom<u64>, E: Error>(number: u64) -> Result<N, E> {
    N::try_from(number).map_err(|_| E::custom(format_args!("{number} is too large for this machine")))
}

struct Number {
    min: u64,
    max: u64,
    or_zero: bool,
}

impl Visitor<'_> for Number {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, max, or_zero } = self;
        write!(f, "a whole number from {min} to {max}{}", if *or_zero { ", or 0" } else { "" })
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        if (self.min..=self.max).contains(&number) || (self.or_zero && number == 0) {
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
}

/// Reads a text with `parse`, which returns `None` for a text that is not as `expected`.
fn text<'de, D, T>(
    deserializer: D,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    deserializer.deserialize_str(Text { expected, parse })
}

struct Text<P> {
    expected: &'static str,
    parse: P,
}

impl<T, P: FnOnce(&str) -> Option<T>> Visitor<'_> for Text<P> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self.expected))
    }
}

/// An address and a port.
pub(crate) fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let expected = r#"an address and a port, such as "127.0.0.1:8080" or "[::]:8080""#;
    text(deserializer, expected, |text| text.parse().ok())
}

/// The path of a directory.
pub(crate) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    text(deserializer, "the path of a directory", |text| (!text.is_empty()).then(|| text.into()))
}

/// The path of a file; empty for none.
pub(crate) fn file_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let expected = "the path of a file, or an empty string";
    text(deserializer, expected, |text| Some((!text.is_empty()).then(|| text.into())))
}

/// Serializes in the form that [`file_or_none`] reads.
pub(crate) fn show_file<S: Serializer>(file: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    file.clone().unwrap_or_default().serialize(serializer)
}

/// An address and a port, or a port on the loopback address; empty for none.
pub(crate) fn listen_or_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let expected = r#"an address and a port ("127.0.0.1:9464"), a port on the loopback address ("9464"), or an empty string"#;
    text(deserializer, expected, |text| match text.parse::<u16>() {
        _ if text.is_empty() => Some(None),
        Ok(port) => Some(Some((Ipv4Addr::LOCALHOST, port).into())),
        Err(_) => text.parse().ok().map(Some),
    })
}

/// Serializes in the form that [`listen_or_none`] reads.
pub(crate) fn show_listen<S: Serializer>(
    listen: &Option<SocketAddr>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&listen.map(|listen| listen.to_string()).unwrap_or_default())
}

/// The prefix of keys.
pub(crate) fn prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let expected = "a lowercase letter, followed by up to 15 lowercase letters or digits";
    text(deserializer, expected, |text| is_prefix(text).then(|| text.to_owned()))
}

/// A message for users; empty for none.
pub(crate) fn message<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    text(deserializer, "a text of at most 200 characters, without control characters", |text| {
        let fits = text.chars().count() <= 200 && !text.chars().any(char::is_control);
        fits.then(|| text.to_owned())
    })
}

/// A boolean.
pub(crate) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    deserializer.deserialize_any(Flag)
}

struct Flag;

impl Visitor<'_> for Flag {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true or false")
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<bool, E> {
        Ok(flag)
    }
}

/// A duration above zero.
pub(crate) fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let expected = r#"a duration longer than 0s and at most 1h, such as "10s" or "1m 30s""#;
    text(deserializer, expected, |text| duration(text).filter(|duration| !duration.is_zero()))
}

/// A duration that may be zero.
pub(crate) fn timeout_or_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    text(deserializer, r#"a duration of at most 1h, such as "10s" or "1m 30s""#, duration)
}

fn duration(text: &str) -> Option<Duration> {
    let duration = Duration::try_from(text.parse::<SignedDuration>().ok()?).ok()?;
    (duration <= MAX_TIMEOUT).then_some(duration)
}

/// Serializes in the form that [`timeout`] reads.
pub(crate) fn show_duration<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let duration = SignedDuration::try_from(*duration).map_err(ser::Error::custom)?;
    serializer.collect_str(&format_args!("{duration:#}"))
}

/// CIDR networks; a bare address is the network of that one host. All invalid ones are reported at once.
pub(crate) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let invalid: Vec<&str> =
        texts.iter().map(String::as_str).filter(|text| network(text).is_none()).collect();
    if invalid.is_empty() {
        return Ok(texts.iter().filter_map(|text| network(text)).collect());
    }
    let expected = r#"IP addresses or CIDR networks without host bits, such as "10.0.0.0/8""#;
    Err(D::Error::invalid_value(Unexpected::Str(&invalid.join(", ")), &expected))
}

/// Parses a network. Client addresses are compared as IPv4 where they are IPv4, so an IPv4-mapped IPv6
/// network would never contain one: it is refused rather than ignored.
fn network(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().into(),
        Err(_) => text.parse::<IpNet>().ok()?,
    };
    let is_mapped = matches!(network, IpNet::V6(network) if network.addr().to_ipv4_mapped().is_some());
    (network == network.trunc() && !is_mapped).then_some(network)
}

/// Directives of `EnvFilter`. `EnvFilter` takes a lone word that is not a level (`inf`) for the name of a
/// module, and then logs only that module; such a typo is refused here.
pub(crate) fn log_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let expected =
        r#"a level (error, warn, info, debug, trace, off) or directives such as "info,tollhouse=debug""#;
    text(deserializer, expected, |text| {
        let fits = text.split(',').all(|directive| {
            directive.contains(['=', '[', ']'])
                || (!directive.is_empty() && directive.parse::<LevelFilter>().is_ok())
        });
        (fits && text.parse::<EnvFilter>().is_ok()).then(|| text.to_owned())
    })
}

/// The format of log lines, by name only (an enum derived with serde would also accept its index).
pub(crate) fn log_format<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LogFormat, D::Error> {
    text(deserializer, r#""auto", "human" or "json""#, |text| match text {
        "auto" => Some(LogFormat::Auto),
        "human" => Some(LogFormat::Human),
        "json" => Some(LogFormat::Json),
        _ => None,
    })
}
