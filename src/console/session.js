// Who is signed in, and what the key may do. What it may not do is not offered.

export class Session {
  constructor(whoami) {
    this.key = whoami.api_key;
    this.organization = whoami.organization;
    this.scopes = whoami.scopes;
    this.platform = whoami.organization === null;
  }

  can(...anyOf) {
    return anyOf.some((scope) => this.scopes.includes(scope));
  }

  /** Does its own list of grants cover this one, so that it may be handed out? */
  gives(grant) {
    return this.key.scopes.some(
      (own) =>
        own === '*' ||
        own === grant ||
        (own.endsWith(':*') && own !== '*' && grant.startsWith(own.slice(0, -1))),
    );
  }

  get seesUsage() {
    return this.can('admin:analytics', 'admin:orgs');
  }
  get seesAudit() {
    return this.can('admin:audit', 'admin:orgs');
  }
  get verifies() {
    return this.can('keys:verify', 'admin:keys');
  }
  get configures() {
    return this.platform && this.can('admin:config');
  }
}
