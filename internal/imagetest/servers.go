package imagetest

import (
	"os/exec"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func goarch() string { return runtime.GOARCH }

// postgresScript does what of the official image's entrypoint the tests and the example use.
const postgresScript = `#!/bin/sh
set -e
: "${PGDATA:=/var/lib/postgresql/data}" "${POSTGRES_USER:=postgres}"
: "${POSTGRES_DB:=$POSTGRES_USER}"
export PGDATA
bin=/usr/lib/postgresql/15/bin
if [ "$(id -u)" = 0 ]; then
	mkdir -p "$PGDATA" && find "$PGDATA" ! -user postgres -exec chown 70:70 {} + && chmod 700 "$PGDATA"
	exec su -s /bin/sh -c 'exec /entrypoint.sh "$@"' postgres -- sh "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	if [ -z "$POSTGRES_PASSWORD" ] && [ "$POSTGRES_HOST_AUTH_METHOD" != trust ]; then
		echo 'Error: Database is uninitialized and superuser password is not specified.' >&2
		exit 1
	fi
	echo "$POSTGRES_PASSWORD" >/tmp/password
	$bin/initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth-host=scram-sha-256 --auth-local=trust -E UTF8 --no-locale >/dev/null
	rm /tmp/password
	echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
	if [ "$POSTGRES_DB" != postgres ]; then
		echo "CREATE DATABASE \"$POSTGRES_DB\"" | $bin/postgres --single -jE postgres >/dev/null
	fi
fi
exec "$@"
`

// Postgres is PostgreSQL 15 in the shape of the official image.
func Postgres() (*Tree, v1.Config) {
	const bin = "/usr/lib/postgresql/15/bin/"
	t := New("postgres:70").
		Programs(bin+"postgres", bin+"initdb", bin+"pg_isready", bin+"psql", bin+"pg_ctl").
		Copy("/usr/share/postgresql/15", "/usr/lib/postgresql/15/lib", "/usr/share/zoneinfo/UTC", "/usr/share/zoneinfo/Etc/UTC").
		Libraries("/usr/lib/postgresql/15/lib/dict_snowball.so", "/usr/lib/postgresql/15/lib/plpgsql.so").
		Dir("/var/lib/postgresql/data", 0o700, 70).Dir("/var/lib/postgresql", 0o755, 70).Dir("/var/run/postgresql", 0o777, 70).Link("/run/postgresql", "../var/run/postgresql").
		Link("/usr/bin/pg_isready", bin+"pg_isready").Link("/usr/bin/psql", bin+"psql").
		File("/entrypoint.sh", postgresScript, 0o755)
	return t, v1.Config{
		Entrypoint: []string{"/entrypoint.sh"}, Cmd: []string{bin + "postgres", "-c", "listen_addresses=*", "-c", "unix_socket_directories=/var/run/postgresql"},
		Env: []string{"PGDATA=/var/lib/postgresql/data", "PG_MAJOR=15"}, ExposedPorts: map[string]struct{}{"5432/tcp": {}}, StopSignal: "SIGINT",
		Volumes: map[string]struct{}{"/var/lib/postgresql/data": {}},
	}
}

// Redis is Debian's Redis in the shape of the official image.
func Redis() (*Tree, v1.Config) {
	t := New("redis:999").Programs("/usr/bin/redis-server", "/usr/bin/redis-cli").Dir("/data", 0o755, 999)
	return t, v1.Config{
		Cmd: []string{"/usr/bin/redis-server", "--protected-mode", "no"}, WorkingDir: "/data", User: "redis", ExposedPorts: map[string]struct{}{"6379/tcp": {}},
	}
}

// Busybox is a shell and its tools.
func Busybox() (*Tree, v1.Config) { return New(), v1.Config{Cmd: []string{"sh"}} }

// certificates are this machine's, for what is fetched from within an image.
const certificates = "/etc/ssl/certs/ca-certificates.crt"

// Python is Debian's Python 3.11 with pip, in the shape of the official slim image.
func Python() (*Tree, v1.Config) {
	const lib = "/usr/lib/python3.11"
	t := New().Programs("/usr/bin/python3.11").Link("/usr/bin/python3", "python3.11").Link("/usr/local/bin/python3", "/usr/bin/python3.11").Link("/usr/bin/env", "/bin/busybox").
		Copy(lib, "/usr/lib/python3/dist-packages/pip", "/usr/share/python-wheels").
		File("/usr/local/bin/pip", "#!/bin/sh\nexec python3 -m pip \"$@\"\n", 0o755).Dir("/root", 0o700, 0)
	t.Remove(lib + "/EXTERNALLY-MANAGED")
	libraries, err := filepath.Glob(lib + "/lib-dynload/*.so")
	t.note(err)
	t.Libraries(libraries...).C()
	t.host(certificates, certificates)
	return t, v1.Config{Cmd: []string{"python3"}, Env: []string{"SSL_CERT_FILE=" + certificates, "PIP_CERT=" + certificates, "PIP_ROOT_USER_ACTION=ignore", "LANG=C.UTF-8"}}
}

// Node is this machine's Node.js with npm, in the shape of the official image.
func Node() (*Tree, v1.Config) {
	t := New().Link("/usr/bin/env", "/bin/busybox").Dir("/root", 0o700, 0)
	node, err := exec.LookPath("node")
	t.note(err)
	t.C().Programs(node).Link("/usr/local/bin/node", node)
	npm, err := exec.LookPath("npm")
	t.note(err)
	npm, err = filepath.EvalSymlinks(npm) // .../npm/bin/npm-cli.js
	t.note(err)
	t.Copy(filepath.Dir(filepath.Dir(npm))).Link("/usr/local/bin/npm", npm).Link("/usr/local/bin/npx", filepath.Join(filepath.Dir(npm), "npx-cli.js"))
	t.host(certificates, certificates)
	return t, v1.Config{Cmd: []string{"node"}, Env: []string{"NODE_EXTRA_CA_CERTS=" + certificates}}
}
