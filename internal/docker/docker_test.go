package docker

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// TestFrames sends what a command writes over the wire and takes it apart again.
func TestFrames(t *testing.T) {
	var wire, stdout, stderr bytes.Buffer
	f := &frames{to: &wire}
	long := strings.Repeat("x", 3*maxFrame)
	for _, w := range []struct {
		kind byte
		text string
	}{{frameStdout, "out\n"}, {frameStderr, "err\n"}, {frameStdout, long}} {
		if _, err := io.WriteString(&stream{f, w.kind}, w.text); err != nil {
			t.Fatal(err)
		}
	}
	f.exit(-3)
	code, err := receive(&wire, &stdout, &stderr)
	if err != nil || code != -3 || stdout.String() != "out\n"+long || stderr.String() != "err\n" {
		t.Errorf("got %d, %v, %d bytes, %q", code, err, stdout.Len(), stderr.String())
	}
}

// FuzzReceive gives the client any answer.
func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x02hi\x00\x00\x00\x00\x04\x00\x00\x00\x07"))
	f.Add([]byte("\x02\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		_, err := receive(bytes.NewReader(data), &out, &out)
		if out.Len() > len(data) {
			t.Errorf("%d bytes of %d", out.Len(), len(data))
		}
		if err == nil && len(data) < 9 {
			t.Errorf("%q has an end", data)
		}
	})
}

// FuzzRequest gives the service any first line.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("{\"args\":[\"ps\"]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		line, err := readLine(bufio.NewReader(bytes.NewReader(data)))
		if err == nil && !bytes.HasSuffix(line, []byte("\n")) {
			t.Errorf("%q is no line", line)
		}
	})
	if _, err := readLine(bufio.NewReader(strings.NewReader(strings.Repeat("x", 2*maxRequest)))); !errors.Is(err, errFrame) {
		f.Errorf("a line without an end: %v", err)
	}
}

// TestNamed passes on just the variables that a command names.
func TestNamed(t *testing.T) {
	args := []string{"build", "--secret", "id=token,env=TOKEN", "--build-arg", "VERSION", "-e", "NAME", "--env=OTHER", "."}
	for name, want := range map[string]bool{"TOKEN": true, "VERSION": true, "NAME": true, "OTHER": true, "DOCKER_BUILDKIT": true, "AWS_SECRET_ACCESS_KEY": false, "token": true} {
		if got := named(name, args); got != want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}
