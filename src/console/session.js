// The signed-in key and what it may do. Pages and actions that it may not use are not offered.

export class Session {
  constructor(whoami) {
    this.key = whoami.api_key;
    this.organization = whoami.organization;
    this.scopes = whoami.scopes;
    this.isPlatform = whoami.organization === null;
  }

  /** True if the key has one of these scopes. */
  can(...scopes) {
    return scopes.some((scope) => this.scopes.includes(scope));
  }

  /** True if the key's own grants cover this one, so that it may give it to another key. */
  canGrant(grant) {
    return this.key.scopes.some((own) => {
      const isWildcard = own.endsWith(':*');
      return own === '*' || own === grant || (isWildcard && grant.startsWith(own.slice(0, -1)));
    });
  }

  get canReadUsage() {
    return this.can('admin:analytics', 'admin:orgs');
  }

  get canReadAudit() {
    return this.can('admin:audit', 'admin:orgs');
  }

  get canVerify() {
    return this.can('keys:verify', 'admin:keys');
  }

  get canConfigure() {
    return this.isPlatform && this.can('admin:config');
  }
}
