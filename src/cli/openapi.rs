//! `tollhouse openapi`: the document that the server serves at `/openapi.json`.

use super::print as write;
use crate::error::Result;
use crate::http::openapi;

pub(crate) fn print() -> Result<()> {
    write(format!("{}\n", openapi::text()?).as_bytes())
}
