// Package docker is the `docker` command of machines that have no Docker: a client that is nothing but a wire, and the
// service at its other end, which builds, keeps and runs images with Penstock's own rooms.
//
// It knows Docker's command line. It never speaks Docker's API, and never reaches beyond the job's machine and the store
// of images: what a job says is not to be trusted.
package docker

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

// Socket is where a machine finds the service: Info.Files of host machines is in memory.
const Socket = "/run/runner/docker.sock"

// request is what the client sends first: a line of JSON. Its standard input follows.
type request struct {
	Args []string          `json:"args"`
	Dir  string            `json:"dir"`
	Env  map[string]string `json:"env,omitempty"` // what the commands look at
}

// Limits of what the service takes of a client.
const (
	maxRequest = 1 << 20
	maxFrame   = 1 << 20
)

// Kinds of frames that the service sends: kind, length (4 bytes, big endian), data.
const (
	frameExit   = 0 // 4 bytes: the exit code; the last one
	frameStdout = 1
	frameStderr = 2
)

// errFrame says that the other side does not speak this protocol.
var errFrame = errors.New("malformed answer of the docker service")

// environment are the variables that the client passes on, beside those that -e NAME or a secret names.
var environment = []string{"DOCKER_BUILDKIT", "BUILDKIT_PROGRESS", "DOCKER_CONFIG", "DOCKER_DEFAULT_PLATFORM", "SOURCE_DATE_EPOCH"}

// Main is the client: it sends its arguments to the service and prints what comes back. It gives the exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	code, err := send(args, stdin, stdout, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "docker: %v\n", err)
		return 125
	}
	return code
}

func send(args []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	conn, err := net.Dial("unix", Socket)
	if err != nil {
		return 0, fmt.Errorf("nothing here answers for Docker: %w", err)
	}
	defer conn.Close()
	dir, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	r := request{Args: args, Dir: dir, Env: map[string]string{}}
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		if named(name, args) {
			r.Env[name] = value
		}
	}
	line, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return 0, err
	}
	go func() { // ends with the process
		_, _ = io.Copy(conn, stdin)
		if half, ok := conn.(*net.UnixConn); ok {
			_ = half.CloseWrite()
		}
	}()
	return receive(conn, stdout, stderr)
}

// named says whether a command may look at a variable: one of Docker's own, or one that an argument names.
func named(name string, args []string) bool {
	for _, n := range environment {
		if n == name {
			return true
		}
	}
	for _, a := range args {
		if a == name || strings.HasSuffix(a, "="+name) || strings.Contains(a, "env="+name) || strings.Contains(a, "id="+name) {
			return true
		}
	}
	return false
}

// receive prints frames until the exit code comes.
func receive(from io.Reader, stdout, stderr io.Writer) (int, error) {
	in := bufio.NewReader(from)
	for {
		var head [5]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return 0, fmt.Errorf("the docker service has gone: %w", err)
		}
		size := binary.BigEndian.Uint32(head[1:])
		if size > maxFrame {
			return 0, errFrame
		}
		data := make([]byte, size)
		if _, err := io.ReadFull(in, data); err != nil {
			return 0, fmt.Errorf("the docker service has gone: %w", err)
		}
		var err error
		switch head[0] {
		case frameStdout:
			_, err = stdout.Write(data)
		case frameStderr:
			_, err = stderr.Write(data)
		case frameExit:
			if size != 4 {
				return 0, errFrame
			}
			return int(int32(binary.BigEndian.Uint32(data))), nil
		default:
			err = errFrame
		}
		if err != nil {
			return 0, err
		}
	}
}
