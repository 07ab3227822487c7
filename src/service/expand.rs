//! Adds to resources the names of the organizations and users that they belong to. The names for a page are read at once.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::access::Caller;
use crate::domain::api_key::ApiKey;
use crate::domain::expand::{Expand, ExpandedApiKey, ExpandedMembership, OrganizationName, UserName};
use crate::domain::membership::{Membership, MembershipFilter};
use crate::domain::page::{Page, Query, Rows};
use crate::error::Result;
use crate::store::{self, db::Tx};

/// Reads the parameter `expand`, the last one of the query.
///
/// # Errors
/// `INVALID_REQUEST`, also for other parameters, and `INSUFFICIENT_SCOPE` for names that the caller may not read.
pub(super) fn read(caller: &Caller, mut query: Query, supported: &[&str]) -> Result<Expand> {
    let expand = Expand::read(&mut query, supported);
    expand.authorize(caller)?;
    query.finish(expand)
}

/// Reads a page of memberships, with the names of their organizations if `expand` says so.
pub(super) fn list_memberships(
    tx: &Tx<'_>,
    caller: &Caller,
    filter: &MembershipFilter,
    page: &Page,
    expand: Expand,
) -> Result<Rows<ExpandedMembership>> {
    let Rows { rows, next } = store::memberships::list(tx, filter, page)?;
    let names = Names::for_memberships(tx, caller, expand, &rows)?;
    let rows = rows.into_iter().map(|membership| names.add_to_membership(membership)).collect();
    Ok(Rows { rows, next })
}

/// The names of organizations and users that the caller can see, by id.
pub(super) struct Names {
    expand: Expand,
    organizations: BTreeMap<String, OrganizationName>,
    users: BTreeMap<String, UserName>,
}

impl Names {
    /// Reads the names for these API keys.
    ///
    /// # Errors
    /// `INSUFFICIENT_SCOPE` if the caller may not read them.
    pub(super) fn for_keys(tx: &Tx<'_>, caller: &Caller, expand: Expand, keys: &[ApiKey]) -> Result<Self> {
        let organizations = keys.iter().filter_map(|key| key.organization_id.as_deref());
        let users = keys.iter().filter_map(|key| key.user_id.as_deref());
        Self::load(tx, caller, expand, organizations.collect(), users.collect())
    }

    /// Reads the names for these memberships.
    ///
    /// # Errors
    /// `INSUFFICIENT_SCOPE` if the caller may not read them.
    pub(super) fn for_memberships(
        tx: &Tx<'_>,
        caller: &Caller,
        expand: Expand,
        memberships: &[Membership],
    ) -> Result<Self> {
        let organizations = memberships.iter().map(|membership| membership.organization_id.as_str());
        Self::load(tx, caller, expand, organizations.collect(), BTreeSet::new())
    }

    fn load(
        tx: &Tx<'_>,
        caller: &Caller,
        expand: Expand,
        mut organizations: BTreeSet<&str>,
        users: BTreeSet<&str>,
    ) -> Result<Self> {
        expand.authorize(caller)?;
        organizations.retain(|id| caller.can_access_organization(Some(id)));
        let organizations = match expand.organization && !organizations.is_empty() {
            true => store::organizations::names(tx, &organizations)?,
            false => Vec::new(),
        };
        let users = match expand.user && !users.is_empty() {
            true => store::users::names(tx, caller.organization_id(), &users)?,
            false => Vec::new(),
        };
        Ok(Self {
            expand,
            organizations: organizations.into_iter().map(|name| (name.id.clone(), name)).collect(),
            users: users.into_iter().map(|name| (name.id.clone(), name)).collect(),
        })
    }

    fn organization(&self, id: Option<&str>) -> Option<Option<OrganizationName>> {
        self.expand.organization.then(|| self.organizations.get(id?).cloned())
    }

    /// The API key with the names.
    pub(super) fn add_to_key(&self, api_key: ApiKey) -> ExpandedApiKey {
        let user = |id: &str| self.users.get(id).cloned();
        ExpandedApiKey {
            organization: self.organization(api_key.organization_id.as_deref()),
            user: self.expand.user.then(|| api_key.user_id.as_deref().and_then(user)),
            api_key,
        }
    }

    /// The membership with the name.
    pub(super) fn add_to_membership(&self, membership: Membership) -> ExpandedMembership {
        let organization = self.organization(Some(&membership.organization_id));
        ExpandedMembership { organization, membership }
    }
}
