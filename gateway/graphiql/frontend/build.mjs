// Bundles GraphiQL into ../static, or the directory given as the only argument: main.js, main.css, Monaco's workers, LICENSES.txt.
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const outdir = resolve(here, process.argv[2] ?? "../static");

const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: {
    main: "src/main.jsx",
    "editor.worker": "monaco-editor/esm/vs/editor/editor.worker.js",
    "graphql.worker": "monaco-graphql/esm/graphql.worker.js",
    "json.worker": "monaco-editor/esm/vs/language/json/json.worker.js",
  },
  outdir,
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  jsx: "automatic",
  define: { "process.env.NODE_ENV": '"production"', "process.env.USE_IMPORT": '"true"' },
  // GraphiQL imports the CommonJS builds on demand, of which a chunk would export no more than the default.
  alias: { "prettier/parser-babel": "prettier/plugins/babel", "prettier/parser-graphql": "prettier/plugins/graphql" },
  loader: { ".ttf": "file", ".woff2": "file" },
  chunkNames: "chunks/[name]-[hash]",
  assetNames: "assets/[name]-[hash]",
  external: ["graphql-ws"], // subscriptions over WebSocket, which this gateway has none of
  legalComments: "eof",
  metafile: true,
  logLevel: "warning",
});

// Styles of chunks repeat what main.css has, and nothing ever loads them.
for (const path of Object.keys(metafile.outputs)) if (/chunks\/.*\.css$/.test(path)) rmSync(resolve(here, path));

const packages = new Set(
  Object.keys(metafile.inputs).flatMap((path) => /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1] ?? []),
);
const texts = [...packages].sort().map((path) => {
  const directory = join(here, path);
  const { name, version, license } = JSON.parse(readFileSync(join(directory, "package.json"), "utf8"));
  const files = readdirSync(directory).filter((file) => /^(licen[cs]e|notice|thirdpartynotices)/i.test(file));
  return [`${name} ${version} (${license})`, ...files.map((file) => readFileSync(join(directory, file), "utf8"))].join("\n\n");
});
writeFileSync(join(outdir, "LICENSES.txt"), texts.join(`\n\n${"-".repeat(80)}\n\n`));
