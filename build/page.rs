//! The frame of a page: the header, the navigation, the contents at the side, and the links to the pages before and
//! after it.

use std::fmt::Write as _;

use super::markdown::{ASSETS, OPENAPI, PAGE_END, ROOT};
use super::navigation::Entry;
use super::{Document, Documentation, HOME, OPERATIONS, Target, escape};

const TEMPLATE: &str = include_str!("page.html");

const OPERATIONS_TITLE: &str = "API operations";
const OPERATIONS_TEXT: &str = "Every operation of the API, from the OpenAPI document.";

/// What all pages have in common.
pub(super) struct Frame<'a> {
    pub(super) documentation: &'a Documentation,
    pub(super) target: Target,
    /// The directory of the pages' files, relative to the root of the pages.
    pub(super) assets: &'a str,
}

/// What differs from page to page. Its paths are relative to the root of the pages.
struct Parts<'a> {
    url: &'a str,
    title: &'a str,
    description: &'a str,
    article: String,
    neighbors: String,
    /// Level, anchor and text of each heading.
    headings: Vec<(u8, String, String)>,
}

impl Frame<'_> {
    /// The page of a document, which has this place in the order of the documents.
    pub(super) fn document(&self, document: &Document, index: usize) -> String {
        let content = &document.content;
        let documents = &self.documentation.documents;
        let section = self.entry(&document.url).map_or("", |entry| entry.section.as_str());
        let article = article(section, &content.title_html, &content.html);
        let previous = index.checked_sub(1).and_then(|index| documents.get(index));
        let headings = content.sections.iter().skip(1);
        self.page(&Parts {
            url: &document.url,
            title: &content.title,
            description: &content.description,
            article,
            neighbors: self.neighbors(previous, documents.get(index + 1)),
            headings: headings
                .map(|section| (section.level, section.anchor.clone(), section.heading.clone()))
                .collect(),
        })
    }

    /// The page of the operations, for readers without a server, whose API reference needs one.
    pub(super) fn operations(&self) -> String {
        let operations = &self.documentation.operations;
        let mut text = format!(
            "<p>{OPERATIONS_TEXT} The server shows them at <code>/docs/</code>, too, with the fields of all schemas, code \
             for each operation, and a form that sends it. The document is <a href=\"{OPENAPI}\">openapi.json</a>.</p>\n"
        );
        text.push_str(&operations.html());
        self.page(&Parts {
            url: OPERATIONS,
            title: OPERATIONS_TITLE,
            description: OPERATIONS_TEXT,
            article: article("Reference", OPERATIONS_TITLE, &text),
            neighbors: String::new(),
            headings: operations.headings(),
        })
    }

    /// `{root}` stays in it, because it is shown at any path.
    pub(super) fn not_found(&self) -> String {
        let text = format!(
            "<p>The documentation of this version has no such page. Go to the <a href=\"{ROOT}{HOME}{PAGE_END}\">start of \
             the documentation</a> or to the <a href=\"{ROOT}\">API reference</a>, or search.</p>\n"
        );
        self.page(&Parts {
            url: "",
            title: "Page not found",
            description: "",
            article: article("404", "Page not found", &text),
            neighbors: String::new(),
            headings: Vec::new(),
        })
    }

    fn entry(&self, url: &str) -> Option<&Entry> {
        self.documentation.navigation.iter().find(|entry| entry.url == url)
    }

    fn page(&self, parts: &Parts<'_>) -> String {
        let is_module = self.target != Target::Files;
        let kind = if is_module { "type=\"module\"" } else { "defer" };
        let index = if is_module { "json" } else { "js" };
        let script = format!(
            "<script src=\"{ROOT}{ASSETS}/docs/guide.js\" data-index=\"{ROOT}{ASSETS}/search-index.{index}\" \
             data-root=\"{ROOT}\" {kind}></script>"
        );
        let button = self.entry(parts.url).map_or("Documentation", |entry| entry.section.as_str());
        let page = [
            ("{title}", escape(parts.title)),
            ("{description}", escape(parts.description)),
            ("{assets}", format!("{ROOT}{ASSETS}")),
            ("{script}", script),
            ("{home}", format!("{ROOT}{HOME}{PAGE_END}")),
            ("{links}", self.links(parts.url)),
            ("{button}", escape(button)),
            ("{navigation}", self.navigation(parts.url)),
            ("{contents}", contents(&parts.headings)),
            ("{neighbors}", parts.neighbors.clone()),
            // The last one, because it may contain the others.
            ("{article}", parts.article.clone()),
        ]
        .into_iter()
        .fold(TEMPLATE.to_owned(), |page, (name, value)| page.replace(name, &value));
        self.with_paths(&page, parts.url)
    }

    /// Replaces the placeholders of paths.
    fn with_paths(&self, page: &str, url: &str) -> String {
        let root = match (url, url.matches('/').count()) {
            ("", _) => "{root}".to_owned(),
            (_, 0) => "./".to_owned(),
            (_, depth) => "../".repeat(depth),
        };
        let page = page.replace(&format!("{OPENAPI}"), &format!("{ROOT}{}", self.target.openapi()));
        let page = page.replace(ASSETS, self.assets);
        let page = match self.target {
            Target::Server => page.replace(PAGE_END, ""),
            Target::Files => page
                .replace(&format!("{ROOT}{HOME}{PAGE_END}"), &format!("{ROOT}index.html"))
                .replace(PAGE_END, ".html"),
        };
        page.replace(ROOT, &root)
    }

    fn links(&self, url: &str) -> String {
        let is_operations = url == OPERATIONS;
        let current = |is_current: bool| if is_current { " aria-current=\"true\"" } else { "" };
        let mut links = format!(
            "<a href=\"{ROOT}{HOME}{PAGE_END}\"{}>Documentation</a>\n        <a href=\"{ROOT}{}\"{}>API reference</a>",
            current(!is_operations),
            self.target.reference(),
            current(is_operations)
        );
        if self.target == Target::Server {
            let _ = write!(links, "\n        <a href=\"{ROOT}../console/\">Console</a>");
        }
        links
    }

    fn navigation(&self, url: &str) -> String {
        let mut html = String::new();
        let mut section = "";
        let mut group = "";
        for entry in &self.documentation.navigation {
            if entry.section != section {
                if !section.is_empty() {
                    self.end_section(&mut html, section, url);
                }
                let _ =
                    writeln!(html, "<li class=\"nav-group\"><p class=\"nav-tag\">{}</p><ul>", entry.section);
            }
            if entry.group != group && !entry.group.is_empty() {
                let _ = writeln!(html, "<li class=\"nav-label\">{}</li>", entry.group);
            }
            section = &entry.section;
            group = &entry.group;
            push_link(&mut html, &entry.url, &entry.label, url);
        }
        self.end_section(&mut html, section, url);
        html
    }

    fn end_section(&self, html: &mut String, section: &str, url: &str) {
        if section == "Reference" {
            let reference = self.target.reference();
            let current = if url == OPERATIONS { " aria-current=\"page\"" } else { "" };
            let _ = writeln!(html, "<li><a href=\"{ROOT}{reference}\"{current}>{OPERATIONS_TITLE}</a></li>");
        }
        html.push_str("</ul></li>\n");
    }

    fn neighbors(&self, previous: Option<&Document>, next: Option<&Document>) -> String {
        let link = |class: &str, name: &str, document: &Document| {
            let title = self.entry(&document.url).map_or(&document.content.title, |entry| &entry.label);
            format!(
                "<a class=\"{class}\" href=\"{ROOT}{}{PAGE_END}\"><span>{name}</span>{}</a>\n",
                document.url,
                escape(title)
            )
        };
        let previous = previous.map(|document| link("previous", "Previous", document)).unwrap_or_default();
        let next = next.map(|document| link("next", "Next", document)).unwrap_or_default();
        format!("<nav class=\"neighbors\" aria-label=\"Pages before and after\">\n{previous}{next}</nav>\n")
    }
}

