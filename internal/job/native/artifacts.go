package native

import (
	"archive/zip"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/blob"
)

// Artifacts keeps the artifacts of runs as zip files in a blob store, each with a description beside it that is
// written last: an artifact without one does not exist. It may be used by any number of goroutines.
type Artifacts struct {
	blobs blob.Store
	now   func() time.Time

	mu     sync.Mutex
	taken  map[string]bool // names that are being uploaded
	lastID int64
}

// Artifact describes one artifact of a run.
type Artifact struct {
	ID      int64     `json:"id"` // later ones are greater
	Run     string    `json:"run"`
	Attempt string    `json:"attempt"`
	Name    string    `json:"name"`
	Size    int64     `json:"size"`          // bytes as stored
	Digest  string    `json:"digest"`        // sha256: and the hexadecimal digest of the stored bytes
	Raw     bool      `json:"raw,omitempty"` // one file as it is instead of a zip; Name is the file's
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// defaultRetention is GitHub's: an artifact is kept 90 days.
const defaultRetention = 90

// ErrArtifactExists is returned by Create when the attempt has an artifact of the name already.
var ErrArtifactExists = errors.New("an artifact with this name already exists on the workflow run")

// OpenArtifacts keeps artifacts in a blob store, under "artifacts/".
func OpenArtifacts(blobs blob.Store) *Artifacts {
	return &Artifacts{blobs: blobs, now: time.Now, taken: map[string]bool{}}
}

// maxDescription bounds the description of an artifact, bytes.
const maxDescription = 64 << 10

// List gives the artifacts of a run that have not expired, by name; of equal names the newest only.
func (a *Artifacts) List(run string) ([]Artifact, error) {
	all, err := a.all(run)
	if err != nil {
		return nil, err
	}
	now := a.now()
	all = slices.DeleteFunc(all, func(x Artifact) bool { return x.Expires.Before(now) })
	slices.SortFunc(all, func(x, y Artifact) int {
		if c := strings.Compare(x.Name, y.Name); c != 0 {
			return c
		}
		return int(min(max(y.ID-x.ID, -1), 1))
	})
	return slices.CompactFunc(all, func(x, y Artifact) bool { return x.Name == y.Name }), nil
}

func (a *Artifacts) all(run string) ([]Artifact, error) {
	prefix := "artifacts/"
	if run != "" {
		if !isNumber(run) {
			return nil, fmt.Errorf("list artifacts: %q is no run's id", run)
		}
		prefix += run + "/"
	}
	infos, err := a.blobs.List(prefix)
	if err != nil {
		return nil, fmt.Errorf("list artifacts: %w", err)
	}
	var all []Artifact
	for _, info := range infos {
		if !strings.HasSuffix(info.Key, ".json") {
			continue
		}
		text, err := blob.ReadAll(a.blobs, info.Key, maxDescription)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list artifacts: %w", err)
		}
		var art Artifact
		if err := json.Unmarshal(text, &art); err != nil || art.key(".json") != info.Key {
			return nil, fmt.Errorf("list artifacts: %s is damaged", info.Key)
		}
		all = append(all, art)
	}
	return all, nil
}

func (x Artifact) key(ext string) string {
	return fmt.Sprintf("artifacts/%s/%s/%d%s", x.Run, x.Attempt, x.ID, ext)
}

// Create stores an artifact that write produces. Run, Attempt, Name, Raw and Expires are taken from art; the rest is
// filled in. The error wraps ErrArtifactExists if the attempt has the name already or is just getting it. After an
// error nothing of it is left.
func (a *Artifacts) Create(ctx context.Context, art Artifact, write func(io.Writer) error) (Artifact, error) {
	return a.create(ctx, art, func(art *Artifact) error {
		sum := sha256.New()
		var err error
		art.Size, err = a.store(ctx, art.key(".data"), sum, write)
		art.Digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
		return err
	})
}

