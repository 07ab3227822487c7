//! `tollhouse openapi`: prints the OpenAPI document that the server serves at `/openapi.json`.

use super::args::Openapi;
use super::output;
use crate::error::Result;
use crate::http::routes;

pub(crate) fn print_document(args: &Openapi) -> Result<()> {
    let document = routes::openapi_document()?;
    let text = match &args.server {
        Some(url) => document.text_for_server(url)?,
        None => document.text().to_owned(),
    };
    output::print_document(format!("{text}\n").as_bytes())
}
