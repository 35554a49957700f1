// Prisma's query engine for prisma-client-py, on Node: LiteLLM's way to PostgreSQL without a downloaded binary.
//
//     node engine.mjs -p PORT                    serve; PRISMA_DML_PATH names the schema, DATABASE_URL the server
//     node engine.mjs --version
//     node engine.mjs --generate SCHEMA OUTPUT   print the request that makes prisma-client-py's client
//
// prisma-client-py starts the binary that PRISMA_QUERY_ENGINE_BINARY names, as `BINARY -p PORT …`, and sends it
// GraphQL over HTTP. That binary lies on no package registry; the same engine, made from the same commit as
// WASM, does. It speaks only Prisma's JSON protocol, and a driver must hold its connections. So this program
// translates one protocol into the other, and does no more. It is slower than the binary: what it costs is
// measured apart and counted for nobody.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { PrismaPg } from "@prisma/adapter-pg";
import { bindAdapter } from "@prisma/driver-adapter-utils";
import * as wasm from "@prisma/query-engine-wasm/postgresql/query_engine_bg.js";
import { Kind, parse } from "graphql";
import pg from "pg";

const require = createRequire(import.meta.url);
const VERSION = require("@prisma/query-engine-wasm/package.json").version;
const COMMIT = VERSION.slice(VERSION.lastIndexOf(".") + 1);
const NO_TRACE = "{}";
const POOL = "10";
// `findUniqueUserOrThrow`: what is done, on which model, and the end of what is done.
const FIELD = new RegExp(
  "^(findUnique|findFirst|findMany|createOne|createMany|updateOne|updateMany|upsertOne|deleteOne|deleteMany" +
    "|aggregate|groupBy)(.+?)(OrThrow)?$",
);
// What of a filter on a Json field is not JSON itself.
const NOT_JSON = /^(path|mode|string_.*)$/;
// PostgreSQL's `name` and `name[]`, of its own tables, are text; the adapter does not know them.
const TEXT = { 19: 25, 1003: 1009 };

class Driver extends PrismaPg {
  async performIO(query) {
    const told = await super.performIO(query);
    for (const field of told.ok ? told.value.fields : []) {
      field.dataTypeID = TEXT[field.dataTypeID] ?? field.dataTypeID;
    }
    return told;
  }
}

// What Prisma knows of a schema: its configuration, and its models (`dmmf`).
function described(path) {
  const schema = require("@prisma/prisma-schema-wasm");
  const datamodel = readFileSync(path, "utf8");
  const given = { prismaSchema: [[path, datamodel]], noColor: true };
  const asked = { ...given, datasourceOverrides: {}, ignoreEnvVarErrors: true, env: {} };
  const { config } = JSON.parse(schema.get_config(JSON.stringify(asked)));
  return { config, datamodel, dmmf: JSON.parse(schema.get_dmmf(JSON.stringify(given))) };
}

// Prisma's command line would download the binary before it tells a generator this.
function generation(path, output) {
  const { config, datamodel, dmmf } = described(path);
  const generator = { ...config.generators[0], output: { value: output, fromEnvVar: null }, binaryTargets: [] };
  const { datasources } = config;
  const more = { schemaPath: path, otherGenerators: [], binaryPaths: { queryEngine: {} } };
  const params = { datamodel, dmmf, generator, datasources, version: COMMIT, ...more };
  return { jsonrpc: "2.0", id: 1, method: "generate", params };
}

class Engine {
  static async connected(path, url) {
    const file = require.resolve("@prisma/query-engine-wasm/postgresql/query_engine_bg.wasm");
    const { instance } = await WebAssembly.instantiate(readFileSync(file), { "./query_engine_bg.js": wasm });
    wasm.__wbg_set_wasm(instance.exports);
    const { datamodel, dmmf } = described(path);
    const types = (fields) => Object.fromEntries(fields.map(({ name, type }) => [name, type]));
    const models = Object.fromEntries(dmmf.datamodel.models.map(({ name, fields }) => [name, types(fields)]));
    const limit = new URLSearchParams(url.split("?")[1]).get("connection_limit") ?? POOL;
    pg.types.setTypeParser(1003, pg.types.getTypeParser(1009));
    const pool = new pg.Pool({ connectionString: url, max: Number(limit) });
    // A lost idle connection is replaced at the next query; unheard, its error would end this process.
    pool.on("error", (error) => console.error(`query engine: ${error.message}`));
    const options = { datamodel, logLevel: "error", logQueries: false };
    const core = new wasm.QueryEngine(options, (line) => console.error(line), bindAdapter(new Driver(pool)));
    await core.connect(NO_TRACE);
    return new Engine(core, models);
  }

