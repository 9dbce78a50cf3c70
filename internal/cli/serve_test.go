package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/penstock-ci/penstock/internal/s3test"
)

// servers are the servers that scripts have started, by script.
var servers sync.Map

// startServer is the command serve: it starts `penstock serve` with the arguments, on the same directory each time, and sets
// URL, URL_IN (with the token), TOKEN and what gh needs. PROGRAM may be another file of the program.
func startServer(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(filepath.Join(ts.Getenv("WORK"), ".server"))
	file := dir + ".ready"
	_ = os.Remove(file)
	listen := "127.0.0.1:0"
	if url := ts.Getenv("URL"); url != "" { // it was started before: whoever waits for it finds it again
		_, listen, _ = strings.Cut(url, "://")
	}
	self, err := exec.LookPath("penstock") // testscript's
	if err != nil {
		self = filepath.Join(strings.Split(ts.Getenv("PATH"), string(os.PathListSeparator))[0], "penstock")
	}
	if program := ts.Getenv("PROGRAM"); program != "" {
		self = program
	}
	cmd := exec.Command(self, append([]string{"serve", "--data", dir, "--listen", listen, "--ready-file", file}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"), "XDG_CACHE_HOME="+ts.Getenv("XDG_CACHE_HOME"), "PATH="+ts.Getenv("PATH"))
	log, err := os.OpenFile(dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	cmd.Stdout, cmd.Stderr = log, log
	ts.Check(cmd.Start())
	log.Close()
	servers.Store(ts.Getenv("WORK"), cmd)
	ts.Defer(func() {
		endServer(ts, syscall.SIGKILL)
		if err := stopReleased(context.Background(), dir); err != nil {
			ts.Logf("what was released still runs: %v", err)
		}
	})
	var told ready
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(file)
		if err == nil {
			ts.Check(json.Unmarshal(text, &told))
			break
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(dir + ".log")
			ts.Fatalf("the server does not come up:\n%s", text)
		}
	}
	config := filepath.Join(ts.Getenv("WORK"), ".gh")
	ts.Check(os.MkdirAll(config, 0o700))
	ts.Check(os.WriteFile(filepath.Join(config, "config.yml"), fmt.Appendf(nil, "prompt: disabled\nhttp_unix_socket: %s\n", told.Socket), 0o600))
	for name, value := range map[string]string{
		"URL": told.URL, "TOKEN": told.Token, "URL_IN": strings.Replace(told.URL, "://", "://x:"+told.Token+"@", 1), "SOCKET": told.Socket,
		"PROXY": told.ProxyURL, "PENSTOCK_URL": told.URL, "PENSTOCK_TOKEN": told.Token, "GH_CONFIG_DIR": config, "GH_HOST": "penstock.local", "GH_ENTERPRISE_TOKEN": told.Token, "GH_REPO": "penstock.local/acme/shop",
	} {
		ts.Setenv(name, value)
	}
}

// endServer sends the script's server a signal and waits for its end.
func endServer(ts *testscript.TestScript, sig syscall.Signal) {
	if cmd, ok := servers.LoadAndDelete(ts.Getenv("WORK")); ok {
		cmd := cmd.(*exec.Cmd)
		_ = cmd.Process.Signal(sig)
		_ = cmd.Wait()
	}
}

// endServerBy is a command that ends the server by a signal.
func endServerBy(sig syscall.Signal) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, _ []string) { endServer(ts, sig) }
}

// waitStarted is `started RUN`: it waits until a step of the run has begun.
func waitStarted(ts *testscript.TestScript, _ bool, args []string) {
	awaitJob(ts, args[0], func(j jobOfRun) bool {
		return slices.ContainsFunc(j.Steps, func(s stepOfRun) bool { return s.Status == "in_progress" && strings.HasPrefix(s.Name, "Run") })
	})
}

// waitWaiting is `waiting RUN`: it waits until a job of the run waits for somebody.
func waitWaiting(ts *testscript.TestScript, _ bool, args []string) {
	awaitJob(ts, args[0], func(j jobOfRun) bool { return j.Status == "waiting" })
}

type jobOfRun struct {
	Status string
	Steps  []stepOfRun
}

type stepOfRun struct{ Status, Name string }

// awaitJob waits for a job of a run to be so.
func awaitJob(ts *testscript.TestScript, run string, so func(jobOfRun) bool) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		req, err := http.NewRequest("GET", ts.Getenv("URL")+"/api/v3/repos/acme/shop/actions/runs/"+run+"/jobs", nil)
		ts.Check(err)
		req.Header.Set("Authorization", "token "+ts.Getenv("TOKEN"))
		res, err := http.DefaultClient.Do(req)
		ts.Check(err)
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		ts.Check(err)
		var all struct{ Jobs []jobOfRun }
		ts.Check(json.Unmarshal(body, &all))
		if slices.ContainsFunc(all.Jobs, so) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no job of run %s comes to that: %s", run, body)
		}
	}
}

