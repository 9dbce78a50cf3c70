package container

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/penstock-ci/penstock/internal/image"
)

// StandIn is what runs in the place of an image that can not be had: a server that this machine has itself, in a
// container that shows the machine.
type StandIn struct {
	Image Image
	// Says is a sentence for the log.
	Says string
}

// recipe starts one kind of server as its official image would.
type recipe struct {
	names   []string // of images, without a registry
	find    func() (program, version string)
	script  string // PROGRAM is in its environment; it ends with exec
	env     []string
	port    string
	healthy []string // asks it, if nothing else is said
}

// dataDir is where a stand-in's data is: in its own root, so that it is kept with the container's disk.
const dataDir = "/data"

// recipes are the servers that there is a way for. Each honours what of the official image's environment most use.
var recipes = []recipe{
	{
		names: []string{"postgres", "postgis/postgis", "timescale/timescaledb"}, port: "5432/tcp",
		find: func() (string, string) {
			return newest("/usr/lib/postgresql/*/bin/postgres", "/usr/pgsql-*/bin/postgres")
		},
		script: `bin=$(dirname "$PROGRAM"); : "${POSTGRES_USER:=postgres}"; : "${POSTGRES_DB:=$POSTGRES_USER}"; data=` + dataDir + `/pg
if [ ! -s "$data/PG_VERSION" ]; then
	if [ -z "$POSTGRES_PASSWORD" ] && [ "$POSTGRES_HOST_AUTH_METHOD" != trust ]; then
		echo "Error: Database is uninitialized and superuser password is not specified." >&2; exit 1
	fi
	umask 077; printf '%s' "$POSTGRES_PASSWORD" >/dev/shm/password; [ -n "$POSTGRES_PASSWORD" ] || printf x >/dev/shm/password
	"$bin/initdb" -D "$data" --username="$POSTGRES_USER" --pwfile=/dev/shm/password --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 $POSTGRES_INITDB_ARGS >/dev/null || exit 1
	rm /dev/shm/password
	echo "host all all all ${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >>"$data/pg_hba.conf"
	if [ "$POSTGRES_DB" != postgres ]; then echo "CREATE DATABASE \"$POSTGRES_DB\"" | "$bin/postgres" --single -D "$data" postgres >/dev/null || exit 1; fi
fi
exec "$bin/postgres" -D "$data" -c listen_addresses='*' -c unix_socket_directories=/tmp`,
		env:     []string{"PGHOST=/tmp"}, // so that a health check without a host finds it, as in the image
		healthy: []string{"CMD-SHELL", `"$(dirname "$PROGRAM")/pg_isready" -h localhost`},
	},
	{
		names: []string{"redis", "redis/redis-stack-server", "valkey/valkey"}, port: "6379/tcp",
		find:    func() (string, string) { return ofProgram("redis-server", "--version", `v=(\d+\.\d+)`) },
		script:  `exec "$PROGRAM" --dir ` + dataDir + ` --protected-mode no --bind '*'`,
		healthy: []string{"CMD-SHELL", "redis-cli ping"},
	},
	{
		names: []string{"mysql", "mariadb"}, port: "3306/tcp",
		find: func() (string, string) { return ofProgram("mariadbd", "--version", `Ver (\d+\.\d+)`) },
		script: `data=` + dataDir + `/mysql
printf '[client]\nsocket=/tmp/mysqld.sock\n' >/tmp/.my.cnf # where health checks without a host look
if [ ! -d "$data/mysql" ]; then
	password=${MYSQL_ROOT_PASSWORD-$MARIADB_ROOT_PASSWORD} db=${MYSQL_DATABASE-$MARIADB_DATABASE} user=${MYSQL_USER-$MARIADB_USER}
	if [ -z "$password$MYSQL_ALLOW_EMPTY_PASSWORD$MARIADB_ALLOW_EMPTY_ROOT_PASSWORD$MYSQL_RANDOM_ROOT_PASSWORD$MARIADB_RANDOM_ROOT_PASSWORD" ]; then
		echo "Database is uninitialized and password option is not specified" >&2; exit 1
	fi
	mariadb-install-db --no-defaults --datadir="$data" --auth-root-authentication-method=normal --skip-test-db >/dev/null || exit 1
	umask 077; {
		echo "FLUSH PRIVILEGES;"
		echo "CREATE USER IF NOT EXISTS 'root'@'%' IDENTIFIED BY '$password';"
		echo "ALTER USER 'root'@'localhost' IDENTIFIED BY '$password';"
		echo "GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;"
		if [ -n "$db" ]; then printf 'CREATE DATABASE IF NOT EXISTS \140%s\140;\n' "$db"; fi
		if [ -n "$user" ]; then
			echo "CREATE USER '$user'@'%' IDENTIFIED BY '${MYSQL_PASSWORD-$MARIADB_PASSWORD}';"
			printf "GRANT ALL ON \140%s\140.* TO '%s'@'%%';\n" "$db" "$user"
		fi
	} >/dev/shm/init.sql
	"$PROGRAM" --no-defaults --datadir="$data" --bootstrap </dev/shm/init.sql >/dev/null || exit 1
	rm /dev/shm/init.sql
fi
exec "$PROGRAM" --no-defaults --datadir="$data" --bind-address='*' --socket=/tmp/mysqld.sock`,
		healthy: []string{"CMD-SHELL", "mariadb-admin --no-defaults -h 127.0.0.1 ping || mysqladmin --no-defaults -h 127.0.0.1 ping"},
	},
	{
		names: []string{"rabbitmq"}, port: "5672/tcp",
		find: func() (string, string) { return newest("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server") },
		script: `umask 077; printf '%s\n' "loopback_users.guest = false" "default_user = ${RABBITMQ_DEFAULT_USER:-guest}" \
	"default_pass = ${RABBITMQ_DEFAULT_PASS:-guest}" "default_vhost = ${RABBITMQ_DEFAULT_VHOST:-/}" >/tmp/rabbitmq.conf
exec "$PROGRAM"`,
		env: []string{
			"RABBITMQ_NODENAME=rabbit@localhost", "RABBITMQ_MNESIA_BASE=" + dataDir, "RABBITMQ_LOG_BASE=/tmp", "RABBITMQ_LOGS=-", "RABBITMQ_CONFIG_FILE=/tmp/rabbitmq.conf",
			"RABBITMQ_ENABLED_PLUGINS_FILE=/tmp/plugins",
		},
		healthy: []string{"CMD-SHELL", "rabbitmq-diagnostics -q check_port_connectivity"},
	},
	{
		names: []string{"memcached"}, port: "11211/tcp",
		find:   func() (string, string) { return ofProgram("memcached", "--version", `(\d+\.\d+)`) },
		script: `exec "$PROGRAM" -l 0.0.0.0 -l ::`,
	},
}

