//! Entity tags (RFC 9110 §8.8.3) in the forms that compressing proxies give them.

/// The content codings whose names proxies append to a tag.
const CODINGS: [&str; 4] = ["gzip", "br", "zstd", "deflate"];

/// True if `condition`, the value of `If-Match`, is `*` or lists the strong tag `etag`.
///
/// A proxy that compresses a response changes its tag: nginx makes it weak (`W/"…"`), others append the coding
/// (`"…-gzip"`, `"…;br"`). Clients send back the tag that they received. All of these forms match, because
/// our tags stand for the stored state, which is the same however a response was encoded.
pub(crate) fn matches_etag(condition: &str, etag: &str) -> bool {
    condition.trim() == "*" || condition.split(',').any(|given| is_form_of(given.trim(), etag))
}

fn is_form_of(given: &str, etag: &str) -> bool {
    let strong = given.strip_prefix("W/").unwrap_or(given);
    strong == etag || without_coding(strong).is_some_and(|opaque| Some(opaque) == unquoted(etag))
}

/// The opaque part of a tag without the coding at its end; `None` if there is no coding. Our own tags never end in
/// one, because they end in a number.
fn without_coding(tag: &str) -> Option<&str> {
    let opaque = unquoted(tag)?;
    CODINGS.into_iter().find_map(|coding| opaque.strip_suffix(coding)?.strip_suffix(['-', ';']))
}

fn unquoted(tag: &str) -> Option<&str> {
    tag.strip_prefix('"')?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"1a2073bcba8-1\"";

    #[test]
    fn a_tag_matches_in_the_forms_of_compressing_proxies() {
        for condition in [
            "*",
            " * ",
            "\"1a2073bcba8-1\"",
            "W/\"1a2073bcba8-1\"",
            "\"1a2073bcba8-1-gzip\"",
            "\"1a2073bcba8-1-br\"",
            "\"1a2073bcba8-1;br\"",
            "\"1a2073bcba8-1;gzip\"",
            "\"1a2073bcba8-1-zstd\"",
            "W/\"1a2073bcba8-1-gzip\"",
            "\"other\", W/\"1a2073bcba8-1\"",
            "\"other\",\"1a2073bcba8-1\"",
        ] {
            assert!(matches_etag(condition, ETAG), "{condition}");
        }
    }

    #[test]
    fn other_tags_do_not_match() {
        for condition in [
            "",
            "\"*\"",
            "*, \"other\"",
            "1a2073bcba8-1",
            "\"1a2073bcba8-2\"",
            "W/\"1a2073bcba8-2\"",
            "\"1a2073bcba8-2-gzip\"",
            "\"1a2073bcba8-11\"",
            "\"1a2073bcba8-1gzip\"",
            "\"1a2073bcba8-1-\"",
            "\"1a2073bcba8-1-other\"",
            "\"1a2073bcba8-1-gzip-2\"",
            "\"1a2073bcba8-1\"-gzip",
            "\"1a2073bcba8-1-gzip",
            "\"-gzip\"",
            "w/\"1a2073bcba8-1\"",
            "W/W/\"1a2073bcba8-1\"",
        ] {
            assert!(!matches_etag(condition, ETAG), "{condition}");
        }
    }
}
