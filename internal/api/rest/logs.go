package rest

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"unicode/utf16"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
)

// maxLog bounds what one answer gives of logs, bytes.
const maxLog = 1 << 30

// jobText is the log of a job as GitHub gives it: each line with the time at which it came.
type jobText struct {
	data  []byte
	marks []blob.Mark
}

func (c *call) jobText(r *ci.Run, j *ci.Job) (*jobText, error) {
	f, err := c.Runs.Engine.Log(r.ID, j.Attempt, j.ID)
	if f == nil || err != nil {
		return &jobText{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxLog))
	if err != nil {
		return nil, err
	}
	marks, err := c.Runs.Engine.LogTimes(r.ID, j.Attempt, j.ID)
	if err != nil {
		return nil, err
	}
	return &jobText{data, marks}, nil
}

// write writes the lines between two offsets.
func (t *jobText) write(w io.Writer, from, to int64) error {
	from, to = min(from, int64(len(t.data))), min(to, int64(len(t.data)))
	var b bytes.Buffer
	at := from
	for line := range bytes.Lines(t.data[from:max(from, to)]) {
		fmt.Fprintf(&b, "%s %s", blob.At(t.marks, at).UTC().Format("2006-01-02T15:04:05.0000000Z"), line)
		if !bytes.HasSuffix(line, []byte("\n")) {
			b.WriteByte('\n')
		}
		at += int64(len(line))
		if b.Len() > 64<<10 {
			if _, err := w.Write(b.Bytes()); err != nil {
				return err
			}
			b.Reset()
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (c *call) jobLog() (any, error) {
	r, j, _, err := c.job()
	if err != nil {
		return nil, err
	}
	t, err := c.jobText(r, j)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.write(&b, 0, maxLog); err != nil {
		return nil, err
	}
	return &file{contentType: "text/plain; charset=utf-8", content: bytes.NewReader(b.Bytes())}, nil
}

// logName is a job's or step's name as GitHub has it in the archive of logs, where gh looks for it.
func logName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == '/' || r == ':' {
			return -1
		}
		return r
	}, name)
	if units := utf16.Encode([]rune(name)); len(units) > 90 {
		name = string(utf16.Decode(units[:90]))
	}
	return strings.TrimSpace(name)
}

// runLogs is the archive of all logs: a file a job and a file a step.
func (c *call) runLogs() (any, error) {
	r, err := c.run()
	if err != nil {
		return nil, err
	}
	if r.Status != ci.Completed {
		return nil, &Error{Status: http.StatusNotFound, Message: "The run is still in progress; its logs are there when it has completed"}
	}
	archive, err := os.CreateTemp("", "logs-") // gone with its name
	if err != nil {
		return nil, err
	}
	_ = os.Remove(archive.Name())
	if err := c.packLogs(archive, r); err != nil {
		archive.Close()
		return nil, err
	}
	c.w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=logs_%d.zip", r.ID))
	return &file{contentType: "application/zip", content: archive}, nil
}

func (c *call) packLogs(w io.Writer, r *ci.Run) error {
	z := zip.NewWriter(w)
	for i, j := range leaf(r) {
		t, err := c.jobText(r, j)
		if err != nil {
			return err
		}
		name := logName(j.Name)
		whole, err := z.Create(fmt.Sprintf("%d_%s.txt", i, name))
		if err != nil {
			return err
		}
		if err := t.write(whole, 0, maxLog); err != nil {
			return err
		}
		for _, s := range j.Steps {
			if s.Conclusion == ci.Skipped {
				continue
			}
			step, err := z.Create(fmt.Sprintf("%s/%d_%s.txt", name, s.Number, logName(s.Name)))
			if err != nil {
				return err
			}
			end := s.LogEnd
			if end == 0 { // its runner was lost: it was the last to write
				end = maxLog
			}
			if err := t.write(step, s.LogStart, end); err != nil {
				return err
			}
		}
	}
	return z.Close()
}
