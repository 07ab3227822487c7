//! Search by words: the words by which organizations, users and API keys are found, and the parameter `q` that names
//! some of them.
//!
//! A word is a run of letters and digits, with case folded. A resource is found if each word of the query begins one of
//! its words.

use std::collections::BTreeSet;
use std::ops::Bound;

use serde::Serialize;
use utoipa::IntoParams;

use super::id::Kind;
use super::page::Query;
use super::unicode;

/// Maximum number of words in a query.
const MAX_QUERY_WORDS: usize = 3;
/// Minimum length of a word, in characters. Shorter ones would find too much to be useful, and are not stored, except for
/// those of ids.
const MIN_WORD_CHARS: usize = 2;
/// Maximum number of words of one text, such as a name, by which a resource is found. It bounds what a change of the
/// resource writes.
const MAX_WORDS_PER_TEXT: usize = 16;
/// Maximum length of a stored word, in characters. What exceeds it is compared with the resource itself.
const MAX_STORED_CHARS: usize = 16;

/// A resource that is found by words.
pub(crate) trait Searchable {
    /// The kind of its id.
    const KIND: Kind;

    /// The words by which the resource is found.
    fn words(&self) -> SearchWords;
}

/// The words by which a resource is found. The type in front of its id isn't among them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SearchWords(BTreeSet<String>);

impl SearchWords {
    fn with_normalized(mut self, normalized: &str) -> Self {
        let long_enough = words_of(normalized).filter(|word| is_long_enough(word));
        self.0.extend(long_enough.take(MAX_WORDS_PER_TEXT).map(str::to_owned));
        self
    }

    /// Adds the words of a text, such as a name.
    pub(crate) fn with_text(self, text: &str) -> Self {
        self.with_normalized(&unicode::fold(text))
    }

    /// Adds the words of an email address.
    pub(crate) fn with_email(self, email: &str) -> Self {
        self.with_normalized(&fold_address(email))
    }

    /// Adds the words of an id, without its type. Short ones too, because a query may be the id.
    pub(crate) fn with_id(mut self, id: &str) -> Self {
        let normalized = unicode::fold(id.split_once('_').map_or(id, |(_, rest)| rest));
        self.0.extend(words_of(&normalized).take(MAX_WORDS_PER_TEXT).map(str::to_owned));
        self
    }

    /// The words in the form in which they are stored: cut to a maximum length.
    pub(crate) fn to_stored(&self) -> BTreeSet<&str> {
        self.0.iter().map(|word| stored_form(word)).collect()
    }

    /// True if each word of the query begins one of these words.
    pub(crate) fn match_query(&self, query: &SearchQuery) -> bool {
        query.words.iter().all(|word| {
            // The words that begin with it follow it in the order of the set.
            let mut following = self.0.range::<str, _>((Bound::Included(word.as_str()), Bound::Unbounded));
            following.next().is_some_and(|next| next.starts_with(word.as_str()))
        })
    }
}

/// The parameter `q` of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SearchQuery {
    /// The text as it was given, to which cursors are bound.
    text: String,
    /// At most [`MAX_QUERY_WORDS`]. None if every resource of the kind is found.
    words: Vec<String>,
}

