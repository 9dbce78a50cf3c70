//go:build linux

package sandbox

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/penstock-ci/penstock/internal/layer"
)

// BenchmarkPlainSpawn is what everything else is compared with.
func BenchmarkPlainSpawn(b *testing.B) {
	for b.Loop() {
		if err := exec.Command("bash", "-e", "-c", "true").Run(); err != nil {
			b.Fatal(err)
		}
	}
}

func benchExec(b *testing.B, sb Sandbox) {
	c := Command{Args: []string{"bash", "-e", "-c", "true"}, Env: environ(sb), Stdout: io.Discard, Stderr: io.Discard}
	if err := sb.Exec(b.Context(), c); err != nil {
		b.Fatal(err)
	}
}

func benchMachine(b *testing.B, h *Host) *machine {
	sb, err := h.Open(b.Context(), Spec{Name: "bench", Repo: "repo"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { sb.Close(b.Context()) })
	return sb.(*machine)
}

func BenchmarkOpenExecClose(b *testing.B) {
	for _, others := range []int{0, 20} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			h := newHost(b)
			for range others {
				m := benchMachine(b, h)
				benchExec(b, m)
			}
			for b.Loop() {
				sb, err := h.Open(b.Context(), Spec{Name: "bench", Repo: "repo"})
				if err != nil {
					b.Fatal(err)
				}
				benchExec(b, sb)
				if err := sb.Close(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNewHost(b *testing.B) {
	store, err := layer.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		h, err := NewHost(store, nil)
		if err != nil {
			b.Fatal(err)
		}
		h.Close()
	}
	store.Close()
}

func BenchmarkExec(b *testing.B) {
	m := benchMachine(b, newHost(b))
	for b.Loop() {
		benchExec(b, m)
	}
}

func BenchmarkSnapshot(b *testing.B) {
	for _, script := range []string{"true", "echo x > f", "for i in $(seq 200); do echo $i > $i; done"} {
		b.Run(script[:4], func(b *testing.B) {
			m := benchMachine(b, newHost(b))
			c := Command{Args: []string{"bash", "-c", script}, Env: environ(m)}
			for b.Loop() {
				b.StopTimer()
				if err := m.Exec(b.Context(), c); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if _, err := m.Snapshot(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// bigTree makes a directory of n files.
func bigTree(b *testing.B, dir string, n int) {
	b.Helper()
	data := make([]byte, 20<<10)
	for i := range n {
		name := filepath.Join(dir, fmt.Sprint(i/500), fmt.Sprint(i))
		if i%500 == 0 {
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOverlay50000(b *testing.B) {
	dir := b.TempDir()
	bigTree(b, dir, 50000)
	h := newHost(b)
	for b.Loop() {
		b.StopTimer()
		m := benchMachine(b, h)
		b.StartTimer()
		if err := m.Overlay(b.Context(), m.Info().Workspace, dir, []string{"1/501"}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		m.Close(b.Context())
		b.StartTimer()
	}
}

func BenchmarkMountAndCapture1GB(b *testing.B) {
	h := newHost(b)
	dir := filepath.Join(h.work.Dir(), "big")
	bigTree(b, dir, 50000)
	id, err := h.layers.Add(dir, layer.Layer{Owner: h.owner, Whole: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("mount", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			m := benchMachine(b, h)
			b.StartTimer()
			if err := m.Mount(b.Context(), "/home/runner/.cache/big", id); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			m.Close(b.Context())
			b.StartTimer()
		}
	})
	b.Run("capture", func(b *testing.B) {
		m := benchMachine(b, h)
		if err := m.Mount(b.Context(), "/home/runner/.cache/big"); err != nil {
			b.Fatal(err)
		}
		c := Command{Args: []string{"bash", "-c", "cd ~/.cache/big; for i in $(seq 300); do echo $i > $i; done"}, Env: environ(m)}
		for b.Loop() {
			b.StopTimer()
			if err := m.Exec(b.Context(), c); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if _, err := m.Capture(b.Context(), "/home/runner/.cache/big"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkOutput(b *testing.B) {
	m := benchMachine(b, newHost(b))
	c := Command{Args: []string{"bash", "-c", "head -c 200000000 /dev/zero"}, Env: environ(m), Stdout: io.Discard}
	b.SetBytes(200000000)
	for b.Loop() {
		if err := m.Exec(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
