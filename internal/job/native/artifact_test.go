package native

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestUploadKeepsTheOriginalsLayout(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		j.files(map[string]string{
			"dist/app.js": "js", "dist/css/a.css": "css", "dist/.hidden": "h", "dist/.dir/x": "x", "report.txt": "r", "dist/link.js": "-> app.js",
			"dist/run.sh": "#!",
		})
		for i, c := range []struct {
			with map[string]string
			want string
		}{
			{map[string]string{"path": "dist"}, "app.js=js css/a.css=css link.js=js run.sh=#!"},
			{map[string]string{"path": "dist/"}, "app.js=js css/a.css=css link.js=js run.sh=#!"},
			{map[string]string{"path": "dist", "include-hidden-files": "true"}, ".dir/x=x .hidden=h app.js=js css/a.css=css link.js=js run.sh=#!"},
			{map[string]string{"path": "report.txt"}, "report.txt=r"},
			{map[string]string{"path": "dist/*.js"}, "app.js=js link.js=js"},
			{map[string]string{"path": "dist/css\nreport.txt"}, "dist/css/a.css=css report.txt=r"},
			{map[string]string{"path": "dist\n!dist/css\n!dist/**/*.sh"}, "app.js=js link.js=js"},
			{map[string]string{"path": "**/*.css", "compression-level": "0"}, "dist/css/a.css=css"},
		} {
			name := fmt.Sprint("a", i)
			c.with["name"] = name
			s, log := j.must("actions/upload-artifact@v4", c.with)
			contains(t, log, "With the provided path, there will be", "Artifact "+name+" has been successfully uploaded! Final size is", "Artifact ID is "+s.Outputs["artifact-id"])
			if want := "https://github.com/octo/repo/actions/runs/7/artifacts/" + s.Outputs["artifact-id"]; s.Outputs["artifact-url"] != want {
				t.Errorf("artifact-url is %s, want %s", s.Outputs["artifact-url"], want)
			}
			if len(s.Outputs["artifact-digest"]) != 64 {
				t.Errorf("artifact-digest is %q", s.Outputs["artifact-digest"])
			}
			down, log := j.must("actions/download-artifact@v4", map[string]string{"name": name, "path": "~/out/" + name})
			contains(t, log, "Downloading single artifact", "Total of 1 artifact(s) downloaded", "Download artifact has finished successfully",
				"SHA256 digest of downloaded artifact is "+s.Outputs["artifact-digest"])
			if want := j.box.Info().Home + "/out/" + name; down.Outputs["download-path"] != want {
				t.Errorf("download-path is %s, want %s", down.Outputs["download-path"], want)
			}
			if got := strings.Join(j.tree("~/out/"+name), " "); got != c.want {
				t.Errorf("%v:\n got %s\nwant %s", c.with, got, c.want)
			}
		}
	})
}

func TestUploadWhenThereIsNothing(t *testing.T) {
	j := newJob(t, "none")
	text := "No files were found with the provided path: none\nno/where. No artifacts will be uploaded."
	for how, want := range map[string]string{"warn": "::warning::" + strings.ReplaceAll(text, "\n", "%0A"), "ignore": text} {
		_, log := j.must("actions/upload-artifact@v4", map[string]string{"path": "none\nno/where", "if-no-files-found": how})
		contains(t, log, want)
	}
	_, _, err := j.run("actions/upload-artifact@v4", map[string]string{"path": "none\nno/where", "if-no-files-found": "error"})
	if err == nil || err.Error() != text {
		t.Errorf("got %v, want %s", err, text)
	}
}

func TestUploadRefuses(t *testing.T) {
	j := newJob(t, "none")
	j.files(map[string]string{"a": "a", "b": "b", "dir/c:d": "x", "dir/new\nline": "x"})
	for _, c := range []struct {
		with map[string]string
		want string
	}{
		{map[string]string{}, "Input required and not supplied: path"},
		{map[string]string{"path": "a", "name": "x/y"}, "The artifact name is not valid: x/y. Contains the following character:  Forward slash /"},
		{map[string]string{"path": "a", "name": "x\ny"}, "Line feed"},
		{map[string]string{"path": "a", "name": ""}, "Provided artifact name input during validation is empty"},
		{map[string]string{"path": "a", "name": ".."}, "not valid"},
		{map[string]string{"path": "dir/c*"}, "The path for one of the files in artifact is not valid: c:d. Contains the following character:  Colon :"},
		{map[string]string{"path": "dir/n*"}, "Line feed"},
		{map[string]string{"path": "a", "compression-level": "11"}, "Invalid compression-level. Valid values are 0-9"},
		{map[string]string{"path": "a", "compression-level": "x"}, "Invalid compression-level"},
		{map[string]string{"path": "a", "retention-days": "x"}, "Invalid retention-days"},
		{map[string]string{"path": "a", "overwrite": "yes"}, "Input does not meet YAML 1.2 \"Core Schema\" specification: overwrite"},
		{map[string]string{"path": "a", "if-no-files-found": "cry"}, "Unrecognized if-no-files-found input. Provided: cry. Available options: warn,error,ignore"},
		{map[string]string{"path": "../a"}, "Relative pathing '.' and '..' is not allowed"},
		{map[string]string{"path": "a\nb", "archive": "false"}, "When 'archive' is set to false, only a single file can be uploaded. Found 2 files to upload."},
	} {
		_, _, err := j.run("actions/upload-artifact@v4", c.with)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %s", c.with, err, c.want)
		}
	}
	if arts, err := j.host.Artifacts.List("7"); err != nil || len(arts) > 0 {
		t.Errorf("left behind: %v, %v", arts, err)
	}
	if blobs, err := j.host.Artifacts.blobs.List(""); err != nil || len(blobs) > 0 {
		t.Errorf("left behind: %v, %v", blobs, err)
	}
}

