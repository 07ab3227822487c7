//! Scopes of keys: `resource:action`, `resource:*` or `*`, and which scopes cover other scopes.

use std::collections::{BTreeSet, HashSet};

use super::fields::{Faults, Json};

/// The id of the scope catalogue in an [`Invalidation`](super::invalidation::Invalidation).
pub(crate) const CATALOGUE_ID: &str = "scopes";

/// The maximum number of scopes of a key, and of scopes required in one verification.
pub(crate) const MAX_SCOPES: usize = 100;

/// True if the scope gives access to Tollhouse's own operations, such as managing keys. Only a caller who has
/// such a scope can grant it.
pub(crate) fn is_administrative(scope: &str) -> bool {
    scope == "*" || matches!(resource_of(scope), "admin" | "keys")
}

/// True if a key with the scope `grant` also has the scope `scope`. A wildcard is covered only by itself or a
/// wider wildcard, never by the list of scopes to which it currently expands.
pub(crate) fn covers(grant: &str, scope: &str) -> bool {
    if grant == "*" || grant == scope {
        return true;
    }
    grant
        .strip_suffix(":*")
        .is_some_and(|resource_of_grant| resource_of_grant == resource_of(scope) && scope != "*")
}

/// True if at least one of the scopes in `grants` covers `scope`.
pub(crate) fn any_covers(grants: &[String], scope: &str) -> bool {
    grants.iter().any(|grant| covers(grant, scope))
}

/// True if the text is a scope token as defined by OAuth (RFC 6749 §3.3). Every scope is one, so that it can be
/// written into a quoted string or a list separated by spaces.
pub(crate) fn is_oauth_scope_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'))
}

/// Returns the part of a scope before the colon.
fn resource_of(scope: &str) -> &str {
    scope.split_once(':').map_or(scope, |(resource, _)| resource)
}

/// The catalogue: all existing scopes, built-in and custom.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    scopes: BTreeSet<String>,
    /// The resources of the scopes, so that looking up a wildcard doesn't take longer in a larger catalogue.
    resources: HashSet<String>,
}

impl FromIterator<String> for Catalogue {
    fn from_iter<I: IntoIterator<Item = String>>(scopes: I) -> Self {
        let scopes: BTreeSet<String> = scopes.into_iter().collect();
        let mut resources = HashSet::new();
        for resource in scopes.iter().map(|scope| resource_of(scope)) {
            if !resources.contains(resource) {
                resources.insert(resource.to_owned());
            }
        }
        Self { scopes, resources }
    }
}

impl Catalogue {
    /// True if `grant` is `*`, a scope of the catalogue, or a wildcard that covers at least one scope of the
    /// catalogue.
    pub(crate) fn is_known_grant(&self, grant: &str) -> bool {
        match grant.strip_suffix(":*") {
            Some(resource) => self.resources.contains(resource),
            None => grant == "*" || self.scopes.contains(grant),
        }
    }

    /// Returns all scopes of the catalogue that at least one of `grants` covers.
    pub(crate) fn expand(&self, grants: &[String]) -> Vec<String> {
        if grants.iter().any(|grant| grant == "*") {
            return self.scopes.iter().cloned().collect();
        }
        let mut expanded = BTreeSet::new();
        for grant in grants {
            match grant.strip_suffix(":*") {
                Some(resource) => expanded.extend(self.scopes_of_resource(resource)),
                None => expanded.extend(self.scopes.get(grant)),
            }
        }
        expanded.into_iter().cloned().collect()
    }

    /// The scopes of a resource.
    fn scopes_of_resource(&self, resource: &str) -> impl Iterator<Item = &String> {
        let prefix = format!("{resource}:");
        self.scopes.range(prefix.clone()..).take_while(move |scope| scope.starts_with(&prefix))
    }

    /// Returns the grants that would cover no scope if `scope` were removed: the scope itself and, if it is
    /// the last scope of its resource, the resource's wildcard.
    pub(crate) fn grants_depending_on(&self, scope: &str) -> Vec<String> {
        let resource = resource_of(scope);
        let mut grants = vec![scope.to_owned()];
        if self.scopes_of_resource(resource).count() == 1 {
            grants.push(format!("{resource}:*"));
        }
        grants
    }
}

/// The code of a fault: a scope that isn't in the catalogue.
pub(crate) const UNKNOWN_SCOPE: &str = "UNKNOWN_SCOPE";

pub(crate) fn unknown_scope_message(scope: &str) -> String {
    let excerpt: String = scope.chars().take(65).collect();
    format!("Unknown scope {excerpt:?}; GET /admin/v1/scopes lists all scopes.")
}

/// Parses a list of scopes as requested, with repetitions. A scope that isn't in the catalogue is a fault; without a
/// catalogue, none is.
pub(crate) fn parse_scopes(
    catalogue: Option<&Catalogue>,
    json: &Json,
    faults: &mut Faults,
) -> Option<Vec<String>> {
    let items = faults.expect_array(json)?;
    if items.len() > MAX_SCOPES {
        faults
            .add("TOO_MANY", format!("At most {MAX_SCOPES} scopes are allowed; {} were given.", items.len()));
        return None;
    }
    let mut scopes: Vec<String> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        faults.at_child(&index.to_string(), |faults| {
            let Some(scope) = faults.expect_string(item) else { return };
            if catalogue.is_some_and(|catalogue| !catalogue.is_known_grant(scope)) {
                faults.add(UNKNOWN_SCOPE, unknown_scope_message(scope));
            } else {
                scopes.push(scope.to_owned());
            }
        });
    }
    Some(scopes)
}