/// What is wrong with the text of a query: the code and message of the fault.
type QueryFault = (&'static str, String);

impl SearchQuery {
    /// Reads the query parameter `q` for a list of resources of this kind. `None` if it is absent or has a fault.
    pub(crate) fn read(query: &mut Query, kind: Kind) -> Option<Self> {
        let text = query.text("q")?;
        match Self::parse(&text, kind) {
            Ok(search) => Some(search),
            Err((code, message)) => {
                query.add_fault("q", code, message);
                None
            }
        }
    }

    /// Parses the text of a query for resources of this kind.
    ///
    /// # Errors
    /// The fault, if the text has too many or too short words, or none.
    pub(crate) fn parse(text: &str, kind: Kind) -> Result<Self, QueryFault> {
        let normalized = if text.contains('@') { fold_address(text) } else { unicode::fold(text) };
        if words_of(&normalized).next().is_none() {
            return Err(("INVALID_VALUE", "Must contain a letter or digit.".to_owned()));
        }
        // All ids of the kind begin with the type.
        let after_type = normalized.trim().strip_prefix(kind.prefix());
        let mut words: Vec<&str> = words_of(after_type.unwrap_or(&normalized)).collect();
        let is_identifier = !text.trim().contains(char::is_whitespace);
        let is_id = is_identifier && after_type.is_some();
        let is_usable = match is_identifier {
            true => is_id || words.iter().any(|word| is_long_enough(word)),
            false => words.iter().all(|word| is_long_enough(word)),
        };
        if !is_usable {
            let message = format!("Each word must have at least {MIN_WORD_CHARS} letters or digits.");
            return Err(("INVALID_LENGTH", message));
        }
        words.retain(|word| is_id || is_long_enough(word));
        let type_of_id = kind.prefix().trim_end_matches('_');
        words.retain(|word| *word != type_of_id);
        words.sort_unstable();
        words.dedup();
        if is_identifier {
            // An email address, a UUID or an id may have more words. The longest ones say the most.
            words.sort_by_key(|word| std::cmp::Reverse(word.chars().count()));
            words.truncate(MAX_QUERY_WORDS);
        }
        if words.len() > MAX_QUERY_WORDS {
            return Err(("TOO_MANY", format!("Must have at most {MAX_QUERY_WORDS} words.")));
        }
        Ok(Self { text: text.to_owned(), words: words.into_iter().map(str::to_owned).collect() })
    }

    /// False if every resource of the kind is found.
    pub(crate) fn has_words(&self) -> bool {
        !self.words.is_empty()
    }

    /// The beginnings of stored words by which resources are found.
    pub(crate) fn stored_prefixes(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(|word| stored_form(word))
    }
}

/// The query parameter of a search for resources of all kinds.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SearchParams {
    /// An id, an email address, the external id of a user, or 1 to 3 words as in the `q` of lists. Without it, nothing is
    /// found.
    #[param(max_length = 200, example = "ada lovelace")]
    pub(crate) q: Option<String>,
}

impl SearchParams {
    pub(crate) fn read(query: &mut Query) -> Self {
        let q = query.text("q").map(|text| text.trim().to_owned());
        // A text without spaces may be the external id of a user, whatever its words are.
        if let Some(text) = q.as_ref().filter(|text| text.contains(char::is_whitespace)) {
            let kinds = [Kind::Organization, Kind::User, Kind::ApiKey];
            let faults = kinds.map(|kind| SearchQuery::parse(text, kind).err());
            if let [Some((code, message)), Some(_), Some(_)] = faults {
                query.add_fault("q", code, message);
            }
        }
        Self { q }
    }
}

/// The kind of resource that a search found.
#[derive(Clone, Copy, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub(crate) enum SearchResultType {
    Organization,
    User,
    ApiKey,
}

/// A resource that a search found.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SearchResult {
    /// The kind of resource.
    #[serde(rename = "type")]
    #[schema(example = "user")]
    pub(crate) result_type: SearchResultType,
    /// Id of the resource.
    #[schema(example = "user_123")]
    pub(crate) id: String,
    /// Its name.
    #[schema(example = "Ada Lovelace")]
    pub(crate) title: String,
    /// The email address of an organization or a user, the `start` of a key.
    #[schema(example = "ada@example.com")]
    pub(crate) subtitle: String,
}

/// The form of an email address in which words are compared. Names are folded in the same way, so `ß` in the domain,
/// which the comparison of addresses distinguishes, is `ss` here.
fn fold_address(text: &str) -> String {
    unicode::fold(&unicode::fold_email(text))
}

fn words_of(normalized: &str) -> impl Iterator<Item = &str> {
    normalized.split(|c| !unicode::is_word_character(c)).filter(|word| !word.is_empty())
}

fn is_long_enough(word: &str) -> bool {
    word.chars().nth(MIN_WORD_CHARS - 1).is_some()
}

