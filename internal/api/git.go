package api

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

// maxWants bounds what a client may send to say what it wants, bytes.
const maxWants = 32 << 20

var gitProtocol = regexp.MustCompile(`^[a-z0-9=:]{1,64}$`)

// serveGit lets a job fetch its own repository, over git's smart HTTP protocol.
func (rt *Runtime) serveGit(w http.ResponseWriter, r *http.Request, s *session) {
	repository, asks := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/"), "/info/refs")
	if !asks {
		repository = strings.TrimSuffix(repository, "/git-upload-pack")
	}
	if rt.git == "" || !strings.EqualFold(strings.TrimSuffix(repository, ".git"), s.repository) {
		http.Error(w, "this job's repository is "+s.repository, http.StatusNotFound)
		return
	}
	args := []string{"-c", "uploadpack.allowAnySHA1InWant=true", "upload-pack", "--stateless-rpc"}
	body := io.Reader(http.MaxBytesReader(w, r.Body, maxWants))
	switch {
	case asks && r.Method == http.MethodGet && r.URL.Query().Get("service") == "git-upload-pack":
		args = append(args, "--advertise-refs")
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
	case !asks && r.Method == http.MethodPost:
		if r.Header.Get("Content-Encoding") == "gzip" {
			unpacked, err := gzip.NewReader(body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			body = io.LimitReader(unpacked, maxWants)
		}
		w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
	default:
		http.Error(w, "only fetching is served here", http.StatusForbidden)
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	cmd := exec.CommandContext(r.Context(), "git", append(args, rt.git)...)
	cmd.Stdin, cmd.Stdout = body, w
	cmd.Env = os.Environ()
	if protocol := r.Header.Get("Git-Protocol"); gitProtocol.MatchString(protocol) {
		cmd.Env = append(cmd.Env, "GIT_PROTOCOL="+protocol)
	}
	if asks && !strings.Contains(r.Header.Get("Git-Protocol"), "version=2") {
		fmt.Fprint(w, "001e# service=git-upload-pack\n0000")
	}
	_ = cmd.Run() // what is wrong git itself tells its client, in the stream
}
