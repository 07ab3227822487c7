//! Searches everything that a server leaves behind.

use std::fs;
use std::path::Path;

use super::{json_escaped, partly_encoded, percent_encoded};

/// Texts that may not contain a secret, by name.
#[derive(Default)]
pub(super) struct Traces {
    all: Vec<Trace>,
}

struct Trace {
    name: String,
    content: Vec<u8>,
    /// True if it contains what a client sent.
    has_marker: bool,
}

impl Trace {
    /// The first of these texts that is in it. Searches for all texts in one pass, by their first two bytes.
    fn find<'t>(&self, texts: &'t [String]) -> Option<&'t str> {
        let pair = |bytes: &[u8]| usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        let mut is_start = vec![false; 1 << 16];
        texts.iter().for_each(|text| is_start[pair(text.as_bytes())] = true);
        let starts = self.content.windows(2).enumerate().filter(|(_, start)| is_start[pair(start)]);
        let mut found = starts
            .filter_map(|(at, _)| texts.iter().find(|text| self.content[at..].starts_with(text.as_bytes())));
        found.next().map(String::as_str)
    }
}

impl Traces {
    pub(super) fn add(&mut self, name: &str, content: Vec<u8>) {
        self.all.push(Trace { name: name.to_owned(), content, has_marker: true });
    }

    pub(super) fn add_without_marker(&mut self, name: &str, content: Vec<u8>) {
        self.all.push(Trace { name: name.to_owned(), content, has_marker: false });
    }

    /// Adds each file of a directory: the database, its write-ahead log, and everything else.
    pub(super) fn add_files(&mut self, name: &str, directory: &Path) {
        let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = files.filter(|path| path.is_file()).collect();
        // What was written last is in the write-ahead log, if there is one.
        let has_log = files.iter().any(|file| file.ends_with("tollhouse.db-wal"));
        let newest = if has_log { "tollhouse.db-wal" } else { "tollhouse.db" };
        for file in files {
            let name = format!("{name}: {}", file.display());
            let has_marker = file.ends_with(newest);
            self.all.push(Trace { name, content: fs::read(&file).unwrap(), has_marker });
        }
    }

    /// Fails if a secret, or most of one, is in any text. Parts are searched in each encoding, so that what was
    /// truncated is found, too.
    pub(super) fn assert_nowhere(&self, secrets: &[&str]) {
        let parts = secrets.iter().flat_map(|secret| [&secret[12..28], &secret[secret.len() - 16..]]);
        let encoded = parts.flat_map(|part| {
            let escaped = json_escaped(part);
            let upper = percent_encoded(part).to_uppercase();
            let partly = [0, 1, 2, 3].map(|skipped| partly_encoded(&part[skipped..]));
            let escaped_twice = escaped.replace('\\', "\\\\");
            let all = [part.to_owned(), percent_encoded(part), upper, escaped, escaped_twice];
            all.into_iter().chain(partly)
        });
        let encoded: Vec<String> = encoded.collect();
        for trace in &self.all {
            let found = trace.find(&encoded);
            assert!(found.is_none(), "{} contains {found:?} of {secrets:?}", trace.name);
        }
    }

    /// Fails if the search doesn't find a text that is no secret, although clients sent it in the same ways.
    pub(super) fn assert_everywhere(&self, text: &str) {
        let expected: Vec<&Trace> = self.all.iter().filter(|trace| trace.has_marker).collect();
        assert!(expected.len() > 5);
        for trace in expected {
            assert!(trace.find(&[text.to_owned()]).is_some(), "{} doesn't contain {text}", trace.name);
        }
    }
}
