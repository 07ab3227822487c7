import { get } from '../api.js';
import { useData } from '../data.js';
import { Select } from '../forms.js';
import { html } from '../html.js';
import { REQUESTS } from '../limits.js';

const DEFAULT_PLANS = ['standard', 'enterprise'];

/**
 * The names of the plans, and the meters. Sessions that may not read the settings get the default plans, and
 * no meters.
 */
export function usePlansAndMeters(session) {
  const { value, error } = useData(async () => {
    if (!session.canConfigure) return {};
    return (await get('/config')).data;
  }, []);
  const areMetersReadable = session.canConfigure && !error;
  return {
    plans: value?.plans ? Object.keys(value.plans) : DEFAULT_PLANS,
    meters: areMetersReadable ? (value?.meters ?? [REQUESTS]) : undefined,
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
