package image

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// maxLayers bounds a manifest: an overlay stacks 500 at most.
	maxLayers = 500
	// maxManifests bounds an index, maxNesting how deep one index lies in another.
	maxManifests = 1000
	maxNesting   = 4
)

// manifest is what the manifests of OCI and of docker have in common, of single images and of indexes.
type manifest struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType,omitempty"`
	ArtifactType  string          `json:"artifactType,omitempty"`
	Config        *v1.Descriptor  `json:"config,omitempty"`
	Layers        []v1.Descriptor `json:"layers,omitempty"`
	Manifests     []v1.Descriptor `json:"manifests,omitempty"`
	Subject       *v1.Descriptor  `json:"subject,omitempty"`

	Annotations map[string]string `json:"annotations,omitempty"`
}

// parseManifest reads a manifest and checks what the rest relies on. mediaType is what came with it; what the
// manifest says itself must agree.
func parseManifest(data []byte, mediaType string) (*manifest, error) {
	bad := func(why string, args ...any) (*manifest, error) {
		return nil, fmt.Errorf("%w: manifest: %s", ErrArchive, fmt.Sprintf(why, args...))
	}
	if len(data) > maxManifest {
		return nil, fmt.Errorf("manifest: %w: at most %d bytes", ErrTooLarge, maxManifest)
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return bad("%v", err)
	}
	mediaType, _, _ = strings.Cut(mediaType, ";")
	switch {
	case m.SchemaVersion == 1:
		return bad("it has the format that docker gave up in 2017: push the image anew with a current tool")
	case m.SchemaVersion != 2:
		return bad("schemaVersion is %d, not 2", m.SchemaVersion)
	case m.MediaType != "" && isManifestType(mediaType) && m.MediaType != mediaType:
		return bad("it says that it is %s, and came as %s", m.MediaType, mediaType)
	case m.Manifests != nil && (m.Config != nil || m.Layers != nil):
		return bad("it is an index and an image at once")
	case len(m.Layers) > maxLayers || len(m.Manifests) > maxManifests:
		return nil, fmt.Errorf("manifest: %w: %d layers, %d manifests", ErrTooLarge, len(m.Layers), len(m.Manifests))
	}
	if m.MediaType == "" {
		m.MediaType = mediaType
	}
	if !isManifestType(m.MediaType) {
		m.MediaType = string(types.OCIManifestSchema1)
		if m.Manifests != nil {
			m.MediaType = string(types.OCIImageIndex)
		}
	}
	if !m.isIndex() && m.Config == nil {
		return bad("it has no config")
	}
	for _, d := range m.contents() {
		if _, err := hexOf(d.Digest.String()); err != nil {
			return nil, fmt.Errorf("manifest: %w", err)
		}
		if d.Size < 0 {
			return bad("the size of %s is negative", d.Digest)
		}
	}
	return &m, nil
}

func isManifestType(mediaType string) bool {
	t := types.MediaType(mediaType)
	return t.IsImage() || t.IsIndex()
}

func (m *manifest) isIndex() bool { return types.MediaType(m.MediaType).IsIndex() }

// contents are all that the manifest needs to be whole; its subject may be missing.
func (m *manifest) contents() []v1.Descriptor {
	var all []v1.Descriptor
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	return slices.Concat(all, m.Layers, m.Manifests)
}

// Needs gives the digests of what a manifest needs to be there, its config first. The error wraps ErrArchive, ErrTooLarge or ErrName
// if it can not be read.
func Needs(data []byte) (digests []string, err error) {
	m, err := parseManifest(data, "")
	if err != nil {
		return nil, err
	}
	for _, d := range m.contents() {
		if !isForeign(d.MediaType) {
			digests = append(digests, d.Digest.String())
		}
	}
	return digests, nil
}

// parsePlatform reads os/arch[/variant]; empty is Linux on this machine's processor.
func parsePlatform(text string) (v1.Platform, error) {
	if text == "" {
		return v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, nil
	}
	parts := strings.Split(text, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return v1.Platform{}, fmt.Errorf("platform %.100q: write os/arch or os/arch/variant, as in linux/arm64", text)
	}
	p := v1.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 && parts[1]+"/"+parts[2] != "arm64/v8" { // which is what arm64 is
		p.Variant = parts[2]
	}
	return p, nil
}

// pick chooses the manifest for a platform. What describes another one (an attestation) has the platform "unknown".
func (m *manifest) pick(want v1.Platform) (v1.Descriptor, error) {
	var others []string
	for _, d := range m.Manifests {
		if !isManifestType(string(d.MediaType)) {
			continue
		}
		if d.Platform == nil && len(m.Manifests) == 1 || d.Platform != nil && d.Platform.Satisfies(want) {
			return d, nil
		}
		if d.Platform != nil && d.Platform.OS != "unknown" {
			others = append(others, d.Platform.String())
		}
	}
	slices.Sort(others)
	return v1.Descriptor{}, fmt.Errorf("%w: it is made for %s, not for %s",
		ErrPlatform, strings.Join(slices.Compact(others), ", "), want)
}

// parseConfig reads the configuration of an image and checks it against its manifest.
func parseConfig(data []byte, m *manifest) (*v1.ConfigFile, error) {
	var c v1.ConfigFile
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("%w: configuration: %v", ErrArchive, err)
	}
	if !isImageConfig(m) {
		return nil, fmt.Errorf("%w: it is no image, but %s", ErrArchive, m.kind())
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("%w: %d layers, and digests of %d", ErrArchive, len(m.Layers), len(c.RootFS.DiffIDs))
	}
	for _, d := range c.RootFS.DiffIDs {
		if _, err := hexOf(d.String()); err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
	}
	return &c, nil
}

// isImageConfig says whether a manifest is that of an image, and not of a chart, a signature or the like.
func isImageConfig(m *manifest) bool { return m.Config != nil && m.Config.MediaType.IsConfig() }

// kind says what an artifact is.
func (m *manifest) kind() string {
	if m.ArtifactType != "" || m.Config == nil {
		return m.ArtifactType
	}
	return string(m.Config.MediaType)
}

// checkPlatform says whether an image is for a platform. Images made by hand may not say what they are for.
func checkPlatform(c *v1.ConfigFile, want v1.Platform) error {
	have := v1.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}
	if have.Architecture == "arm64" && have.Variant == "v8" {
		have.Variant = ""
	}
	for _, pair := range [][2]string{{want.OS, have.OS}, {want.Architecture, have.Architecture}, {want.Variant, have.Variant}} {
		if pair[0] != "" && pair[1] != "" && pair[0] != pair[1] {
			return fmt.Errorf("%w: it is made for %s, not for %s", ErrPlatform, have, want)
		}
	}
	return nil
}
