// Holds answers of the REST API to GitHub's own description of it.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import Ajv from "ajv";
import addFormats from "ajv-formats";

const require = createRequire(import.meta.url);
const described = JSON.parse(readFileSync(require.resolve("@octokit/openapi/generated/api.github.com.deref.json"), "utf8"));
const ajv = addFormats(new Ajv({ strict: false, validateSchema: false, logger: false, validateFormats: false }));
const compiled = new Map();
export const faults = [];
export let checked = 0;

// plain writes OpenAPI's "nullable" as JSON Schema does.
function plain(schema) {
  if (Array.isArray(schema)) return schema.map(plain);
  if (schema === null || typeof schema !== "object") return schema;
  const { nullable, ...rest } = Object.fromEntries(Object.entries(schema).map(([k, v]) => [k, k === "example" || k === "enum" ? v : plain(v)]));
  return nullable === true ? { anyOf: [{ type: "null" }, rest] } : { ...rest, ...(typeof nullable === "object" && { nullable }) };
}

// template gives the path of the description that an address is one of: followed links have no braces any more.
function template(path) {
  if (described.paths[path]) return path;
  const fits = (p) => new RegExp(`^${p.replace(/\{[^}]+\}/g, "[^/]+")}$`).test(path);
  return Object.keys(described.paths).find(fits) ?? path;
}

// check holds an answer to what is described for its operation and status.
export function check(options, response) {
  if (!response.headers["content-type"]?.startsWith("application/json")) return;
  const path = template(options.url.replace(/^https?:\/\/[^/]+\/api\/(v3|uploads)/, "").replace(/(\?|\{\?).*/, ""));
  const key = `${options.method} ${path} ${response.status}`;
  const operation = described.paths[path]?.[options.method.toLowerCase()];
  const answer = operation?.responses[response.status];
  if (!answer) {
    faults.push(`${key} is not described`);
    return;
  }
  const schema = answer.content?.["application/json"]?.schema;
  if (!schema) return;
  if (!compiled.has(key)) compiled.set(key, ajv.compile(plain(schema)));
  const valid = compiled.get(key);
  checked++;
  if (!valid(response.data)) {
    for (const e of valid.errors.slice(0, 4)) faults.push(`${key}: ${e.instancePath} ${e.message} ${JSON.stringify(e.params)}`);
  }
}

// refused gives the status and the message of a call that must fail.
export async function refused(call) {
  try {
    await call;
    return "not refused";
  } catch (e) {
    return `${e.status} ${e.response?.data?.message} ${e.response?.data?.errors?.[0]?.code ?? ""}`.trim();
  }
}
