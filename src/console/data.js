// Loading a resource, or a list page by page.
import { get } from './api.js';
import { useCallback, useEffect, useRef, useState } from './html.js';

/**
 * Loads a value, and again whenever a dependency changes. A response that arrives after a newer request was
 * made is ignored. `replace` sets a newer value that was obtained in another way.
 */
export function useData(load, dependencies) {
  const [state, setState] = useState({ loading: true });
  const latestRequest = useRef(0);
  const reload = useCallback(async () => {
    latestRequest.current += 1;
    const thisRequest = latestRequest.current;
    const isCurrent = () => thisRequest === latestRequest.current;
    setState((before) => ({ ...before, loading: true }));
    try {
      const value = await load();
      if (isCurrent()) setState({ value, loading: false });
    } catch (error) {
      if (isCurrent()) setState({ error, loading: false });
    }
  }, dependencies);
  const replace = useCallback((value) => {
    latestRequest.current += 1;
    setState({ value, loading: false });
  }, []);
  useEffect(() => {
    reload();
    return () => {
      latestRequest.current += 1;
    };
  }, [reload]);
  return { ...state, reload, replace };
}

/** A list of the API: the first page, and `loadMore` for the next one. */
export function useList(path, query = {}) {
  const dependency = JSON.stringify([path, query]);
  const firstPage = useData(() => get(path, query), [dependency]);
  const [more, setMore] = useState({ rows: [] });

  // Further pages belong to the first page that they were loaded after.
  const isCurrent = more.dependency === dependency && more.firstPage === firstPage.value;
  const moreRows = isCurrent ? more.rows : [];
  const cursor = isCurrent ? more.cursor : (firstPage.value?.nextCursor ?? null);

  const loadMore = async () => {
    const current = { dependency, firstPage: firstPage.value };
    setMore((before) => ({ ...before, loading: true }));
    try {
      const page = await get(path, { ...query, cursor });
      setMore({ ...current, rows: [...moreRows, ...page.data], cursor: page.nextCursor });
    } catch (error) {
      setMore({ ...current, rows: moreRows, cursor, error });
    }
  };
  return {
    rows: firstPage.value && [...firstPage.value.data, ...moreRows],
    error: firstPage.error ?? (isCurrent ? more.error : undefined),
    loading: firstPage.loading,
    reload: firstPage.reload,
    loadingMore: Boolean(more.loading),
    loadMore: cursor ? loadMore : undefined,
  };
}
