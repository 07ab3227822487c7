//! The navigation: the links of the lists in the index of the documentation, by section.

use std::collections::BTreeMap;

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use super::markdown::resolve;
use super::{INDEX, Result};

/// A page in the navigation.
pub(super) struct Entry {
    /// The heading above it.
    pub(super) section: String,
    /// The label of its list, such as `Verify keys`; may be empty.
    pub(super) group: String,
    pub(super) label: String,
    pub(super) url: String,
}

/// Each document is an entry where it is linked first in a list.
pub(super) fn entries(index: &str, urls: &BTreeMap<String, String>) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut section = String::new();
    let mut group = String::new();
    // The text of the heading, paragraph or link that is open.
    let mut text = String::new();
    let mut link = None;
    let mut list_depth = 0;
    for event in Parser::new_ext(index, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. } | Tag::Paragraph) => text.clear(),
            Event::End(TagEnd::Heading(HeadingLevel::H2)) => {
                section = std::mem::take(&mut text);
                group.clear();
            }
            Event::End(TagEnd::Paragraph) if list_depth == 0 && !section.is_empty() => {
                let label =
                    text.trim_end().strip_suffix(':').ok_or("a list has a label that ends with a colon")?;
                group = label.to_owned();
            }
            Event::Start(Tag::List(_)) => list_depth += 1,
            Event::End(TagEnd::List(_)) => list_depth -= 1,
            Event::Start(Tag::Link { dest_url, .. }) if list_depth > 0 => {
                text.clear();
                link = resolve(INDEX, &dest_url).and_then(|path| urls.get(&path));
            }
            Event::End(TagEnd::Link) => {
                if let Some(url) = link.take().filter(|url| entries.iter().all(|entry| entry.url != **url)) {
                    let label = std::mem::take(&mut text);
                    let (section, group) = (section.clone(), group.clone());
                    entries.push(Entry { section, group, label, url: url.clone() });
                }
            }
            Event::Text(part) | Event::Code(part) => text.push_str(&part),
            Event::SoftBreak => text.push(' '),
            _ => {}
        }
    }
    Ok(entries)
}
