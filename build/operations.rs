//! The operations of the OpenAPI document, for the search, and as a page that needs neither JavaScript nor a server.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{Result, escape};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

pub(super) struct Operation {
    pub(super) id: String,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) summary: String,
    pub(super) tag: String,
    description: String,
    parameters: Vec<Field>,
    body: Vec<Field>,
    responses: Vec<(String, String)>,
}

/// A parameter, or a field of a body.
struct Field {
    name: String,
    /// Where it is sent, for parameters.
    location: String,
    is_required: bool,
    description: String,
}

pub(super) struct Operations {
    /// Name and description of each tag, and its operations.
    tags: Vec<(String, String, Vec<Operation>)>,
}

impl Operations {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let document: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
        let tags = document["tags"].as_array().ok_or("the OpenAPI document has no tags")?;
        let mut tags: Vec<(String, String, Vec<Operation>)> =
            tags.iter().map(|tag| (text(&tag["name"]), text(&tag["description"]), Vec::new())).collect();
        let paths = document["paths"].as_object().ok_or("the OpenAPI document has no paths")?;
        for (path, item) in paths {
            for method in METHODS.iter().filter(|method| item.get(**method).is_some()) {
                let operation = Operation::read(&document, path, method, &item[*method]);
                let tag = tags.iter_mut().find(|(name, ..)| *name == operation.tag);
                tag.ok_or_else(|| format!("unknown tag {}", operation.tag))?.2.push(operation);
            }
        }
        Ok(Self { tags })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Operation> {
        self.tags.iter().flat_map(|(_, _, operations)| operations)
    }

    /// The tags as a list of links, and then all operations.
    pub(super) fn html(&self) -> String {
        let mut html = String::new();
        for (name, description, operations) in &self.tags {
            let anchor = tag_anchor(name);
            let _ = writeln!(
                html,
                "<h2 id=\"{anchor}\"><a class=\"anchor\" href=\"#{anchor}\">{}</a></h2>\n{}",
                escape(name),
                paragraphs(description)
            );
            for operation in operations {
                operation.write(&mut html);
            }
        }
        html
    }

    /// Level, anchor and text of the headings of the page.
    pub(super) fn headings(&self) -> Vec<(u8, String, String)> {
        self.tags.iter().map(|(name, ..)| (2, tag_anchor(name), name.clone())).collect()
    }
}

/// The slash keeps it different from the IDs of operations.
fn tag_anchor(name: &str) -> String {
    format!("tag/{}", name.replace(' ', "-"))
}

impl Operation {
    fn read(document: &Value, path: &str, method: &str, source: &Value) -> Self {
        let parameters = list(&source["parameters"]).iter().map(|parameter| {
            let parameter = resolved(document, parameter);
            Field {
                name: text(&parameter["name"]),
                location: text(&parameter["in"]),
                is_required: parameter["required"] == true,
                description: text(&parameter["description"]),
            }
        });
        let content = &resolved(document, &source["requestBody"])["content"];
        let schema = content.as_object().and_then(|content| content.values().next());
        let schema = schema.map_or(&Value::Null, |media_type| resolved(document, &media_type["schema"]));
        let required: Vec<_> = list(&schema["required"]).iter().map(text).collect();
        let fields = schema["properties"].as_object();
        let body = fields.into_iter().flatten().map(|(name, field)| {
            let own = text(&field["description"]);
            let description =
                if own.is_empty() { text(&resolved(document, field)["description"]) } else { own };
            Field {
                name: name.clone(),
                location: String::new(),
                is_required: required.contains(name),
                description,
            }
        });
        let responses = source["responses"].as_object();
        let responses = responses
            .into_iter()
            .flatten()
            .map(|(status, response)| (status.clone(), text(&resolved(document, response)["description"])));
        Self {
            id: text(&source["operationId"]),
            method: method.to_uppercase(),
            path: path.to_owned(),
            summary: text(&source["summary"]),
            tag: text(&source["tags"][0]),
            description: text(&source["description"]),
            parameters: parameters.collect(),
            body: body.collect(),
            responses: responses.collect(),
        }
    }

    fn write(&self, html: &mut String) {
        let Self { id, method, path, .. } = self;
        let _ = writeln!(
            html,
            "<section class=\"operation-text\"><h3 id=\"{id}\"><a class=\"anchor\" href=\"#{id}\">{}</a></h3>\n\
             <p class=\"endpoint\"><span class=\"method\">{method}</span> <code>{}</code></p>\n{}",
            escape(&self.summary),
            escape(path),
            paragraphs(&self.description)
        );
        for (title, fields) in [("Parameters", &self.parameters), ("Fields of the body", &self.body)] {
            if !fields.is_empty() {
                let rows: String = fields.iter().map(Field::row).collect();
                html.push_str(&table(title, &rows));
            }
        }
        let row = |(status, description): &(String, String)| {
            format!("<tr><td>{status}</td><td>{}</td></tr>\n", inline(description))
        };
        let rows: String = self.responses.iter().map(row).collect();
        html.push_str(&table("Responses", &rows));
        html.push_str("</section>\n");
    }
}

impl Field {
    fn row(&self) -> String {
        let location = if self.location.is_empty() { String::new() } else { format!(" ({})", self.location) };
        let required = if self.is_required { " <span class=\"required\">required</span>" } else { "" };
        format!(
            "<tr><td><code>{}</code>{location}{required}</td><td>{}</td></tr>\n",
            escape(&self.name),
            inline(&self.description)
        )
    }
}

fn table(title: &str, rows: &str) -> String {
    format!(
        "<details class=\"parts\"><summary>{title}</summary><div class=\"table\" tabindex=\"0\" role=\"group\" \
         aria-label=\"{title}\"><table><tbody>\n{rows}</tbody></table></div></details>\n"
    )
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Follows a reference.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

/// The paragraphs and lists of a description.
fn paragraphs(text: &str) -> String {
    let mut html = String::new();
    for part in text.split("\n\n").filter(|part| !part.trim().is_empty()) {
        let lines: Vec<_> = part.lines().collect();
        if lines.iter().all(|line| line.starts_with("- ") || line.starts_with("  ")) {
            let items = part.split("\n- ").map(|item| inline(item.trim_start_matches("- ")));
            let items: String = items.map(|item| format!("<li>{item}</li>\n")).collect();
            let _ = writeln!(html, "<ul>\n{items}</ul>");
        } else {
            let _ = writeln!(html, "<p>{}</p>", inline(part));
        }
    }
    html
}

/// Text with code in backticks.
fn inline(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(index, part)| match index % 2 {
        1 => format!("<code>{}</code>", escape(part)),
        _ => escape(part),
    });
    parts.collect()
}
