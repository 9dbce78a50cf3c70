// Command penstock runs GitHub Actions workflows here and now. Started as `docker` it is the docker command of machines.
package main

import (
	"os"
	"path/filepath"

	"github.com/penstock-ci/penstock/internal/cli"
	"github.com/penstock-ci/penstock/internal/docker"
)

func main() {
	if filepath.Base(os.Args[0]) == "docker" {
		os.Exit(docker.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
