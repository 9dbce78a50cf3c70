// Parses workflow and action files with GitHub's own TypeScript parser.
//
// stdin: a JSON string per line, "w" or "a" and then the text of a workflow or an action.
// stdout, a line for each: {"errors": [[line, column, message], ...], "late": [...], "tree": ..., "model": ...}.
// errors are those of reading the file, late those of converting it; tree is what was read, model what it became.
import {register} from "node:module";
import readline from "node:readline";

// The package imports its schemas without saying that they are JSON.
const loader = `
  import {readFile} from "node:fs/promises";
  export async function load(url, context, next) {
    if (!url.endsWith(".json")) return next(url, context);
    return {format: "module", shortCircuit: true, source: "export default " + await readFile(new URL(url))};
  }`;
register("data:text/javascript," + encodeURIComponent(loader));
const {FeatureFlags} = await import("@actions/expressions/features");
const {NoOperationTraceWriter, convertWorkflowTemplate} = await import("@actions/workflow-parser");
const {parseWorkflow} = await import("@actions/workflow-parser/workflows/workflow-parser");
const {getWorkflowSchema} = await import("@actions/workflow-parser/workflows/workflow-schema");
const {YamlObjectReader} = await import("@actions/workflow-parser/workflows/yaml-object-reader");
const {readTemplate} = await import("@actions/workflow-parser/templates/template-reader");
const {getActionSchema} = await import("@actions/workflow-parser/actions/action-schema");
const {convertActionTemplate} = await import("@actions/workflow-parser/actions/action-template");
const {TemplateContext, TemplateValidationErrors} = await import("@actions/workflow-parser/templates/template-context");
const {TokenType} = await import("@actions/workflow-parser/templates/tokens/types");

const featureFlags = new FeatureFlags({all: true});

// The tree: [line, column, kind, value]. A mapping's value is a list of key and value by turns.
function tree(token) {
  const at = [token.line ?? 0, token.col ?? 0];
  switch (token.templateTokenType) {
    case TokenType.Sequence:
      return [...at, "sequence", Array.from(token, tree)];
    case TokenType.Mapping:
      return [...at, "mapping", Array.from(token, pair => [tree(pair.key), tree(pair.value)]).flat()];
    case TokenType.BasicExpression:
      return [...at, "expression", token.expression];
    case TokenType.InsertExpression:
      return [...at, "expression", "insert"];
    case TokenType.Null:
      return [...at, "null", ""];
    case TokenType.Boolean:
      return [...at, "boolean", String(token.value)];
    case TokenType.Number:
      return [...at, "number", Number.isFinite(token.value) ? token.value : String(token.value)];
    default:
      return [...at, "string", token.value ?? ""];
  }
}

function model(job) {
  return {
    id: job.id.value,
    name: job.name && tree(job.name).slice(2),
    needs: (job.needs ?? []).map(n => n.value),
    if: job.if.expression,
    uses: job.ref?.value ?? "",
    inherit: job["inherit-secrets"] ?? false,
    steps: (job.steps ?? []).map(step),
  };
}

function step(s) {
  return {
    id: s.id,
    if: s.if?.expression ?? "",
    uses: s.uses?.value ?? "",
    run: s.run ? tree(s.run).slice(2) : null,
    background: s.background ?? false,
    wait: (s.wait ?? []).map(w => w.value),
    waitAll: s["wait-all"] ?? false,
    cancel: s.cancel?.value ?? "",
    parallel: (s.parallel ?? []).map(step),
  };
}

// What is not said and what says nothing are the same.
function dropDefaults(key, value) {
  return (key === "description" && value === "") || (key === "required" && value === false) ? undefined : value;
}

function list(errors) {
  return errors.map(e => {
    const at = /\(Line: (\d+), Col: (\d+)\)$/.exec(e.prefix ?? "");
    return at ? [Number(at[1]), Number(at[2]), e.rawMessage] : [e.range?.start.line ?? 0, e.range?.start.column ?? 0, e.rawMessage];
  });
}

// The package checks actions by what an editor should say; the runner reads them by the looser action-root.
function parseAction(content, context) {
  const file = context.getFileId("f");
  const reader = new YamlObjectReader(file, content);
  for (const e of reader.errors) {
    context.error(file, e.message, e.range);
  }
  return {value: reader.errors.length ? undefined : readTemplate(context, "action-root", reader, file)};
}

async function parse(kind, content) {
  const isAction = kind === "a";
  const schema = isAction ? getActionSchema() : getWorkflowSchema();
  const context = new TemplateContext(new TemplateValidationErrors(), schema, new NoOperationTraceWriter());
  context.state.featureFlags = featureFlags;
  const parsed = isAction ? parseAction(content, context) : parseWorkflow({name: "f", content}, context);
  const errors = list(context.errors.getErrors());
  if (!parsed.value) {
    return {errors, late: []};
  }
  // GitHub converts nothing after a mistake.
  const converted = errors.length ? undefined : await convert(isAction, context, parsed.value);
  return {errors, late: list(context.errors.getErrors().slice(errors.length)), tree: tree(parsed.value), model: converted};
}

async function convert(isAction, context, root) {
  const options = {featureFlags};
  if (isAction) {
    const action = convertActionTemplate(context, root);
    return {
      name: action.name ?? "",
      inputs: (action.inputs ?? []).map(i => [i.id, i.required ?? false]),
      outputs: (action.outputs ?? []).map(o => o.id),
      using: action.runs?.using ?? "",
      steps: (action.runs?.steps ?? []).map(step),
    };
  }
  const workflow = await convertWorkflowTemplate(context, root, undefined, options);
  return {events: JSON.parse(JSON.stringify(workflow.events ?? {}, dropDefaults)), jobs: (workflow.jobs ?? []).map(model)};
}

for await (const line of readline.createInterface({input: process.stdin})) {
  const text = JSON.parse(line);
  let answer;
  try {
    answer = await parse(text[0], text.slice(1));
  } catch (e) {
    answer = {crash: String(e?.stack ?? e)};
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
