package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// backendByHand and frontendByHand are what a developer types in two terminals for what the example's jobs do: in a new
// environment each time, as a job has, with the packages' caches warm.
const backendByHand = `
bin=/usr/lib/postgresql/15/bin data=$(mktemp -d) && chown nobody "$data"
as="setpriv --reuid 65534 --regid 65534 --clear-groups"
$as $bin/initdb -D "$data/pg" -U postgres -A trust --encoding=UTF8 --locale=C.UTF-8 >/dev/null
$as $bin/postgres -D "$data/pg" -c listen_addresses=127.0.0.1 -c port=55433 -c unix_socket_directories="$data" >/dev/null 2>&1 & pg=$!
redis-server --port 56380 --save '' >/dev/null & redis=$!
trap 'kill -INT $pg $redis; wait; rm -rf "$data"' EXIT
python3 -m venv "$data/venv" && . "$data/venv/bin/activate" && cd backend
pip install --quiet --disable-pip-version-check -r requirements.txt
pip install --quiet --disable-pip-version-check -r requirements-dev.txt
ruff check .
mypy .
until $bin/pg_isready -q -h 127.0.0.1 -p 55433; do sleep 0.01; done
DATABASE_URL=postgresql://postgres:testpass@localhost:55433/test REDIS_URL=redis://localhost:56380 ENVIRONMENT=test pytest -v --cov=app --cov-report=xml
`

const frontendByHand = `
cd frontend
npm ci
npm run lint
npm run type-check
npm run test -- --coverage
`

// measureExample: the jobs of the example's pipeline that test it, as it is written but for the version of Node.js, which
// is this machine's, beside the same commands typed in two terminals.
func measureExample(ctx context.Context, b *bench) error {
	root, err := output(ctx, "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	r := repository{filepath.Join(b.dir, "example")}
	copied := fmt.Sprintf("mkdir -p %[2]q && cd %[1]q && git ls-files -z | tar -c --null -T - | tar -x -C %[2]q", filepath.Join(root, "examples/prompt-stack"), r.dir)
	if _, err := output(ctx, "bash", "-e", "-c", copied); err != nil {
		return err
	}
	source, err := os.ReadFile(filepath.Join(r.dir, "pipelines/ci.yml"))
	if err != nil {
		return err
	}
	node, err := output(ctx, "node", "--version")
	if err != nil {
		return err
	}
	tests, _, _ := strings.Cut(string(source), "  # Build Docker Images")
	tests = strings.Replace(tests, "NODE_VERSION: '18'", fmt.Sprintf("NODE_VERSION: '%s'", strings.TrimPrefix(strings.TrimSpace(node), "v")), 1)
	if _, err := b.newRepository(ctx, "example", map[string]string{".github/workflows/ci.yml": tests}); err != nil {
		return err
	}
	hand := repository{filepath.Join(b.dir, "by-hand")}
	if err := os.CopyFS(hand.dir, os.DirFS(r.dir)); err != nil {
		return err
	}
	got, err := b.interleave(ctx,
		b.ours("the example", r),
		b.plain("by hand", hand.dir, fmt.Sprintf("(bash -e -c %s) & one=$!; (bash -e -c %s) & two=$!; wait $one; wait $two", quote(backendByHand), quote(frontendByHand))),
	)
	if err != nil {
		return err
	}
	b.within("the example's tests, warm: PostgreSQL, Redis, pip, npm, lint, types, coverage", got[0], got[1], "the commands in two terminals", 1.15)
	return nil
}

// quote makes a text one word of the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
