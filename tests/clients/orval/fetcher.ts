const { TOLLHOUSE_URL: url = '', TOLLHOUSE_KEY: key = '' } = process.env;

/** Sends the requests of the generated functions to the server, with the key. */
export const fetcher = async <T>(path: string, init: RequestInit): Promise<T> => {
  const headers = new Headers(init.headers);
  headers.set('Authorization', `Bearer ${key}`);
  const response = await fetch(url + path, { ...init, headers });
  return { status: response.status, data: await response.json(), headers: response.headers } as T;
};
