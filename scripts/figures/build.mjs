// npm install && npm run build
import { readFileSync } from "node:fs";
import { build } from "esbuild";

const { version } = JSON.parse(readFileSync("node_modules/plotly.js/package.json", "utf8"));
// The first line asks browsers to read all functions at once, while the file still comes in.
const notice = `//# allFunctionsCalledOnLoad
/* plotly.js v${version}: the core, bar, heatmap and icicle (scripts/figures).
   Copyright 2012-2026, Plotly, Inc. All rights reserved. Licensed under the MIT license. */`;

await build({
  entryPoints: ["entry.js"],
  outfile: "../../dashboard/static/plotly.js",
  bundle: true,
  format: "esm",
  minify: true,
  legalComments: "none",
  loader: { ".css": "empty" }, // of maps
  target: "es2022",
  define: { global: "globalThis", "define.amd": "false", "process.env.NODE_DEBUG": "false" },
  banner: { js: notice },
  logLevel: "info",
});