// Assemble is Create for an artifact whose bytes are blobs of the store, in this order. They are gone after it.
func (a *Artifacts) Assemble(ctx context.Context, art Artifact, parts ...string) (Artifact, error) {
	return a.create(ctx, art, func(art *Artifact) (err error) {
		if art.Size, err = a.blobs.Concat(art.key(".data"), parts...); err != nil {
			return err
		}
		art.Digest, err = a.digest(*art)
		return err
	})
}

// digest reads the stored bytes of an artifact.
func (a *Artifacts) digest(art Artifact) (string, error) {
	f, err := a.Open(art)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, struct{ io.Reader }{f}, make([]byte, 256<<10)); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// create makes the bytes of an artifact, and then its description.
func (a *Artifacts) create(ctx context.Context, art Artifact, fill func(*Artifact) error) (Artifact, error) {
	if !isNumber(art.Run) || !isNumber(art.Attempt) {
		return art, fmt.Errorf("create artifact: run %q, attempt %q: not numbers", art.Run, art.Attempt)
	}
	if err := checkArtifactName(art.Name); err != nil {
		return art, err
	}
	release, err := a.take(&art)
	if err != nil {
		return art, err
	}
	defer release()
	all, err := a.all(art.Run)
	if err != nil {
		return art, err
	}
	for _, x := range all {
		if x.Name == art.Name && x.Attempt == art.Attempt {
			return art, fmt.Errorf("create artifact %s: %w", art.Name, ErrArtifactExists)
		}
	}
	if err := fill(&art); err != nil {
		return art, errors.Join(fmt.Errorf("create artifact %s: %w", art.Name, err), a.blobs.Delete(art.key(".data")))
	}
	text, err := json.Marshal(art)
	if err == nil {
		_, err = a.blobs.Put(ctx, art.key(".json"), strings.NewReader(string(text)))
	}
	if err != nil {
		return art, errors.Join(fmt.Errorf("create artifact %s: %w", art.Name, err), a.blobs.Delete(art.key(".data")))
	}
	return art, nil
}

// store stores what write produces. The digest is made beside the writing: each takes as long as the other.
func (a *Artifacts) store(ctx context.Context, key string, sum hash.Hash, write func(io.Writer) error) (int64, error) {
	pr, pw := io.Pipe()
	summed := newBeside(sum)
	done := make(chan struct{})
	go func() {
		defer close(done)
		to := bufio.NewWriterSize(pw, besideSize)
		err := write(to)
		if err == nil {
			err = to.Flush()
		}
		pw.CloseWithError(err)
	}()
	size, err := a.blobs.Put(ctx, key, io.TeeReader(pr, summed))
	pr.CloseWithError(err)
	<-done
	summed.close()
	return size, err
}

// besideSize is how many bytes go to the digest at once.
const besideSize = 512 << 10

// beside writes to another writer, which never fails, in a goroutine of its own.
type beside struct {
	full, free chan []byte
	ended      chan struct{}
}

func newBeside(to io.Writer) *beside {
	b := &beside{full: make(chan []byte, 4), free: make(chan []byte, 4), ended: make(chan struct{})}
	for range cap(b.free) {
		b.free <- make([]byte, 0, besideSize)
	}
	go func() {
		defer close(b.ended)
		for p := range b.full {
			_, _ = to.Write(p)
			b.free <- p[:0]
		}
	}()
	return b
}

func (b *beside) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part := <-b.free
		part = append(part, p[:min(len(p), besideSize)]...)
		p = p[len(part):]
		b.full <- part
	}
	return n, nil
}

// close waits until everything is written.
func (b *beside) close() {
	close(b.full)
	<-b.ended
}

// take reserves the name while the artifact is made and gives it its ID.
func (a *Artifacts) take(art *Artifact) (release func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := art.Run + "/" + art.Attempt + "/" + art.Name
	if a.taken[key] {
		return nil, fmt.Errorf("create artifact %s: %w", art.Name, ErrArtifactExists)
	}
	a.taken[key] = true
	now := a.now()
	// Microseconds grow over processes too, and JavaScript counts them exactly.
	a.lastID = max(a.lastID+1, now.UnixMicro())
	art.ID, art.Created = a.lastID, now
	if art.Expires.IsZero() {
		art.Expires = now.AddDate(0, 0, defaultRetention)
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.taken, key)
	}, nil
}

