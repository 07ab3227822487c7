import { get } from '../api.js';
import { useData } from '../data.js';
import { Select } from '../forms.js';
import { html } from '../html.js';
import { REQUESTS } from '../limits.js';

const DEFAULT_PLANS = ['standard', 'enterprise'];

/**
 * The names that forms offer: of plans, meters, and prefixes of keys. Sessions that may not read the settings
 * get the default plans; meters and prefixes are typed then.
 */
export function useConfiguredNames(session) {
  const { value, error } = useData(async () => {
    if (!session.canConfigure) return {};
    return (await get('/config')).data;
  }, []);
  const isReadable = session.canConfigure && !error;
  return {
    plans: value?.plans ? Object.keys(value.plans) : DEFAULT_PLANS,
    meters: isReadable ? (value?.meters ?? [REQUESTS]) : undefined,
    prefixes: isReadable ? (value?.keys?.prefixes ?? []) : undefined,
  };
}

export function PlanField({ plans, error, value = DEFAULT_PLANS[0] }) {
  const names = new Set([value, ...plans]);
  const options = [...names].map((name) => [name, name]);
  return html`
    <${Select}
      label="Plan"
      name="plan"
      error=${error}
      value=${value}
      options=${options}
      hint="Sets the limits of the organization and of each of its keys."
    />`;
}
