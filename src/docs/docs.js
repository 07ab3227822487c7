// The API reference: Swagger UI over this server's OpenAPI document. The key that is pasted at
// "Authorize" stays in the page's memory and is gone after a reload. The page makes no external
// requests.

const dark = matchMedia('(prefers-color-scheme: dark)');
const applyColorScheme = () => document.documentElement.classList.toggle('dark-mode', dark.matches);
dark.addEventListener('change', applyColorScheme);
applyColorScheme();

// Removes links inside buttons, which the keyboard can't reach, and the choice of a server: there is
// only one.
const simplification = ({ React }) => ({
  components: {
    DeepLink: ({ text }) => React.createElement('span', null, text),
    ServersContainer: () => null,
  },
});

// The scheme of every operation that requires a key. The other schemes belong to single operations of
// the data plane.
const BEARER = 'bearer';

// The "Authorize" button offers only the Bearer key. The padlock of an operation offers every scheme
// of that operation, the Bearer key first. The first field gets the focus; by itself Swagger UI
// focuses the last one, where a pasted key doesn't authorize calls of the Admin API.
const authorization = ({ React }) => ({
  statePlugins: {
    auth: {
      wrapActions: {
        showDefinitions: (original) => (shown) =>
          original(shown && shown.sortBy((scheme) => !scheme.has(BEARER))),
      },
    },
  },
  wrapComponents: {
    AuthorizeBtnContainer: (Original) => (props) => {
      const { authorized, definitionsToAuthorize } = props.authSelectors;
      const authSelectors = {
        ...props.authSelectors,
        authorized: () => authorized().filter((_, scheme) => scheme === BEARER),
        definitionsToAuthorize: () => definitionsToAuthorize().filter((scheme) => scheme.has(BEARER)),
      };
      return React.createElement(Original, { ...props, authSelectors });
    },
    authorizationPopup: (Original) => (props) => {
      React.useLayoutEffect(() => document.querySelector('.dialog-ux input')?.focus(), []);
      return React.createElement(Original, props);
    },
  },
});

globalThis.SwaggerUIBundle({
  // Absolute, because the URLs of the operations are resolved against it.
  url: new URL('../openapi.json', location.href).href,
  domNode: document.getElementById('reference'),
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: 'list',
  defaultModelsExpandDepth: 0,
  filter: true,
  persistAuthorization: false,
  plugins: [simplification, authorization],
  presets: [globalThis.SwaggerUIBundle.presets.apis],
  tryItOutEnabled: true,
  validatorUrl: null,
});

// Accessible names for controls that have none, or one that differs from their text.
const NAMES = [
  ['.body-param__text', 'Request body'],
  ['.close-modal', 'Close'],
  ['.auth-btn-wrapper .authorize', 'Authorize'],
];
new MutationObserver(() => {
  for (const [selector, name] of NAMES) {
    for (const element of document.querySelectorAll(selector)) {
      if (element.ariaLabel !== name) element.ariaLabel = name;
    }
  }
}).observe(document.getElementById('reference'), { childList: true, subtree: true });
