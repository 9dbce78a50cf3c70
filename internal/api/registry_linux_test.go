package api

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/imagetest"
	"github.com/penstock-ci/penstock/internal/layer"
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
	g, _, host := serveRegistry(t)
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

// TestDockerLayers lets docker change an image in every way, and compares what an overlay of our layers shows with
// what docker shows.
func TestDockerLayers(t *testing.T) {
	if !needRoot(t) {
		return
	}
	g, layers, host := serveRegistry(t)
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
	ref := host + "/changed:1"
	docker(rootTar(t), "import", "-", ref)
	for _, script := range []string{
		`mkdir -p /d/e /gone/x /dir /o/p; echo 1 >/d/e/f; echo 2 >/d/g; echo 3 >/file; echo 4 >/gone/x/y; echo 5 >/o/p/q; ln -s /d /link; ln /d/g /hard; chmod 4755 /file; chown 33:44 /d/g; mkfifo /pipe; touch /dir/z; chmod 1777 /dir`,
		`rm -r /gone /o; mkdir /o; echo new >/o/r; rm /d/e/f; rm -r /dir; echo now a file >/dir; rm /file; mkdir /file; echo in it >/file/a; rm /link; ln -s /o /link; echo more >>/hard; chmod 700 /d`,
		`rm -r /d; mkdir -p /d/e; echo again >/d/e/f; mkdir /gone; touch /gone/new; rm /pipe`,
	} {
		docker(nil, "run", "--name=changed", "--network=none", ref, "/bin/busybox", "sh", "-e", "-c", strings.NewReplacer(
			"mkdir", "/bin/busybox mkdir", "rm ", "/bin/busybox rm ", "ln ", "/bin/busybox ln ", "chmod", "/bin/busybox chmod",
			"chown", "/bin/busybox chown", "mkfifo", "/bin/busybox mkfifo", "touch", "/bin/busybox touch").Replace(script))
		docker(nil, "commit", "changed", ref)
		docker(nil, "rm", "changed")
	}
	docker(nil, "push", ref)
	docker(nil, "create", "--name=changed", ref, "/bin/busybox")
	export, err := d.Run(t.Context(), nil, "export", "changed")
	if err != nil {
		t.Fatal(err)
	}
	docker(nil, "rm", "changed")
	img, err := g.images.Find("localhost/changed:1")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := g.images.Layers(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	got, want := shownByOverlay(t, layers, ids), shownByDocker(t, export)
	if !slices.Equal(got, want) {
		t.Errorf("an overlay shows\n\t%s\ndocker shows\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	if len(got) < 14 {
		t.Errorf("only %q", got)
	}
}

// shownByDocker lists the files of an exported container, without those that docker puts there itself.
func shownByDocker(t *testing.T, export string) []string {
	t.Helper()
	var lines []string
	for r := tar.NewReader(strings.NewReader(export)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		switch top, _, _ := strings.Cut(name, "/"); top {
		case ".dockerenv", "dev", "etc", "proc", "sys":
			continue
		}
		if h.Typeflag == tar.TypeLink { // which of two names is the link depends on who lists them
			lines = append(lines, name+" hard link")
			continue
		}
		line := fmt.Sprintf("%s %s %d:%d %d", name, h.FileInfo().Mode(), h.Uid, h.Gid, h.ModTime.Unix())
		if h.Typeflag == tar.TypeReg {
			text, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(" %.20q", text)
		}
		lines = append(lines, line+" "+h.Linkname)
	}
	slices.Sort(lines)
	return lines
}

// shownByOverlay lists the files that an overlay of layers shows.
func shownByOverlay(t *testing.T, layers *layer.Store, ids []layer.ID) []string {
	t.Helper()
	var dirs []string
	for _, id := range slices.Backward(ids) {
		dirs = append(dirs, filepath.Join(layers.Dir(), layer.Path(id)))
	}
	at := t.TempDir()
	if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "userxattr,lowerdir="+strings.Join(dirs, ":")); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	var lines []string
	seen := map[uint64]bool{}
	err := filepath.WalkDir(at, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == at {
			return err
		}
		name := strings.TrimPrefix(path, at+"/")
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if !e.IsDir() && st.Nlink > 1 && seen[st.Ino] {
			lines = append(lines, name+" hard link")
			return nil
		}
		seen[st.Ino] = true
		line := fmt.Sprintf("%s %s %d:%d %d", name, info.Mode(), st.Uid, st.Gid, info.ModTime().Unix())
		to := ""
		switch {
		case info.Mode().IsRegular():
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %.20q", text)
		case info.Mode()&fs.ModeSymlink != 0:
			if to, err = os.Readlink(path); err != nil {
				return err
			}
		}
		lines = append(lines, line+" "+to)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
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
	g, _, host := serveRegistry(t)
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
