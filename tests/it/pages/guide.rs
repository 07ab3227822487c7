//! The pages of the documentation: as the server shows them, and as `scripts/site` writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use reqwest::header::ACCEPT;
use reqwest::{Method, Url};

use super::get;
use crate::support::{Answer, Client, Server, files_below, guide};

/// What Chromium sends.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

/// The pages of files outside of `docs/`.
const FURTHER: [(&str, &str); 3] = [
    ("CHANGELOG.md", "changelog"),
    ("CONTRIBUTING.md", "contributing"),
    ("SECURITY.md", "report-a-vulnerability"),
];

/// The documents, by the paths of their pages below `/docs/`. They are relative to the root of the repository.
fn sources() -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    for document in guide::documents() {
        let source = document.strip_prefix(guide::root()).unwrap().to_str().unwrap().replace('\\', "/");
        let further = FURTHER.iter().find(|(file, _)| *file == source).map(|(_, page)| *page);
        let below = source.strip_prefix("docs/").and_then(|path| path.strip_suffix(".md"));
        let Some(page) = further.or(below) else { continue };
        sources.insert(if page == "README" { "home".to_owned() } else { page.to_owned() }, source);
    }
    sources
}

/// The title of each document, by the path of its page.
fn titles() -> BTreeMap<String, String> {
    let title = |source: String| {
        let text = fs::read_to_string(guide::root().join(source)).unwrap();
        text.lines().find_map(|line| line.strip_prefix("# ")).unwrap().replace('`', "")
    };
    sources().into_iter().map(|(path, source)| (path, title(source))).collect()
}

/// The values of an attribute, as text.
fn attributes(html: &str, name: &str) -> Vec<String> {
    let start = format!(" {name}=\"");
    let values = html.split(start.as_str()).skip(1).map(|rest| rest.split('"').next().unwrap());
    values.map(|value| value.replace("&amp;", "&")).collect()
}

/// Everything that a page loads, and the targets of its links. A reader may follow links elsewhere.
fn own_links(html: &str) -> Vec<String> {
    let is_link_elsewhere =
        |url: &str| url.starts_with("https://") && html.contains(&format!("<a href=\"{url}\""));
    let all = ["href", "src", "data-index"].into_iter().flat_map(|name| attributes(html, name));
    all.filter(|url| !is_link_elsewhere(url)).collect()
}

/// The part of a page between two texts.
fn between<'a>(html: &'a str, start: &str, end: &str) -> &'a str {
    html.split_once(start).and_then(|(_, rest)| rest.split_once(end)).map(|(part, _)| part).unwrap()
}

fn navigation(html: &str) -> &str {
    between(html, "<ul class=\"nav-list\">", "</nav>")
}

async fn page(client: &Client, path: &str) -> Answer {
    get(client, path, &[(ACCEPT, BROWSER)]).await.0
}

#[tokio::test]
async fn every_document_has_a_page_and_every_page_leads_to_all_others() {
    let server = Server::start().await;
    let client = server.anonymous();
    let titles = titles();
    assert!(titles.len() > 50, "{titles:?}");
    let urls: BTreeSet<_> = titles.keys().map(|path| format!("{}/docs/{path}", server.url)).collect();
    for (path, title) in &titles {
        let page = page(&client, &format!("/docs/{path}")).await;
        assert_eq!(
            (page.status, page.header("content-type")),
            (200, Some("text/html; charset=utf-8")),
            "{path}"
        );
        let shown = between(&page.text, "<h1>", "</h1>").replace("<code>", "").replace("</code>", "");
        assert_eq!(&shown, title, "{path}");
        let base = Url::parse(&format!("{}/docs/{path}", server.url)).unwrap();
        let links: BTreeSet<_> = attributes(navigation(&page.text), "href")
            .iter()
            .map(|link| base.join(link).unwrap().to_string())
            .collect();
        let missing: Vec<_> = urls.difference(&links).filter(|url| !url.ends_with("/docs/home")).collect();
        assert!(missing.is_empty(), "the navigation of {path} lacks {missing:?}");
        let current = navigation(&page.text).matches("aria-current=\"page\"").count();
        assert_eq!(current, usize::from(path != "home"), "{path}");
    }
}

