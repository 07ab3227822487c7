export default {
  tollhouse: {
    input: './openapi.json',
    output: {
      client: 'fetch',
      target: './client.ts',
      override: { mutator: { path: './fetcher.ts', name: 'fetcher' } },
    },
  },
};
