package native

import (
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/toolchain"
)

// Host is what natives need of the machine that Penstock runs on. Every field may be left out; an action that
// needs a missing one says so.
type Host struct {
	// WorkTree is the local repository that checkout lays over the workspace.
	WorkTree *WorkTree
	// CloneURL is where other repositories are cloned from, {owner} and {repo} standing for their names. Empty is
	// the server of the github context.
	CloneURL string
	// Cache is where caches are kept.
	Cache *Cache
	// Artifacts are the artifacts of runs. Without them the actions that keep and get artifacts are the originals, which
	// speak to the run's server.
	Artifacts *Artifacts
	// Coverage is a directory for the last coverage reports of each branch; empty keeps none.
	Coverage string
	// Vulnerabilities is a directory of OSV's databases, as package osv takes it; there need be none in it.
	Vulnerabilities string
	// Home is the home directory of who runs Penstock, where version managers keep tools: looked into besides the
	// machine's own directories, and mounted into machines that do not show it.
	Home string
	// Tools are directories of this host with the layout of the hosted tool cache: TOOL/VERSION/ARCH.
	Tools []string
	// Toolchains fetches versions that the machine lacks; without it none is fetched.
	Toolchains *toolchain.Source
}

// Offers says whether the native version of an action can do its work here. A nil Host is as one with everything.
func (h *Host) Offers(repository string) bool {
	return h == nil || h.Artifacts != nil || !slices.Contains(artifactActions, strings.ToLower(repository))
}

var artifactActions = []string{"actions/upload-artifact", "actions/download-artifact"}
