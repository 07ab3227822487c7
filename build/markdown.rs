//! The HTML of a Markdown text. It has no raw HTML, so that a page contains only what this module writes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pulldown_cmark::{Alignment, CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use super::highlight::highlight;
use super::{Result, escape};

/// Stands for the relative path from a page to the root of the pages, and, after the URL of another page, for what
/// its path ends with. These characters don't occur in the documents.
pub(super) const ROOT: char = '\u{e000}';
pub(super) const PAGE_END: char = '\u{e001}';
/// Stand for the directory of the pages' files, and for the OpenAPI document.
pub(super) const ASSETS: char = '\u{e002}';
pub(super) const OPENAPI: char = '\u{e003}';

/// A document as HTML.
#[derive(Default)]
pub(super) struct Content {
    pub(super) title: String,
    /// The title as HTML.
    pub(super) title_html: String,
    /// The text of the first paragraph.
    pub(super) description: String,
    /// All but the title.
    pub(super) html: String,
    pub(super) sections: Vec<Section>,
}

/// A heading and the text below it. The first section has the text before any heading.
#[derive(Default)]
pub(super) struct Section {
    pub(super) level: u8,
    pub(super) anchor: String,
    pub(super) heading: String,
    pub(super) text: String,
}

/// The page of a link, with its anchor, or a file of the repository.
enum Destination {
    Url(String),
    File(String),
}

/// What documents can refer to, by the path in the repository.
pub(super) struct Targets {
    /// The URLs of the pages of all documents.
    pub(super) urls: BTreeMap<String, String>,
    /// The drawings, as SVG.
    pub(super) drawings: BTreeMap<String, String>,
}

struct Renderer<'a> {
    source: &'a str,
    url: &'a str,
    targets: &'a Targets,
    content: Content,
    /// The open heading: its HTML so far goes to `html` as that of everything else.
    heading_start: Option<usize>,
    heading_text: String,
    code_block: Option<(String, String)>,
    /// The open picture: the drawing, and its description so far.
    alt_text: Option<(String, String)>,
    /// The path of the open link, if it leads to a file of the repository, and where its text starts.
    file_link: Option<(String, usize)>,
    alignments: Vec<Alignment>,
    column: usize,
    in_table_head: bool,
    /// Where the open table head starts, and whether one of its cells has text.
    table_head: (usize, bool),
}

/// Renders a document.
pub(super) fn render(text: &str, source: &str, url: &str, targets: &Targets) -> Result<Content> {
    let mut renderer = Renderer {
        source,
        url,
        targets,
        content: Content { sections: vec![Section::default()], ..Content::default() },
        heading_start: None,
        heading_text: String::new(),
        code_block: None,
        alt_text: None,
        file_link: None,
        alignments: Vec::new(),
        column: 0,
        in_table_head: false,
        table_head: (0, false),
    };
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        renderer.event(event)?;
    }
    if renderer.content.title.is_empty() {
        return Err("has no title".into());
    }
    let content = &mut renderer.content;
    let start = content.sections[0].text.trim();
    let end = start.find(". ").map_or(start.len(), |end| end + 1);
    content.description = start[..end].to_owned();
    Ok(renderer.content)
}