/// The pages, and their anchors, to which links lead.
#[tokio::test]
async fn every_link_of_a_page_leads_somewhere_on_this_server() {
    let server = Server::start().await;
    let client = server.anonymous();
    let operations: BTreeSet<_> = openapi_operations();
    let root = Url::parse(&server.url).unwrap();
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    let mut links = Vec::new();
    for path in titles().into_keys() {
        let path = format!("/docs/{path}");
        let page = page(&client, &path).await;
        let base = root.join(&path).unwrap();
        for link in own_links(&page.text) {
            assert!(!link.starts_with('/'), "{path}: {link} is not relative");
            links.push((path.clone(), base.join(&link).unwrap()));
        }
        texts.insert(path, page.text);
    }
    assert!(links.len() > 3000, "{}", links.len());
    for (from, link) in links {
        assert_eq!(link.origin(), root.origin(), "{from}: {link} leads elsewhere");
        let path = link.path().to_owned();
        if !texts.contains_key(&path) {
            let target = page(&client, &path).await;
            assert_eq!(target.status, 200, "{from}: {link}");
            texts.insert(path.clone(), target.text);
        }
        let Some(anchor) = link.fragment().map(str::to_owned) else { continue };
        let is_known = match path.as_str() {
            "/docs/" => operations.contains(&anchor),
            path => has_anchor(&texts[path], &anchor),
        };
        assert!(is_known, "{from}: {link}: there is no such anchor");
    }
}

fn has_anchor(html: &str, anchor: &str) -> bool {
    let anchor = percent_encoding::percent_decode_str(anchor).decode_utf8().unwrap();
    attributes(html, "id").iter().any(|id| *id == anchor)
}

fn openapi_operations() -> BTreeSet<String> {
    let document = fs::read_to_string(guide::root().join("docs/openapi.json")).unwrap();
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    let items = document["paths"].as_object().unwrap().values();
    let operations = items.flat_map(|item| item.as_object().unwrap().values());
    operations.map(|operation| operation["operationId"].as_str().unwrap().to_owned()).collect()
}

/// Colors and escapes change nothing of the code.
#[tokio::test]
async fn code_is_shown_as_it_is_written() {
    let server = Server::start().await;
    let client = server.anonymous();
    let mut checked = 0;
    for (path, source) in sources() {
        let page = page(&client, &format!("/docs/{path}")).await.text;
        let blocks: Vec<_> = page.split("<pre class=\"code\"").skip(1).map(code_text).collect();
        let written: Vec<_> = guide::fenced(&source).into_iter().map(|block| block.code).collect();
        assert_eq!(blocks, written, "{path}");
        checked += blocks.len();
    }
    assert!(checked > 200, "{checked}");
}

