//! Scopes: `resource:action`, `resource:*` or `*`, and which covers which.

use std::collections::BTreeSet;

use super::fields::{Faults, Json};

/// Scopes that a key may have.
pub(crate) const MAX_SCOPES: usize = 100;

/// Does this scope administer the platform itself? Such scopes are handed out only by who has them.
pub(crate) fn is_administrative(scope: &str) -> bool {
    scope == "*" || matches!(resource(scope), "admin" | "keys")
}

/// Does holding `grant` mean holding `scope`? A wildcard is covered by itself or a wider one alone,
/// never by a list of what it means today.
pub(crate) fn covers(grant: &str, scope: &str) -> bool {
    if grant == "*" || grant == scope {
        return true;
    }
    grant
        .strip_suffix(":*")
        .is_some_and(|resource_of_grant| resource_of_grant == resource(scope) && scope != "*")
}

/// Does any of the grants cover the scope?
pub(crate) fn any_covers(grants: &[String], scope: &str) -> bool {
    grants.iter().any(|grant| covers(grant, scope))
}

fn resource(scope: &str) -> &str {
    scope.split_once(':').map_or(scope, |(resource, _)| resource)
}

/// All scopes that there are: built in and the operator's own.
#[derive(Clone, Debug, Default)]
pub struct Catalogue(BTreeSet<String>);

impl FromIterator<String> for Catalogue {
    fn from_iter<I: IntoIterator<Item = String>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

impl Catalogue {
    /// May this be granted: a scope of the catalogue, or a wildcard over at least one of them?
    pub(crate) fn knows(&self, grant: &str) -> bool {
        grant == "*"
            || self.0.contains(grant)
            || grant.ends_with(":*") && self.0.iter().any(|scope| covers(grant, scope))
    }

    /// What the grants mean today: every scope of the catalogue that one of them covers.
    pub(crate) fn expand(&self, grants: &[String]) -> Vec<String> {
        self.0.iter().filter(|scope| any_covers(grants, scope)).cloned().collect()
    }

    /// The grants that would mean nothing any more without `scope`: itself, and its resource's
    /// wildcard when it is the last of that resource.
    pub(crate) fn hanging_on(&self, scope: &str) -> Vec<String> {
        let wildcard = format!("{}:*", resource(scope));
        let mut grants = vec![scope.to_owned()];
        if self.0.iter().filter(|other| covers(&wildcard, other)).count() == 1 {
            grants.push(wildcard);
        }
        grants
    }
}

/// Reads a key's scopes: an array of known ones; a repeated one counts once.
pub(crate) fn list(catalogue: &Catalogue, json: &Json, faults: &mut Faults) -> Option<Vec<String>> {
    let items = faults.array(json)?;
    if items.len() > MAX_SCOPES {
        faults.add("TOO_MANY", format!("At most {MAX_SCOPES} scopes; these are {}.", items.len()));
        return None;
    }
    let mut scopes: Vec<String> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        faults.within(&index.to_string(), |faults| {
            let Some(scope) = faults.text(item) else { return };
            if !catalogue.knows(scope) {
                let shown: String = scope.chars().take(65).collect();
                faults.add(
                    "UNKNOWN_SCOPE",
                    format!("There is no scope {shown:?}; GET /admin/v1/scopes lists them."),
                );
            } else if !scopes.iter().any(|earlier| earlier == scope) {
                scopes.push(scope.to_owned());
            }
        });
    }
    Some(scopes)
}

/// Reads the name of an operator's own scope: `^[a-z][a-z0-9-]{0,31}:[a-z][a-z0-9-]{0,31}$`, and not
/// one of the resources `admin` and `keys`.
pub(crate) fn own(json: &Json, faults: &mut Faults) -> Option<String> {
    let text = faults.text(json)?;
    if !has_form(text) {
        faults.add("INVALID_SCOPE", "Must be resource:action in lower case, such as invoices:read.");
        return None;
    }
    if is_administrative(text) {
        faults.add("RESERVED", "The resources admin and keys are built in.");
        return None;
    }
    Some(text.to_owned())
}

/// Could this be the name of an operator's own scope?
pub(crate) fn is_own(text: &str) -> bool {
    has_form(text) && !is_administrative(text)
}

fn has_form(text: &str) -> bool {
    let part = |part: &str| {
        part.len() <= 32
            && part.starts_with(|c: char| c.is_ascii_lowercase())
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    matches!(text.split_once(':'), Some((resource, action)) if part(resource) && part(action))
}

/// A scope of the catalogue as answered.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub(crate) struct Scope {
    /// `resource:action`.
    #[schema(example = "reports:read")]
    pub(crate) scope: String,
    /// What it allows, for people.
    #[schema(required, example = "Read reports")]
    pub(crate) description: Option<String>,
    /// Built-in scopes can't be removed.
    pub(crate) built_in: bool,
}

/// What creates a scope.
#[derive(Clone, Debug, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewScope {
    /// `resource:action`, never of the resources `admin` and `keys`.
    #[schema(pattern = "^[a-z][a-z0-9-]{0,31}:[a-z][a-z0-9-]{0,31}$", example = "reports:read")]
    pub(crate) scope: String,
    /// What it allows, for people.
    #[schema(min_length = 1, max_length = 200, example = "Read reports")]
    pub(crate) description: Option<String>,
}

impl NewScope {
    /// Reads a body.
    pub(crate) fn read(body: &Json) -> crate::error::Result<Self> {
        let mut fields = super::fields::Fields::of(body);
        fields.read_only(&["built_in"]);
        let value = Self {
            scope: fields.required("scope", own),
            description: fields.nullable("description", super::rules::name).into_option(),
        };
        fields.finish(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_what_they_say_and_no_more() {
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
    fn catalogue_knows_expands_and_tells_what_hangs_on_a_scope() {
        let catalogue: Catalogue =
            ["a:read", "a:write", "b:read", "admin:keys"].map(str::to_owned).into_iter().collect();
        assert!(catalogue.knows("a:*") && catalogue.knows("*") && catalogue.knows("b:read"));
        assert!(!catalogue.knows("c:*") && !catalogue.knows("a:delete") && !catalogue.knows(":*"));
        assert_eq!(catalogue.expand(&["a:*".to_owned()]), ["a:read", "a:write"]);
        assert_eq!(catalogue.hanging_on("a:read"), ["a:read"]);
        assert_eq!(catalogue.hanging_on("b:read"), ["b:read", "b:*"]);
    }
}
