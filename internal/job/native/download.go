package native

import (
	"archive/tar"
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
)

// downloadArtifact is actions/download-artifact.
type downloadArtifact struct{}

func (downloadArtifact) Main(ctx context.Context, s *Step) error {
	if err := download(ctx, s); err != nil {
		return fmt.Errorf("Unable to download artifact(s): %w", err)
	}
	return nil
}

func download(ctx context.Context, s *Step) error {
	if s.Host == nil || s.Host.Artifacts == nil {
		return errors.New("this run keeps no artifacts")
	}
	merge, err := s.flag("merge-multiple")
	if err != nil {
		return err
	}
	raw, err := s.flag("skip-decompress")
	if err != nil {
		return err
	}
	mismatch := s.input("digest-mismatch")
	if mismatch == "" {
		mismatch = "error"
	}
	if !slices.Contains([]string{"ignore", "info", "warn", "error"}, mismatch) {
		return fmt.Errorf("Invalid value for 'digest-mismatch': '%s'. Valid options are: ignore, info, warn, error", mismatch)
	}
	name, ids := s.input("name"), s.input("artifact-ids")
	if name != "" && ids != "" {
		return errors.New("Inputs 'name' and 'artifact-ids' cannot be used together. Please specify only one.")
	}
	run, err := artifactRun(s)
	if err != nil {
		return err
	}
	all, err := s.Host.Artifacts.List(run)
	if err != nil {
		return err
	}
	var chosen []Artifact
	switch {
	case name != "":
		chosen, err = byName(s, all, name)
	case ids != "":
		chosen, err = byIDs(s, all, ids)
	default:
		chosen, err = byPattern(s, all, s.input("pattern"), merge)
	}
	if err != nil {
		return err
	}
	if len(chosen) > 0 {
		s.info("Preparing to download the following artifacts:")
	}
	for _, art := range chosen {
		s.info("- %s (ID: %d, Size: %d, Expected Digest: %s)", art.Name, art.ID, art.Size, art.Digest)
	}
	dir := s.abs(s.input("path"))
	var bad []string
	for _, art := range chosen {
		to := dir
		if name == "" && !merge && len(chosen) > 1 {
			to = path.Join(dir, art.Name)
		}
		same, err := s.unpackArtifact(ctx, art, to, raw)
		if err != nil {
			return fmt.Errorf("Unable to download and extract artifact: %w", err)
		}
		if !same {
			bad = append(bad, art.Name)
		}
	}
	if err := reportMismatches(s, bad, mismatch); err != nil {
		return err
	}
	s.info("Total of %d artifact(s) downloaded", len(chosen))
	s.output("download-path", dir)
	s.info("Download artifact has finished successfully")
	return nil
}

// artifactRun is the run whose artifacts are meant: another one only with a token, as in the original.
func artifactRun(s *Step) (string, error) {
	if s.input("github-token") == "" {
		return s.github("run_id"), nil
	}
	repository := s.input("repository")
	if owner, name, _ := strings.Cut(repository, "/"); owner == "" || name == "" {
		return "", fmt.Errorf("Invalid repository: '%s'. Must be in format owner/repo", repository)
	}
	if !strings.EqualFold(repository, s.github("repository")) {
		return "", fmt.Errorf("the artifacts of %s are not kept here, only those of %s", repository, s.github("repository"))
	}
	run := s.input("run-id")
	if !isNumber(run) {
		return "", fmt.Errorf("Invalid run-id: '%s'", run)
	}
	return run, nil
}

func byName(s *Step, all []Artifact, name string) ([]Artifact, error) {
	s.info("Downloading single artifact")
	for _, art := range all {
		if art.Name == name {
			return []Artifact{art}, nil
		}
	}
	return nil, fmt.Errorf("Artifact not found for name: %s\n"+
		"        Please ensure that your artifact is not expired and the artifact was uploaded using a compatible version of toolkit/upload-artifact.\n"+
		"        For more information, visit the GitHub Artifacts FAQ: https://github.com/actions/toolkit/blob/main/packages/artifact/docs/faq.md", name)
}