// runAs is `as FILE exec COMMAND...`: it runs a command with the token in a file, whether it succeeds or not.
func runAs(ts *testscript.TestScript, _ bool, args []string) {
	token := strings.TrimSpace(ts.ReadFile(args[0]))
	was := map[string]string{}
	for name, value := range map[string]string{
		"GH_ENTERPRISE_TOKEN": token, "PENSTOCK_TOKEN": token, "URL_AS": strings.Replace(ts.Getenv("URL"), "://", "://x:"+token+"@", 1),
	} {
		was[name] = ts.Getenv(name)
		ts.Setenv(name, value)
	}
	for i, arg := range args {
		args[i] = strings.ReplaceAll(arg, "URL_AS", ts.Getenv("URL_AS"))
	}
	_ = ts.Exec(args[2], args[3:]...)
	for name, value := range was {
		ts.Setenv(name, value)
	}
}

// browse is `browse [WAY ARG...]`: it plays a user's way through the pages in a browser. Screenshots are kept where
// PENSTOCK_SCREENSHOTS says, if it does.
func browse(ts *testscript.TestScript, _ bool, args []string) {
	way := "run"
	if len(args) > 0 {
		way, args = args[0], args[1:]
	}
	shots := os.Getenv("PENSTOCK_SCREENSHOTS")
	if shots == "" {
		shots = ts.MkAbs("screenshots")
	}
	if _, err := os.Stat("../web/dist/index.html"); err != nil {
		ts.Fatalf("the pages are not built: make web")
	}
	cmd := exec.Command("node", append([]string{"../../web/e2e/" + way + ".mjs", ts.Getenv("URL"), ts.Getenv("TOKEN"), shots}, args...)...)
	out, err := cmd.CombinedOutput()
	ts.Logf("%s", out)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(ts.Getenv("WORK"), ".server.log"))
		ts.Fatalf("%v\n%s", err, log)
	}
}

// joinRunner is `join NAME FLAGS...`: it starts a runner that joins the server with the token in the file token, and waits until
// the runner waits for jobs.
func joinRunner(ts *testscript.TestScript, _ bool, args []string) {
	dir := filepath.Join(ts.Getenv("WORK"), args[0])
	self := filepath.Join(strings.Split(ts.Getenv("PATH"), string(os.PathListSeparator))[0], "penstock")
	cmd := exec.Command(self, append([]string{"runner", "--data", dir, "--name", args[0], "--url", ts.Getenv("URL"), "--token", strings.TrimSpace(ts.ReadFile("token"))}, args[1:]...)...)
	cmd.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"), "PATH="+ts.Getenv("PATH"))
	if file := ts.Getenv("SSL_CERT_FILE"); file != "" {
		cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+file)
	}
	log, err := os.Create(dir + ".log")
	ts.Check(err)
	cmd.Stdout, cmd.Stderr = log, log
	ts.Check(cmd.Start())
	log.Close()
	servers.Store(dir, cmd)
	ts.Defer(func() {
		if cmd, ok := servers.LoadAndDelete(dir); ok {
			_ = cmd.(*exec.Cmd).Process.Kill()
			_ = cmd.(*exec.Cmd).Wait()
			text, _ := os.ReadFile(dir + ".log")
			ts.Logf("%s: %s", args[0], text)
		}
		if err := stopReleased(context.Background(), dir); err != nil {
			ts.Logf("what was released to %s still runs: %v", args[0], err)
		}
	})
	if slices.Contains(args, "--deploy") {
		awaitLog(ts, args[0], "is connected")
	} else {
		awaitLog(ts, args[0], "waits for jobs")
	}
}

// killRunner is `fell NAME`: a runner is killed, and what it runs is not.
func killRunner(ts *testscript.TestScript, _ bool, args []string) {
	cmd, ok := servers.LoadAndDelete(filepath.Join(ts.Getenv("WORK"), args[0]))
	if !ok {
		ts.Fatalf("no runner %s", args[0])
	}
	ts.Check(cmd.(*exec.Cmd).Process.Kill())
	_ = cmd.(*exec.Cmd).Wait()
}

// awaitLog waits until a runner has said so.
func awaitLog(ts *testscript.TestScript, name, said string) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(ts.Getenv("WORK"), name) + ".log")
		ts.Check(err)
		if strings.Contains(string(text), said) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s did not say %q: %s", name, said, text)
		}
	}
}

