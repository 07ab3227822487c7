//! The search index: the texts of all pages by section, and the operations of the API.

use serde_json::json;

use super::{Documentation, Result, Target};

/// Documents of which only the headings are found: one repeats the other pages, one consists of figures.
const ONLY_HEADINGS: [&str; 2] = ["CHANGELOG.md", "docs/benchmarks.md"];

/// `pages`: path, title and sections of each page, and of each section its anchor, its heading and its text.
/// `operations`: path of its page, method, path, summary and tag of each operation.
pub(super) fn index(documentation: &Documentation, target: Target) -> Result<String> {
    let pages: Vec<_> = documentation
        .documents
        .iter()
        .map(|document| {
            let content = &document.content;
            let sections: Vec<_> = content
                .sections
                .iter()
                .map(|section| {
                    let text = if ONLY_HEADINGS.contains(&document.source.as_str()) {
                        ""
                    } else {
                        section.text.as_str()
                    };
                    let text: Vec<_> = text.split_whitespace().collect();
                    json!([section.anchor, section.heading, text.join(" ")])
                })
                .collect();
            json!([target.path_of(&document.url), content.title, sections])
        })
        .collect();
    let operations: Vec<_> = documentation
        .operations
        .all()
        .map(|operation| {
            let path = format!("{}#{}", target.reference(), operation.id);
            json!([path, operation.method, operation.path, operation.summary, operation.tag])
        })
        .collect();
    Ok(serde_json::to_string(&json!({"pages": pages, "operations": operations}))?)
}