fn push_link(html: &mut String, url: &str, label: &str, current: &str) {
    let current = if url == current { " aria-current=\"page\"" } else { "" };
    let _ = writeln!(html, "<li><a href=\"{ROOT}{url}{PAGE_END}\"{current}>{}</a></li>", escape(label));
}

fn article(section: &str, title: &str, text: &str) -> String {
    let eyebrow = match section {
        section if section.is_empty() || section == title => String::new(),
        section => format!("<p class=\"eyebrow\">{section}</p>\n"),
    };
    format!("<header class=\"docs-head\">\n{eyebrow}<h1>{title}</h1>\n</header>\n{text}")
}

/// The headings of the page at its side, if there are several.
fn contents(headings: &[(u8, String, String)]) -> String {
    let shown: Vec<_> = headings.iter().filter(|(level, ..)| *level <= 3).collect();
    if shown.len() < 2 {
        return String::new();
    }
    let items = shown.iter().map(|(level, anchor, text)| {
        format!("<li class=\"level-{level}\"><a href=\"#{anchor}\">{}</a></li>\n", escape(text))
    });
    format!(
        "<nav class=\"contents\" aria-label=\"On this page\">\n<p>On this page</p>\n<ul>\n{}</ul>\n</nav>\n",
        items.collect::<String>()
    )
}
