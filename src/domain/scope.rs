//! Scopes of keys: `resource:action`, `resource:*` or `*`, and which scopes cover other scopes.

use std::collections::BTreeSet;

use super::fields::{Faults, Json};

/// The maximum number of scopes of a key.
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

/// Returns the part of a scope before the colon.
fn resource_of(scope: &str) -> &str {
    scope.split_once(':').map_or(scope, |(resource, _)| resource)
}

/// The catalogue: all existing scopes, built-in and custom.
#[derive(Clone, Debug, Default)]
pub struct Catalogue(BTreeSet<String>);

impl FromIterator<String> for Catalogue {
    fn from_iter<I: IntoIterator<Item = String>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

impl Catalogue {
    /// True if `grant` is `*`, a scope of the catalogue, or a wildcard that covers at least one scope of the
    /// catalogue.
    pub(crate) fn is_known_grant(&self, grant: &str) -> bool {
        grant == "*"
            || self.0.contains(grant)
            || grant.ends_with(":*") && self.0.iter().any(|scope| covers(grant, scope))
    }

    /// Returns all scopes of the catalogue that at least one of `grants` covers.
    pub(crate) fn expand(&self, grants: &[String]) -> Vec<String> {
        self.0.iter().filter(|scope| any_covers(grants, scope)).cloned().collect()
    }

    /// Returns the grants that would cover no scope if `scope` were removed: the scope itself and, if it is
    /// the last scope of its resource, the resource's wildcard.
    pub(crate) fn grants_depending_on(&self, scope: &str) -> Vec<String> {
        let wildcard = format!("{}:*", resource_of(scope));
        let mut grants = vec![scope.to_owned()];
        if self.0.iter().filter(|other| covers(&wildcard, other)).count() == 1 {
            grants.push(wildcard);
        }
        grants
    }
}

/// Parses the scopes of a key: an array of scopes that the catalogue knows. Duplicates are dropped.
pub(crate) fn parse_scopes(catalogue: &Catalogue, json: &Json, faults: &mut Faults) -> Option<Vec<String>> {
    let items = faults.expect_array(json)?;
    if items.len() > MAX_SCOPES {
        faults
            .add("TOO_MANY", format!("At most {MAX_SCOPES} scopes are allowed; {} were given.", items.len()));
        return None;
    }
    let mut scopes: Vec<String> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        faults.at_child(&index.to_string(), |faults| {
            let Some(scope) = faults.text(item) else { return };
            if !catalogue.is_known_grant(scope) {
                let excerpt: String = scope.chars().take(65).collect();
                faults.add(
                    "UNKNOWN_SCOPE",
                    format!("Unknown scope {excerpt:?}; GET /admin/v1/scopes lists all scopes."),
                );
            } else if !scopes.iter().any(|earlier| earlier == scope) {
                scopes.push(scope.to_owned());
            }
        });
    }
    Some(scopes)
}

/// Parses the name of a custom scope: `^[a-z][a-z0-9-]{0,31}:[a-z][a-z0-9-]{0,31}$`. The resources `admin`
/// and `keys` are reserved.
pub(crate) fn parse_custom_scope(json: &Json, faults: &mut Faults) -> Option<String> {
    let text = faults.text(json)?;
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
    fn catalogue_recognizes_and_expands_grants_and_finds_dependent_ones() {
        let catalogue: Catalogue =
            ["a:read", "a:write", "b:read", "admin:keys"].map(str::to_owned).into_iter().collect();
        assert!(
            catalogue.is_known_grant("a:*")
                && catalogue.is_known_grant("*")
                && catalogue.is_known_grant("b:read")
        );
        assert!(
            !catalogue.is_known_grant("c:*")
                && !catalogue.is_known_grant("a:delete")
                && !catalogue.is_known_grant(":*")
        );
        assert_eq!(catalogue.expand(&["a:*".to_owned()]), ["a:read", "a:write"]);
        assert_eq!(catalogue.grants_depending_on("a:read"), ["a:read"]);
        assert_eq!(catalogue.grants_depending_on("b:read"), ["b:read", "b:*"]);
    }
}
