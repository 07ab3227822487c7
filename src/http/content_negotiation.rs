//! Which form of a response a request accepts: its media type and its encoding.

/// True if `Accept` names `text/html` or `text/*` with at least the quality of JSON (RFC 9110 §12.5.1).
/// Browsers name HTML; a program that accepts anything (`*/*`) gets JSON.
pub(super) fn prefers_html(accept: &[&str]) -> bool {
    let (precision, html) = accept_quality(accept, "text", "html");
    let (_, json) = accept_quality(accept, "application", "json");
    precision > 1 && html > 0.0 && html >= json
}

/// The precision and quality of the most precise media range in `Accept` that covers a media type. The
/// precision is 3 for the type itself, 2 for `class/*`, 1 for `*/*`, and 0 if no range covers the type.
fn accept_quality(accept: &[&str], class: &str, kind: &str) -> (u8, f32) {
    let mut best = (0, 0.0);
    for range in accept.iter().flat_map(|line| line.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let Some((named_class, named_kind)) = parts.next().and_then(|name| name.split_once('/')) else {
            continue;
        };
        let precision = match (named_class, named_kind) {
            ("*", "*") => 1,
            (one, "*") if one.eq_ignore_ascii_case(class) => 2,
            (one, other) if one.eq_ignore_ascii_case(class) && other.eq_ignore_ascii_case(kind) => 3,
            _ => continue,
        };
        let given = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let quality = given.map_or(Ok(1.0), str::parse::<f32>).unwrap_or(0.0);
        if precision > best.0 {
            best = (precision, quality);
        }
    }
    best
}

/// True if `Accept-Encoding` lists gzip with a quality above 0, or covers gzip by `*` (RFC 9110 §12.5.3).
pub(super) fn accepts_gzip(accept_encoding: &[&str]) -> bool {
    let mut accepts_any = false;
    for coding in accept_encoding.iter().flat_map(|line| line.split(',')) {
        let (name, parameter) = coding.split_once(';').unwrap_or((coding, ""));
        let quality = parameter.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        let is_accepted = quality.is_ok_and(|quality| quality > 0.0);
        match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") => return is_accepted,
            "*" => accepts_any = is_accepted,
            _ => {}
        }
    }
    accepts_any
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_html(lines: &[&'static str]) -> bool {
        prefers_html(lines)
    }

    #[test]
    fn browsers_get_the_page_and_programs_get_json() {
        for lines in [
            &["text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"][..],
            &["text/html"],
            &["TEXT/HTML ; charset=utf-8 ; Q=0.5"],
            &["text/*"],
            &["text/html, application/json"],
            &["application/json;q=0.4", "text/html;q=0.5"],
            &["application/json;q=0, text/html;q=0.1, */*"],
        ] {
            assert!(is_html(lines), "{lines:?}");
        }
        for lines in [
            &[][..],
            &[""],
            &["*/*"],
            &["application/json, text/plain, */*"],
            &["application/json, text/html;q=0.9"],
            &["text/html;q=0.5, */*"],
            &["text/html;q=0"],
            &["text/*, text/html;q=0"],
            &["text/html;q=much"],
            &["text/html;q=nan"],
            &["text/htmlx", "html", ";", "/", ",,"],
            &["image/png"],
        ] {
            assert!(!is_html(lines), "{lines:?}");
        }
    }
}
