import "./workers.js";
import "../../boot.js";
// Loaded by GraphiQL on demand; imported here too, so that Monaco's styles are part of main.css.
import "monaco-graphql/esm/monaco-editor.js";
import "@graphiql/react/style.css";
import "@graphiql/plugin-doc-explorer/style.css";
import "@graphiql/plugin-history/style.css";
import "graphiql/graphiql.css";
import "./fonts.css";
import "../../page.css";
import { ToolbarButton, ToolbarMenu, useGraphiQL, useGraphiQLActions } from "@graphiql/react";
import { GraphiQL } from "graphiql";
import { createElement } from "react";
import { createRoot } from "react-dom/client";

const { props, samples, keyField } = globalThis.omniaGraphiQL;

function Samples() {
  const { addTab } = useGraphiQLActions();
  const editor = useGraphiQL((state) => state.queryEditor);
  const open = (query) => {
    addTab();
    editor.setValue(query);
  };
  return (
    <ToolbarMenu
      button={
        <ToolbarButton label="Sample operations">
          <svg className="graphiql-toolbar-icon" viewBox="0 0 24 24" aria-hidden="true">
            <path d="M4 6h2M4 12h2M4 18h2M10 6h10M10 12h10M10 18h10" stroke="currentColor" strokeWidth="1.5" />
          </svg>
        </ToolbarButton>
      }
    >
      {samples.map(({ title, query }) => (
        <ToolbarMenu.Item key={title} onSelect={() => open(query)}>
          {title}
        </ToolbarMenu.Item>
      ))}
    </ToolbarMenu>
  );
}

createRoot(document.getElementById("graphiql")).render(
  <GraphiQL {...props}>
    <GraphiQL.Logo>
      {keyField(createElement)}
      Omnia GraphQL
    </GraphiQL.Logo>
    <GraphiQL.Toolbar>
      {({ prettify, merge, copy }) => (
        <>
          {prettify}
          {merge}
          {copy}
          <Samples />
        </>
      )}
    </GraphiQL.Toolbar>
  </GraphiQL>,
);