// partRunner is `part NAME`: it ends a runner as a service manager does. `part NAME again` does so once more when the runner
// waits for its jobs. `gone NAME` waits until one has ended by itself.
func partRunner(signal bool) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		cmd, ok := servers.LoadAndDelete(filepath.Join(ts.Getenv("WORK"), args[0]))
		if !ok {
			ts.Fatalf("no runner %s", args[0])
		}
		if signal {
			_ = cmd.(*exec.Cmd).Process.Signal(syscall.SIGTERM)
		}
		if len(args) > 1 {
			awaitLog(ts, args[0], "waiting for those that run")
			_ = cmd.(*exec.Cmd).Process.Signal(syscall.SIGTERM)
		}
		if err := cmd.(*exec.Cmd).Wait(); err != nil {
			text, _ := os.ReadFile(filepath.Join(ts.Getenv("WORK"), args[0]) + ".log")
			ts.Fatalf("%s: %v\n%s", args[0], err, text)
		}
	}
}

// makeCertificate is `certificate ADDRESS`: it makes an authority, ca.crt, and with it server.crt and server.key.
func makeCertificate(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.Getenv("WORK")
	extra := filepath.Join(dir, "server.ext")
	ts.Check(os.WriteFile(extra, []byte("subjectAltName=IP:"+args[0]+"\n"), 0o600))
	for _, line := range [][]string{
		{"req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=our authority", "-days", "2"},
		{"req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=" + args[0]},
		{"x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", "server.crt", "-days", "2", "-extfile", extra},
	} {
		cmd := exec.Command("openssl", line...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			ts.Fatalf("openssl %v: %v\n%s", line, err, out)
		}
	}
}

// startObjects is `objects`: it starts an S3-compatible server, sets S3 to the URL of a bucket, and writes the credentials where
// AWS's tools have them.
func startObjects(ts *testscript.TestScript, _ bool, _ []string) {
	dir := ts.MkAbs(".objects")
	ts.Check(os.MkdirAll(dir, 0o700))
	server, err := s3test.In(dir)
	ts.Check(err)
	ts.Defer(server.Kill)
	ts.Setenv("S3", server.URL)
	file := filepath.Join(ts.Getenv("HOME"), ".aws", "credentials")
	ts.Check(os.MkdirAll(filepath.Dir(file), 0o700))
	ts.Check(os.WriteFile(file, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", s3test.AccessKey, s3test.SecretKey), 0o600))
}

// smallDisk is `disk SIZE`: the server's directory is a disk of that many bytes. It takes root.
func smallDisk(ts *testscript.TestScript, _ bool, args []string) {
	dir := filepath.Join(ts.Getenv("WORK"), ".server")
	ts.Check(os.Mkdir(dir, 0o700))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[0]); err != nil {
		ts.Fatalf("no small disk can be mounted: %v", err)
	}
	ts.Defer(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// setApp is `app [LINE]`: it changes how the application of the script's repository behaves, and pushes that.
func setApp(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs("app.py"), fmt.Appendln(nil, strings.Join(args, "\n")), 0o644))
	pushAll(ts)
}

// setSettings is `settings NAME`: it takes another penstock.yaml, NAME.yaml beside the repository, and pushes that.
func setSettings(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs("penstock.yaml"), []byte(ts.ReadFile(filepath.Join(ts.Getenv("WORK"), args[0]+".yaml"))), 0o644))
	pushAll(ts)
}

func pushAll(ts *testscript.TestScript) {
	ts.Check(ts.Exec("git", "add", "--all"))
	ts.Check(ts.Exec("git", "commit", "--quiet", "--allow-empty", "--message", "another"))
	ts.Check(ts.Exec("git", "push", "--quiet", ts.Getenv("URL_IN")+"/acme/shop", "main"))
}

// visitOne asks for the page of web.localhost as a user does.
func visitOne(proxy string) (string, error) {
	req, err := http.NewRequest("GET", proxy+"/", nil)
	if err != nil {
		return "", err
	}
	req.Host = "web.localhost"
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}

// wantServed is `served TEXT...`: users are answered so, all of them.
func wantServed(ts *testscript.TestScript, _ bool, args []string) {
	for range 20 {
		if text, err := visitOne(ts.Getenv("PROXY")); err != nil || !slices.Contains(args, text) {
			ts.Fatalf("users get %q, %v", text, err)
		}
	}
}

// startVisits is `visit`: from now on users come, all the time.
func startVisits(ts *testscript.TestScript, _ bool, _ []string) {
	proxy := ts.Getenv("PROXY")
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			_, _ = visitOne(proxy)
			select {
			case <-end:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	ts.Defer(func() { close(end); <-ended })
}

// awaitStatus is `await PATTERN`: it waits until penstock status of production says so.
func awaitStatus(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile(args[0])
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		cmd := exec.Command(filepath.Join(strings.Split(ts.Getenv("PATH"), string(os.PathListSeparator))[0], "penstock"), "status", "--env", "production", "--repo", "acme/shop")
		cmd.Env = append(os.Environ(), "PENSTOCK_URL="+ts.Getenv("URL"), "PENSTOCK_TOKEN="+ts.Getenv("TOKEN"), "NO_COLOR=1")
		out, err := cmd.CombinedOutput()
		if err == nil && pattern.Match(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("it does not come to %q: %v\n%s", args[0], err, out)
		}
	}
}
