package native

import (
	"archive/zip"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// uploadArtifact is actions/upload-artifact.
type uploadArtifact struct{}

// uploading is what upload and merge have in common.
type uploading struct {
	name      string
	retention int // days, 0 for the default
	level     int // of compression, 0 to 9
	raw       bool
	overwrite bool
}

func (uploadArtifact) Main(ctx context.Context, s *Step) error {
	up, err := readUploading(s)
	if err != nil {
		return err
	}
	search, err := s.required("path")
	if err != nil {
		return err
	}
	if up.overwrite, err = s.flag("overwrite"); err != nil {
		return err
	}
	hidden, err := s.flag("include-hidden-files")
	if err != nil {
		return err
	}
	archive, err := s.flag("archive")
	if err != nil {
		return err
	}
	up.raw = !archive
	missing := s.input("if-no-files-found")
	if !slices.Contains([]string{"warn", "error", "ignore"}, missing) {
		return fmt.Errorf("Unrecognized if-no-files-found input. Provided: %s. Available options: warn,error,ignore", missing)
	}
	files, root, err := filesToUpload(ctx, s, strings.Split(search, "\n"), hidden)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return noFiles(s, missing, search)
	}
	plural := "s"
	if len(files) == 1 {
		plural = ""
	}
	s.info("With the provided path, there will be %d file%s uploaded", len(files), plural)
	if up.raw {
		if len(files) > 1 {
			return fmt.Errorf("When 'archive' is set to false, only a single file can be uploaded. Found %d files to upload.", len(files))
		}
		up.name = path.Base(files[0].path)
	}
	return upload(ctx, s, up, files, root)
}

func noFiles(s *Step, how, search string) error {
	text := fmt.Sprintf("No files were found with the provided path: %s. No artifacts will be uploaded.", search)
	switch how {
	case "error":
		return errors.New(text)
	case "ignore":
		s.info("%s", text)
	default:
		s.warning("%s", text)
	}
	return nil
}

func readUploading(s *Step) (up uploading, err error) {
	if s.Host == nil || s.Host.Artifacts == nil {
		return up, errors.New("this run keeps no artifacts")
	}
	up.name, up.level = s.input("name"), 6
	if up.retention, _, err = s.number("retention-days"); err != nil {
		return up, err
	}
	level, given, err := s.number("compression-level")
	if err != nil {
		return up, err
	}
	if given {
		if level < 0 || level > 9 {
			return up, errors.New("Invalid compression-level. Valid values are 0-9")
		}
		up.level = level
	}
	return up, nil
}

// filesToUpload finds the files and the directory that their names in the artifact are relative to
// (src/shared/search.ts).
func filesToUpload(ctx context.Context, s *Step, patterns []string, hidden bool) (files []entry, root string, err error) {
	found, searched, err := s.glob(ctx, patterns, globbing{descend: true, skipHidden: !hidden})
	if err != nil {
		return nil, "", err
	}
	seen := map[string]bool{}
	for _, e := range found {
		if e.dir {
			continue
		}
		files = append(files, e)
		lower := strings.ToLower(e.path)
		if seen[lower] {
			s.info("Uploads are case insensitive: %s was detected that it will be overwritten by another file with the same path", e.path)
		}
		seen[lower] = true
	}
	switch {
	case len(searched) > 1:
		root = commonDirectory(searched)
		s.info("Multiple search paths detected. Calculating the least common ancestor of all paths")
		s.info("The least common ancestor is %s. This will be the root directory of the artifact", root)
	case len(files) == 1 && searched[0] == files[0].path:
		root = path.Dir(files[0].path)
	case len(searched) == 1:
		root = searched[0]
	}
	return files, root, nil
}

// commonDirectory is the least common ancestor of absolute paths.
func commonDirectory(paths []string) string {
	common := split(paths[0])
	for _, p := range paths[1:] {
		names := split(p)
		n := 0
		for n < len(common) && n < len(names) && common[n] == names[n] {
			n++
		}
		common = common[:n]
	}
	return "/" + strings.Join(common, "/")
}

