package main

import (
	"archive/zip"
	"bytes"
	"context"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/api"
	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/job/native"
)

//go:embed artifact.mjs
var artifactClient []byte

// artifacts are GitHub's own client of artifacts, and a file that no packing makes smaller.
type artifacts struct {
	b     *bench
	dir   string
	bytes int64
}

// measureArtifact: artifacts by GitHub's own client, against our service and against a server that keeps nothing and
// sends from memory, which is as fast as the client is; and by our natives, beside a copy of the file.
func measureArtifact(ctx context.Context, b *bench) error {
	a := &artifacts{b: b, dir: filepath.Join(b.dir, "artifact"), bytes: 256 << 20}
	if b.quick {
		a.bytes = 16 << 20
	}
	if err := a.install(ctx); err != nil {
		return err
	}
	blobs, err := blob.OpenUnsynced(filepath.Join(a.dir, "blobs"))
	if err != nil {
		return err
	}
	defer blobs.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	task := &ci.Task{Run: 1, Attempt: 1, Job: "bench", Repository: "octo/repo", Token: "none", GitHub: expr.FromStrings(map[string]string{"ref": "refs/heads/main"})}
	address, stop := api.NewRuntime(blobs, native.OpenArtifacts(blobs), "", nil).Serve(l, task)
	defer stop()
	idle, err := a.idleServer()
	if err != nil {
		return err
	}
	defer idle.close()
	last := 0
	got, err := b.interleave(ctx,
		contestant{name: "upload", run: func(ctx context.Context) (sample, error) {
			last++
			return a.transfer(ctx, address.Env, "up", fmt.Sprint("thing-", last))
		}},
		contestant{name: "upload to nobody", run: func(ctx context.Context) (sample, error) { return a.transfer(ctx, idle.env, "up", "thing") }},
		contestant{name: "download", run: func(ctx context.Context) (sample, error) {
			return a.transfer(ctx, address.Env, "down", fmt.Sprint("thing-", last))
		}},
		contestant{name: "download from memory", run: func(ctx context.Context) (sample, error) { return a.transfer(ctx, idle.env, "down", "thing") }},
	)
	if err != nil {
		return err
	}
	const most = 1.25
	b.within(a.name("upload", got[0]), got[0], got[1], "to a server that keeps nothing, "+a.speed(got[1]), most)
	b.within(a.name("download", got[2]), got[2], got[3], "from memory, "+a.speed(got[3]), most)
	return a.natives(ctx)
}

func (a *artifacts) name(way string, s sample) string {
	return fmt.Sprintf("%s an artifact of %d MB by npm's client (%s)", way, a.bytes>>20, a.speed(s))
}

func (a *artifacts) speed(s sample) string {
	return fmt.Sprintf("%.0f MB/s", float64(a.bytes)/1e6/s.wall.Seconds())
}

// install puts the client beside the file.
func (a *artifacts) install(ctx context.Context) error {
	root, err := output(ctx, "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	if err := os.CopyFS(a.dir, os.DirFS(filepath.Join(root, "internal/api/testdata/clients"))); err != nil {
		return err
	}
	if _, err := output(ctx, "npm", "ci", "--no-audit", "--no-fund", "--prefix", a.dir); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(a.dir, "artifact.mjs"), artifactClient, 0o644); err != nil {
		return err
	}
	return writeRandom(filepath.Join(a.dir, "big.bin"), a.bytes)
}

func writeRandom(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), size)
	return errors.Join(err, f.Close())
}

// transfer runs the client once.
func (a *artifacts) transfer(ctx context.Context, env map[string]string, way, name string) (sample, error) {
	if err := os.RemoveAll(filepath.Join(a.dir, "got")); err != nil {
		return sample{}, err
	}
	cmd := exec.CommandContext(ctx, "node", "artifact.mjs", way, name)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "GITHUB_SERVER_URL=https://github.com", "GITHUB_WORKSPACE="+a.dir, "GITHUB_RUN_ID=1", "GITHUB_REPOSITORY=octo/repo")
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return sample{}, fmt.Errorf("%w\n%s", err, tail(out))
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	took, err := strconv.ParseInt(lines[len(lines)-1], 10, 64)
	return sample{wall: time.Duration(took)}, err
}

