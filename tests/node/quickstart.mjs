// The four calls that the platform's documentation shows, with nothing replaced but host and key.
// Prints each answer as a line of JSON.

const host = process.env.TOLLHOUSE_URL;
const apiKey = process.env.TOLLHOUSE_KEY;

async function tell(response) {
  console.log(JSON.stringify({ status: response.status, body: await response.json() }));
}

// Create an organization.
await tell(await fetch(`${host}/admin/v1/organizations`, {
  method: 'POST',
  headers: {
    'Authorization': `Bearer ${apiKey}`,
    'Content-Type': 'application/json'
  },
  body: JSON.stringify({
    name: 'Acme Corporation',
    email: 'admin@acme.com',
    plan: 'enterprise'
  })
}));

// Create an API key.
await tell(await fetch(`${host}/admin/v1/api-keys`, {
  method: 'POST',
  headers: {
    'Authorization': `Bearer ${apiKey}`,
    'Content-Type': 'application/json'
  },
  body: JSON.stringify({
    organization_id: 'org_123',
    name: 'Production API Key',
    scopes: ['workflows:read', 'transactions:write']
  })
}));

// Get usage analytics.
await tell(await fetch(`${host}/admin/v1/analytics/usage?org_id=org_123&period=30d`, {
  headers: { 'Authorization': `Bearer ${apiKey}` }
}));

// Query the audit log.
await tell(await fetch(`${host}/admin/v1/audit-logs?org_id=org_123`, {
  headers: { 'Authorization': `Bearer ${apiKey}` }
}));
