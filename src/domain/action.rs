//! The actions of the audit log: what clients request of the control plane, and what the command line and the
//! server do. All decisions about an action are made by its variant; its name is only for people and for filters.

/// An action, named `resource.verb` in the audit log.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumString, strum::IntoStaticStr, strum::VariantArray,
)]
#[allow(missing_docs)] // The names are self-explanatory.
pub enum Action {
    #[strum(serialize = "root.read")]
    ReadRoot,
    #[strum(serialize = "health.live")]
    CheckLiveness,
    #[strum(serialize = "health.ready")]
    CheckReadiness,
    #[strum(serialize = "openapi.read")]
    ReadOpenapi,
    #[strum(serialize = "page.read")]
    ReadPage,
    #[strum(serialize = "key.verify")]
    VerifyKey,
    #[strum(serialize = "key.read_self")]
    ReadOwnKey,
    #[strum(serialize = "whoami.read")]
    ReadWhoami,
    #[strum(serialize = "search.read")]
    Search,
    #[strum(serialize = "organization.list")]
    ListOrganizations,
    #[strum(serialize = "organization.create")]
    CreateOrganization,
    #[strum(serialize = "organization.read")]
    ReadOrganization,
    #[strum(serialize = "organization.update")]
    UpdateOrganization,
    #[strum(serialize = "organization.delete")]
    DeleteOrganization,
    #[strum(serialize = "organization.import")]
    ImportOrganization,
    #[strum(serialize = "organization.restore")]
    RestoreOrganization,
    #[strum(serialize = "membership.list")]
    ListMemberships,
    #[strum(serialize = "membership.create")]
    CreateMembership,
    #[strum(serialize = "membership.read")]
    ReadMembership,
    #[strum(serialize = "membership.update")]
    UpdateMembership,
    #[strum(serialize = "membership.delete")]
    DeleteMembership,
    #[strum(serialize = "membership.import")]
    ImportMembership,
    #[strum(serialize = "membership.restore")]
    RestoreMembership,
    #[strum(serialize = "user.list")]
    ListUsers,
    #[strum(serialize = "user.create")]
    CreateUser,
    #[strum(serialize = "user.read")]
    ReadUser,
    #[strum(serialize = "user.update")]
    UpdateUser,
    #[strum(serialize = "user.delete")]
    DeleteUser,
    #[strum(serialize = "user.memberships")]
    ListMembershipsOfUser,
    #[strum(serialize = "user.import")]
    ImportUser,
    #[strum(serialize = "user.restore")]
    RestoreUser,
    #[strum(serialize = "api_key.list")]
    ListApiKeys,
    #[strum(serialize = "api_key.create")]
    CreateApiKey,
    #[strum(serialize = "api_key.read")]
    ReadApiKey,
    #[strum(serialize = "api_key.update")]
    UpdateApiKey,
    #[strum(serialize = "api_key.revoke")]
    RevokeApiKey,
    #[strum(serialize = "api_key.rotate")]
    RotateApiKey,
    #[strum(serialize = "api_key.expire_previous")]
    ExpirePreviousSecret,
    #[strum(serialize = "api_key.import")]
    ImportApiKey,
    #[strum(serialize = "api_key.restore")]
    RestoreApiKey,
    #[strum(serialize = "scope.list")]
    ListScopes,
    #[strum(serialize = "scope.create")]
    CreateScope,
    #[strum(serialize = "scope.delete")]
    DeleteScope,
    #[strum(serialize = "scope.import")]
    ImportScope,
    #[strum(serialize = "config.read")]
    ReadConfig,
    #[strum(serialize = "config.update")]
    UpdateConfig,
    #[strum(serialize = "config.import")]
    ImportConfig,
    #[strum(serialize = "usage.read")]
    ReadUsage,
    #[strum(serialize = "overview.read")]
    ReadOverview,
    #[strum(serialize = "verification_log.list")]
    ListVerificationLog,
    #[strum(serialize = "audit_log.list")]
    ListAuditLog,
    #[strum(serialize = "audit_log.export")]
    ExportAuditLog,
    #[strum(serialize = "audit_log.verify")]
    VerifyAuditLog,
    #[strum(serialize = "audit_log.read")]
    ReadAuditLog,
    #[strum(serialize = "audit_log.prune")]
    PruneAuditLog,
    #[strum(serialize = "batch.run")]
    RunBatch,
    #[strum(serialize = "database.backup")]
    BackUpDatabase,
    #[strum(serialize = "database.restore")]
    RestoreDatabase,
    #[strum(serialize = "database.export")]
    ExportDatabase,
    #[strum(serialize = "clock.jumped")]
    ClockJumped,
    #[strum(serialize = "clock.settled")]
    ClockSettled,
    #[strum(serialize = "clock.accept")]
    AcceptClock,
    /// Stands for refused requests of any kind. Its events have the access of the request.
    #[strum(serialize = "request.refused")]
    RequestRefused,
    /// Stands for reads that were aggregated because storage was full.
    #[strum(serialize = "request.read")]
    RequestRead,
    /// The replay of a stored response, of any kind of request. It is a read, because it changes nothing.
    #[strum(serialize = "request.replayed")]
    RequestReplayed,
}

