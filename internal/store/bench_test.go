package store

import (
	"path/filepath"
	"strconv"
	"testing"
)

// BenchmarkWrite measures writes of one row, by one writer and by many at once. The PostgreSQL of the tests does not wait
// for the disk; SQLite does.
func BenchmarkWrite(b *testing.B) {
	for _, kind := range []string{"sqlite", "postgres"} {
		url := "sqlite:" + filepath.Join(b.TempDir(), "p.db")
		if kind == "postgres" {
			url = postgres(b).Database(b)
		}
		s, err := Open(b.Context(), url)
		if err != nil {
			b.Fatal(err)
		}
		r := addRepository(b, s, "octo", "hello")
		save := func(b *testing.B, n int) {
			change := r
			change.DefaultBranch = strconv.Itoa(n)
			if err := s.SaveRepository(b.Context(), change); err != nil {
				b.Error(err)
			}
		}
		b.Run(kind+"/one", func(b *testing.B) {
			for n := range b.N {
				save(b, n)
			}
		})
		b.Run(kind+"/64", func(b *testing.B) {
			b.SetParallelism(32)
			b.RunParallel(func(p *testing.PB) {
				for n := 0; p.Next(); n++ {
					save(b, n)
				}
			})
		})
		s.Close()
	}
}
