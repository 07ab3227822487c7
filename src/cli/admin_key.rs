//! `tollhouse admin-key`: creates, lists and revokes platform keys, for an operator who has lost theirs. The
//! commands work while a server is running, and without one.

use std::time::Duration;

use super::args::key_and_audit_commands::{CreateAdminKey, ListAdminKeys, RevokeAdminKey};
use super::{interrupt, output};
use crate::app::App;
use crate::config::Config;
use crate::domain::api_key::ApiKey;
use crate::domain::redaction::Redactor;
use crate::error::{Code, Error, Result};
use crate::service::api_keys::ApiKeyWithSecret;
use crate::service::{lifecycle, operator_keys};
use crate::store::schema;
use crate::telemetry::escape;

/// The time within which a running server notices a change by another process.
const SERVER_FOLLOWS_WITHIN: Duration = Duration::from_secs(1);

fn check_text(flag: &str, text: &str) -> Result<()> {
    if text.is_empty() || text.chars().count() > 200 || text.chars().any(char::is_control) {
        let message = format!("{flag} must have 1 to 200 characters and no control characters.");
        return Err(Error::new(Code::InvalidRequest, message));
    }
    if Redactor::default().contains_secret(text) {
        let message = format!(
            "{flag} must not contain the secret of an API key. Rotate that key if others may have seen it."
        );
        return Err(Error::new(Code::SecretInField, message));
    }
    Ok(())
}

/// Creates a platform key and prints its secret, which can't be shown again. If it can't be printed, no key
/// remains that nobody has.
pub(crate) async fn create(config: Config, args: CreateAdminKey) -> Result<()> {
    check_text("--name", &args.name)?;
    if output::is_discarded() {
        let message = "Standard output is closed or /dev/null, where the secret would be lost. No key was \
                       created.";
        return Err(Error::new(Code::InvalidRequest, message));
    }
    interrupt::end_process_on_signal(|| {
        "a key whose secret was not printed may exist; see `tollhouse admin-key list`.".to_owned()
    })?;
    let app = super::open_existing_database(config).await?;
    let created = create_and_print(&app, args).await;
    let closed = lifecycle::close(&app).await;
    created.and(closed)
}

async fn create_and_print(app: &App, args: CreateAdminKey) -> Result<()> {
    let created = operator_keys::create_as_operator(app, &args.name, args.scopes).await?;
    let Err(error) = print_created(&created, args.json) else { return Ok(()) };
    let id = &created.api_key.id;
    let problem = super::operator_message(&error);
    operator_keys::withdraw(app, id).await.map_err(|error| {
        let revoking = super::operator_message(&error);
        Error::internal(format!(
            "{problem}. The key {id} exists, but its secret is lost, and revoking it failed: {revoking}"
        ))
    })?;
    Err(Error::internal(format!("{problem}. The secret was lost, so the key {id} was revoked.")))
}

fn print_created(created: &ApiKeyWithSecret, json: bool) -> Result<()> {
    if json {
        return output::print_secret_json(created);
    }
    output::message(&format!(
        "created {} {:?} with scopes {}; the secret is shown only once:",
        created.api_key.id,
        created.api_key.name,
        created.api_key.scopes.join(" ")
    ));
    output::print_secret(&created.key)
}

/// Prints all platform keys.
pub(crate) async fn list(config: Config, args: ListAdminKeys) -> Result<()> {
    let app = super::open_existing_database(config).await?;
    let keys = operator_keys::list_platform_keys(&app).await;
    let closed = lifecycle::close(&app).await;
    let keys = keys?;
    if args.json {
        output::print_json(&keys)?;
    } else {
        output::print(&format_table(&keys))?;
    }
    closed
}

fn format_table(keys: &[ApiKey]) -> String {
    let heading = ["ID", "STATUS", "LAST USED", "NAME", "SCOPES"].map(str::to_owned);
    let row = |key: &ApiKey| {
        [
            key.id.clone(),
            key.status.name().to_owned(),
            key.last_used_at.map_or("never".to_owned(), |at| at.to_string()),
            escape::escape_line(&key.name),
            key.scopes.join(" "),
        ]
    };
    let rows: Vec<_> = std::iter::once(heading).chain(keys.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [id, status, used, name] = [width(0), width(1), width(2), width(3)];
    let lines = rows.iter().map(|[a, b, c, d, e]| format!("{a:id$}  {b:status$}  {c:used$}  {d:name$}  {e}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Revokes a key, and returns when a running server refuses it.
pub(crate) async fn revoke(config: Config, args: RevokeAdminKey) -> Result<()> {
    args.reason.as_deref().map_or(Ok(()), |reason| check_text("--reason", reason))?;
    let dir = config.database.dir.clone();
    let app = super::open_existing_database(config).await?;
    let revoked = operator_keys::revoke(&app, &args.id, args.reason).await;
    let closed = lifecycle::close(&app).await;
    let revoked = revoked?;
    let is_served = schema::is_served(&dir);
    if is_served {
        tokio::time::sleep(SERVER_FOLLOWS_WITHIN).await;
    }
    if args.json {
        output::print_json(&revoked)?;
    } else {
        let followed = if is_served { "; the running server refuses it" } else { "" };
        output::print(&format!("revoked {} {:?}{followed}", revoked.id, revoked.name))?;
    }
    closed
}
