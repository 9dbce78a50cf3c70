package api

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/imagetest"
)

// needRoot says whether this test may start daemons.
func needRoot(t *testing.T) bool {
	if os.Getuid() != 0 {
		t.Log("docker's daemon is root's")
		return false
	}
	return true
}

// TestDocker lets a real docker push to our registry, pull from it, save for us and load from us.
func TestDocker(t *testing.T) {
	if !needRoot(t) {
		return
	}
	g, host := serveRegistry(t)
	d, err := imagetest.StartDocker(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	docker := func(stdin []byte, args ...string) string {
		t.Helper()
		out, err := d.Run(t.Context(), bytes.NewReader(stdin), args...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	ref := host + "/team/app:1"
	docker(rootTar(t), "import", "--change", `CMD ["/bin/busybox","echo","hello"]`, "-", ref)
	id := docker(nil, "inspect", "--format", "{{.Id}}", ref)
	docker(nil, "push", ref)
	if out := docker(nil, "push", ref); !strings.Contains(out, "Layer already exists") {
		t.Errorf("a second push sends layers again: %s", out)
	}

	images := g.images
	img, err := images.Find("localhost/team/app:1")
	if err != nil || img.ID != id {
		t.Fatalf("pushed is %s, %v, not %s", img.ID, err, id)
	}
	if _, err := images.Layers(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	docker(nil, "rmi", ref)
	docker(nil, "pull", ref)
	if got := docker(nil, "inspect", "--format", "{{.Id}}", ref); got != id {
		t.Errorf("pulled back it is %s, not %s", got, id)
	}
	if got := docker(nil, "run", "--rm", "--network=none", ref); got != "hello" {
		t.Errorf("it says %q", got)
	}

	saved, err := d.Run(t.Context(), nil, "save", ref)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := images.Load(t.Context(), strings.NewReader(saved))
	if err != nil || len(loaded) != 1 || loaded[0].ID != id || loaded[0].Name != ref {
		t.Fatalf("loaded %+v, %v", loaded, err)
	}
	if _, err := images.Layers(t.Context(), loaded[0]); err != nil {
		t.Error(err)
	}
	docker(nil, "rmi", ref)
	for _, name := range []string{"localhost/team/app:1", ref} { // packed as it was pushed, and unpacked as docker saved it
		var archive bytes.Buffer
		if err := images.Save(t.Context(), &archive, name); err != nil {
			t.Fatal(err)
		}
		docker(archive.Bytes(), "load")
		if got := docker(nil, "run", "--rm", "--network=none", name); got != "hello" {
			t.Errorf("loaded from us, it says %q", got)
		}
		docker(nil, "rmi", name)
	}
}

// rootTar is a root file system with nothing but busybox.
func rootTar(t *testing.T) []byte {
	t.Helper()
	root := t.TempDir()
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin", "busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tar", "-C", root, "-c", "bin").Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestBuildah lets buildah build an image, push it to us in both formats, and pull it.
func TestBuildah(t *testing.T) {
	if !needRoot(t) {
		return
	}
	g, host := serveRegistry(t)
	dir := t.TempDir()
	buildah := func(args ...string) string {
		t.Helper()
		global := []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cmd := exec.CommandContext(ctx, "buildah", append(global, args...)...)
		cmd.Env = append(os.Environ(), "TMPDIR="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("buildah %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY busybox /bin/\nENV A=b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	buildah("build", "--tag", "app", dir)
	for _, format := range []string{"oci", "v2s2"} {
		ref := host + "/built:" + format
		buildah("push", "--tls-verify=false", "--format", format, "app", "docker://"+ref)
		img, err := g.images.Find("localhost/built:" + format)
		if err != nil || img.Config.Env[len(img.Config.Env)-1] != "A=b" {
			t.Errorf("%s: %+v, %v", format, img, err)
		}
		if _, err := g.images.Layers(t.Context(), img); err != nil {
			t.Error(err)
		}
		buildah("pull", "--tls-verify=false", "docker://"+ref)
	}
	for _, format := range []string{"oci-archive", "docker-archive"} {
		archive := filepath.Join(dir, format+".tar")
		buildah("push", "app", format+":"+archive+":localhost/from/buildah:1")
		f, err := os.Open(archive)
		if err != nil {
			t.Fatal(err)
		}
		loaded, err := g.images.Load(t.Context(), f)
		f.Close()
		if err != nil || len(loaded) != 1 || loaded[0].Name != "localhost/from/buildah:1" {
			t.Errorf("%s: %+v, %v", format, loaded, err)
		}
	}
	saved, err := os.Create(filepath.Join(dir, "saved.tar"))
	if err != nil {
		t.Fatal(err)
	}
	err = g.images.Save(t.Context(), saved, "localhost/built:oci")
	if err := saved.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"oci-archive:", "docker-archive:"} {
		buildah("pull", format+saved.Name())
	}
}
