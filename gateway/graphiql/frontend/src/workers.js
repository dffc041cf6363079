// Monaco asks for its workers by label; each is an entry of the build, beside main.js.
const FILES = { graphql: "graphql.worker.js", json: "json.worker.js" };

globalThis.MonacoEnvironment = {
  getWorker: (_id, label) =>
    new Worker(new URL(FILES[label] ?? "editor.worker.js", import.meta.url), { type: "module" }),
};
