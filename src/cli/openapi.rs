//! `tollhouse openapi`: prints the OpenAPI document that the server serves at `/openapi.json`.

use super::args::Openapi;
use super::output;
use crate::error::Result;
use crate::http::openapi;

pub(crate) fn print_document(args: &Openapi) -> Result<()> {
    let document = match &args.server {
        Some(url) => openapi::text_for_server(url)?,
        None => openapi::text()?.to_owned(),
    };
    output::print_document(format!("{document}\n").as_bytes())
}
