// Package examples has what `penstock demo` shows.
package examples

import "embed"

// PromptStack is the example application as it is in its repository, below prompt-stack/.
//
//go:embed prompt-stack/.github prompt-stack/.gitignore prompt-stack/README.md prompt-stack/pipelines prompt-stack/penstock.yaml prompt-stack/e2e.sh
//go:embed prompt-stack/backend/.dockerignore prompt-stack/backend/Dockerfile prompt-stack/backend/pyproject.toml
//go:embed prompt-stack/backend/requirements.txt prompt-stack/backend/requirements-dev.txt
//go:embed all:prompt-stack/backend/app/*.py prompt-stack/backend/tests/*/*.py
//go:embed prompt-stack/frontend/.dockerignore prompt-stack/frontend/Dockerfile prompt-stack/frontend/eslint.config.js
//go:embed prompt-stack/frontend/index.html prompt-stack/frontend/package.json prompt-stack/frontend/package-lock.json
//go:embed prompt-stack/frontend/tsconfig.json prompt-stack/frontend/vite.config.ts prompt-stack/frontend/src
//go:embed all:prompt-stack/.github/workflows
var PromptStack embed.FS