// Open opens the bytes of an artifact: a zip, or the file itself if it is Raw.
func (a *Artifacts) Open(art Artifact) (blob.File, error) { return a.blobs.Open(art.key(".data")) }

// Delete removes an artifact; one that is not there is no error.
func (a *Artifacts) Delete(art Artifact) error {
	if err := a.blobs.Delete(art.key(".json")); err != nil {
		return err
	}
	return a.blobs.Delete(art.key(".data"))
}

// Sweep removes expired artifacts, and data whose description was never written, once it is a day old.
func (a *Artifacts) Sweep(ctx context.Context) error {
	all, err := a.all("")
	if err != nil {
		return err
	}
	now := a.now()
	described := map[string]bool{}
	for _, x := range all {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if x.Expires.After(now) {
			described[x.key(".data")] = true
		} else if err := a.Delete(x); err != nil {
			return err
		}
	}
	infos, err := a.blobs.List("artifacts/")
	if err != nil {
		return err
	}
	for _, info := range infos {
		if strings.HasSuffix(info.Key, ".data") && !described[info.Key] && info.Modified.Before(now.AddDate(0, 0, -1)) {
			if err := a.blobs.Delete(info.Key); err != nil {
				return err
			}
		}
	}
	return nil
}

func isNumber(s string) bool {
	return s != "" && len(s) < 20 && strings.Trim(s, "0123456789") == ""
}

// forbidden are the characters that file systems differ on, in the order and words of the original
// (upload/path-and-artifact-name-validation.ts).
var forbidden = []struct{ char, name string }{
	{`"`, ` Double quote "`}, {":", " Colon :"}, {"<", " Less than <"}, {">", " Greater than >"},
	{"|", " Vertical bar |"}, {"*", " Asterisk *"}, {"?", " Question mark ?"},
	{"\r", ` Carriage return \r`}, {"\n", ` Line feed \n`}, {`\`, ` Backslash \`}, {"/", " Forward slash /"},
}

// inPaths is how many of the forbidden characters are forbidden in paths too: all but the separators.
const inPaths = 9

func checkArtifactName(name string) error {
	if name == "" {
		return errors.New("Provided artifact name input during validation is empty")
	}
	for _, f := range forbidden {
		if strings.Contains(name, f.char) {
			return forbiddenError("The artifact name is not valid: "+name, f.name, len(forbidden), "These characters are not allowed in the artifact name")
		}
	}
	if strings.ContainsRune(name, 0) || name == "." || name == ".." || len(name) > 255 {
		return fmt.Errorf("The artifact name is not valid: %q", name)
	}
	return nil
}

func checkArtifactPath(p string) error {
	for _, f := range forbidden[:inPaths] {
		if strings.Contains(p, f.char) {
			return forbiddenError("The path for one of the files in artifact is not valid: "+p, f.name, inPaths,
				"The following characters are not allowed in files that are uploaded")
		}
	}
	return nil
}

func forbiddenError(what, char string, n int, rule string) error {
	var all []string
	for _, f := range forbidden[:n] {
		all = append(all, f.name)
	}
	return fmt.Errorf("%s. Contains the following character: %s\n\nInvalid characters include: %s\n\n"+
		"%s due to limitations with certain file systems such as NTFS. To maintain file system agnostic behavior, "+
		"these characters are intentionally not allowed to prevent potential problems with downloads on different file systems.",
		what, char, strings.Join(all, ","), rule)
}

// zipName says whether a name in an archive may be unpacked: relative, without leaving, no separators but slashes.
func zipName(f *zip.File) error {
	name := strings.TrimSuffix(f.Name, "/")
	if name == "" || !fs.ValidPath(name) || strings.ContainsAny(name, "\\\x00") {
		return fmt.Errorf("the archive holds a name that would leave its directory: %q", f.Name)
	}
	return nil
}
