// What GraphiQL is told, whichever way it arrives: the bundle imports this file, the CDN page carries it inline.
(() => {
  const config = JSON.parse(document.getElementById("graphiql-config").textContent);
  const endpoint = new URL(config.endpoint, location.href).pathname;

  // An observable and not a promise: only then does GraphiQL's stop button (and a change of tab) end the request,
  // and with it the REST calls that it would still have cost.
  const fetcher = (params, { headers = {} } = {}) => ({
    subscribe(observer) {
      const abort = new AbortController();
      post(params, headers, abort.signal)
        .then((answer) => {
          observer.next(answer);
          observer.complete();
        })
        .catch(({ message }) => abort.signal.aborted || observer.error({ message }));
      return { unsubscribe: () => abort.abort() };
    },
  });

  async function post({ operationName, ...params }, headers, signal) {
    // After a change of tab GraphiQL goes on naming the last tab's operation for a moment.
    if (operationName && new RegExp(`\\b${operationName}\\b`).test(params.query)) params.operationName = operationName;
    const response = await fetch(endpoint, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        accept: "application/graphql-response+json, application/json",
        ...withKey(headers),
      },
      body: JSON.stringify(params),
      credentials: "same-origin",
      signal,
    });
    const text = await response.text();
    try {
      return JSON.parse(text);
    } catch {
      throw new Error(`${response.status} ${response.statusText}: ${text.slice(0, 500) || "an empty answer"}`);
    }
  }

  // The demo and a real workspace, often served at one address in turn, share neither tabs nor history nor key.
  const space = `omnia:${config.preset}${endpoint}:`;
  const [local, session] = [available("localStorage"), available("sessionStorage")];

  // The API key of all tabs, kept until this browser tab is closed.
  const KEY = "X-API-Key";
  let key = session?.getItem(space + KEY) ?? config.apiKey;

  function setKey(value) {
    key = value;
    session?.setItem(space + KEY, value);
  }

  // A key in the Headers editor is used for its tab alone. An empty header is not sent.
  function withKey(headers) {
    const filled = Object.entries(headers).filter(([, value]) => value !== "");
    const hasKey = filled.some(([name]) => name.toLowerCase() === KEY.toLowerCase());
    return Object.fromEntries(hasKey || !key ? filled : [...filled, [KEY, key]]);
  }

  const keyField = (createElement) =>
    createElement(
      "label",
      { className: "api-key" },
      "API key",
      createElement("input", {
        type: "password",
        placeholder: "sent as X-API-Key",
        title: "For all tabs, until this browser tab is closed",
        autoComplete: "off",
        spellCheck: false,
        defaultValue: key,
        onChange: ({ target }) => setKey(target.value.trim()),
      }),
    );

  // GraphiQL's own storage, but for one thing: its history would keep every operation's headers, and so a key that
  // was typed there.
  const HISTORY = ["graphiql:queries", "graphiql:favorites"];
  const storage = local && {
    getItem: (name) => local.getItem(space + name),
    setItem: (name, value) => local.setItem(space + name, HISTORY.includes(name) ? withoutHeaders(value) : value),
    removeItem: (name) => local.removeItem(space + name),
    clear: () => own().forEach((name) => local.removeItem(name)),
    get length() {
      return own().length;
    },
  };

  const own = () => Object.keys(local).filter((name) => name.startsWith(space));

  const withoutHeaders = (text) => JSON.stringify(JSON.parse(text), (name, value) => (name === "headers" ? undefined : value));

  function available(name) {
    try {
      return globalThis[name];
    } catch {
      return null; // switched off in this browser
    }
  }

  globalThis.omniaGraphiQL = {
    keyField,
    samples: config.samples,
    props: {
      fetcher,
      storage,
      defaultTabs: config.samples.map(({ query }) => ({ query })),
      inputValueDeprecation: true,
      schemaDescription: true,
      showPersistHeadersSettings: false,
      shouldPersistHeaders: false,
    },
  };
})();
