// What the pages of the documentation can do beyond being read: search, copy code, open the navigation on a
// phone, and show at the side which section is read.
import { createSearch } from './search.js';

const COPIED_MILLISECONDS = 2000;

function button(text, className, onClick) {
  const node = document.createElement('button');
  Object.assign(node, { type: 'button', className, textContent: text, onclick: onClick });
  return node;
}

function addSearch() {
  const { dataset } = document.querySelector('script[data-index]');
  const absolute = (path) => new URL(path, location.href);
  const open = createSearch({ index: absolute(dataset.index), root: absolute(dataset.root) });
  document.querySelector('.top-links').before(button('Search', 'small search-button', open));
}

/** Without HTTPS there is no clipboard: the code is selected instead, so that it can be copied by hand. */
async function copy(event) {
  const { currentTarget } = event;
  const code = currentTarget.closest('.panel').querySelector('pre');
  try {
    await navigator.clipboard.writeText(code.textContent);
    currentTarget.textContent = 'Copied';
    setTimeout(() => (currentTarget.textContent = 'Copy'), COPIED_MILLISECONDS);
  } catch {
    getSelection().selectAllChildren(code);
  }
}

function addCopyButtons() {
  for (const bar of document.querySelectorAll('.code-bar')) {
    const node = button('Copy', 'small copy', copy);
    node.ariaLive = 'polite';
    bar.append(node);
  }
}

function openNavigation() {
  const navigation = document.querySelector('.docs-nav');
  const toggle = navigation.querySelector('.nav-button');
  toggle.onclick = () => {
    const isOpen = navigation.classList.toggle('open');
    toggle.ariaExpanded = String(isOpen);
  };
  const list = navigation.querySelector('.nav-list');
  const current = list.querySelector('[aria-current]');
  if (current) list.scrollTop = current.offsetTop - list.clientHeight / 3;
}

/** Marks the section that is read in the contents at the side. */
function followSections() {
  const links = [...document.querySelectorAll('.contents a')];
  if (links.length === 0) return;
  const headings = links.map((link) => document.getElementById(decodeURIComponent(link.hash.slice(1))));
  const update = () => {
    const isAtEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    const passed = headings.filter((heading) => heading.getBoundingClientRect().top < innerHeight / 4);
    const last = isAtEnd ? headings.length - 1 : Math.max(passed.length - 1, 0);
    links.forEach((link, index) => link.classList.toggle('current', index === last));
  };
  addEventListener('scroll', update, { passive: true });
  addEventListener('resize', update);
  update();
}

addSearch();
addCopyButtons();
openNavigation();
followSections();
