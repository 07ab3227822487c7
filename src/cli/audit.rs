//! `tollhouse audit verify` and `audit export`, over the database or an exported file.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;

use super::args::{AuditExport, AuditVerify, ExportFormat};
use crate::config::Config;
use crate::domain::access::Caller;
use crate::domain::audit::Verification;
use crate::domain::chain::{Anchor, Link, Walk};
use crate::domain::page::Query;
use crate::error::{Code, Error, Result};
use crate::service::{RequestContext, audit};

/// Verifies the chain; exit status 1 when it is broken.
pub(crate) async fn verify(config: Config, args: AuditVerify) -> ExitCode {
    match find(config, &args).await {
        Ok(found) => {
            if args.json {
                println!("{}", serde_json::to_string(&found).unwrap_or_default());
            } else {
                println!("{}", in_words(&found));
            }
            if found.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => super::report(Err(error)),
    }
}

async fn find(config: Config, args: &AuditVerify) -> Result<Verification> {
    let anchor = args.anchor;
    if let Some(file) = &args.file {
        return verify_file(file, anchor, !args.filtered);
    }
    let app = super::open_beside(config).await?;
    let found = audit::walk(&app, anchor).await;
    app.db.close().await;
    found
}

fn in_words(found: &Verification) -> String {
    let seq = |seq: Option<i64>| seq.map_or("-".to_owned(), |seq| seq.to_string());
    let head = found.head_hash.as_deref().unwrap_or("-");
    match found.broken_at {
        None => format!(
            "valid: {} events, {} to {}; head {}:{head}",
            found.checked,
            seq(found.first_seq),
            seq(found.last_seq),
            seq(found.last_seq)
        ),
        Some(at) if found.first_seq.is_some_and(|first| at < first) => format!(
            "BROKEN at {at}: what comes before {} was removed, and no event tells of that",
            seq(found.first_seq)
        ),
        Some(at) => format!("BROKEN at {at}: {} events before it are whole", found.checked),
    }
}

/// Walks an exported NDJSON file. A line that isn't an event is a break at its place.
fn verify_file(file: &Path, anchor: Option<Anchor>, whole: bool) -> Result<Verification> {
    let unreadable = |error| Error::internal(format!("{}: {error}", file.display()));
    let lines = BufReader::new(File::open(file).map_err(unreadable)?).lines();
    let mut walk = Walk::new(anchor, whole);
    let (first, mut last, mut is_first) = (walk.first(), 0, true);
    for line in lines {
        let line = line.map_err(unreadable)?;
        let Some(link) = Link::from_line(&line) else {
            walk.break_at(last + 1);
            break;
        };
        last = link.seq;
        if let Some(anchor) = anchor.filter(|_| is_first) {
            begins_in_time(&link, anchor)?;
        }
        is_first = false;
        // What stands before an anchor is not asked for.
        if link.seq >= first && !walk.step(&link) {
            break;
        }
    }
    Ok(walk.finish())
}

/// Nothing can be said of an anchor that lies before the first event of a file.
fn begins_in_time(first: &Link, anchor: Anchor) -> Result<()> {
    let is_checkpoint = first.seq == anchor.seq + 1 && first.prev_hash == anchor.hash;
    if first.seq <= anchor.seq || is_checkpoint {
        return Ok(());
    }
    let message = format!(
        "The file begins at the event {}, behind the anchor at {}; use a later anchor, or none.",
        first.seq, anchor.seq
    );
    Err(Error::new(Code::InvalidRequest, message))
}

/// Exports the log, oldest first.
pub(crate) async fn export(config: Config, args: AuditExport) -> Result<()> {
    let app = super::open_beside(config).await?;
    let ctx = RequestContext::internal(&app, Caller::Operator, "audit_log.export", "read")?;
    let format = match args.format {
        ExportFormat::Ndjson => "ndjson",
        ExportFormat::Csv => "csv",
    };
    let query = Query::of(vec![("format".to_owned(), format.to_owned())]);
    let (_, mut pieces) = audit::export(&app, &ctx, query).await?;
    let mut output: Box<dyn Write> = match &args.output {
        Some(path) => Box::new(
            File::create_new(path)
                .map_err(|error| Error::internal(format!("{}: {error}", path.display())))?,
        ),
        None => Box::new(std::io::stdout().lock()),
    };
    while let Some(piece) = pieces.recv().await {
        output.write_all(&piece?).map_err(Error::internal)?;
    }
    output.flush().map_err(Error::internal)?;
    app.close().await
}
