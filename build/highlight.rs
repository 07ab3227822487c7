//! Colors of code: strings, names, words and comments, as far as they are found without parsing the language.

use super::escape;

/// What starts a comment, the quotes of strings, and words with a color.
struct Language {
    comment: &'static str,
    quotes: &'static [char],
    words: &'static [&'static str],
    /// True if strings may have several lines.
    long_strings: bool,
}

const NONE: Language = Language { comment: "", quotes: &[], words: &[], long_strings: false };

fn language(name: &str) -> Language {
    match name {
        "sh" => Language {
            comment: "#",
            quotes: &['\'', '"'],
            words: &["if", "then", "else", "fi", "for", "in", "do", "done", "while", "until", "export"],
            long_strings: true,
        },
        "json" => Language { quotes: &['"'], words: &["true", "false", "null"], ..NONE },
        "toml" | "yaml" | "ini" => {
            Language { comment: "#", quotes: &['"', '\''], words: &["true", "false"], ..NONE }
        }
        "nginx" | "caddyfile" | "haproxy" => Language { comment: "#", quotes: &['"', '\''], ..NONE },
        "lua" => Language {
            comment: "--",
            quotes: &['"', '\''],
            words: &[
                "local", "function", "return", "if", "then", "else", "end", "nil", "true", "false", "and",
            ],
            ..NONE
        },
        "python" | "py" => Language {
            comment: "#",
            quotes: &['"', '\''],
            words: &[
                "def", "class", "return", "import", "from", "if", "elif", "else", "for", "in", "with", "as",
                "async", "await", "raise", "try", "except", "not", "and", "or", "None", "True", "False",
            ],
            ..NONE
        },
        "js" | "ts" => Language {
            comment: "//",
            quotes: &['\'', '"', '`'],
            words: &[
                "const", "let", "function", "return", "import", "from", "export", "if", "else", "for", "of",
                "async", "await", "new", "throw", "try", "catch", "null", "true", "false", "type",
            ],
            ..NONE
        },
        "go" => Language {
            comment: "//",
            quotes: &['"', '`'],
            words: &[
                "package", "import", "func", "return", "if", "else", "for", "range", "var", "const", "type",
                "struct", "defer", "nil", "true", "false", "map",
            ],
            ..NONE
        },
        "rust" => Language {
            comment: "//",
            quotes: &['"'],
            words: &[
                "use", "fn", "let", "mut", "pub", "struct", "enum", "impl", "match", "if", "else", "for",
                "in", "async", "await", "move", "return", "const", "static", "true", "false", "self", "Self",
            ],
            ..NONE
        },
        _ => NONE,
    }
}

/// Code as HTML.
pub(super) fn highlight(name: &str, code: &str) -> String {
    let language = language(name);
    let mut html = String::with_capacity(code.len() * 2);
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let (class, length) = token(&language, name, code, code.len() - rest.len());
        let length = length.max(first.len_utf8());
        let (part, after) = rest.split_at(length);
        match class {
            "" => html.push_str(&escape(part)),
            class => html.push_str(&format!("<span class=\"token-{class}\">{}</span>", escape(part))),
        }
        rest = after;
    }
    html
}

/// The color of the token at a position, and its length in bytes.
fn token(language: &Language, name: &str, code: &str, start: usize) -> (&'static str, usize) {
    let rest = &code[start..];
    let line = rest.split('\n').next().unwrap_or_default();
    let before = code[..start].chars().next_back();
    let is_at_line_start = before.is_none_or(|letter| letter == '\n');
    let is_separate = before.is_none_or(|letter| letter.is_whitespace());
    if !language.comment.is_empty() && is_separate && line.starts_with(language.comment) {
        return ("comment", line.len());
    }
    if let Some(length) = heredoc_length(name, rest) {
        return ("", length);
    }
    let first = rest.chars().next().unwrap_or_default();
    if language.quotes.contains(&first) {
        let Some(length) = string_length(rest, first, language.long_strings) else { return ("", 1) };
        let is_name = name == "json" && rest[length..].trim_start().starts_with(':');
        return (if is_name { "name" } else { "string" }, length);
    }
    if is_at_line_start && let Some(length) = key_length(name, line) {
        return ("name", length);
    }
    let is_word = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.');
    let length = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
    let word = &rest[..length];
    let is_number = first.is_ascii_digit() && word.parse::<f64>().is_ok() && name != "sh";
    (if is_number || language.words.contains(&word) { "word" } else { "" }, length)
}

/// The length of a string with its quotes, if it ends.
fn string_length(text: &str, quote: char, is_long: bool) -> Option<usize> {
    let mut is_escaped = false;
    for (position, letter) in text.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '\n' if !is_long && quote != '`' => return None,
            letter if letter == quote => return Some(position + 1),
            _ => {}
        }
    }
    None
}

/// The length of a document in a shell script, from `<<'END'` to the line `END`. It is in another language.
fn heredoc_length(name: &str, rest: &str) -> Option<usize> {
    if name != "sh" {
        return None;
    }
    let after = rest.strip_prefix("<<")?;
    let word: &str = after.split_whitespace().next()?;
    let end = format!("\n{}\n", word.trim_matches(['\'', '"']));
    rest.find(&end).map(|position| position + end.len() - 1)
}

/// The length of the name of a setting at the start of a line, with its indentation.
fn key_length(name: &str, line: &str) -> Option<usize> {
    let separator = match name {
        "toml" | "ini" if line.starts_with('[') => return Some(line.find(']')? + 1),
        "toml" | "ini" => '=',
        "yaml" => ':',
        _ => return None,
    };
    let (key, _) = line.split_once(separator)?;
    let key = key.trim_end();
    let name_part = key.trim_start_matches([' ', '-']);
    let is_name = !name_part.is_empty()
        && name_part
            .chars()
            .all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.' | '/'));
    is_name.then_some(key.len())
}
