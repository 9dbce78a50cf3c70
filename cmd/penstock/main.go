// Command penstock runs GitHub Actions workflows here and now.
package main

import (
	"os"

	"github.com/penstock-ci/penstock/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
