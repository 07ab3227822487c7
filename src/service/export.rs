//! Exports all organizations, users, memberships, scopes and keys, in the format that an import reads.
//!
//! The export is a consistent snapshot of the database. It is written page by page, so that memory use is
//! constant.

use std::io::Write;
use std::path::Path;

use super::check::ProgressFn;
use super::{RequestContext, mutate};
use crate::app::App;
use crate::config::DatabaseConfig;
use crate::domain::access::Caller;
use crate::domain::action::{Action, TargetKind};
use crate::domain::audit::AuditEntry;
use crate::domain::export::ExportLine;
use crate::domain::settings::StoredSettings;
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};
use crate::store::db::Tx;
use crate::store::export::ExportPage;
use crate::store::reader::Reader;
use crate::store::{self, export};

/// The number of rows that are read from a table at a time.
const ROWS_PER_PAGE: usize = 500;

/// Writes the export to `output`, and returns the number of records. `output` should be a file: the export is
/// one read transaction, and the database's WAL can't be reset until the transaction ends, so a slow `output`
/// lets the WAL grow.
///
/// The second value is the error because of which the export's audit event could not be stored.
pub(crate) async fn run(
    app: &App,
    output: &mut dyn Write,
    progress: ProgressFn<'_>,
) -> Result<(u64, Option<Error>)> {
    let ctx = RequestContext::internal(app, Caller::Operator, Action::ExportDatabase)?;
    let file = app.config.database.file();
    let records = write_export(&file, output, ctx.now, progress)?;
    let entry = AuditEntry::for_resource(None, TargetKind::Database, DatabaseConfig::FILE_NAME, "");
    let recorded = mutate(app, &ctx, 200, move |_, _| Ok(((), vec![entry.clone()]))).await;
    Ok((records, recorded.err()))
}

fn write_export(
    file: &Path,
    output: &mut dyn Write,
    now: Timestamp,
    progress: ProgressFn<'_>,
) -> Result<u64> {
    let mut reader = Reader::open(file)?;
    reader.read(|tx| {
        let rows = store::check::count_rows(tx)?;
        let tables = ["scopes", "organizations", "users", "memberships", "api_keys"];
        let total = tables.iter().filter_map(|table| rows.get(*table)).sum::<i64>();
        let mut out = ExportWriter { output, records: 0, total: u64::try_from(total).unwrap_or(0), progress };
        out.write_line(&ExportLine::begin(now, store::audit::chain_head(tx)?))?;
        let StoredSettings { settings, known_prefixes, .. } = &*store::settings::get(tx)?;
        out.write_line(&ExportLine::Settings { settings, known_prefixes })?;
        out.records += 1;
        out.write_table(tx, export::scopes_page, |new| ExportLine::Scope {
            scope: &new.scope,
            description: new.description.as_deref(),
            created_at: new.created_at,
        })?;
        out.write_table(tx, export::organizations_page, |(organization, deleted_at)| {
            ExportLine::Organization {
                organization,
                deleted_at: *deleted_at,
                revision: organization.revision,
            }
        })?;
        out.write_table(tx, export::users_page, |(user, deleted_at)| ExportLine::User {
            user,
            deleted_at: *deleted_at,
            revision: user.revision,
        })?;
        out.write_table(tx, export::memberships_page, |new| ExportLine::Membership {
            organization_id: &new.organization_id,
            user_id: &new.user_id,
            role: new.role,
            created_at: new.created_at,
            updated_at: new.updated_at,
            revision: new.revision,
        })?;
        out.write_table(tx, export::api_keys_page, |(key, secrets)| ExportLine::api_key(key, secrets))?;
        let records = out.records;
        out.write_line(&ExportLine::End { records })?;
        Ok(records)
    })
}

/// Writes the lines of an export, and counts the records.
struct ExportWriter<'a> {
    output: &'a mut dyn Write,
    records: u64,
    total: u64,
    progress: ProgressFn<'a>,
}

impl ExportWriter<'_> {
    fn write_line(&mut self, line: &ExportLine<'_>) -> Result<()> {
        self.output.write_all(line.to_json_line()?.as_bytes()).map_err(Error::internal)
    }

    /// Writes a line for each row of a table. `read` reads a page of rows, and `line` converts a row to its
    /// line.
    fn write_table<T>(
        &mut self,
        tx: &Tx<'_>,
        read: impl Fn(&Tx<'_>, i64, usize) -> Result<ExportPage<T>>,
        line: impl Fn(&T) -> ExportLine<'_>,
    ) -> Result<()> {
        let mut after = i64::MIN;
        loop {
            let page = read(tx, after, ROWS_PER_PAGE)?;
            for (seq, row) in &page {
                self.write_line(&line(row))?;
                self.records += 1;
                after = *seq;
            }
            (self.progress)("records", self.records, self.total.max(self.records));
            if page.len() < ROWS_PER_PAGE {
                return Ok(());
            }
        }
    }
}
