//! Creates the sample data of `tollhouse serve --dev`: a month of activity on a small platform. The data is
//! created by the same functions that serve API requests, but with times in the past. The ids `org_123`,
//! `user_123` and `key_123` are the ones in the examples of the documentation.

mod script;
mod traffic;

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::{
    RequestContext, api_keys, housekeeping, memberships, operator_keys, organizations, scopes, usage, users,
};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::action::Action;
use crate::domain::api_key::{Credential, SecretHash};
use crate::domain::audit::EventContext;
use crate::domain::fields::Json;
use crate::domain::id::Kind;
use crate::domain::page::Query;
use crate::domain::time::Timestamp;
use crate::domain::usage::Interval;
use crate::error::{Error, Result};
use crate::store;
use crate::verify::secret::{self, Secret};
use script::{SCRIPT, Step};

/// The number of days that the sample data covers.
const SAMPLE_DAYS: i64 = 30;
const DAY_MILLIS: i64 = Interval::Day.millis();
const MINUTE_MILLIS: i64 = 60_000;
/// The largest number of rows of usage that are written in one transaction.
const USAGE_ROWS_PER_WRITE: usize = 2000;

/// Fills an empty database with sample data. `first` becomes the secret of the first admin key, which is the
/// actor of all sample changes. Returns the secret of `key_123`.
pub(crate) async fn create(app: &Arc<App>, first: Secret) -> Result<String> {
    let now = app.clock.now();
    let begin = Timestamp::from_millis(now.as_millis() - SAMPLE_DAYS * DAY_MILLIS);
    let mut sample = Sample { app, caller: Caller::System, secrets: HashMap::new() };
    let ctx = sample.backdated_ctx(begin, Action::CreateApiKey, "POST", "/admin/v1/api-keys")?;
    let hash = first.hash();
    operator_keys::bootstrap_as(app, &ctx, first).await?;
    sample.caller = Caller::Key(sample.load_credential(hash).await?);
    for step in SCRIPT {
        let at = Timestamp::from_millis(now.as_millis() - step.minutes_ago * MINUTE_MILLIS);
        sample.run_step(step, at.max(begin)).await?;
    }
    sample.write_usage(begin, now).await?;
    let secret = sample.secrets.remove(script::SHOWN_KEY);
    secret.ok_or_else(|| Error::internal("the sample has no key to show"))
}

/// The members of an answer that shows the secret of a key.
#[derive(Deserialize)]
struct ShownKey {
    id: String,
    key: String,
}

/// The state of creating the sample data.
struct Sample<'a> {
    app: &'a Arc<App>,
    caller: Caller,
    /// The secrets of the sample's API keys, by key id.
    secrets: HashMap<String, String>,
}

impl Sample<'_> {
    /// Creates the context of an operation at a time in the past, as if it had been requested over HTTP.
    fn backdated_ctx(
        &self,
        at: Timestamp,
        action: Action,
        method: &str,
        path: &str,
    ) -> Result<Arc<RequestContext>> {
        let ctx = RequestContext::internal(self.app, self.caller.clone(), action)?;
        let over_http = matches!(self.caller, Caller::Key(_));
        let context = EventContext {
            request_id: Some(Kind::Request.new_id(at, ctx.random)),
            method: Some(method.to_owned()),
            path: Some(path.to_owned()),
            ip: Some("127.0.0.1".to_owned()),
            user_agent: Some("tollhouse-sample".to_owned()),
            ..EventContext::default()
        };
        let context = if over_http { context } else { EventContext::default() };
        Ok(Arc::new(RequestContext { now: at, context, ..Arc::unwrap_or_clone(ctx) }))
    }

    async fn load_credential(&self, hash: SecretHash) -> Result<Arc<Credential>> {
        let credential =
            self.app.db.read(move |tx| store::api_keys::find_credential_by_hash(tx, &hash)).await?;
        credential.map(Arc::new).ok_or_else(|| Error::internal("a key of the sample is missing"))
    }

    /// Performs one operation of the script at the time `at`.
    async fn run_step(&mut self, step: &Step, at: Timestamp) -> Result<()> {
        let app = self.app;
        let body = Json::parse(step.body.as_bytes())?;
        let ctx = self.backdated_ctx(at, step.action, step.method, step.path)?;
        let ctx = &ctx;
        // The id is part 4, counted from 0, of a path such as `/admin/v1/organizations/org_123/members` split
        // at its slashes.
        let mut parts = step.path.split('/').skip(4).map(str::to_owned);
        let id = parts.next().unwrap_or_default();
        let operation = match step.action {
            Action::CreateOrganization => organizations::create(app, ctx, &body).await?,
            Action::UpdateOrganization => organizations::update(app, ctx, id, &body).await?,
            Action::CreateUser => users::create(app, ctx, &body)?,
            Action::UpdateUser => users::update(ctx, id, &body)?,
            Action::CreateMembership => memberships::create(ctx, id, &body)?,
            Action::CreateScope => scopes::create(ctx, &body)?,
            Action::CreateApiKey => {
                let is_shown = step.body.contains(&format!(r#""id": "{}""#, script::SHOWN_KEY));
                let secret = is_shown.then(|| Secret::from_plain_text(script::SHOWN_SECRET.to_owned()));
                api_keys::create(app, ctx, &body, secret).await?
            }
            Action::UpdateApiKey => api_keys::update(app, ctx, id, &body).await?,
            Action::RevokeApiKey => api_keys::revoke(ctx, id, Some(&body))?,
            Action::RotateApiKey => api_keys::rotate(app, ctx, id, Some(&body)).await?,
            Action::ReadUsage => return usage::get(app, ctx, Query::of(Vec::new())).await.map(drop),
            Action::ListOrganizations => {
                return organizations::list(app, ctx, Query::of(Vec::new())).await.map(drop);
            }
            other => return Err(Error::internal(format!("unknown action {other:?} in the sample"))),
        };
        let answer = operation.answer(app, ctx).await?;
        if answer.holds_secret {
            let ShownKey { id, key } = serde_json::from_str(&answer.data).map_err(Error::internal)?;
            self.secrets.insert(id, key);
        }
        Ok(())
    }

    /// Generates the verifications of the sample's API keys, and writes them to the database.
    async fn write_usage(&self, begin: Timestamp, now: Timestamp) -> Result<()> {
        let mut keys = Vec::new();
        for (id, secret) in &self.secrets {
            keys.push((id.clone(), self.load_credential(secret::hash_secret(secret)).await?));
        }
        let batch = traffic::generate_verifications(&keys, begin, now);
        for counted in &batch.hourly_counts {
            if let Some(at) = counted.last_used {
                self.app.unstored.record_last_use(counted.key, at);
            }
        }
        for chunk in batch.chunks(USAGE_ROWS_PER_WRITE) {
            self.app.db.write(move |tx| usage::write_chunk(tx, &chunk)).await?;
        }
        housekeeping::write_last_used(self.app).await
    }
}
