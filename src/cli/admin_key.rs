//! `tollhouse admin-key create`: creates a platform key for an operator who has lost theirs. The command
//! works while a server is running.

use super::args::CreateAdminKey;
use crate::config::Config;
use crate::domain::redaction::Redactor;
use crate::error::{Code, Error, Result};
use crate::service::api_keys;

/// Creates a platform key and prints its secret, which can't be shown again.
pub(crate) async fn create(config: Config, args: CreateAdminKey) -> Result<()> {
    if args.name.is_empty() || args.name.chars().count() > 200 || args.name.chars().any(char::is_control) {
        return Err(Error::new(
            Code::InvalidRequest,
            "--name must have 1 to 200 characters and no control characters.",
        ));
    }
    if Redactor::default().contains_secret(&args.name) {
        return Err(Error::new(
            Code::SecretInField,
            "--name must not contain the secret of an API key. Rotate that key if others may have seen it.",
        ));
    }
    let app = super::open_existing_database(config).await?;
    let created = api_keys::create_as_operator(&app, &args.name, args.scopes).await;
    app.close().await?;
    let created = created?;
    if args.json {
        println!("{}", serde_json::to_string(&created).map_err(Error::internal)?);
    } else {
        eprintln!(
            "created {} {:?} with scopes {}; the secret is shown only once:",
            created.api_key.id,
            args.name,
            created.api_key.scopes.join(" ")
        );
        println!("{}", created.key);
    }
    Ok(())
}