impl Renderer<'_> {
    fn event(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Start(tag) => self.start(tag)?,
            Event::End(tag) => self.end(tag),
            Event::Text(text) => self.text(&text),
            Event::Code(code) => {
                self.plain(&code);
                let _ = write!(self.content.html, "<code>{}</code>", escape(&code));
            }
            Event::SoftBreak | Event::HardBreak => self.text("\n"),
            Event::Rule => self.content.html.push_str("<hr>\n"),
            Event::Html(html) | Event::InlineHtml(html) if html.trim().starts_with("<!--") => {}
            other => return Err(format!("unexpected {other:?}").into()),
        }
        Ok(())
    }

    /// Adds to the text of the current heading or section.
    fn plain(&mut self, text: &str) {
        if self.in_table_head && !text.trim().is_empty() {
            self.table_head.1 = true;
        }
        if self.heading_start.is_some() {
            self.heading_text.push_str(text);
        } else if let Some(section) = self.content.sections.last_mut() {
            section.text.push_str(text);
        }
    }

    fn text(&mut self, text: &str) {
        if let Some((_, code)) = &mut self.code_block {
            code.push_str(text);
        } else if let Some((_, alt)) = &mut self.alt_text {
            alt.push_str(text);
        } else {
            self.plain(text);
            self.content.html.push_str(&escape(text));
        }
    }

    fn start(&mut self, tag: Tag<'_>) -> Result<()> {
        let opening = match tag {
            Tag::Paragraph => "<p>".to_owned(),
            Tag::Heading { .. } => {
                self.heading_start = Some(self.content.html.len());
                self.heading_text.clear();
                return Ok(());
            }
            Tag::BlockQuote(_) => "<blockquote>".to_owned(),
            Tag::CodeBlock(kind) => {
                let info = match kind {
                    CodeBlockKind::Fenced(info) => info.to_string(),
                    CodeBlockKind::Indented => String::new(),
                };
                if info == "mermaid" {
                    return Err("pages don't draw Mermaid; use an SVG file in docs/images".into());
                }
                self.code_block = Some((info, String::new()));
                return Ok(());
            }
            // The comments between blocks; other HTML is refused.
            Tag::HtmlBlock => return Ok(()),
            Tag::List(None) => "<ul>\n".to_owned(),
            Tag::List(Some(1)) => "<ol>\n".to_owned(),
            Tag::List(Some(start)) => format!("<ol start=\"{start}\">\n"),
            Tag::Item => "<li>".to_owned(),
            Tag::Table(alignments) => {
                self.alignments = alignments;
                "<div class=\"table\" tabindex=\"0\" role=\"group\" aria-label=\"Table\"><table>\n".to_owned()
            }
            Tag::TableHead => {
                self.in_table_head = true;
                self.table_head = (self.content.html.len(), false);
                self.column = 0;
                "<thead><tr>".to_owned()
            }
            Tag::TableRow => {
                self.column = 0;
                "<tr>".to_owned()
            }
            Tag::TableCell => {
                let name = if self.in_table_head { "th" } else { "td" };
                let class = match self.alignments.get(self.column) {
                    Some(Alignment::Right) => " class=\"num\"",
                    _ => "",
                };
                format!("<{name}{class}>")
            }
            Tag::Emphasis => "<em>".to_owned(),
            Tag::Strong => "<strong>".to_owned(),
            Tag::Link { dest_url, .. } => {
                if self.heading_start.is_some() {
                    return Err(format!("the link {dest_url} is in a heading").into());
                }
                self.open_link(&dest_url)?
            }
            Tag::Image { dest_url, .. } => {
                let Destination::File(path) = self.destination(&dest_url)? else {
                    return Err(format!("{dest_url} is not a drawing").into());
                };
                let drawing =
                    self.targets.drawings.get(&path).ok_or_else(|| format!("there is no {path}"))?;
                self.alt_text = Some((drawing.clone(), String::new()));
                return Ok(());
            }
            other => return Err(format!("unexpected {other:?}").into()),
        };
        self.content.html.push_str(&opening);
        Ok(())
    }

    fn end(&mut self, tag: TagEnd) {
        let closing = match tag {
            TagEnd::Paragraph => "</p>\n",
            TagEnd::Heading(level) => return self.end_heading(level),
            TagEnd::BlockQuote(_) => "</blockquote>\n",
            TagEnd::CodeBlock => {
                if let Some((info, code)) = self.code_block.take() {
                    self.plain("\n");
                    self.content.html.push_str(&code_block(&info, &code));
                }
                return;
            }
            TagEnd::List(true) => "</ol>\n",
            TagEnd::List(false) => "</ul>\n",
            TagEnd::Item => "</li>\n",
            TagEnd::Table => "</tbody></table></div>\n",
            TagEnd::TableHead => {
                self.in_table_head = false;
                let (start, has_text) = self.table_head;
                if has_text {
                    "</tr></thead>\n<tbody>\n"
                } else {
                    // A head without any text, which Markdown requires.
                    self.content.html.truncate(start);
                    "<tbody>\n"
                }
            }
            TagEnd::TableRow => "</tr>\n",
            TagEnd::TableCell => {
                self.column += 1;
                if self.in_table_head { "</th>" } else { "</td>" }
            }
            TagEnd::Emphasis => "</em>",
            TagEnd::Strong => "</strong>",
            TagEnd::Link => return self.end_link(),
            TagEnd::Image => {
                if let Some((drawing, alt)) = self.alt_text.take() {
                    self.plain(&alt);
                    self.content.html.push_str(&inline_drawing(&drawing, &alt));
                }
                return;
            }
            _ => "",
        };
        if matches!(tag, TagEnd::Paragraph | TagEnd::Item | TagEnd::TableCell | TagEnd::TableRow) {
            self.plain(" ");
        }
        self.content.html.push_str(closing);
    }

    fn end_heading(&mut self, level: HeadingLevel) {
        let Some(start) = self.heading_start.take() else { return };
        let inner = self.content.html.split_off(start);
        let heading = std::mem::take(&mut self.heading_text);
        if level == HeadingLevel::H1 {
            self.content.title = heading;
            self.content.title_html = inner;
            return;
        }
        let level = level as u8;
        let anchor = unique_anchor(&heading, &self.content.sections);
        let _ = writeln!(
            self.content.html,
            "<h{level} id=\"{anchor}\"><a class=\"anchor\" href=\"#{anchor}\">{inner}</a></h{level}>"
        );
        self.content.sections.push(Section { level, anchor, heading, text: String::new() });
    }

    /// The start of a link. What isn't part of the documentation has none, because pages can't show it.
    fn open_link(&mut self, target: &str) -> Result<String> {
        match self.destination(target)? {
            Destination::Url(url) => Ok(format!("<a href=\"{}\">", escape(&url))),
            Destination::File(path) => {
                self.file_link = Some((path, self.content.html.len()));
                Ok(String::new())
            }
        }
    }

    /// Ends a link. A file is shown with its path in the repository, once if the text is the name of the file.
    fn end_link(&mut self) {
        let Some((path, start)) = self.file_link.take() else { return self.content.html.push_str("</a>") };
        let text = self.content.html.split_off(start);
        let name = text.trim_start_matches("<code>").trim_end_matches("</code>");
        let is_name = path == name || path.ends_with(&format!("/{name}"));
        let path = format!("<code>{}</code>", escape(&path));
        let shown = if is_name { path } else { format!("{text} <span class=\"file\">({path})</span>") };
        self.content.html.push_str(&shown);
    }

    fn destination(&self, target: &str) -> Result<Destination> {
        if target.starts_with('#') || target.contains("://") {
            return Ok(Destination::Url(target.to_owned()));
        }
        let (path, anchor) = match target.find('#') {
            Some(start) => target.split_at(start),
            None => (target, ""),
        };
        let path =
            resolve(self.source, path).ok_or_else(|| format!("{target} is outside of the repository"))?;
        if path == "docs/openapi.json" {
            return Ok(Destination::Url(OPENAPI.to_string()));
        }
        Ok(match self.targets.urls.get(&path) {
            Some(url) if url == self.url && !anchor.is_empty() => Destination::Url(anchor.to_owned()),
            Some(url) => Destination::Url(format!("{ROOT}{url}{PAGE_END}{anchor}")),
            None => Destination::File(path),
        })
    }
}