/// The text of a block of code, from its HTML.
fn code_text(html: &str) -> String {
    let code = between(html, "<code>", "</code>");
    let (first, tags) = code.split_once('<').unwrap_or((code, ""));
    let mut text = first.to_owned();
    text.extend(tags.split('<').filter_map(|tag| tag.split_once('>')).map(|(_, after)| after));
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// The search finds each page, each of its headings, and each operation, where they are.
#[tokio::test]
async fn the_search_index_names_every_page_and_operation() {
    let server = Server::start().await;
    let client = server.anonymous();
    let home = page(&client, "/docs/home").await;
    let base = Url::parse(&format!("{}/docs/home", server.url)).unwrap();
    let index = base.join(&attributes(&home.text, "data-index")[0]).unwrap();
    let index = get(&client, index.path(), &[]).await.0;
    assert_eq!(index.header("content-type"), Some("application/json"));
    let index: serde_json::Value = serde_json::from_str(&index.text).unwrap();
    let mut found = BTreeMap::new();
    for entry in index["pages"].as_array().unwrap() {
        let path = entry[0].as_str().unwrap().to_owned();
        let html = page(&client, &format!("/docs/{path}")).await.text;
        let sections = entry[2].as_array().unwrap();
        for section in sections.iter().skip(1) {
            assert!(has_anchor(&html, section[0].as_str().unwrap()), "{path}: {section}");
        }
        let headings = ["<h2 ", "<h3 ", "<h4 "].map(|start| html.matches(start).count());
        assert_eq!(sections.len() - 1, headings.iter().sum::<usize>(), "{path}");
        found.insert(path, entry[1].as_str().unwrap().to_owned());
    }
    assert_eq!(found, titles());
    let operations = index["operations"].as_array().unwrap().iter();
    let operations: BTreeSet<_> = operations
        .map(|operation| operation[0].as_str().unwrap().trim_start_matches('#').to_owned())
        .collect();
    assert_eq!(operations, openapi_operations());
}

#[tokio::test]
async fn unknown_pages_are_404_with_the_frame_for_browsers() {
    let server = Server::start().await;
    let client = server.anonymous();
    for path in
        ["/docs/no-such-page", "/docs/guides/no-such-page", "/docs/a/b/c/", "/docs/home%20", "/docs/Home"]
    {
        let answer = page(&client, path).await;
        assert_eq!((answer.status, answer.header("cache-control")), (404, Some("no-store")), "{path}");
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"), "{path}");
        assert!(answer.header("content-security-policy").unwrap().contains("require-trusted-types-for"));
        assert_eq!(between(&answer.text, "<h1>", "</h1>"), "Page not found");
        let base = Url::parse(&format!("{}{path}", server.url)).unwrap();
        for link in own_links(&answer.text) {
            let target = base.join(&link).unwrap();
            let status = page(&client, target.path()).await.status;
            assert!(status == 200 || target.path() == path, "{path}: {link} is {status}");
        }
        // Programs get an error as everywhere.
        let answer = get(&client, path, &[]).await.0;
        assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/json")), "{path}");
    }
}

/// Whatever a path looks like, it names a page or it is refused: no file is read by its path.
#[tokio::test]
async fn hostile_paths_are_refused() {
    let server = Server::start().await;
    let client = server.anonymous();
    let deep = format!("/docs/{}", "a/".repeat(500));
    let long = format!("/docs/{}", "a".repeat(6000));
    for path in [
        "/docs/..%2f..%2fetc%2fpasswd",
        "/docs/%2e%2e/%2e%2e/Cargo.toml",
        "/docs/....//....//Cargo.toml",
        "/docs//etc/passwd",
        "/docs/quickstart.md",
        "/docs/quickstart.html",
        "/docs/quickstart%00",
        "/docs/%3Cscript%3Ealert(1)%3C/script%3E",
        "/docs/%7Broot%7D",
        "/docs/home//",
        deep.as_str(),
        long.as_str(),
    ] {
        let answer = page(&client, path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.text.len() < 40_000, "{path}: {}", answer.text.len());
        assert!(!answer.text.contains("alert(1)"), "{path}");
    }
}

#[tokio::test]
async fn a_slash_after_a_page_is_redirected() {
    let server = Server::start().await;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    for path in
        ["/docs/quickstart", "/docs/guides/gateways", "/docs/contribute/decisions/0004-bundled-sqlite"]
    {
        let answer = client.get(format!("{}{path}/", server.url)).send().await.unwrap();
        assert_eq!(answer.status(), 308, "{path}");
        let location = answer.headers()["location"].to_str().unwrap();
        assert_eq!(answer.url().join(location).unwrap().path(), path);
    }
    let posted = server.anonymous().request_at_root(Method::POST, "/docs/quickstart").body("x");
    let refused = server.anonymous().send(posted).await;
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
}

/// Writes the site as `scripts/site` does.
pub(super) fn write_site(directory: &Path) {
    let program = Path::new(env!("CARGO_BIN_EXE_tollhouse")).with_file_name("examples").join("site");
    assert!(program.exists(), "no {}; cargo build --example site", program.display());
    let output = Command::new(program).arg(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The site works from any directory, so its links are relative and name files with their extension.
#[test]
fn every_link_of_the_written_site_leads_to_a_file_of_it() {
    let place = tempfile::tempdir().unwrap();
    let site = place.path().join("below/a path");
    write_site(&site);
    let files = files_below(&site);
    let pages: Vec<_> =
        files.iter().filter(|file| file.extension().is_some_and(|kind| kind == "html")).collect();
    let expected: BTreeSet<_> = titles()
        .into_keys()
        .map(|path| if path == "home" { "index".to_owned() } else { path })
        .chain(["reference/operations".to_owned()])
        .map(|path| site.join(format!("{path}.html")))
        .collect();
    assert_eq!(pages.iter().map(|page| (*page).clone()).collect::<BTreeSet<_>>(), expected);
    let mut texts = BTreeMap::new();
    for page in &pages {
        texts.insert((*page).clone(), fs::read_to_string(page).unwrap());
    }
    let mut checked = 0;
    for (page, text) in &texts {
        for link in own_links(text) {
            assert!(!link.contains(':') && !link.starts_with('/'), "{}: {link}", page.display());
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let target = target.canonicalize().unwrap_or_else(|_| panic!("{}: {link}", page.display()));
            assert!(target.starts_with(site.canonicalize().unwrap()) && target.is_file(), "{link}");
            let is_known = anchor.is_empty() || has_anchor(&fs::read_to_string(&target).unwrap(), anchor);
            assert!(is_known, "{}: {link}", page.display());
            checked += 1;
        }
        for banned in ["innerHTML", "style=\"", "onclick", "@import"] {
            assert!(!text.contains(banned), "{}: {banned}", page.display());
        }
    }
    assert!(checked > 3000, "{checked}");
    // It doesn't write over anything.
    let program = Path::new(env!("CARGO_BIN_EXE_tollhouse")).with_file_name("examples").join("site");
    assert!(!Command::new(program).arg(&site).output().unwrap().status.success());
}
