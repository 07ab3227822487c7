// The signed-in key and what it may do. Pages and actions that it may not use are not offered.

/** The address of a resource. None if there is no resource. */
const hrefOf = (page, id) => (id ? `#/${page}/${encodeURIComponent(id)}` : undefined);

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

  /** The value of `expand`: of these names, those that the key may read and does not know. */
  expand(...names) {
    const isReadable = {
      organization: this.isPlatform && this.can('admin:orgs'),
      user: this.can('admin:users'),
    };
    return names.filter((name) => isReadable[name]).join(',');
  }

  /** The address of an organization, or of its members if the key may only read those. */
  organizationHref(id) {
    if (this.can('admin:orgs')) return hrefOf('organizations', id);
    return this.can('admin:users') ? hrefOf('members', id) : undefined;
  }

  userHref(id) {
    return this.can('admin:users') ? hrefOf('users', id) : undefined;
  }

  keyHref(id) {
    return this.can('admin:keys') ? hrefOf('api-keys', id) : undefined;
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
