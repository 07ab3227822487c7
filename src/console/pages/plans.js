import { get } from '../api.js';
import { useData } from '../data.js';
import { Select } from '../forms.js';
import { html } from '../html.js';

const DEFAULT_PLANS = ['standard', 'enterprise'];

/** The names of the plans. Sessions that may not read the settings get the default ones. */
export function usePlans(session) {
  const { value } = useData(async () => {
    if (!session.canConfigure) return DEFAULT_PLANS;
    const { data } = await get('/config');
    return Object.keys(data.plans);
  }, []);
  return value ?? DEFAULT_PLANS;
}

export function PlanField({ session, error, value = DEFAULT_PLANS[0] }) {
  const plans = usePlans(session);
  const names = new Set([value, ...plans]);
  const options = [...names].map((name) => [name, name]);
  return html`
    <${Select}
      label="Plan"
      name="plan"
      error=${error}
      value=${value}
      options=${options}
      hint="Sets the rate limit of each of its keys."
    />`;
}
