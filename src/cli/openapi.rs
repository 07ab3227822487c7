//! `tollhouse openapi`: prints the OpenAPI document that the server serves at `/openapi.json`.

use super::args::{Openapi, OpenapiVersion};
use super::output;
use crate::error::Result;
use crate::http::openapi::SpecificationVersion;
use crate::http::routes;

pub(crate) fn print_document(args: &Openapi) -> Result<()> {
    let version = match args.specification {
        OpenapiVersion::V3_0 => SpecificationVersion::V3_0,
        OpenapiVersion::V3_1 => SpecificationVersion::V3_1,
    };
    let text = routes::openapi_document()?.text_for_tools(version, args.server.as_deref())?;
    output::print_document(format!("{text}\n").as_bytes())
}
