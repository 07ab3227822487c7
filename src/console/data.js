// Loading: one thing, or a list page by page.
import { get } from './api.js';
import { useCallback, useEffect, useRef, useState } from './html.js';

/**
 * Loads whenever something it depends on changes; what arrives late for something older is dropped. `take` is for a
 * newer value that came another way.
 */
export function useData(load, wants) {
  const [state, setState] = useState({ loading: true });
  const turn = useRef(0);
  const reload = useCallback(async () => {
    const mine = ++turn.current;
    setState((before) => ({ ...before, loading: true }));
    try {
      const value = await load();
      if (mine === turn.current) setState({ value, loading: false });
    } catch (error) {
      if (mine === turn.current) setState({ error, loading: false });
    }
  }, wants);
  const take = useCallback((value) => {
    turn.current += 1;
    setState({ value, loading: false });
  }, []);
  useEffect(() => {
    reload();
    return () => {
      turn.current += 1;
    };
  }, [reload]);
  return { ...state, reload, take };
}

/** A list of the API, the next page at a press. */
export function useList(path, query = {}) {
  const wants = JSON.stringify([path, query]);
  const [more, setMore] = useState({ wants, rows: [], next: undefined });
  const first = useData(() => get(path, query), [wants]);
  const own = more.wants === wants && more.of === first.value;
  const next = own ? more.next : (first.value?.next ?? null);
  const loadMore = async () => {
    setMore((before) => ({ ...before, loading: true }));
    try {
      const page = await get(path, { ...query, cursor: next });
      const rows = [...(own ? more.rows : []), ...page.data];
      setMore({ wants, of: first.value, rows, next: page.next });
    } catch (error) {
      setMore({ wants, of: first.value, rows: own ? more.rows : [], next, error });
    }
  };
  return {
    rows: first.value && [...first.value.data, ...(own ? more.rows : [])],
    error: first.error ?? (own ? more.error : undefined),
    loading: first.loading,
    reload: first.reload,
    loadingMore: Boolean(more.loading),
    loadMore: next ? loadMore : undefined,
  };
}