/// The path of a link's target, relative to the root of the repository.
pub(super) fn resolve(source: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = source.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()?),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The anchor of a heading, as GitHub makes it.
fn unique_anchor(heading: &str, sections: &[Section]) -> String {
    let is_kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    let anchor: String = heading.to_lowercase().chars().filter(is_kept).collect();
    let anchor = anchor.replace(' ', "-");
    let is_taken = |anchor: &str| sections.iter().any(|section| section.anchor == anchor);
    if !is_taken(&anchor) {
        return anchor;
    }
    let numbered = (1..).map(|number| format!("{anchor}-{number}"));
    numbered.into_iter().find(|anchor| !is_taken(anchor)).unwrap_or_default()
}

/// A drawing as a part of the page. It has the colors of the page, which `guide.css` has for its classes, instead of its own
/// style sheet, which the security policy refuses. It scrolls by itself if it is wider than the page.
fn inline_drawing(svg: &str, description: &str) -> String {
    let without = |svg: &str, name: &str| -> String {
        let (before, rest) = svg.split_once(&format!("<{name}>")).unwrap_or((svg, ""));
        let after = rest.split_once(&format!("</{name}>")).map_or("", |(_, after)| after);
        format!("{before}{after}")
    };
    let svg = without(&without(svg, "style"), "title");
    let lines: String = svg.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let label = format!("<svg role=\"img\" aria-label=\"{}\"", escape(description));
    let svg = lines.replacen("<svg xmlns=\"http://www.w3.org/2000/svg\"", &label, 1);
    format!("<span class=\"drawing\" tabindex=\"0\" role=\"group\" aria-label=\"Drawing\">{svg}</span>")
}

/// A block of code under a bar that names it. The page's script adds a button that copies it.
fn code_block(info: &str, code: &str) -> String {
    let (language, name) = info.split_once(' ').unwrap_or((info, ""));
    // Names without an extension, and those of commands, are only for the tests.
    let is_file = name.contains('.') && language != "sh";
    let label = match language {
        _ if is_file => name,
        "sh" => "Shell",
        "json" => "JSON",
        "toml" => "TOML",
        "http" => "HTTP",
        "python" | "py" => "Python",
        "js" => "JavaScript",
        "ts" => "TypeScript",
        "go" => "Go",
        "rust" => "Rust",
        _ => "Text",
    };
    format!(
        "<div class=\"panel\"><div class=\"code-bar\"><span>{label}</span></div><pre class=\"code\" tabindex=\"0\" \
         role=\"group\" aria-label=\"{label}\"><code>{}</code></pre></div>\n",
        highlight(language, code)
    )
}
