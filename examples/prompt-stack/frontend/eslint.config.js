import js from "@eslint/js";
import { defineConfig, globalIgnores } from "eslint/config";
import hooks from "eslint-plugin-react-hooks";
import ts from "typescript-eslint";

export default defineConfig([
  globalIgnores(["dist", "coverage"]),
  js.configs.recommended,
  ts.configs.strict,
  ts.configs.stylistic,
  hooks.configs["recommended-latest"],
]);
