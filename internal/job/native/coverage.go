package native

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
)

// coverage is what a report says of each file, by slash-separated path: which lines were run.
type coverage map[string]map[int]bool

// Limits of a coverage report.
const (
	maxReport      = 256 << 20
	maxReportFiles = 200_000
	maxReportLine  = 10_000_000
)

var errReport = errors.New("not a coverage report that is known here (Cobertura, JaCoCo or Clover XML, lcov, Go profile)")

func (c coverage) add(file string, line int, run bool) error {
	if line <= 0 || line > maxReportLine {
		return nil
	}
	file = strings.TrimPrefix(path.Clean("/"+strings.ReplaceAll(file, `\`, "/")), "/")
	if c[file] == nil {
		if len(c) >= maxReportFiles {
			return fmt.Errorf("more than %d files", maxReportFiles)
		}
		c[file] = map[int]bool{}
	}
	c[file][line] = c[file][line] || run
	return nil
}

// count gives the lines of a file, or of all if there is none, that were run.
func (c coverage) count(file string) (run, all int) {
	for name, lines := range c {
		if file != "" && name != file {
			continue
		}
		for _, hit := range lines {
			all++
			if hit {
				run++
			}
		}
	}
	return run, all
}

// parseCoverage reads a report of any known kind.
func parseCoverage(text []byte) (coverage, error) {
	if len(text) > maxReport {
		return nil, fmt.Errorf("more than %d bytes", maxReport)
	}
	head := bytes.TrimSpace(text[:min(len(text), 4096)])
	c := coverage{}
	var err error
	switch {
	case bytes.HasPrefix(head, []byte("mode: ")):
		err = c.readGo(text)
	case bytes.HasPrefix(head, []byte("<")):
		err = c.readXML(text)
	case bytes.HasPrefix(head, []byte("TN:")), bytes.HasPrefix(head, []byte("SF:")):
		err = c.readLcov(text)
	default:
		err = errReport
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// readGo reads what `go test -coverprofile` writes: file:line.column,line.column statements count.
func (c coverage) readGo(text []byte) error {
	for n, line := range bytes.Split(text, []byte("\n")) {
		if len(line) == 0 || bytes.HasPrefix(line, []byte("mode: ")) {
			continue
		}
		at := bytes.LastIndexByte(line, ':')
		fields := strings.Fields(string(line[at+1:]))
		if at < 0 || len(fields) != 3 {
			return fmt.Errorf("line %d is no line of a Go profile", n+1)
		}
		var from, fromCol, to, toCol int
		if _, err := fmt.Sscanf(fields[0], "%d.%d,%d.%d", &from, &fromCol, &to, &toCol); err != nil || to-from > 1_000_000 {
			return fmt.Errorf("line %d is no line of a Go profile", n+1)
		}
		for l := from; l <= to; l++ {
			if err := c.add(string(line[:at]), l, fields[2] != "0"); err != nil {
				return err
			}
		}
	}
	return nil
}

// readLcov reads geninfo's format: SF:file, DA:line,count, end_of_record.
func (c coverage) readLcov(text []byte) error {
	file := ""
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		kind, rest, _ := strings.Cut(strings.TrimSpace(s.Text()), ":")
		switch kind {
		case "SF":
			file = rest
		case "DA":
			line, count, _ := strings.Cut(rest, ",")
			count, _, _ = strings.Cut(count, ",")
			n, err := strconv.Atoi(line)
			if err != nil || file == "" {
				return fmt.Errorf("%q is no line of an lcov report", s.Text())
			}
			if err := c.add(file, n, count != "0" && count != ""); err != nil {
				return err
			}
		case "end_of_record":
			file = ""
		}
	}
	return nil
}

// readXML reads Cobertura (coverage/packages/classes), JaCoCo (report/package/sourcefile) and Clover (coverage/project).
// Entities of a document's own are never expanded: encoding/xml knows none.
func (c coverage) readXML(text []byte) error {
	d := xml.NewDecoder(bytes.NewReader(text))
	d.Strict = true
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil }
	var pkg, file, root string
	for {
		token, err := d.Token()
		if err == io.EOF {
			if root == "" {
				return errReport
			}
			return nil
		}
		if err != nil {
			return err
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if root == "" {
			if root = e.Name.Local; root != "coverage" && root != "report" {
				return errReport
			}
		}
		switch e.Name.Local {
		case "package":
			pkg = attr(e, "name")
		case "class": // Cobertura
			if name := attr(e, "filename"); name != "" {
				file = name
			}
		case "sourcefile": // JaCoCo
			file = path.Join(pkg, attr(e, "name"))
		case "file": // Clover
			if file = attr(e, "path"); file == "" {
				file = attr(e, "name")
			}
		case "line":
			if err := c.addLine(e, file); err != nil {
				return err
			}
		}
	}
}

// addLine adds a line element: number and hits of Cobertura, nr and ci of JaCoCo, num and count of Clover.
func (c coverage) addLine(e xml.StartElement, file string) error {
	for _, names := range [][2]string{{"number", "hits"}, {"nr", "ci"}, {"num", "count"}} {
		n, err := strconv.Atoi(attr(e, names[0]))
		if err != nil || file == "" {
			continue
		}
		hits := attr(e, names[1])
		return c.add(file, n, hits != "0" && hits != "")
	}
	return nil
}

func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}