/// The scopes without repetitions, in their order.
pub(crate) fn without_repetitions(requested: &[String]) -> Vec<String> {
    let mut scopes: Vec<String> = Vec::with_capacity(requested.len());
    for scope in requested {
        if !scopes.contains(scope) {
            scopes.push(scope.clone());
        }
    }
    scopes
}

/// Parses the name of a custom scope: `^[a-z][a-z0-9-]{0,31}:[a-z][a-z0-9-]{0,31}$`. The resources `admin`
/// and `keys` are reserved.
pub(crate) fn parse_custom_scope(json: &Json, faults: &mut Faults) -> Option<String> {
    let text = faults.expect_string(json)?;
    if !is_resource_and_action(text) {
        faults.add("INVALID_SCOPE", "Must be a lowercase resource:action, such as invoices:read.");
        return None;
    }
    if is_administrative(text) {
        faults.add("RESERVED", "The resources admin and keys are reserved.");
        return None;
    }
    Some(text.to_owned())
}

/// True if the text is a valid name for a custom scope.
pub(crate) fn is_custom_scope_name(text: &str) -> bool {
    is_resource_and_action(text) && !is_administrative(text)
}

fn is_resource_and_action(text: &str) -> bool {
    let part = |part: &str| {
        part.len() <= 32
            && part.starts_with(|c: char| c.is_ascii_lowercase())
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    matches!(text.split_once(':'), Some((resource, action)) if part(resource) && part(action))
}

/// A scope of the catalogue.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub(crate) struct Scope {
    /// Name of the scope, as `resource:action`.
    #[schema(example = "reports:read")]
    pub(crate) scope: String,
    /// Human-readable description of the scope.
    #[schema(required, example = "Read reports")]
    pub(crate) description: Option<String>,
    /// Whether the scope is built in. Built-in scopes can't be removed.
    pub(crate) built_in: bool,
}

/// Parameters for creating a scope.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[schema(as = ScopeCreate)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewScope {
    /// Name of the scope, as `resource:action`. The resources `admin` and `keys` are reserved.
    #[schema(pattern = "^[a-z][a-z0-9-]{0,31}:[a-z][a-z0-9-]{0,31}$", example = "reports:read")]
    pub(crate) scope: String,
    /// Human-readable description of the scope.
    #[schema(min_length = 1, max_length = 200, example = "Read reports")]
    pub(crate) description: Option<String>,
}

impl NewScope {
    pub(crate) fn read(body: &Json) -> crate::error::Result<Self> {
        let mut fields = super::fields::Fields::of(body);
        fields.refuse_read_only(&["built_in"]);
        let value = Self {
            scope: fields.required("scope", parse_custom_scope),
            description: fields.nullable("description", super::rules::parse_name).into_option(),
        };
        fields.finish(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_only_their_own_resource() {
        for (grant, scope, expected) in [
            ("*", "admin:*", true),
            ("*", "*", true),
            ("admin:*", "admin:keys", true),
            ("admin:*", "admin:*", true),
            ("admin:*", "*", false),
            ("admin:*", "keys:verify", false),
            ("admin:*", "administration:read", false),
            ("admin:keys", "admin:*", false),
            ("admin:keys", "admin:keys", true),
            ("a:read", "a:write", false),
        ] {
            assert_eq!(covers(grant, scope), expected, "{grant} {scope}");
        }
        for scope in ["*", "admin:*", "admin:keys", "keys:verify", "keys:*"] {
            assert!(is_administrative(scope), "{scope}");
        }
        assert!(!is_administrative("workflows:*"));
    }

    #[test]
    fn every_scope_is_an_oauth_scope_token() {
        for byte in 0..=u8::MAX {
            let name = format!("a{0}:b{0}", char::from(byte));
            assert!(!is_custom_scope_name(&name) || is_oauth_scope_token(&name), "{name:?}");
        }
        for scope in ["*", "admin:*", "a-1:b-2", "!#[]~"] {
            assert!(is_oauth_scope_token(scope), "{scope}");
        }
        for text in ["", "a b", "a\"b", "a\\b", "a\tb", "a\r\nb", "a\u{7f}", "\u{e4}"] {
            assert!(!is_oauth_scope_token(text), "{text:?}");
        }
    }

    #[test]
    fn catalogue_recognizes_and_expands_grants_and_finds_dependent_ones() {
        let catalogue: Catalogue =
            ["a:read", "a:write", "b:read", "admin:keys"].map(str::to_owned).into_iter().collect();
        assert!(
            catalogue.is_known_grant("a:*")
                && catalogue.is_known_grant("*")
                && catalogue.is_known_grant("b:read")
        );
        for unknown in ["c:*", "a:delete", ":*", "", "a", "a:", "a:*:*", "a:read:*", "**", "*:*", "A:*"] {
            assert!(!catalogue.is_known_grant(unknown), "{unknown}");
        }
        for (grants, expected) in [
            (&["a:*"][..], &["a:read", "a:write"][..]),
            (&["b:read", "a:write", "a:*", "b:*"], &["a:read", "a:write", "b:read"]),
            (&["*"], &["a:read", "a:write", "admin:keys", "b:read"]),
            (&["c:*", "a:delete", "admin:users"], &[]),
            (&[], &[]),
        ] {
            let grants: Vec<_> = grants.iter().map(|grant| (*grant).to_owned()).collect();
            assert_eq!(catalogue.expand(&grants), expected, "{grants:?}");
        }
        assert_eq!(catalogue.grants_depending_on("a:read"), ["a:read"]);
        assert_eq!(catalogue.grants_depending_on("b:read"), ["b:read", "b:*"]);
    }
}
