//! The costs of a verification by meter, as requests give them.

use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::openapi::ObjectBuilder;
use utoipa::openapi::schema::{AdditionalProperties, Schema, SchemaType, Type};

use crate::domain::fields::{Faults, Json};
use crate::domain::limits::unknown_meter_message;
use crate::domain::meter::{Cost, MAX_COST, Meter};
use crate::domain::rules;
use crate::error::Code;

/// The maximum number of meters in the costs of a request.
const MAX_COSTS: usize = 8;

/// What is wrong with a cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CostFault {
    /// It is neither a number nor `meter:number`.
    Malformed,
    /// The meter has another cost already. On `requests`, the same cost may be given twice.
    Repeated,
    TooHigh,
    TooMany,
}

impl fmt::Display for CostFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("A cost must be a number, or meter:number."),
            Self::Repeated => f.write_str("A meter can have only one cost."),
            Self::TooHigh => f.write_str("The maximum is 1,000,000,000."),
            Self::TooMany => write!(f, "At most {MAX_COSTS} costs are allowed."),
        }
    }
}

/// The costs of a request, each meter at most once. The meter `requests` comes first.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Costs {
    /// The cost on `requests`; `None` if it isn't given, which means 1.
    requests: Option<u32>,
    /// The given costs, preceded by that on `requests`.
    all: Vec<Cost>,
}

impl Default for Costs {
    fn default() -> Self {
        Self { requests: None, all: vec![Cost { meter: Meter::REQUESTS, units: 1 }] }
    }
}

impl Costs {
    /// These costs with `cost`, which is short for that on `requests`. Fails if it has another value there.
    pub(crate) fn with_cost(mut self, cost: Option<u32>) -> Result<Self, CostFault> {
        if let Some(cost) = cost {
            self.set(Meter::REQUESTS, cost)?;
        }
        Ok(self)
    }

    /// Adds a cost in the form of a query parameter: `2` on `requests`, or `tokens:0` on another meter.
    pub(crate) fn add_text(&mut self, text: &str) -> Result<(), CostFault> {
        let (meter, units) = match text.split_once(':') {
            Some((meter, units)) => (Meter::parse(meter), units),
            None => (Some(Meter::REQUESTS), text),
        };
        let is_number = !units.is_empty() && units.bytes().all(|byte| byte.is_ascii_digit());
        let meter = meter.filter(|_| is_number).ok_or(CostFault::Malformed)?;
        self.set(meter, units.parse().map_err(|_| CostFault::TooHigh)?)
    }

    /// True if all meters are among these. `requests` always is.
    pub(crate) fn are_known(&self, meters: &[Meter]) -> bool {
        self.all[1..].iter().all(|cost| meters.contains(&cost.meter))
    }

    /// The costs that were given, without the usual one on `requests`.
    pub(crate) fn given(self) -> Vec<Cost> {
        let is_given = |cost: &Cost| cost.meter != Meter::REQUESTS || self.requests.is_some();
        self.all.into_iter().filter(is_given).collect()
    }

    pub(crate) fn as_slice(&self) -> &[Cost] {
        &self.all
    }

    /// Parses an object of costs by meter. Unknown meters are faults.
    pub(crate) fn read(meters: &[Meter], json: &Json, faults: &mut Faults) -> Option<Self> {
        let mut costs = Self::default();
        let given = faults.expect_object(json)?;
        if given.len() > MAX_COSTS {
            faults.add(
                "TOO_MANY",
                format!("At most {MAX_COSTS} costs are allowed; {} were given.", given.len()),
            );
            return None;
        }
        for (name, units) in given {
            faults.at_child(name, |faults| {
                let meter = Meter::parse(name).filter(|meter| meters.contains(meter));
                if meter.is_none() {
                    faults.add(Code::UnknownMeter.name(), unknown_meter_message(meters));
                }
                let units = rules::integer_parser(0, MAX_COST.into())(units, faults);
                let units = units.and_then(|units| u32::try_from(units).ok());
                if let Some((meter, units)) = meter.zip(units)
                    && let Err(fault) = costs.set(meter, units)
                {
                    faults.add("DUPLICATE", fault.to_string());
                }
            });
        }
        Some(costs)
    }

    /// Sets the cost on a meter. Fails if it is set to another value, or twice to the same one except on `requests`.
    fn set(&mut self, meter: Meter, units: u32) -> Result<(), CostFault> {
        if units > MAX_COST {
            return Err(CostFault::TooHigh);
        }
        let given = self.all.len() - usize::from(self.requests.is_none());
        if meter == Meter::REQUESTS {
            match self.requests {
                Some(set) if set != units => return Err(CostFault::Repeated),
                None if given == MAX_COSTS => return Err(CostFault::TooMany),
                _ => {}
            }
            self.requests = Some(units);
            self.all[0].units = units;
            return Ok(());
        }
        if self.all.iter().any(|cost| cost.meter == meter) {
            return Err(CostFault::Repeated);
        }
        if given == MAX_COSTS {
            return Err(CostFault::TooMany);
        }
        self.all.push(Cost { meter, units });
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Costs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CostsVisitor;

        impl<'de> Visitor<'de> for CostsVisitor {
            type Value = Costs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of costs by meter")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Costs, A::Error> {
                let mut costs = Costs::default();
                while let Some((meter, units)) = map.next_entry::<Meter, u32>()? {
                    if meter == Meter::REQUESTS && costs.requests.is_some() {
                        return Err(A::Error::custom(CostFault::Repeated));
                    }
                    costs.set(meter, units).map_err(A::Error::custom)?;
                }
                Ok(costs)
            }
        }

        deserializer.deserialize_map(CostsVisitor)
    }
}

/// The schema of costs by meter that may be omitted.
pub(crate) fn nullable_schema() -> ObjectBuilder {
    schema().schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
}

/// The schema of costs by meter.
pub(crate) fn schema() -> ObjectBuilder {
    let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[a-z][a-z0-9_]{0,31}$"));
    let units = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(MAX_COST));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property_names(Some(Schema::from(name)))
        .additional_properties(Some(AdditionalProperties::RefOr(Schema::from(units).into())))
        .max_properties(Some(MAX_COSTS))
        .description(Some(
            "The costs by meter, for at most 8 meters. The limits on these meters and on `requests` decide. A cost of \
             0 asks only whether more was used than the limits allow.",
        ))
        .examples([serde_json::json!({ "requests": 1 })])
}
