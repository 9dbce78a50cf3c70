package native

import (
	"context"
	"crypto/rand"
	"fmt"
	"path"
	"strings"
)

// mergeArtifacts is actions/upload-artifact/merge.
type mergeArtifacts struct{}

func (mergeArtifacts) Main(ctx context.Context, s *Step) error {
	up, err := readUploading(s)
	if err != nil {
		return err
	}
	if up.name, err = s.required("name"); err != nil {
		return err
	}
	pattern, err := s.required("pattern")
	if err != nil {
		return err
	}
	separate, err := s.flag("separate-directories")
	if err != nil {
		return err
	}
	deleteMerged, err := s.flag("delete-merged")
	if err != nil {
		return err
	}
	hidden, err := s.flag("include-hidden-files")
	if err != nil {
		return err
	}
	all, err := s.Host.Artifacts.List(s.github("run_id"))
	if err != nil {
		return err
	}
	chosen, err := matchingArtifacts(all, pattern)
	if err != nil {
		return err
	}
	if len(chosen) == 0 {
		return fmt.Errorf("No artifacts found matching pattern '%s'", pattern)
	}
	s.info("Preparing to download the following artifacts:")
	for _, art := range chosen {
		s.info("- %s (ID: %d, Size: %d)", art.Name, art.ID, art.Size)
	}
	temp := path.Join(s.Sandbox.Info().Temp, "merge-artifact"+strings.ToLower(rand.Text()[:6]))
	defer func() {
		if _, err := s.answer(context.WithoutCancel(ctx), "/", "rm", "-rf", "--", temp); err != nil {
			s.warning("Unable to remove temporary directory: %v", err)
		}
	}()
	for _, art := range chosen {
		to := temp
		if separate {
			to = path.Join(temp, art.Name)
		}
		if _, err := s.unpackArtifact(ctx, art, to, false); err != nil {
			return err
		}
	}
	files, root, err := filesToUpload(ctx, s, []string{globEscape(temp)}, hidden)
	if err != nil {
		return err
	}
	if err := upload(ctx, s, up, files, root); err != nil {
		return err
	}
	s.info("The %d artifact(s) have been successfully merged!", len(chosen))
	if !deleteMerged {
		return nil
	}
	for _, art := range chosen {
		if err := s.Host.Artifacts.Delete(art); err != nil {
			return err
		}
	}
	s.info("The %d artifact(s) have been deleted", len(chosen))
	return nil
}