func TestUploadTwice(t *testing.T) {
	j := newJob(t, "none")
	j.files(map[string]string{"a": "one"})
	first, _ := j.must("actions/upload-artifact@v4", map[string]string{"path": "a"})
	_, _, err := j.run("actions/upload-artifact@v4", map[string]string{"path": "a"})
	if err == nil || !strings.Contains(err.Error(), "(409) Conflict: an artifact with this name already exists on the workflow run") {
		t.Errorf("got %v", err)
	}
	j.files(map[string]string{"a": "two"})
	second, _ := j.must("actions/upload-artifact@v4", map[string]string{"path": "a", "overwrite": "true"})
	if first.Outputs["artifact-id"] == second.Outputs["artifact-id"] {
		t.Error("the ID is the same")
	}
	j.must("actions/download-artifact@v4", map[string]string{"name": "artifact", "path": "out"})
	equal(t, "out", j.tree("out"), []string{"a=two"})

	j.github["run_attempt"] = "2" // a re-run may use the name again, and its artifact counts
	j.files(map[string]string{"a": "three"})
	j.must("actions/upload-artifact@v4", map[string]string{"path": "a"})
	j.must("actions/download-artifact@v4", map[string]string{"name": "artifact", "path": "again"})
	equal(t, "again", j.tree("again"), []string{"a=three"})
}

func TestUploadRaw(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		j.files(map[string]string{"dir/data.bin": "raw"})
		_, log := j.must("actions/upload-artifact@v7", map[string]string{"path": "dir/data.bin", "archive": "false", "name": "ignored"})
		contains(t, log, "Uploading artifact: data.bin\n", "Final size is 3 bytes")
		j.must("actions/download-artifact@v8", map[string]string{"name": "data.bin", "path": "out"})
		equal(t, "out", j.tree("out"), []string{"data.bin=raw"})
	})
}

func TestDownloadMany(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		ids := map[string]string{}
		for _, name := range []string{"report-1", "report-2", "other"} {
			j.files(map[string]string{"f/" + name + ".txt": name, "f/same": name})
			s, _ := j.must("actions/upload-artifact@v4", map[string]string{"name": name, "path": "f/" + name + ".txt\nf/same"})
			ids[name] = s.Outputs["artifact-id"]
		}
		for i, c := range []struct {
			with map[string]string
			want string
		}{
			{map[string]string{}, "other/other.txt=other other/same=other report-1/report-1.txt=report-1 report-1/same=report-1 report-2/report-2.txt=report-2 report-2/same=report-2"},
			{map[string]string{"pattern": "report-*"}, "report-1/report-1.txt=report-1 report-1/same=report-1 report-2/report-2.txt=report-2 report-2/same=report-2"},
			{map[string]string{"pattern": "report-*", "merge-multiple": "true"}, "report-1.txt=report-1 report-2.txt=report-2 same=report-2"},
			{map[string]string{"pattern": "oth*"}, "other.txt=other same=other"},
			{map[string]string{"artifact-ids": ids["other"] + " , " + ids["report-1"]}, "other/other.txt=other other/same=other report-1/report-1.txt=report-1 report-1/same=report-1"},
			{map[string]string{"artifact-ids": ids["other"]}, "other.txt=other same=other"},
			{map[string]string{"pattern": "none*"}, ""},
		} {
			c.with["path"] = fmt.Sprint("out", i)
			j.must("actions/download-artifact@v4", c.with)
			if got := strings.Join(j.tree(c.with["path"]), " "); got != c.want {
				t.Errorf("%v:\n got %s\nwant %s", c.with, got, c.want)
			}
		}
		for _, c := range []struct {
			with map[string]string
			want string
		}{
			{map[string]string{"name": "none"}, "Unable to download artifact(s): Artifact not found for name: none"},
			{map[string]string{"name": "a", "artifact-ids": "1"}, "cannot be used together"},
			{map[string]string{"artifact-ids": "x"}, "Invalid artifact ID: 'x'. Must be a number."},
			{map[string]string{"artifact-ids": " , "}, "No valid artifact IDs provided"},
			{map[string]string{"artifact-ids": "5"}, "None of the provided artifact IDs were found"},
			{map[string]string{"digest-mismatch": "x"}, "Invalid value for 'digest-mismatch': 'x'. Valid options are: ignore, info, warn, error"},
			{map[string]string{"name": "other", "github-token": "t", "repository": "octo/repo", "run-id": "../7"}, "Invalid run-id"},
			{map[string]string{"name": "other", "github-token": "t", "repository": "else/where", "run-id": "7"}, "else/where"},
		} {
			_, _, err := j.run("actions/download-artifact@v4", c.with)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v: got %v, want %s", c.with, err, c.want)
			}
		}
		j.github["run_id"] = "8"
		j.must("actions/download-artifact@v4", map[string]string{"name": "other", "path": "elsewhere", "github-token": "t", "repository": "octo/repo", "run-id": "7"})
		equal(t, "of another run", j.tree("elsewhere"), []string{"other.txt=other", "same=other"})
	})
}

