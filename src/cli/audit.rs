//! `tollhouse audit verify` verifies the audit log in the database or in an exported file; `tollhouse audit
//! export` exports it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use futures_util::StreamExt as _;

use super::args::key_and_audit_commands::{AuditExport, AuditVerify, ExportFormat};
use super::output::ResultStream;
use super::{interrupt, output};
use crate::config::Config;
use crate::domain::access::Caller;
use crate::domain::action::Action;
use crate::domain::audit::Verification;
use crate::domain::chain::{ChainAnchor, ChainLink, ChainVerifier};
use crate::domain::page::Query;
use crate::error::{Code, Error, Result};
use crate::service::{RequestContext, audit, lifecycle};
use crate::store::part_file::PartFile;

/// Verifies the audit chain and prints the result. Returns false if the chain is broken.
pub(crate) async fn verify(config: Config, args: AuditVerify) -> Result<bool> {
    let database = config.database.file();
    let file = args.file.as_deref().unwrap_or(&database);
    let result = match verify_chain(config, &args).await {
        Ok(result) => result,
        Err(error) if args.json => return super::print_failure_as_json(file, &error),
        Err(error) => return Err(error),
    };
    if args.json {
        output::print_json(&result)?;
    } else {
        output::print(&format_verification(&result))?;
    }
    Ok(result.valid)
}

async fn verify_chain(config: Config, args: &AuditVerify) -> Result<Verification> {
    interrupt::end_process_on_signal(|| "the verification is not complete. It changes nothing.".to_owned())?;
    let anchor = args.anchor;
    if let Some(file) = &args.file {
        return verify_exported_file(file, anchor, !args.filtered);
    }
    let app = super::open_existing_database(config).await?;
    let result = audit::verify_chain(&app, anchor).await;
    app.db.close().await;
    result
}

fn format_verification(result: &Verification) -> String {
    let seq = |seq: Option<i64>| seq.map_or("-".to_owned(), |seq| seq.to_string());
    let head = result.head_hash.as_deref().unwrap_or("-");
    match result.broken_at {
        None => format!(
            "valid: {} events, {} to {}; head {}:{head}",
            result.checked,
            seq(result.first_seq),
            seq(result.last_seq),
            seq(result.last_seq)
        ),
        Some(at) if result.first_seq.is_some_and(|first| at < first) => format!(
            "BROKEN at {at}: the events before {} were removed, and no event records that",
            seq(result.first_seq)
        ),
        Some(at) => format!("BROKEN at {at}: {} events before it are intact", result.checked),
    }
}

/// Verifies an exported NDJSON file, or standard input if it is named `-`. A line that isn't an audit event counts as a break of the chain.
fn verify_exported_file(file: &Path, anchor: Option<ChainAnchor>, complete: bool) -> Result<Verification> {
    let unreadable = |error| Error::at_path(file, error);
    let input: Box<dyn BufRead> = match file == Path::new("-") {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(BufReader::new(File::open(file).map_err(unreadable)?)),
    };
    let lines = input.lines();
    let mut walk = ChainVerifier::new(anchor, complete);
    let first = walk.first_seq();
    let mut last = 0;
    let mut is_first = true;
    for line in lines {
        let line = line.map_err(unreadable)?;
        let Some(link) = ChainLink::from_line(&line) else {
            walk.record_break(last + 1);
            break;
        };
        last = link.seq;
        if let Some(anchor) = anchor.filter(|_| is_first) {
            ensure_file_covers_anchor(&link, anchor)?;
        }
        is_first = false;
        // Events before the anchor are not verified.
        if link.seq >= first && !walk.verify_next(&link) {
            break;
        }
    }
    Ok(walk.finish())
}

/// Refuses an anchor that precedes the first event of the file, because nothing in the file can confirm such
/// an anchor.
fn ensure_file_covers_anchor(first: &ChainLink, anchor: ChainAnchor) -> Result<()> {
    let is_checkpoint = first.seq == anchor.seq + 1 && first.prev_hash == anchor.hash;
    if first.seq <= anchor.seq || is_checkpoint {
        return Ok(());
    }
    let message = format!(
        "The file starts at event {}, after the anchor at {}; use a later anchor, or none.",
        first.seq, anchor.seq
    );
    Err(Error::new(Code::InvalidRequest, message))
}

/// Exports all audit events, oldest first.
pub(crate) async fn export(config: Config, args: AuditExport) -> Result<()> {
    let target = interrupt::export_target(args.output.as_deref())?;
    let dir = config.database.dir.clone();
    let app = super::open_existing_database(config).await?;
    let part = target.map(|target| PartFile::create_for_operator(target, args.force, &dir)).transpose()?;
    let ctx = RequestContext::internal(&app, Caller::Operator, Action::ExportAuditLog)?;
    let format = match args.format {
        ExportFormat::Ndjson => "ndjson",
        ExportFormat::Csv => "csv",
    };
    let query = Query::of(vec![("format".to_owned(), format.to_owned())]);
    let (_, mut chunks) = audit::export(&app, &ctx, query).await?;
    let mut stream = ResultStream::open();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        match &part {
            Some(part) => part.file().write_all(&chunk).map_err(|error| part.error(error))?,
            None if stream.write(&chunk)? => {}
            None => break,
        }
    }
    if let Some(part) = part {
        part.rename_to_target(args.force)?;
    }
    // The export's own audit event is stored now, if it could not be stored before.
    if let Err(error) = lifecycle::close(&app).await {
        super::print_unrecorded("the export", &error);
    }
    Ok(())
}