// standInUser runs servers that refuse to be root: nobody's number everywhere.
const standInUser = "65534:65534"

// FindStandIn gives what stands in for an image: a server of the same kind in the same major version. It is nil if there
// is no recipe or no such server here; why says which.
func FindStandIn(ref string) (in *StandIn, why string) {
	name, tag := kindOf(ref)
	i := slices.IndexFunc(recipes, func(r recipe) bool { return slices.Contains(r.names, name) })
	if i < 0 {
		return nil, ""
	}
	r := recipes[i]
	program, version := r.find()
	if program == "" {
		return nil, fmt.Sprintf("This machine has no %s that could stand in for it", name)
	}
	if want := major(tag); want != "" && want != major(version) {
		return nil, fmt.Sprintf("This machine's own is %s %s: another major version", program, version)
	}
	config := v1.Config{
		Entrypoint: []string{"/bin/sh", "-c", r.script}, User: standInUser, WorkingDir: dataDir, ExposedPorts: map[string]struct{}{r.port: {}},
		Env: append([]string{"PROGRAM=" + program, "PATH=" + filepath.Dir(program) + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp"}, r.env...),
	}
	if r.healthy != nil {
		config.Healthcheck = &v1.HealthConfig{Test: r.healthy, Interval: time.Second, Retries: 60}
	}
	return &StandIn{Image: Image{Config: config}, Says: fmt.Sprintf("This machine's own %s %s runs in its place", program, version)}, ""
}

// kindOf takes registry, digest and the rest away from an image's name: postgres, 15-alpine.
func kindOf(ref string) (name, tag string) {
	full, err := image.FullName(ref)
	if err != nil {
		return "", ""
	}
	full, _, _ = strings.Cut(full, "@")
	if i := strings.LastIndexByte(full, ':'); i > strings.LastIndexByte(full, '/') {
		full, tag = full[:i], full[i+1:]
	}
	for _, prefix := range []string{"docker.io/library/", "docker.io/bitnami/", "public.ecr.aws/docker/library/", "docker.io/"} {
		if rest, ok := strings.CutPrefix(full, prefix); ok {
			return rest, tag
		}
	}
	return full, tag
}

var leadingNumber = regexp.MustCompile(`^\d+`)

// major is the first number of a version; empty for one that names none (latest, alpine).
func major(version string) string { return leadingNumber.FindString(strings.TrimPrefix(version, "v")) }

// newest finds the newest of the programs that patterns name, by the number in their paths.
func newest(patterns ...string) (program, version string) {
	best := -1
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		if err != nil {
			continue
		}
		for _, name := range found {
			digits := regexp.MustCompile(`\d+`).FindString(name)
			if n, err := strconv.Atoi(digits); err == nil && n > best {
				best, program, version = n, name, digits
			}
		}
	}
	return program, version
}

// versionTime bounds how long a program may take to say its version.
const versionTime = 5 * time.Second

// ofProgram asks a program for its version.
func ofProgram(name, flag, pattern string) (program, version string) {
	program, err := exec.LookPath(name)
	if err != nil {
		if program = "/usr/sbin/" + name; !executable(program) {
			return "", ""
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), versionTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, flag).Output()
	if m := regexp.MustCompile(pattern).FindStringSubmatch(string(out)); err == nil && m != nil {
		return program, m[1]
	}
	return "", ""
}

func executable(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
