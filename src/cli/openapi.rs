//! `tollhouse openapi`: prints the OpenAPI document that the server serves at `/openapi.json`.

use super::write_to_standard_output;
use crate::error::Result;
use crate::http::openapi;

pub(crate) fn print_document() -> Result<()> {
    write_to_standard_output(format!("{}\n", openapi::text()?).as_bytes())
}