func byIDs(s *Step, all []Artifact, text string) (chosen []Artifact, err error) {
	s.info("Downloading artifacts by ID")
	var ids, missing []string
	for id := range strings.SplitSeq(text, ",") {
		if id = strings.TrimSpace(id); id == "" {
			continue
		}
		if !isNumber(id) {
			return nil, fmt.Errorf("Invalid artifact ID: '%s'. Must be a number.", id)
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, errors.New("No valid artifact IDs provided in 'artifact-ids' input")
	}
	for _, art := range all {
		if slices.Contains(ids, strconv.FormatInt(art.ID, 10)) {
			chosen = append(chosen, art)
		}
	}
	if len(chosen) == 0 {
		return nil, errors.New("None of the provided artifact IDs were found")
	}
	for _, id := range ids {
		if !slices.ContainsFunc(chosen, func(art Artifact) bool { return strconv.FormatInt(art.ID, 10) == id }) {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 {
		s.warning("Could not find the following artifact IDs: %s", strings.Join(missing, ", "))
	}
	return chosen, nil
}

func byPattern(s *Step, all []Artifact, pattern string, merge bool) ([]Artifact, error) {
	if pattern == "" {
		s.info("No input name, artifact-ids or pattern filtered specified, downloading all artifacts")
		if !merge {
			s.info("An extra directory with the artifact name will be created for each download")
		}
		return all, nil
	}
	s.info("Filtering artifacts by pattern '%s'", pattern)
	return matchingArtifacts(all, pattern)
}

// matchingArtifacts are the artifacts whose names a minimatch pattern takes: braces count, a name that begins with a
// dot is not matched by a wildcard, `!` in front negates.
func matchingArtifacts(all []Artifact, pattern string) ([]Artifact, error) {
	match, err := nameMatcher(pattern)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(art Artifact) bool { return !match(art.Name) }), nil
}

func reportMismatches(s *Step, names []string, how string) error {
	for _, name := range names {
		text := fmt.Sprintf("Artifact '%s' digest validation failed. Please verify the integrity of the artifact.", name)
		switch how {
		case "info":
			s.info("%s", text)
		case "warn":
			s.warning("%s", text)
		}
	}
	if how == "error" && len(names) > 0 {
		return fmt.Errorf("Digest validation failed for artifact(s): %s. Use 'digest-mismatch: warn' to continue on mismatch.", strings.Join(names, ", "))
	}
	return nil
}

// unpackArtifact puts an artifact into a directory of the machine and says whether its bytes are those uploaded. raw
// leaves a zip as it is.
func (s *Step) unpackArtifact(ctx context.Context, art Artifact, dir string, raw bool) (same bool, err error) {
	f, err := s.Host.Artifacts.Open(art)
	if err != nil {
		return false, err
	}
	defer f.Close()
	s.info("Starting download of artifact to: %s", dir)
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	size := info.Size()
	digest := make(chan string, 1) // made while the files are unpacked
	go func() {
		sum := sha256.New()
		_, err := io.CopyBuffer(sum, struct{ io.Reader }{io.NewSectionReader(f, 0, size)}, make([]byte, besideSize))
		if err != nil { // then unpacking fails too
			digest <- ""
			return
		}
		digest <- hex.EncodeToString(sum.Sum(nil))
	}()

	pack := func(w *tar.Writer) error { return packZip(ctx, w, f, size) }
	if art.Raw || raw {
		name := art.Name
		if !art.Raw {
			name += ".zip"
		}
		s.info("Downloading raw file (non-zip) to: %s", path.Join(dir, name))
		pack = func(w *tar.Writer) error {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg, ModTime: art.Created}); err != nil {
				return err
			}
			_, err := io.Copy(w, io.NewSectionReader(f, 0, size))
			return err
		}
	}
	err = s.putTar(ctx, dir, pack)
	found := <-digest
	s.info("SHA256 digest of downloaded artifact is %s", found)
	if err == nil {
		s.info("Artifact download completed successfully.")
	}
	return art.Digest == "sha256:"+found, err
}

// maxUnpacked bounds what an artifact may unpack to, bytes: a guard against archives made to fill a disk.
const maxUnpacked = 64 << 30

// packZip turns a zip into an archive for Put.
func packZip(ctx context.Context, w *tar.Writer, r io.ReaderAt, size int64) error {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return err
	}
	var total uint64
	buffer := make([]byte, besideSize)
	for _, f := range z.File {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := zipName(f); err != nil {
			return err
		}
		h := &tar.Header{Name: f.Name, Mode: 0o644, ModTime: f.Modified, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if strings.HasSuffix(f.Name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			continue
		}
		if total += f.UncompressedSize64; total > maxUnpacked {
			return fmt.Errorf("the archive unpacks to more than %d bytes", int64(maxUnpacked))
		}
		h.Size = int64(f.UncompressedSize64)
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		content, err := f.Open()
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(w, struct{ io.Reader }{content}, buffer)
		if err := errors.Join(err, content.Close()); err != nil {
			return err
		}
	}
	return nil
}
