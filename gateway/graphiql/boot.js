// What GraphiQL is told, whichever way it arrives: the bundle imports this file, the CDN page carries it inline.
(() => {
  const config = JSON.parse(document.getElementById("graphiql-config").textContent);
  const defaultHeaders = JSON.stringify({ "X-API-Key": config.apiKey }, null, 2);

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
    const response = await fetch(config.endpoint, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        accept: "application/graphql-response+json, application/json",
        ...filled(headers),
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

  // The Headers tab starts with an empty X-API-Key to fill in; a header left empty is not sent.
  const filled = (headers) => Object.fromEntries(Object.entries(headers).filter(([, value]) => value !== ""));

  const PERSIST = "graphiql:shouldPersistHeaders";
  const HISTORY = ["graphiql:queries", "graphiql:favorites"];
  const local = available();
  const persists = () => local?.getItem(PERSIST) === "true";

  // GraphiQL's own storage, but for one thing: its history would keep every operation's headers, and so the API key,
  // though its setting "Persist headers" is off.
  const storage = local && {
    getItem(name) {
      const text = local.getItem(name);
      return text && HISTORY.includes(name) ? edited(text, (item) => ({ headers: defaultHeaders, ...item })) : text;
    },
    setItem(name, value) {
      local.setItem(name, HISTORY.includes(name) && !persists() ? edited(value, withoutHeaders) : value);
      if (name === PERSIST) for (const kept of HISTORY) if (local.getItem(kept)) this.setItem(kept, local.getItem(kept));
    },
    removeItem: (name) => local.removeItem(name),
    clear: () => own().forEach((name) => local.removeItem(name)),
    get length() {
      return own().length;
    },
  };

  const own = () => Object.keys(local).filter((name) => name.startsWith("graphiql:"));

  const withoutHeaders = ({ headers, ...item }) => item;

  // The text is {"queries": [item, …]} or {"favorites": [item, …]}.
  const edited = (text, edit) =>
    JSON.stringify(JSON.parse(text), (key, value) => (Array.isArray(value) ? value.map(edit) : value));

  function available() {
    try {
      return localStorage;
    } catch {
      return null; // switched off in this browser
    }
  }

  globalThis.omniaGraphiQL = {
    samples: config.samples,
    props: {
      fetcher,
      storage,
      defaultHeaders,
      defaultTabs: config.samples.map(({ query }) => ({ query, headers: defaultHeaders })),
      defaultEditorToolsVisibility: "headers",
      inputValueDeprecation: true,
      schemaDescription: true,
      showPersistHeadersSettings: true,
      // GraphiQL forgets the user's choice on reload unless it is handed back.
      shouldPersistHeaders: persists(),
    },
  };
})();
