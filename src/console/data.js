// Loading a resource, or a list page by page.
import { get } from './api.js';
import { useCallback, useEffect, useRef, useState } from './html.js';
import { readQuery, replaceParameters } from './route.js';

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

/** How often what changes by itself is loaded again. */
const REFRESH_MILLISECONDS = 10_000;

/** Calls `reload` again and again while the page is in sight. */
export function useRefresh(reload) {
  useEffect(() => {
    const refresh = () => document.visibilityState === 'visible' && reload();
    const timer = setInterval(refresh, REFRESH_MILLISECONDS);
    return () => clearInterval(timer);
  }, [reload]);
}

/** The number of rows that a list begins with, and that are added to it at a time. */
const PAGE_ROWS = 50;

/** The maximum number of rows in a response, and of those that a reload loads again. */
const MAX_PAGE_ROWS = 100;
const MAX_RELOADED_ROWS = 1000;

/** Loads the first `count` rows of a list, or fewer: a search may return pages that are not full. */
async function loadRows(path, query, count) {
  const rows = [];
  let cursor;
  for (let requests = Math.ceil(count / MAX_PAGE_ROWS); requests > 0; requests -= 1) {
    const limit = Math.min(count - rows.length, MAX_PAGE_ROWS);
    const page = await get(path, { ...query, limit, cursor });
    rows.push(...page.data);
    cursor = page.nextCursor;
    if (!cursor || rows.length === count) break;
  }
  return { rows, cursor };
}

/**
 * A list of the API: its first rows, and `loadMore` for the next ones. The number of rows is part of the
 * address, as the parameter `name`, so that they are there again after Back and a reload.
 */
export function useList(path, query = {}, name = 'rows') {
  const dependency = JSON.stringify([path, query]);
  const load = async () => {
    const noted = Math.min(Number(readQuery()[name]) || PAGE_ROWS, MAX_RELOADED_ROWS);
    return { dependency, ...(await loadRows(path, query, Math.max(noted, PAGE_ROWS))) };
  };
  const first = useData(load, [dependency]);
  const [more, setMore] = useState({ rows: [] });

  // Further rows belong to the first ones that they were loaded after.
  const isCurrent = more.first === first.value;
  const moreRows = isCurrent ? more.rows : [];
  const cursor = isCurrent ? more.cursor : first.value?.cursor;
  // Until the rows of another query are there, those of the one before are shown.
  const isOutdated = Boolean(first.value) && first.value.dependency !== dependency;
  const rows = first.value && [...first.value.rows, ...moreRows];

  const loadMore = async () => {
    const current = { first: first.value };
    setMore((before) => ({ ...before, loading: true }));
    try {
      const page = await get(path, { ...query, limit: PAGE_ROWS, cursor });
      setMore({ ...current, rows: [...moreRows, ...page.data], cursor: page.nextCursor });
      replaceParameters({ [name]: rows.length + page.data.length });
    } catch (error) {
      setMore({ ...current, rows: moreRows, cursor, error });
    }
  };
  return {
    rows,
    error: first.error ?? (isCurrent ? more.error : undefined),
    loading: first.loading || isOutdated,
    reload: first.reload,
    loadingMore: Boolean(more.loading),
    loadMore: cursor && !isOutdated ? loadMore : undefined,
  };
}