func TestMergeArtifacts(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		for _, name := range []string{"a", "b"} {
			j.files(map[string]string{name + ".txt": name})
			j.must("actions/upload-artifact@v4", map[string]string{"name": name, "path": name + ".txt"})
		}
		j.must("actions/upload-artifact/merge@v4", map[string]string{"name": "apart", "pattern": "[ab]", "separate-directories": "true"})
		_, log := j.must("actions/upload-artifact/merge@v4", map[string]string{"name": "all", "pattern": "[ab]", "delete-merged": "true"})
		contains(t, log, "The 2 artifact(s) have been successfully merged!", "The 2 artifact(s) have been deleted")
		j.must("actions/download-artifact@v4", map[string]string{"path": "out"})
		equal(t, "out", j.tree("out"), []string{"all/a.txt=a", "all/b.txt=b", "apart/a/a.txt=a", "apart/b/b.txt=b"})
		if _, _, err := j.run("actions/upload-artifact/merge@v4", map[string]string{"pattern": "none"}); err == nil || err.Error() != "No artifacts found matching pattern 'none'" {
			t.Errorf("got %v", err)
		}
		if left := j.tree(j.box.Info().Temp); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

// forge puts bytes in the place of an artifact's.
func (j *job) forge(name string, data []byte) {
	j.t.Helper()
	arts, err := j.host.Artifacts.List("7")
	if err != nil {
		j.t.Fatal(err)
	}
	for _, a := range arts {
		if a.Name == name {
			if _, err := j.host.Artifacts.blobs.Put(j.t.Context(), a.key(".data"), bytes.NewReader(data)); err != nil {
				j.t.Fatal(err)
			}
		}
	}
}

func TestDownloadChecksTheDigest(t *testing.T) {
	j := newJob(t, "none")
	j.files(map[string]string{"a": "one", "b": "two"})
	j.must("actions/upload-artifact@v4", map[string]string{"name": "a", "path": "a"})
	j.must("actions/upload-artifact@v4", map[string]string{"name": "b", "path": "b"})
	arts, err := j.host.Artifacts.List("7")
	if err != nil || len(arts) != 2 {
		t.Fatal(arts, err)
	}
	f, err := j.host.Artifacts.Open(arts[1])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	j.forge("a", data)
	_, _, err = j.run("actions/download-artifact@v8", map[string]string{"name": "a", "path": "out"})
	if err == nil || !strings.Contains(err.Error(), "Digest validation failed for artifact(s): a.") {
		t.Errorf("got %v", err)
	}
	_, log := j.must("actions/download-artifact@v8", map[string]string{"name": "a", "path": "out", "digest-mismatch": "warn"})
	contains(t, log, "::warning::Artifact 'a' digest validation failed.")
}

func TestDownloadKeepsHostileArchivesIn(t *testing.T) {
	for _, name := range []string{"../evil", "/evil", "a/../../evil", "a\\..\\evil", "./x", "a//b", "\x00"} {
		j := newJob(t, "none")
		j.files(map[string]string{"a": "a"})
		j.must("actions/upload-artifact@v4", map[string]string{"name": "a", "path": "a"})
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("evil")); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		j.forge("a", b.Bytes())
		_, _, err = j.run("actions/download-artifact@v8", map[string]string{"name": "a", "path": "deep/out", "digest-mismatch": "ignore"})
		if err == nil {
			t.Errorf("%q is unpacked", name)
		}
	}
}

