package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/layer"
)

// unpackHere unpacks a stream to a new directory.
func unpackHere(t testing.TB, o Options, stream []byte) (string, result, error) {
	t.Helper()
	outer := t.TempDir()
	t.Cleanup(func() { layer.RemoveAll(filepath.Join(outer, "d")) })
	dir := filepath.Join(outer, "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if o.Owner == 0 {
		o.Owner = os.Getuid()
		if os.Getuid() == 0 {
			o.Owner = testOwner
		}
	}
	if o.MaxUnpacked == 0 {
		o.MaxUnpacked = 64 << 20
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = 10_000
	}
	s := &Store{o: o}
	res, _, err := s.unpackTo(t.Context(), func() {}, bytes.NewReader(stream), dir)
	entries, bad := os.ReadDir(outer)
	if bad != nil || len(entries) != 1 {
		t.Errorf("beside the directory there are %v, %v", entries, bad)
	}
	return dir, res, err
}

func TestUnpack(t *testing.T) {
	with := func(m member, change func(*tar.Header)) member {
		change(&m.Header)
		return m
	}
	for _, test := range []struct {
		name string
		tar  []member
		want []string
	}{
		{"names from the root of the image", []member{file("/a", "1"), file("./b", "2"), file("c/../d", "3"), file("//e//f", "4")},
			[]string{`a: file 644 0:0 1 "1"`, `b: file 644 0:0 1 "2"`, `d: file 644 0:0 1 "3"`, "e: dir 755 0:0", `e/f: file 644 0:0 1 "4"`}},
		{"set-user-ID bits and users", []member{
			with(file("su", "x"), func(h *tar.Header) { h.Mode = 0o6755 }),
			with(folder("tmp"), func(h *tar.Header) { h.Mode = 0o1777 }),
		}, []string{`su: file 6755 0:0 1 "x"`, "tmp: dir 1777 0:0"}},
		{"links stay links", []member{symlink("abs", "/etc/passwd"), symlink("up", "../../../x"), symlink("none", "nowhere"), file("f", "1"), hardlink("h", "f"), hardlink("h2", "/h")},
			[]string{"abs: link /etc/passwd", `f: file 644 0:0 3 "1"`, `h: file 644 0:0 3 "1"`, `h2: file 644 0:0 3 "1"`, "none: link nowhere", "up: link ../../../x"}},
		{"a hard link to a link, and to itself", []member{symlink("l", "/etc"), hardlink("m", "l"), file("f", "1"), hardlink("f", "f")},
			[]string{`f: file 644 0:0 1 "1"`, "l: link /etc", "m: link /etc"}},
		{"whiteouts", []member{file(".wh.gone", ""), file("d/.wh.gone", ""), file("o/.wh..wh..opq", ""), file("o/new", "1"), file(".wh..wh.plnk", ""), file(".wh..wh..aufs", "")},
			[]string{"d: dir 755 0:0", "d/gone: gone", "gone: gone", "o: dir 755 0:0 opaque", `o/new: file 644 0:0 1 "1"`}},
		{"whiteouts of what is here", []member{file("f", "1"), file(".wh.f", ""), folder("d"), file("d/x", "1"), file(".wh.d", ""), file(".wh.e", ""), folder("e"), file(".wh.g", ""), file("g", "1")},
			[]string{"d: dir 755 0:0 opaque", `d/x: file 644 0:0 1 "1"`, "e: dir 755 0:0 opaque", `f: file 644 0:0 1 "1"`, `g: file 644 0:0 1 "1"`}},
		{"one thing in place of another", []member{
			file("a", "1"), folder("a"), file("a/x", "1"), folder("b"), file("b/y/z", "1"), file("b", "2"), symlink("c", "a"), folder("c"),
			file("e", "1"), hardlink("f", "e"), file("e", "2"), symlink("g", "a"), file("g", "3"), folder("h"), file("h/i", "1"), symlink("h", "a"),
		}, []string{"a: dir 755 0:0", `a/x: file 644 0:0 1 "1"`, `b: file 644 0:0 1 "2"`, "c: dir 755 0:0", `e: file 644 0:0 1 "2"`, `f: file 644 0:0 1 "1"`, `g: file 644 0:0 1 "3"`, "h: link a"}},
		{"a directory twice keeps what is in it", []member{folder("a"), file("a/x", "1"), with(folder("a"), func(h *tar.Header) { h.Mode = 0o700 })},
			[]string{"a: dir 700 0:0", `a/x: file 644 0:0 1 "1"`}},
		{"links within the image are followed within it", []member{folder("usr"), folder("usr/lib"), symlink("lib", "usr/lib"), file("lib/x", "1"), symlink("abs", "/usr"), file("abs/y", "2"), symlink("out", "../../usr"), file("out/z", "3")},
			[]string{"abs: link /usr", "lib: link usr/lib", "out: link ../../usr", "usr: dir 755 0:0", "usr/lib: dir 755 0:0", `usr/lib/x: file 644 0:0 1 "1"`, `usr/y: file 644 0:0 1 "2"`, `usr/z: file 644 0:0 1 "3"`}},
		{"a link that changes where it leads", []member{folder("a"), folder("b"), symlink("l", "a"), file("l/x", "1"), symlink("l", "b"), file("l/y", "2")},
			[]string{"a: dir 755 0:0", `a/x: file 644 0:0 1 "1"`, "b: dir 755 0:0", `b/y: file 644 0:0 1 "2"`, "l: link b"}},
		{"devices are left out", []member{{Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}, {Header: tar.Header{Name: "zero", Typeflag: tar.TypeChar}},
			{Header: tar.Header{Name: "sda", Typeflag: tar.TypeBlock}}, {Header: tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o622}}},
			[]string{"pipe: fifo 622 0:0"}},
		{"a directory that forbids", []member{with(folder("d"), func(h *tar.Header) { h.Mode = 0o555 }), file("d/x", "1")},
			[]string{"d: dir 555 0:0", `d/x: file 644 0:0 1 "1"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			stream := tarOf(t, test.tar...)
			dir, _, err := unpackHere(t, Options{}, gzipped(t, stream))
			if err != nil {
				t.Fatal(err)
			}
			if got := tree(t, dir); !slices.Equal(got, test.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(test.want, "\n\t"))
			}
		})
	}
}

func TestUnpackCountsWhatIsLeftOut(t *testing.T) {
	m := file("f", "x")
	m.PAXRecords = map[string]string{"SCHILY.xattr.user.kept": "v", "SCHILY.xattr.user.overlay.redirect": "/", "SCHILY.xattr.trusted.x": "v", "SCHILY.xattr.security.selinux": "v"}
	null := member{Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}
	dir, res, err := unpackHere(t, Options{}, tarOf(t, m, null))
	if err != nil || res.leftOut != 4 {
		t.Errorf("left out %d, %v", res.leftOut, err)
	}
	names, err := listAttributes(filepath.Join(dir, "f"))
	if err != nil || !slices.Equal(names, []string{"user.kept"}) {
		t.Errorf("attributes %q, %v", names, err)
	}
}

func TestUnpackUsersAndCapabilities(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("an ordinary user gives files to nobody")
		return
	}
	m := file("ping", "x")
	m.Uid, m.Gid = 33, 70_000
	m.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	dir, res, err := unpackHere(t, Options{}, tarOf(t, m))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := tree(t, dir), []string{`ping: file 644 33:65534 1 "x"`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	value, err := readAttribute(filepath.Join(dir, "ping"), capability)
	if want := "\x01\x00\x00\x03\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x40"; res.leftOut == 0 && (err != nil || string(value) != want) {
		t.Errorf("capabilities %x, %v", value, err)
	}
	if got := string(imageCapability(value)); res.leftOut == 0 && got != m.PAXRecords["SCHILY.xattr.security.capability"] {
		t.Errorf("packed again they are %x", got)
	}
}

func TestUnpackRefuses(t *testing.T) {
	sparse := member{Header: tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644}, text: strings.Repeat("x", 3000)}
	deep := strings.Repeat("d/", 200) + "f"
	for _, test := range []struct {
		name   string
		stream []byte
		o      Options
		want   error
		text   string
	}{
		{"up", tarOf(t, file("../x", "1")), Options{}, ErrArchive, `entry "../x": bad archive: it leads out of the image`},
		{"up from the root", tarOf(t, file("/../../x", "1")), Options{}, ErrArchive, "it leads out"},
		{"up in the middle", tarOf(t, file("a/../../x", "1")), Options{}, ErrArchive, "it leads out"},
		{"a whiteout of above", tarOf(t, file("a/.wh...", "")), Options{}, ErrArchive, "it takes away nothing"},
		{"a whiteout of here", tarOf(t, file("a/.wh..", "")), Options{}, ErrArchive, "it takes away nothing"},
		{"a whiteout of nothing", tarOf(t, file(".wh.", "")), Options{}, ErrArchive, "it takes away nothing"},
		{"a hard link out", tarOf(t, hardlink("x", "../../etc/passwd")), Options{}, ErrArchive, `hard link to "../../etc/passwd": bad archive: it leads out`},
		{"a hard link to the host", tarOf(t, hardlink("x", "/etc/passwd")), Options{}, ErrArchive, `a hard link to "/etc/passwd", which is not in this layer`},
		{"a hard link through a link", tarOf(t, symlink("l", "/etc"), hardlink("x", "l/passwd")), Options{}, ErrArchive, "not in this layer"},
		{"a hard link to a directory", tarOf(t, folder("d"), hardlink("x", "d")), Options{}, ErrArchive, "a hard link to the directory"},
		{"a hard link to a whiteout", tarOf(t, file(".wh.f", ""), hardlink("x", "f")), Options{}, ErrArchive, "not in this layer"},
		{"a hard link in place of what it leads to", tarOf(t, folder("d"), file("d/f", "1"), hardlink("d", "d/f")), Options{}, ErrArchive, "not in this layer"},
		{"through a link to the host", tarOf(t, symlink("l", "/etc"), file("l/passwd", "1")), Options{}, ErrArchive, "a link that leads nowhere"},
		{"through a link above", tarOf(t, symlink("l", "../../.."), symlink("m", "l/etc"), file("m/passwd", "1")), Options{}, ErrArchive, "a link that leads nowhere"},
		{"a link to itself", tarOf(t, symlink("l", "l"), file("l/x", "1")), Options{}, ErrArchive, "a link that leads nowhere"},
		{"below a file", tarOf(t, file("f", "1"), file("f/x", "1")), Options{}, ErrArchive, "f is no directory"},
		{"a root that is a file", tarOf(t, symlink(".", "/etc")), Options{}, ErrArchive, "the root is no directory"},
		{"a long name", tarOf(t, file(strings.Repeat("n", 300), "1")), Options{}, ErrTooLarge, "more than 255 bytes"},
		{"a long path", tarOf(t, file(strings.Repeat(strings.Repeat("n", 99)+"/", 50)+"f", "1")), Options{}, ErrTooLarge, "a path of 5001 bytes"},
		{"deep directories", tarOf(t, file(deep, "1")), Options{}, ErrTooLarge, "more than 128 directories deep"},
		{"too many bytes", tarOf(t, sparse, sparse), Options{MaxUnpacked: 4000}, ErrTooLarge, "more than 4000 bytes in this layer"},
		{"too many files", tarOf(t, file("a", ""), file("b", ""), file("c", "")), Options{MaxEntries: 2}, ErrTooLarge, "more files than allowed"},
		{"too many directories that nobody named", tarOf(t, file("a/b/c/d/e", "")), Options{MaxEntries: 3}, ErrTooLarge, "more files than allowed"},
		{"a bomb", gzipped(t, make([]byte, 4<<20)), Options{MaxUnpacked: 100_000}, ErrTooLarge, "unpacks to too much"},
		{"a bomb behind the end", gzipped(t, append(tarOf(t), make([]byte, 4<<20)...)), Options{MaxUnpacked: 100_000}, ErrTooLarge, "unpacks to too much"},
		{"a gzip cut off", gzipped(t, tarOf(t, file("f", "1")))[:60], Options{}, ErrArchive, "unexpected EOF"},
		{"a tar cut off", tarOf(t, sparse)[:2000], Options{}, ErrArchive, "unexpected EOF"},
		{"a gzip with a wrong sum", flip(gzipped(t, tarOf(t, file("f", "1"))), -6), Options{}, ErrArchive, "checksum"},
		{"no tar", []byte(strings.Repeat("no tar", 200)), Options{}, ErrArchive, "invalid tar header"},
		{"xz", []byte("\xfd7zXZ\x00 and so on"), Options{}, ErrArchive, "bzip2 or xz"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := unpackHere(t, test.o, test.stream)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want %q", err, test.text)
			}
		})
	}
}

func TestUnpackSparseFiles(t *testing.T) {
	size := 8 << 20
	text := make([]byte, size)
	text[size/2] = 'x'
	dir, _, err := unpackHere(t, Options{MaxUnpacked: 4 << 20}, gzipped(t, tarOf(t, file("f", string(text)))))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "f"))
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "f"), &st); err != nil || st.Blocks*512 > int64(size/2) {
		t.Errorf("takes %d bytes on disk, %v", st.Blocks*512, err)
	}
}

func TestUnpackTimes(t *testing.T) {
	d := folder("d")
	d.ModTime = time.Unix(1_000_000_000, 0)
	l := symlink("d/l", "x")
	l.ModTime = time.Unix(1_100_000_000, 0)
	dir, _, err := unpackHere(t, Options{}, tarOf(t, d, l))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{"d": 1_000_000_000, "d/l": 1_100_000_000} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || info.ModTime().Unix() != want {
			t.Errorf("%s is of %v, %v", name, info.ModTime(), err)
		}
	}
}

func TestUnpackZstd(t *testing.T) {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(tarOf(t, file("f", "1")))
	w.Close()
	dir, _, err := unpackHere(t, Options{}, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := tree(t, dir), []string{`f: file 644 0:0 1 "1"`}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestUnpackEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := &Store{o: Options{MaxUnpacked: 1 << 20, MaxEntries: 10}}
	if _, _, err := s.unpackTo(ctx, func() {}, bytes.NewReader(tarOf(t, file("f", "1"))), t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestPackIsTheReverse unpacks tars, packs them, unpacks that, and compares.
func TestPackIsTheReverse(t *testing.T) {
	su := file("su", "x")
	su.Mode, su.Uid, su.Gid = 0o4755, 10, 20
	su.PAXRecords = map[string]string{"SCHILY.xattr.user.k": "v"}
	for name, stream := range everyKind(t, su) {
		t.Run(name, func(t *testing.T) { packAgain(t, stream) })
	}
}

func everyKind(t testing.TB, more ...member) map[string][]byte {
	return map[string][]byte{
		"nothing": tarOf(t),
		"every kind": tarOf(t, append(more, folder("d"), file("d/f", "text"), hardlink("d/h", "d/f"), symlink("l", "/d"), hardlink("l2", "l"),
			file(".wh.gone", ""), file("d/.wh.x", ""), folder("o"), file("o/.wh..wh..opq", ""), file("o/f", ""),
			member{Header: tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o600}})...),
		"long names": tarOf(t, file(strings.Repeat("n", 200), "1"), symlink("l", strings.Repeat("m", 1000)), file("ünïcode", "2"), file("a\\b c\nd", "3")),
	}
}

func packAgain(t *testing.T, stream []byte) {
	t.Helper()
	dir, _, err := unpackHere(t, Options{}, stream)
	if err != nil {
		return // refused: another test's
	}
	var first, second bytes.Buffer
	l := layer.Layer{Owner: testOwner}
	if err := packTar(t.Context(), &first, dir, l); err != nil {
		t.Fatal(err)
	}
	again, _, err := unpackHere(t, Options{}, first.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := tree(t, again), tree(t, dir); !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	if err := packTar(t.Context(), &second, again, l); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same files are packed to other bytes")
	}
}

func FuzzUnpack(f *testing.F) {
	for _, stream := range everyKind(f) {
		f.Add(stream)
		f.Add(gzipped(f, stream))
	}
	f.Add(tarOf(f, symlink("l", "/etc"), file("l/passwd", "1")))
	f.Add(tarOf(f, file("../x", "1"), hardlink("y", "../../etc/passwd")))
	f.Fuzz(func(t *testing.T, stream []byte) {
		packAgainFuzzed(t, stream)
	})
}

// FuzzEntries makes tars of a few names that get in each other's way, three bytes an entry.
func FuzzEntries(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 1, 0, 2, 2, 3, 3, 4, 1})
	f.Add([]byte{2, 0, 5, 0, 1, 0, 3, 4, 1, 0, 8, 0, 0, 9, 0})
	f.Add([]byte("\x02\x00+\x01\x9c+\x01\x00+")) // a directory made through a link that goes
	names := []string{"a", "a/b", "a/b/c", "l", "l/x", "../out", ".wh.a", "a/.wh.b", "a/.wh..wh..opq", ".wh..wh..opq", "/l/b", "a/../l", "l/.wh.x", "./"}
	targets := []string{"a", "l", "a/b", "..", "../..", "/", "/a", "../out", "l/x", "/proc/self/cwd", "."}
	types := []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeChar}
	f.Fuzz(func(t *testing.T, program []byte) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for ; len(program) >= 3 && b.Len() < 100_000; program = program[3:] {
			h := tar.Header{Typeflag: types[int(program[0])%len(types)], Name: names[int(program[1])%len(names)], Mode: int64(program[2]) << 4}
			if h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeLink {
				h.Linkname = targets[int(program[2])%len(targets)]
			}
			if w.WriteHeader(&h) != nil {
				return // a directory's name for a file
			}
		}
		if w.Close() == nil {
			packAgainFuzzed(t, b.Bytes())
		}
	})
}

// packAgainFuzzed is packAgain where a tar of anything may unpack to what can not be read again in the same way.
func packAgainFuzzed(t *testing.T, stream []byte) {
	dir, _, err := unpackHere(t, Options{MaxUnpacked: 1 << 20, MaxEntries: 100}, stream)
	if err != nil {
		return
	}
	var packed bytes.Buffer
	if err := packTar(t.Context(), &packed, dir, layer.Layer{Owner: testOwner}); err != nil {
		t.Fatal(err)
	}
	again, _, err := unpackHere(t, Options{}, packed.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := tree(t, again), tree(t, dir); !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// The test of the full disk works on a small file system in memory.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Logf("no small disk here: %v", err)
		return
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	host := newRegistry(t, nil)
	text := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(text)
	large := make([][]byte, 4)
	for i := range large {
		large[i] = tarOf(t, file(fmt.Sprint("a", i), string(text)), file(fmt.Sprint("b", i), string(text)))
	}
	pushTo(t, host+"/small:1", newImage(t, tarOf(t, file("f", "x"))))
	pushTo(t, host+"/large:1", newImage(t, large...))

	s := openStoreAt(t, dir, Options{})
	_, err := s.Pull(t.Context(), host+"/large:1", PullOptions{})
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "the disk that holds "+dir) {
		t.Fatalf("pull to a full disk: %v", err)
	}
	nothingHalfDone(t, s)
	img, err := s.Pull(t.Context(), host+"/small:1", PullOptions{})
	if err != nil {
		t.Fatalf("after a full disk: %v", err)
	}
	if _, err := s.Layers(t.Context(), img); err != nil {
		t.Error(err)
	}
	if _, err := s.Find(host + "/large:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("what did not fit is found: %v", err)
	}
	var archive bytes.Buffer
	big := openStore(t, Options{})
	if _, err := big.Pull(t.Context(), host+"/large:1", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := big.Save(t.Context(), &archive, host+"/large:1"); err != nil {
		t.Fatal(err)
	}
	if archive.Len() < 4<<20 {
		t.Fatalf("the archive has only %d bytes", archive.Len())
	}
	if _, err := s.Load(t.Context(), &archive); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("load to a full disk: %v", err)
	}
	nothingHalfDone(t, s)
}

// TestOrdinaryUser runs the tests above once more as a user who may give files to nobody.
func TestOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // they run as one anyway
	}
	dir, err := os.MkdirTemp("", "penstock-image-") // that of this test is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "test")
	if err := os.WriteFile(name, program, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, "-test.run=^Test(Unpack|Pull|Pack|SaveAndLoad|Commit|Prune)")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as an ordinary user: %v\n%s", err, out)
	}
}
