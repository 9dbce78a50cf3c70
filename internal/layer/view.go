package layer

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// View makes a layer of a directory within the layer of, without a copy: it shows that layer's files, and keeps it from
// being collected as long as it is there itself. name is relative, slash-separated, and leads through no links. The
// error wraps fs.ErrNotExist if there is no such directory.
func (s *Store) View(of ID, name string, l Layer) (ID, error) {
	if !filepath.IsLocal(filepath.FromSlash(name)) {
		return "", fmt.Errorf("view %q: not a path in a layer", name)
	}
	dir := filepath.Join(s.dir, Path(of))
	for part := range strings.SplitSeq(name, "/") {
		dir = filepath.Join(dir, part)
		info, err := os.Lstat(dir)
		if err == nil && !info.IsDir() {
			err = fs.ErrNotExist
		}
		if err != nil {
			return "", fmt.Errorf("view %s in layer %s: %w", name, of, err)
		}
	}
	// Relative, so that the store may be moved as a whole.
	link := filepath.Join(s.dir, newDir, string(NewID()))
	if err := os.Symlink(filepath.Join("..", string(of), filesDir, filepath.FromSlash(name)), link); err != nil {
		return "", fmt.Errorf("view %s in layer %s: %w", name, of, err)
	}
	l.Of = of
	var id ID
	err := s.shared(func() error { // of must not be collected before it is referred to
		_, err := s.Layer(of)
		if err == nil {
			id, err = s.Add(link, l)
		}
		return err
	})
	if err != nil {
		os.Remove(link)
		return "", err
	}
	return id, nil
}
