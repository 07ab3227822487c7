//! Meters: what limits and usage count, such as requests or tokens of a language model.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest name of a meter, in bytes.
const MAX_NAME_BYTES: usize = 32;

/// The name of a meter: `^[a-z][a-z0-9_]{0,31}$`. The settings declare the meters that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Meter([u8; MAX_NAME_BYTES]);

impl Meter {
    /// The meter of verifications. Each verification costs 1 of it unless its request says otherwise.
    pub const REQUESTS: Self = {
        let mut name = [0; MAX_NAME_BYTES];
        let text = b"requests";
        let mut index = 0;
        while index < text.len() {
            name[index] = text[index];
            index += 1;
        }
        Self(name)
    };

    /// Parses the name of a meter. `None` if the text can't be one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_name = text.len() <= MAX_NAME_BYTES
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let mut name = [0; MAX_NAME_BYTES];
        name.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        is_name.then_some(Self(name))
    }

    pub(crate) fn name(&self) -> &str {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(MAX_NAME_BYTES);
        std::str::from_utf8(&self.0[..length]).unwrap_or_default()
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::REQUESTS
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Meter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Meter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| de::Error::custom(format!("{name:?} can't be the name of a meter")))
    }
}

/// Units of a meter that a request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// What is counted.
    pub meter: Meter,
    /// Number of units; at most [`MAX_COST`].
    pub units: u32,
}

/// The highest cost of a request on one meter, in units.
pub(crate) const MAX_COST: u32 = 1_000_000_000;

/// The costs of a request that names none.
pub const DEFAULT_COSTS: [Cost; 1] = [Cost { meter: Meter::REQUESTS, units: 1 }];

/// The units of this meter among the costs; `None` if they don't name it.
pub(crate) fn units_of(costs: &[Cost], meter: Meter) -> Option<u32> {
    costs.iter().find(|cost| cost.meter == meter).map(|cost| cost.units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_meters_have_the_documented_form() {
        let longest = format!("t{}", "_".repeat(31));
        for name in ["requests", "tokens", "bytes_out", "t", "t0", &longest] {
            assert_eq!(Meter::parse(name).unwrap().name(), name);
        }
        assert_eq!(Meter::parse("requests"), Some(Meter::REQUESTS));
        let too_long = format!("{longest}a");
        for name in ["", "Tokens", "0t", "_t", "to kens", "tokens-in", "tökens", "t\0", &too_long] {
            assert_eq!(Meter::parse(name), None, "{name:?}");
        }
    }
}
