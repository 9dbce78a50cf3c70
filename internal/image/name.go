package image

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
)

// named is a name of an image, taken apart. The repository is full: host/path.
type named struct {
	repository string
	tag        string // at most one of tag and digest is used: a digest says all
	digest     string
}

// parseName reads a name as docker does: postgres:15, ghcr.io/owner/name@sha256:…. Without tag and digest it is the tag
// "latest". Its parts are safe as names of files: nothing in a repository begins with anything but a letter or digit.
func parseName(text string) (named, error) {
	r, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return named{}, fmt.Errorf("%w: %.200q: %w", ErrName, text, err)
	}
	if len(text) > maxName {
		return named{}, fmt.Errorf("%w: %.80q...: longer than %d bytes", ErrName, text, maxName)
	}
	n := named{repository: r.Name()}
	if d, ok := r.(reference.Digested); ok {
		n.digest = d.Digest().String()
		_, err := hexOf(n.digest)
		return n, err
	}
	n.tag = "latest"
	if t, ok := r.(reference.Tagged); ok {
		n.tag = t.Tag()
	}
	return n, nil
}

// maxName is what the parts of a name come to at most: a repository of 255 bytes, a tag of 128 or a digest.
const maxName = 512

// String is the full name.
func (n named) String() string {
	if n.digest != "" {
		return n.repository + "@" + n.digest
	}
	return n.repository + ":" + n.tag
}

// key is the name of the file that says what the name stands for.
func (n named) key() string {
	if n.digest != "" {
		return "@" + n.digest
	}
	return n.tag
}

// fromKey is what key was made of.
func fromKey(repository, key string) named {
	if digest, ok := strings.CutPrefix(key, "@"); ok {
		return named{repository: repository, digest: digest}
	}
	return named{repository: repository, tag: key}
}

// FullName completes a name as docker does: postgres:15 is docker.io/library/postgres:15, and what names neither tag nor
// digest is the tag latest. With a digest the tag is left out. The error wraps ErrName.
func FullName(ref string) (string, error) {
	n, err := parseName(ref)
	if err != nil {
		return "", err
	}
	return n.String(), nil
}

// checkRepository says whether text is the full name of a repository.
func checkRepository(text string) error {
	n, err := parseName(text)
	if err != nil {
		return err
	}
	if n.repository != text {
		return fmt.Errorf("%w: %.200q: a repository is host/path", ErrName, text)
	}
	return nil
}