// idleServer answers the artifact service as fast as can be: it keeps nothing, and what it sends lies in memory.
type idleServer struct {
	env   map[string]string
	close func() error
}

func (a *artifacts) idleServer() (*idleServer, error) {
	var archive bytes.Buffer
	if err := zipFile(&archive, filepath.Join(a.dir, "big.bin")); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	origin := "http://" + l.Addr().String()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Ms-Request-Id", "1")
		switch method := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]; {
		case r.Method == http.MethodGet:
			w.Header().Set("Content-Type", "application/zip")
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(archive.Bytes()))
		case r.Method == http.MethodPut:
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 1<<20))
			w.WriteHeader(http.StatusCreated)
		case method == "CreateArtifact":
			_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "signed_upload_url": origin + "/a/b/c?sig=x"})
		case method == "FinalizeArtifact":
			_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "artifact_id": "1"})
		case method == "ListArtifacts":
			_ = json.NewEncoder(w).Encode(map[string]any{"artifacts": []any{map[string]any{
				"workflow_run_backend_id": "a", "workflow_job_run_backend_id": "b", "database_id": "1", "name": "thing", "size": strconv.Itoa(archive.Len()),
				"created_at": "2026-01-01T00:00:00Z",
			}}})
		case method == "GetSignedArtifactURL":
			_ = json.NewEncoder(w).Encode(map[string]any{"signed_url": origin + "/a/b/c.zip?sig=x"})
		}
	})}
	go func() { _ = server.Serve(l) }() // until it is closed
	token := "x." + base64.RawURLEncoding.EncodeToString([]byte(`{"scp":"Actions.Results:a:b"}`)) + ".x"
	return &idleServer{map[string]string{"ACTIONS_RESULTS_URL": origin + "/", "ACTIONS_RUNTIME_TOKEN": token}, server.Close}, nil
}

// natives measures upload-artifact and download-artifact of `penstock run` beside a copy of the file within the job.
func (a *artifacts) natives(ctx context.Context) error {
	r, err := a.b.workflow(ctx, "natives", onPush("move", "",
		fmt.Sprintf("run: mkdir data && head -c %d /dev/urandom > data/big.bin", a.bytes),
		"name: up\nuses: actions/upload-artifact@v4\nwith: {name: thing, path: data, compression-level: 0}",
		"name: down\nuses: actions/download-artifact@v4\nwith: {name: thing, path: back}",
		"name: copy\nrun: cp data/big.bin copy.bin && cmp data/big.bin back/big.bin"))
	if err != nil {
		return err
	}
	plain := "head -c " + fmt.Sprint(a.bytes) + " /dev/urandom > source.bin; "
	got, err := a.b.interleave(ctx,
		a.b.step("native upload", r, "up"),
		a.b.step("native download", r, "down"),
		contestant{name: "cp", run: func(ctx context.Context) (sample, error) {
			var out bytes.Buffer
			const timed = "began=$(date +%s%N); cp source.bin copy.bin; echo $(($(date +%s%N) - began)); rm copy.bin"
			if _, err := a.b.spawn(ctx, a.dir, &out, "bash", "-e", "-c", plain+timed); err != nil {
				return sample{}, err
			}
			took, err := strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64)
			return sample{wall: time.Duration(took)}, err
		}},
	)
	if err != nil {
		return err
	}
	b := a.b
	limit := time.Duration(a.bytes) // a nanosecond a byte is 1 GB/s
	beside := "cp of the same " + millis(got[2].wall)
	b.atMost(fmt.Sprintf("upload-artifact of %d MB, native (%s)", a.bytes>>20, a.speed(got[0])), got[0], beside, limit)
	b.atMost(fmt.Sprintf("download-artifact, native (%s)", a.speed(got[1])), got[1], beside, limit)
	return nil
}

func zipFile(w io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	z := zip.NewWriter(w)
	to, err := z.CreateHeader(&zip.FileHeader{Name: filepath.Base(name), Method: zip.Store})
	if err == nil {
		_, err = io.Copy(to, f)
	}
	return errors.Join(err, z.Close())
}
