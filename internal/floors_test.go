// Package internal_test holds the house together: a room imports only rooms on lower floors.
package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/penstock-ci/penstock/internal/"

// floors says where each room stands (ARCHITECTURE.md, "The house"). A room of a room (job/native) stands below
// the room it belongs to and above everything that one stands on.
var floors = [][]string{
	{"npmtest", "pgtest", "s3test"}, // for tests alone, as imagetest is
	{"expr", "layer", "blob", "toolchain", "osv", "auth", "web", "cd", "proxy"},
	{"workflow", "sandbox", "image", "config", "proxy/daemon", "proxy/series", "proxy/tlsauto"},
	{"ci", "forge", "container", "build", "imagetest"},
	{"store", "docker", "job/native", "job", "deploy"},
	{"engine", "runner"},
	{"api"},
	{"cli"},
}

// sameFloor lists the imports between rooms of one floor that are meant: a room's own rooms.
var sameFloor = map[string][]string{
	"job": {"job/native"},
}

func TestRoomsImportOnlyLowerFloors(t *testing.T) {
	floor := map[string]int{}
	for i, rooms := range floors {
		for _, r := range rooms {
			floor[r] = i
		}
	}
	for _, p := range listPackages(t) {
		room := strings.TrimPrefix(p.ImportPath, module)
		top := strings.SplitN(room, "/", 3)
		here, ok := floor[room]
		if !ok {
			here, ok = floor[top[0]]
		}
		if !ok {
			t.Errorf("room %s has no floor: add it to ARCHITECTURE.md and to this test", room)
			continue
		}
		for _, imported := range p.Imports {
			other, ok := strings.CutPrefix(imported, module)
			if !ok || other == room {
				continue
			}
			if within := strings.HasPrefix(other, top[0]+"/"); within || slices.Contains(sameFloor[room], other) {
				continue
			}
			there, ok := floor[other]
			if !ok {
				there = floor[strings.SplitN(other, "/", 2)[0]]
			}
			if there >= here {
				t.Errorf("%s (floor %d) imports %s (floor %d): rooms import only lower floors", room, here, other, there)
			}
		}
	}
}

// TestPureRoomsTouchNothing keeps clock, disk and network out of the rooms that decide.
func TestPureRoomsTouchNothing(t *testing.T) {
	forbidden := []string{"os", "os/exec", "net", "net/http", "io/ioutil", "syscall", "golang.org/x/sys/unix", "math/rand", "math/rand/v2"}
	for _, p := range listPackages(t) {
		room := strings.TrimPrefix(p.ImportPath, module)
		if room != "expr" && room != "workflow" && room != "ci" && room != "cd" {
			continue
		}
		for _, imported := range p.Imports {
			if slices.Contains(forbidden, imported) {
				t.Errorf("%s is pure and imports %s", room, imported)
			}
		}
	}
}

type listedPackage struct {
	ImportPath string
	Imports    []string
}

func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var packages []listedPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listedPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		if p.ImportPath != strings.TrimSuffix(module, "/") {
			packages = append(packages, p)
		}
	}
	if len(packages) < 10 {
		t.Fatalf("go list found only %d packages", len(packages))
	}
	return packages
}
