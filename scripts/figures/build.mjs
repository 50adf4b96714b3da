// npm install && npm run build: makes dashboard/static/plotly.js and the licences of what is in it.
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const STATIC = "../../dashboard/static";
const { version } = JSON.parse(readFileSync("node_modules/plotly.js/package.json", "utf8"));
// The first line asks browsers to read all functions at once, while the file still comes in.
const notice = `//# allFunctionsCalledOnLoad
/* plotly.js v${version}: the core, bar, heatmap and icicle (scripts/figures).
   Copyright 2012-2026, Plotly, Inc. All rights reserved. Licensed under the MIT license.
   The licences of all that is in it: plotly.licences.txt */`;

const { metafile } = await build({
  entryPoints: ["entry.js"],
  outfile: `${STATIC}/plotly.js`,
  bundle: true,
  format: "esm",
  metafile: true,
  minify: true,
  legalComments: "none",
  loader: { ".css": "empty" }, // of maps
  target: "es2022",
  define: { global: "globalThis", "define.amd": "false", "process.env.NODE_DEBUG": "false" },
  banner: { js: notice },
  logLevel: "info",
});

const [output] = Object.values(metafile.outputs);
const used = Object.entries(output.inputs).filter(([, { bytesInOutput }]) => bytesInOutput > 0);
const packages = new Set(
  used.map(([path]) => path.match(/.*node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[0]).filter(Boolean),
);
const licences = [...packages].sort().map((folder) => {
  const described = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
  const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name));
  const text = file ? readFileSync(`${folder}/${file}`, "utf8").trim() : "";
  const head = `${described.name} ${described.version}: ${described.license ?? "see below"}`;
  return `${head}\n${"-".repeat(head.length)}\n${text || JSON.stringify(described.author ?? "")}`;
});
writeFileSync(`${STATIC}/plotly.licences.txt`, `${licences.join("\n\n\n")}\n`);