// TestDownloadBoundsBombs: a small archive that says it unpacks to more than any disk has, and one that says less than it holds.
func TestDownloadBoundsBombs(t *testing.T) {
	zeros := make([]byte, 1<<20)
	var packed bytes.Buffer
	d, err := flate.NewWriter(&packed, flate.BestCompression)
	if err == nil {
		_, err = d.Write(zeros)
	}
	if err := errors.Join(err, d.Close()); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]uint64{"unpacks to more than": maxUnpacked + 1, "": 10} {
		j := newJob(t, "none")
		j.files(map[string]string{"a": "a"})
		j.must("actions/upload-artifact@v4", map[string]string{"name": "a", "path": "a"})
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for i := range 2 {
			w, err := z.CreateRaw(&zip.FileHeader{
				Name: fmt.Sprint(i), Method: zip.Deflate, CRC32: crc32.ChecksumIEEE(zeros), CompressedSize64: uint64(packed.Len()), UncompressedSize64: size,
			})
			if err == nil {
				_, err = w.Write(packed.Bytes())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		j.forge("a", b.Bytes())
		if _, _, err := j.run("actions/download-artifact@v8", map[string]string{"name": "a", "path": "out", "digest-mismatch": "ignore"}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("an archive that says it unpacks to %d bytes: %v", size, err)
		}
	}
}

func FuzzDownload(f *testing.F) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, _ := z.Create("a/b")
	_, _ = w.Write([]byte("x"))
	_ = z.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for _, file := range r.File {
			if zipName(file) == nil && !filepath.IsLocal(file.Name) {
				t.Errorf("%q is taken", file.Name)
			}
		}
	})
}

func TestArtifactsOfJobsThatUploadAtOnce(t *testing.T) {
	j := newJob(t, "none")
	arts := j.host.Artifacts
	started, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := arts.Create(t.Context(), Artifact{Run: "1", Attempt: "1", Name: "x"}, func(w io.Writer) error {
			close(started)
			<-release
			_, err := io.WriteString(w, "first")
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-started
	_, err := arts.Create(t.Context(), Artifact{Run: "1", Attempt: "1", Name: "x"}, func(io.Writer) error { return nil })
	if !errors.Is(err, ErrArtifactExists) {
		t.Errorf("got %v, want ErrArtifactExists", err)
	}
	if list, err := arts.List("1"); err != nil || len(list) > 0 {
		t.Errorf("half of it is listed: %v, %v", list, err)
	}
	close(release)
	wg.Wait()
	if list, err := arts.List("1"); err != nil || len(list) != 1 || list[0].Size != 5 {
		t.Errorf("got %v, %v", list, err)
	}
	failed := errors.New("disk full")
	if _, err := arts.Create(t.Context(), Artifact{Run: "1", Attempt: "1", Name: "y"}, func(w io.Writer) error {
		_, _ = io.WriteString(w, "half")
		return failed
	}); !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
	if blobs, err := arts.blobs.List(""); err != nil || len(blobs) != 2 {
		t.Errorf("got %v, %v, want one artifact's two blobs", blobs, err)
	}
}

func TestArtifactsExpire(t *testing.T) {
	j := newJob(t, "none")
	j.files(map[string]string{"a": "a"})
	_, log := j.must("actions/upload-artifact@v4", map[string]string{"name": "short", "path": "a", "retention-days": "1"})
	_, log2 := j.must("actions/upload-artifact@v4", map[string]string{"name": "long", "path": "a", "retention-days": "400"})
	if strings.Contains(log, "Retention days") {
		t.Error(log)
	}
	contains(t, log2, "Using 90 instead")
	arts := j.host.Artifacts
	arts.now = func() time.Time { return time.Now().AddDate(0, 0, 2) }
	if list, err := arts.List("7"); err != nil || len(list) != 1 || list[0].Name != "long" {
		t.Errorf("got %v, %v", list, err)
	}
	// What a killed process left: data without a description.
	if _, err := arts.blobs.Put(t.Context(), "artifacts/7/1/5.data", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if err := arts.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if blobs, err := arts.blobs.List(""); err != nil || len(blobs) != 2 {
		t.Errorf("got %v, %v, want the long one's two blobs", blobs, err)
	}
}

func TestArtifactDescriptionsAreChecked(t *testing.T) {
	j := newJob(t, "none")
	if _, err := j.host.Artifacts.blobs.Put(t.Context(), "artifacts/7/1/5.json", strings.NewReader(`{"id":5,"run":"7","attempt":"../..","name":"x"}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := j.host.Artifacts.List("7"); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
}
