//! Turns the Markdown files of the documentation into pages: for the program, which embeds them, and for
//! `scripts/site`, which writes them as files.

mod highlight;
mod markdown;
mod navigation;
mod operations;
mod page;
mod search;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use markdown::{Content, Targets};
use navigation::Entry;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The documents outside of `docs/`, and the URLs of their pages.
const FURTHER_DOCUMENTS: &[(&str, &str)] = &[
    ("CHANGELOG.md", "changelog"),
    ("CONTRIBUTING.md", "contributing"),
    ("SECURITY.md", "report-a-vulnerability"),
];

/// The index of the documentation. The navigation has its sections and its order.
const INDEX: &str = "docs/README.md";

/// The URL of the page of [`INDEX`], and that of the list of all operations, which only files have.
const HOME: &str = "home";
const OPERATIONS: &str = "reference/operations";

/// How the pages are published.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// By the program, below `/docs/`, beside the API reference.
    Server,
    /// As files, which need no server.
    Files,
}

/// A Markdown file.
struct Document {
    /// Relative to the root of the repository.
    source: String,
    /// Relative to the root of the pages, without an extension.
    url: String,
    content: Content,
}

/// All documents, in the order of the navigation.
pub(crate) struct Documentation {
    documents: Vec<Document>,
    navigation: Vec<Entry>,
    operations: operations::Operations,
}

/// A page with its path.
pub(crate) struct RenderedPage {
    pub(crate) path: String,
    pub(crate) html: String,
}

impl Documentation {
    /// Reads the documents below the root of the repository.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut sources = Vec::new();
        collect_documents(root, Path::new("docs"), &mut sources)?;
        sources.extend(FURTHER_DOCUMENTS.iter().map(|(source, _)| (*source).to_owned()));
        let urls = sources.iter().map(|source| (source.clone(), url_of(source))).collect();
        let targets = Targets { urls, drawings: drawings(root)? };

        let mut documents = Vec::new();
        let mut navigation = Vec::new();
        for (source, url) in &targets.urls {
            let text = fs::read_to_string(root.join(source))?;
            let content = markdown::render(&text, source, url, &targets);
            let content = content.map_err(|error| format!("{source}: {error}"))?;
            if source == INDEX {
                navigation = navigation::entries(&text, &targets.urls)?;
            }
            documents.push(Document { source: source.clone(), url: url.clone(), content });
        }
        let position = |document: &Document| navigation.iter().position(|entry| entry.url == document.url);
        for document in &documents {
            if document.source != INDEX && position(document).is_none() {
                return Err(format!("{INDEX} doesn't list {}", document.source).into());
            }
        }
        documents.sort_by_key(|document| position(document).map_or(0, |position| position + 1));
        let operations = operations::Operations::read(&root.join("docs/openapi.json"))?;
        Ok(Self { documents, navigation, operations })
    }

    /// All pages. Their files are in the directory `assets`, relative to the root of the pages. For a server, the last one
    /// is the page for paths that have none: its own path is empty, and `{root}` in it stands for the root's relative path.
    pub(crate) fn pages(&self, target: Target, assets: &str) -> Vec<RenderedPage> {
        let frame = page::Frame { documentation: self, target, assets };
        let mut pages: Vec<_> = self
            .documents
            .iter()
            .enumerate()
            .map(|(index, document)| RenderedPage {
                path: target.path_of(&document.url),
                html: frame.document(document, index),
            })
            .collect();
        pages.push(match target {
            Target::Server => RenderedPage { path: String::new(), html: frame.not_found() },
            Target::Files => RenderedPage { path: target.path_of(OPERATIONS), html: frame.operations() },
        });
        pages
    }

    /// The texts of all pages and operations, as JSON.
    pub(crate) fn search_index(&self, target: Target) -> Result<String> {
        search::index(self, target)
    }
}

impl Target {
    /// The path of a page, relative to the root of the pages.
    fn path_of(self, url: &str) -> String {
        match self {
            Self::Server => url.to_owned(),
            Self::Files if url == HOME => "index.html".to_owned(),
            Self::Files => format!("{url}.html"),
        }
    }

    /// The API reference, relative to the root of the pages.
    const fn reference(self) -> &'static str {
        match self {
            Self::Server => "",
            Self::Files => "reference/operations.html",
        }
    }

    /// The OpenAPI document, relative to the root of the pages.
    const fn openapi(self) -> &'static str {
        match self {
            Self::Server => "../openapi.json",
            Self::Files => "openapi.json",
        }
    }
}

/// Adds the Markdown files below a directory, with their paths relative to the root of the repository.
fn collect_documents(root: &Path, directory: &Path, sources: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(root.join(directory))? {
        let path = directory.join(entry?.file_name());
        if root.join(&path).is_dir() {
            collect_documents(root, &path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            sources.push(path.to_string_lossy().replace('\\', "/"));
        }
    }
    Ok(())
}

/// The SVG files in `docs/images`, by their paths in the repository.
fn drawings(root: &Path) -> Result<BTreeMap<String, String>> {
    let directory = root.join("docs/images");
    let mut drawings = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "svg") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            drawings.insert(format!("docs/images/{name}"), fs::read_to_string(&path)?);
        }
    }
    Ok(drawings)
}

/// The URL of the page of a document, relative to the root of the pages.
fn url_of(source: &str) -> String {
    if source == INDEX {
        return HOME.to_owned();
    }
    let further = FURTHER_DOCUMENTS.iter().find(|(document, _)| *document == source);
    let below = source.trim_start_matches("docs/").trim_end_matches(".md");
    further.map_or(below, |(_, url)| url).to_owned()
}

/// Text as HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