// upload stores the files as an artifact and tells about it as the original does (src/shared/upload-artifact.ts).
func upload(ctx context.Context, s *Step, up uploading, files []entry, root string) error {
	if err := checkArtifactName(up.name); err != nil {
		return err
	}
	s.info("Artifact name is valid!")
	names := make([]string, len(files))
	for i, f := range files {
		rel, ok := strings.CutPrefix(f.path, strings.TrimSuffix(root, "/")+"/")
		if !ok {
			return fmt.Errorf("The rootDirectory: %s is not a parent directory of the file: %s", root, f.path)
		}
		if err := checkArtifactPath(rel); err != nil {
			return err
		}
		names[i] = rel
	}
	s.info("Root directory input is valid!")
	art := Artifact{Run: s.github("run_id"), Attempt: s.attempt(), Name: up.name, Raw: up.raw}
	if up.retention > 0 {
		limit, err := strconv.Atoi(s.github("retention_days"))
		if err == nil && limit > 0 && up.retention > limit {
			s.warning("Retention days cannot be greater than the maximum allowed retention set within the repository. Using %d instead.", limit)
			up.retention = limit
		}
		art.Expires = time.Now().AddDate(0, 0, up.retention)
	}
	if up.overwrite {
		if err := deleteNamed(s, art); err != nil {
			return err
		}
	}
	if up.raw {
		s.info("Uploading artifact: %s", up.name)
	} else {
		s.info("Uploading artifact: %s.zip", up.name)
	}
	art, err := s.Host.Artifacts.Create(ctx, art, func(w io.Writer) error {
		if up.raw {
			return s.stream(ctx, files, func(_ int, c content) error {
				_, err := io.Copy(w, c)
				return err
			})
		}
		return writeZip(ctx, s, w, files, names, up.level)
	})
	if errors.Is(err, ErrArtifactExists) {
		return fmt.Errorf("Failed to CreateArtifact: Received non-retryable error: Failed request: (409) Conflict: %w", ErrArtifactExists)
	}
	if err != nil {
		return err
	}
	s.info("Artifact %s successfully finalized. Artifact ID %d", art.Name, art.ID)
	s.info("Artifact %s has been successfully uploaded! Final size is %d bytes. Artifact ID is %d", art.Name, art.Size, art.ID)
	address := fmt.Sprintf("%s/%s/actions/runs/%s/artifacts/%d", s.github("server_url"), s.github("repository"), art.Run, art.ID)
	s.info("Artifact download URL: %s", address)
	s.output("artifact-id", strconv.FormatInt(art.ID, 10))
	s.output("artifact-digest", strings.TrimPrefix(art.Digest, "sha256:"))
	s.output("artifact-url", address)
	return nil
}

// attempt is the run's attempt, 1 where the context does not say.
func (s *Step) attempt() string {
	if a := s.github("run_attempt"); isNumber(a) {
		return a
	}
	return "1"
}

// deleteNamed deletes the attempt's artifact of art's name if there is one.
func deleteNamed(s *Step, art Artifact) error {
	all, err := s.Host.Artifacts.all(art.Run)
	if err != nil {
		return err
	}
	for _, x := range all {
		if x.Name == art.Name && x.Attempt == art.Attempt {
			return s.Host.Artifacts.Delete(x)
		}
	}
	s.debug("Skipping deletion of '%s', it does not exist", art.Name)
	return nil
}

// writeZip packs files of the machine under names. GitHub's archives keep no permissions, and so do these.
func writeZip(ctx context.Context, s *Step, w io.Writer, files []entry, names []string, level int) error {
	z := zip.NewWriter(w)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, level) })
	method := zip.Deflate
	if level == 0 {
		method = zip.Store
	}
	err := s.stream(ctx, files, func(i int, c content) error {
		to, err := z.CreateHeader(&zip.FileHeader{Name: names[i], Method: method, Modified: time.Now()})
		if err != nil {
			return err
		}
		_, err = io.Copy(to, c)
		return err
	})
	return errors.Join(err, z.Close())
}
