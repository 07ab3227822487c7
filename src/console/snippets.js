// Code that verifies a key with this server, in several languages.
import { CopyButton } from './forms.js';
import { html, useState } from './html.js';

const ADDRESS = new URL('../v1/keys/verify', document.baseURI).href;

const CURL = `curl -s ${ADDRESS} \\
  -H "Authorization: Bearer $TOLLHOUSE_KEY" \\
  -H "Content-Type: application/json" \\
  -d "{\\"key\\": \\"$CLIENT_KEY\\"}"`;

const NODE = `const response = await fetch('${ADDRESS}', {
  method: 'POST',
  headers: {
    authorization: \`Bearer \${process.env.TOLLHOUSE_KEY}\`,
    'content-type': 'application/json',
  },
  body: JSON.stringify({ key: process.env.CLIENT_KEY }),
});
const { data } = await response.json();
console.log(data.valid, data.code);`;

const PYTHON = `import json, os, urllib.request

request = urllib.request.Request(
    "${ADDRESS}",
    data=json.dumps({"key": os.environ["CLIENT_KEY"]}).encode(),
    headers={
        "Authorization": "Bearer " + os.environ["TOLLHOUSE_KEY"],
        "Content-Type": "application/json",
    },
)
with urllib.request.urlopen(request) as response:
    data = json.load(response)["data"]
print(data["valid"], data["code"])`;

const GO = `body, _ := json.Marshal(map[string]string{"key": os.Getenv("CLIENT_KEY")})
request, err := http.NewRequest("POST", "${ADDRESS}", bytes.NewReader(body))
if err != nil {
	log.Fatal(err)
}
request.Header.Set("Authorization", "Bearer "+os.Getenv("TOLLHOUSE_KEY"))
request.Header.Set("Content-Type", "application/json")
response, err := http.DefaultClient.Do(request)
if err != nil {
	log.Fatal(err)
}
defer response.Body.Close()
var answer struct {
	Data struct {
		Valid bool
		Code  string
	}
}
if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
	log.Fatal(err)
}
fmt.Println(answer.Data.Valid, answer.Data.Code)`;

const LANGUAGES = { curl: CURL, Node: NODE, Python: PYTHON, Go: GO };

/** The code in one of the languages. It reads both keys from the environment. */
export function Snippets() {
  const [language, setLanguage] = useState('curl');
  const buttons = Object.keys(LANGUAGES).map((name) => {
    const choose = () => setLanguage(name);
    return html`
      <button type="button" aria-pressed=${name === language} onClick=${choose}>${name}</button>`;
  });
  return html`
    <div class="snippet secret">
      <div class="snippet-head">
        <div class="segments" role="group" aria-label="Language">${buttons}</div>
        <${CopyButton} key=${language} text=${LANGUAGES[language]} />
      </div>
      <pre><code>${LANGUAGES[language]}</code></pre>
    </div>
    <p class="hint">
      <code>TOLLHOUSE_KEY</code> is a service key with the scope <code>keys:verify</code>, and${' '}
      <code>CLIENT_KEY</code> the key that a client sent.
    </p>`;
}
