package native

import (
	"embed"
	"strings"
)

//go:embed manifest/*.yml
var manifests embed.FS

// Manifest gives the text of a native action's action.yml: inputs with their defaults, outputs, and whether there
// is a post step and when it runs, for workflow.ParseAction. It is nil where Find is nil.
func Manifest(repository, path, ref string) []byte {
	if Find(repository, path, ref) == nil {
		return nil
	}
	name := strings.ReplaceAll(strings.TrimPrefix(actionName(repository, path), "actions/"), "/", "-")
	text, err := manifests.ReadFile("manifest/" + name + ".yml")
	if err != nil {
		panic(err) // a test holds every native against its file
	}
	return text
}