fn stored_form(word: &str) -> &str {
    word.char_indices().nth(MAX_STORED_CHARS).map_or(word, |(end, _)| &word[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> SearchWords {
        SearchWords::default().with_text(text)
    }

    fn parsed(text: &str) -> Result<Vec<String>, &'static str> {
        SearchQuery::parse(text, Kind::User).map(|query| query.words).map_err(|(code, _)| code)
    }

    #[test]
    fn a_query_has_up_to_three_words_of_two_characters() {
        for (text, expected) in [
            ("Ada", Ok(vec!["ada"])),
            (" Ada   LOVELACE ", Ok(vec!["ada", "lovelace"])),
            ("Straße 12", Ok(vec!["12", "strasse"])),
            ("one two three", Ok(vec!["one", "three", "two"])),
            ("one two three four", Err("TOO_MANY")),
            ("one one two two three", Ok(vec!["one", "three", "two"])),
            ("a", Err("INVALID_LENGTH")),
            ("ada l", Err("INVALID_LENGTH")),
            ("é", Err("INVALID_LENGTH")),
            ("%", Err("INVALID_VALUE")),
            (" - ", Err("INVALID_VALUE")),
            // Every user's id begins with it.
            ("user", Ok(vec![])),
            ("user_ada", Ok(vec!["ada"])),
            ("USER_1", Ok(vec!["1"])),
            ("user_a-1", Ok(vec!["1", "a"])),
            ("user_", Ok(vec![])),
            ("user_1 ada", Err("INVALID_LENGTH")),
            ("key_ada", Ok(vec!["ada", "key"])),
            // Identifiers may have more words, and shorter ones.
            ("c-3po", Ok(vec!["3po"])),
            ("j.q.public@mail.example.com", Ok(vec!["example", "public", "mail"])),
            ("a.b", Err("INVALID_LENGTH")),
            ("5f7c8ec7-c33c-6c00-4bba-fe82aa10bb20", Ok(vec!["fe82aa10bb20", "5f7c8ec7", "4bba"])),
        ] {
            let expected = expected.map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(parsed(text), expected, "{text:?}");
        }
    }

    #[test]
    fn each_word_of_a_query_must_begin_a_word() {
        for (text, query, expected) in [
            ("Acme Corporation", "corp", true),
            ("Acme Corporation", "CORP acme", true),
            ("Acme Corporation", "acme other", false),
            ("Acme Corporation", "oration", false),
            ("Acme Corporation", "corporations", false),
            ("Café Zürich", "CAFE\u{301} zü", true),
            ("हिन्दी", "हिन्दी", true),
            ("東京支店", "東京", true),
            ("東京支店", "支店", false),
            ("a name with l", "name with", true),
        ] {
            let query_words = SearchQuery::parse(query, Kind::Organization).unwrap();
            assert_eq!(words(text).match_query(&query_words), expected, "{text} {query}");
        }
    }

    #[test]
    fn email_addresses_are_found_by_both_forms_of_their_domain() {
        let stored = SearchWords::default().with_email("Jörg@xn--strae-oqa.example");
        for query in ["jörg@straße.example", "JÖRG", "strasse", "jo\u{308}rg@XN--STRAE-OQA.example"] {
            assert!(stored.match_query(&SearchQuery::parse(query, Kind::User).unwrap()), "{query}");
        }
    }

    #[test]
    fn the_number_and_length_of_stored_words_are_limited() {
        let name: String = (10..77).map(|number| format!("{number} ")).collect();
        assert_eq!(words(&name).to_stored().len(), MAX_WORDS_PER_TEXT);
        let long = ["ä".repeat(200), "ä".repeat(15) + "b"].join(" ");
        let long = words(&long);
        let stored = long.to_stored();
        assert_eq!(stored.iter().map(|word| word.chars().count()).collect::<Vec<_>>(), [16, 16]);
        // A longer word of the query is compared in full.
        for (query, expected) in [("ä".repeat(190), true), ("ä".repeat(190) + "b", false)] {
            let query = SearchQuery::parse(&query, Kind::User).unwrap();
            assert!(query.stored_prefixes().all(|prefix| stored.contains(prefix)));
            assert_eq!(long.match_query(&query), expected);
        }
    }
}