/// Whether an action reads or changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, utoipa::ToSchema)]
#[schema(as = AuditAccess, rename_all = "lowercase", description = "Whether an audited action read or changed something.")]
#[derive(strum::EnumString, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
#[allow(missing_docs)]
pub enum Access {
    Read,
    Write,
}

impl Action {
    /// The name of the action in the audit log.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether the action reads or changes something. The events of refused requests have the access of the
    /// request instead.
    pub fn access(self) -> Access {
        self.properties().0
    }

    /// The kind of the resource that the path of the action's route names.
    pub(crate) fn target_kind(self) -> Option<TargetKind> {
        self.properties().1
    }

    #[rustfmt::skip]
    fn properties(self) -> (Access, Option<TargetKind>) {
        use Access::{Read, Write};
        match self {
            Action::ReadRoot => (Read, None),
            Action::CheckLiveness => (Read, None),
            Action::CheckReadiness => (Read, None),
            Action::ReadOpenapi => (Read, None),
            Action::ReadPage => (Read, None),
            Action::VerifyKey => (Write, None),
            Action::ReadOwnKey => (Read, Some(TargetKind::ApiKey)),
            Action::ReadWhoami => (Read, None),
            Action::Search => (Read, None),
            Action::ListOrganizations => (Read, Some(TargetKind::Organization)),
            Action::CreateOrganization => (Write, Some(TargetKind::Organization)),
            Action::ReadOrganization => (Read, Some(TargetKind::Organization)),
            Action::UpdateOrganization => (Write, Some(TargetKind::Organization)),
            Action::DeleteOrganization => (Write, Some(TargetKind::Organization)),
            Action::ImportOrganization => (Write, Some(TargetKind::Organization)),
            Action::RestoreOrganization => (Write, Some(TargetKind::Organization)),
            Action::ListMemberships => (Read, Some(TargetKind::Membership)),
            Action::CreateMembership => (Write, Some(TargetKind::Membership)),
            Action::ReadMembership => (Read, Some(TargetKind::Membership)),
            Action::UpdateMembership => (Write, Some(TargetKind::Membership)),
            Action::DeleteMembership => (Write, Some(TargetKind::Membership)),
            Action::ImportMembership => (Write, Some(TargetKind::Membership)),
            Action::RestoreMembership => (Write, Some(TargetKind::Membership)),
            Action::ListUsers => (Read, Some(TargetKind::User)),
            Action::CreateUser => (Write, Some(TargetKind::User)),
            Action::ReadUser => (Read, Some(TargetKind::User)),
            Action::UpdateUser => (Write, Some(TargetKind::User)),
            Action::DeleteUser => (Write, Some(TargetKind::User)),
            Action::ListMembershipsOfUser => (Read, Some(TargetKind::User)),
            Action::ImportUser => (Write, Some(TargetKind::User)),
            Action::RestoreUser => (Write, Some(TargetKind::User)),
            Action::ListApiKeys => (Read, Some(TargetKind::ApiKey)),
            Action::CreateApiKey => (Write, Some(TargetKind::ApiKey)),
            Action::ReadApiKey => (Read, Some(TargetKind::ApiKey)),
            Action::UpdateApiKey => (Write, Some(TargetKind::ApiKey)),
            Action::RevokeApiKey => (Write, Some(TargetKind::ApiKey)),
            Action::RotateApiKey => (Write, Some(TargetKind::ApiKey)),
            Action::ExpirePreviousSecret => (Write, Some(TargetKind::ApiKey)),
            Action::ImportApiKey => (Write, Some(TargetKind::ApiKey)),
            Action::RestoreApiKey => (Write, Some(TargetKind::ApiKey)),
            Action::ListScopes => (Read, Some(TargetKind::Scope)),
            Action::CreateScope => (Write, Some(TargetKind::Scope)),
            Action::DeleteScope => (Write, Some(TargetKind::Scope)),
            Action::ImportScope => (Write, Some(TargetKind::Scope)),
            Action::ReadConfig => (Read, Some(TargetKind::Config)),
            Action::UpdateConfig => (Write, Some(TargetKind::Config)),
            Action::ImportConfig => (Write, Some(TargetKind::Config)),
            Action::ReadUsage => (Read, None),
            Action::ReadOverview => (Read, None),
            Action::ListVerificationLog => (Read, None),
            Action::ListAuditLog => (Read, Some(TargetKind::AuditLog)),
            Action::ExportAuditLog => (Read, Some(TargetKind::AuditLog)),
            Action::VerifyAuditLog => (Read, Some(TargetKind::AuditLog)),
            Action::ReadAuditLog => (Read, Some(TargetKind::AuditLog)),
            Action::PruneAuditLog => (Write, Some(TargetKind::AuditLog)),
            Action::RunBatch => (Write, None),
            Action::BackUpDatabase => (Read, Some(TargetKind::Database)),
            Action::RestoreDatabase => (Write, Some(TargetKind::Database)),
            Action::ExportDatabase => (Read, Some(TargetKind::Database)),
            Action::ClockJumped => (Write, Some(TargetKind::Clock)),
            Action::ClockSettled => (Write, Some(TargetKind::Clock)),
            Action::AcceptClock => (Write, Some(TargetKind::Clock)),
            Action::RequestRefused => (Write, None),
            Action::RequestRead => (Read, None),
            Action::RequestReplayed => (Read, None),
        }
    }

