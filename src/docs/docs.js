// The reference: Swagger UI over this server's own document. The key is pasted at "Authorize" and stays in
// the page's memory: a reload forgets it. Nothing is sent anywhere else.

const dark = matchMedia('(prefers-color-scheme: dark)');
const follow = () => document.documentElement.classList.toggle('dark-mode', dark.matches);
dark.addEventListener('change', follow);
follow();

// A link inside a button is none to the keyboard, and there is only one server to choose from.
const plainer = ({ React }) => ({
  components: {
    DeepLink: ({ text }) => React.createElement('span', null, text),
    ServersContainer: () => null,
  },
});

// The scheme of every operation that requires a key. The other schemes belong to single operations of the data plane.
const BEARER = 'bearer';

// The "Authorize" button offers only the Bearer key. The padlock of an operation offers every scheme of that operation,
// the Bearer key first. The first field gets the focus; by itself Swagger UI focuses the last one, where a pasted
// key doesn't authorize calls of the Admin API.
const authorization = ({ React }) => ({
  statePlugins: {
    auth: {
      wrapActions: {
        showDefinitions: (original) => (shown) => original(shown && shown.sortBy((scheme) => !scheme.has(BEARER))),
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
  plugins: [plainer, authorization],
  presets: [globalThis.SwaggerUIBundle.presets.apis],
  tryItOutEnabled: true,
  validatorUrl: null,
});

// Some of its controls have no name, or another one than they show.
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
