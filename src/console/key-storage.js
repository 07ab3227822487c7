// The API key of this tab, which the console and the API reference share. The browser forgets it when the tab
// is closed.

const STORAGE_KEY = 'tollhouse.key';

export const readKey = () => sessionStorage.getItem(STORAGE_KEY);

export const storeKey = (key) => sessionStorage.setItem(STORAGE_KEY, key);

export const removeKey = () => sessionStorage.removeItem(STORAGE_KEY);

/** True if the text can be a key: a header can't hold other characters. */
export const isPossibleKey = (text) => /^[\x21-\x7e]+$/.test(text);