    /// The rate limits that apply to a request for the action.
    pub(crate) fn limit_class(self) -> LimitClass {
        if self == Action::RunBatch { LimitClass::Batch } else { LimitClass::Admin }
    }

    /// True if the action refuses the previous secret of a rotated key: it deletes something, or it changes who
    /// has access or the limits of that access. A new action that changes something refuses it by default.
    pub(crate) fn requires_current_secret(self) -> bool {
        let accepts_previous_secret = matches!(
            self,
            Action::VerifyKey
                | Action::CreateOrganization
                | Action::UpdateOrganization
                | Action::CreateMembership
                | Action::UpdateMembership
                | Action::CreateUser
                | Action::UpdateUser
                | Action::RunBatch
        );
        self.access() == Access::Write && !accepts_previous_secret
    }

    /// True if the action is accepted in read-only mode and on a full disk, whatever it changes: an update of the
    /// settings ends read-only mode and can shorten the retention.
    pub(crate) fn is_always_accepted(self) -> bool {
        self == Action::UpdateConfig
    }

    /// False for a read that is not in the audit log: it shows a key only itself, and clients may poll it.
    pub fn is_audited(self) -> bool {
        self != Action::ReadOwnKey
    }

    /// True if the audit log aggregates the successful calls of a minute in one event, because clients may poll.
    pub(crate) fn is_aggregated(self) -> bool {
        matches!(self, Action::ReadWhoami | Action::Search)
    }
}

impl Access {
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// Which rate limits apply to a request of the Admin API, or of a key about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitClass {
    /// Any request other than a batch.
    Admin,
    /// A batch counts as one request, regardless of the number of its operations.
    Batch,
    /// A request of a key about itself. Its limit is not a setting.
    OwnKey,
}

/// The kind of resource that an action affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum TargetKind {
    Organization,
    User,
    Membership,
    ApiKey,
    Scope,
    Config,
    AuditLog,
    AuditEvent,
    Database,
    Clock,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use strum::VariantArray;

    use super::*;

    #[test]
    fn every_action_is_read_back_by_its_own_name() {
        let names: HashSet<_> = Action::VARIANTS.iter().map(|action| action.name()).collect();
        assert_eq!(names.len(), Action::VARIANTS.len());
        for action in Action::VARIANTS {
            assert_eq!(action.name().parse(), Ok(*action));
            assert!(
                action.name().split_once('.').is_some_and(|(resource, verb)| resource.len() * verb.len() > 0)
            );
        }
    }
}