  constructor(core, models) {
    this.core = core;
    this.models = models;
  }

  async answer(path, body, transaction) {
    const [, first, id, end] = path.split("/");
    if (first === "status") return { status: "ok" };
    if (first !== "transaction") return this.query(JSON.parse(body), transaction);
    if (id === "start") return JSON.parse(await this.core.startTransaction(body, NO_TRACE));
    const done = end === "commit" ? this.core.commitTransaction : this.core.rollbackTransaction;
    return JSON.parse(await done.call(this.core, id, NO_TRACE));
  }

  async query(given, transaction) {
    const wanted = given.batch
      ? { batch: given.batch.map((each) => this.translated(each)), transaction: given.transaction ? {} : undefined }
      : this.translated(given);
    const told = JSON.parse(await this.core.query(JSON.stringify(wanted), NO_TRACE, transaction));
    return told.batchResult ? { ...told, batchResult: told.batchResult.map(renamed) } : renamed(told);
  }

  translated({ query }) {
    const [field] = parse(query, { noLocation: true }).definitions[0].selectionSet.selections;
    const name = field.name.value;
    if (name === "queryRaw" || name === "executeRaw") return { action: name, query: this.selected(field, {}) };
    const [, action, modelName, orThrow = ""] = FIELD.exec(name);
    return { modelName, action: action + orThrow, query: this.selected(field, this.models[modelName]) };
  }

  // `fields` are the types of the fields of the model that a selection or a value is about.
  selected(field, fields) {
    const given = field.arguments.map(({ name, value }) => [name.value, this.value(value, fields)]);
    const selection = (field.selectionSet?.selections ?? []).map((each) => {
      const name = each.name.value;
      const plain = !each.selectionSet && !each.arguments.length;
      return [name, plain || this.selected(each, this.models[fields[name]] ?? fields)];
    });
    return { arguments: Object.fromEntries(given), selection: Object.fromEntries(selection) };
  }

  // In GraphQL a Json field's value is a string that holds JSON; the JSON protocol wants it marked as such.
  // Numbers keep their digits: those of a 64-bit integer do not fit a JavaScript number.
  value(node, fields, type) {
    switch (node.kind) {
      case Kind.OBJECT:
        return Object.fromEntries(
          node.fields.map(({ name: { value: name }, value }) => {
            const of = fields[name] ?? (NOT_JSON.test(name) ? undefined : type);
            return [name, this.value(value, this.models[of] ?? fields, of)];
          }),
        );
      case Kind.LIST:
        return node.values.map((each) => this.value(each, fields, type));
      case Kind.STRING:
        return type === "Json" ? { $type: "Json", value: node.value } : node.value;
      case Kind.INT:
      case Kind.FLOAT:
        return JSON.rawJSON(node.value);
      case Kind.NULL:
        return null;
      default:
        return node.value;
    }
  }
}

// The client calls every answer `result`; the JSON protocol names it after what was asked.
function renamed(told) {
  if (!told.data) return told;
  const [[name, found]] = Object.entries(told.data);
  return { ...told, data: { result: name === "queryRaw" ? found : untyped(found) } };
}

// `{"$type": "DateTime", "value": …}` is the bare value in GraphQL.
function untyped(found) {
  if (Array.isArray(found)) return found.map(untyped);
  if (found === null || typeof found !== "object") return found;
  if ("$type" in found) return found.value;
  return Object.fromEntries(Object.entries(found).map(([name, each]) => [name, untyped(each)]));
}

async function serve(port) {
  const engine = await Engine.connected(process.env.PRISMA_DML_PATH, process.env.DATABASE_URL);
  const server = createServer(async (request, response) => {
    let told;
    try {
      const parts = [];
      for await (const part of request) parts.push(part);
      const body = Buffer.concat(parts).toString();
      told = await engine.answer(request.url, body, request.headers["x-transaction-id"]);
    } catch (error) {
      told = { error_code: "unknown", message: String(error?.stack ?? error) };
    }
    if (told.error_code) console.error(`query engine: ${told.message}`);
    response.writeHead(told.error_code ? 500 : 200, { "content-type": "application/json" });
    response.end(JSON.stringify(told));
  });
  // The client keeps its connections, and does not expect them to be closed after Node's five seconds.
  server.keepAliveTimeout = 0;
  server.listen(port, "127.0.0.1");
}

const [option, ...rest] = process.argv.slice(2);
if (option === "--version") console.log(`query-engine ${COMMIT}`);
else if (option === "--generate") console.log(JSON.stringify(generation(...rest)));
else await serve(Number(rest[0]));
