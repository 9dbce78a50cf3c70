// Evaluates expressions with GitHub's own TypeScript evaluator.
//
// stdin, first line: a list of environments, each an object of contexts. Each further line: [environment, source].
// stdout, a line for each: ["value", canonical form] | ["parse", message, column or 0] | ["eval", message].
// The canonical form names every kind and every bit, so that two evaluators agree exactly or not at all.
import readline from "node:readline";
import {Evaluator, ExpressionError, Lexer, Parser, data} from "@actions/expressions";
import {FilteredArray} from "@actions/expressions/filtered_array";
import {MAX_EXPRESSION_LENGTH} from "@actions/expressions/errors";
import {reviver} from "@actions/expressions/data/reviver";

const functions = [
  {name: "hashFiles", minArgs: 1, maxArgs: 255, call: (...args) => new data.StringData("#" + args.map(a => a.coerceString()).join("|"))},
  {name: "success", minArgs: 0, maxArgs: 0, call: () => new data.BooleanData(true)},
  {name: "failure", minArgs: 0, maxArgs: 0, call: () => new data.BooleanData(false)},
  {name: "always", minArgs: 0, maxArgs: 0, call: () => new data.BooleanData(true)},
  {name: "cancelled", minArgs: 0, maxArgs: 0, call: () => new data.BooleanData(false)},
];
const bodies = new Map(functions.map(f => [f.name.toLowerCase(), f]));
const bits = new DataView(new ArrayBuffer(8));

function text(s) {
  return `"${s.length}:${s}`;
}

function canonical(v) {
  switch (v.kind) {
    case data.Kind.Null:
      return "null";
    case data.Kind.Boolean:
      return v.value ? "true" : "false";
    case data.Kind.Number:
      if (Number.isNaN(v.value)) {
        return "#nan";
      }
      bits.setFloat64(0, v.value);
      return "#" + bits.getBigUint64(0).toString(16).padStart(16, "0");
    case data.Kind.String:
      return text(v.value);
    case data.Kind.Array:
      return (v instanceof FilteredArray ? "*[" : "[") + v.values().map(canonical).join(",") + "]";
    default:
      return "{" + v.pairs().map(p => text(p.key) + "=" + canonical(p.value)).join(",") + "}";
  }
}

// The package's own positions are lost at a line end within a string: note where each token begins.
class LocatingLexer extends Lexer {
  lex() {
    const result = super.lex();
    result.tokens.at(-1).start = this.start;
    return result;
  }

  addToken(type, value) {
    super.addToken(type, value);
    this.tokens.at(-1).start = this.start;
  }
}

function parse(source, contexts) {
  try {
    return {tree: new Parser(new LocatingLexer(source).lex().tokens, contexts, functions).parse()};
  } catch (e) {
    if (e instanceof ExpressionError) {
      return {fault: ["parse", e.message, e.tok.start + 1]};
    }
    if (e.message === "ErrorExceededMaxLength") {
      return {fault: ["parse", `Exceeded max expression length ${MAX_EXPRESSION_LENGTH}`, 0]};
    }
    const located = /^([^]*)\. Located at position (\d+) within expression: /.exec(e.message);
    return {fault: located ? ["parse", located[1], Number(located[2])] : ["parse", e.message, 0]};
  }
}

function run(source, environment) {
  const {tree, fault} = parse(source, environment.pairs().map(p => p.key));
  if (fault) {
    return fault;
  }
  if (!tree) {
    return ["parse", "An expression was expected", 0];
  }
  try {
    return ["value", canonical(new Evaluator(tree, environment, bodies).evaluate())];
  } catch (e) {
    return ["eval", e.message];
  }
}

let environments;
let out = [];
for await (const line of readline.createInterface({input: process.stdin, crlfDelay: Infinity})) {
  if (!environments) {
    environments = JSON.parse(line).map(e => JSON.parse(JSON.stringify(e), reviver));
    continue;
  }
  const [environment, source] = JSON.parse(line);
  out.push(JSON.stringify(run(source, environments[environment])));
  if (out.length === 500) {
    process.stdout.write(out.join("\n") + "\n");
    out = [];
  }
}
process.stdout.write(out.join("\n") + "\n");
