package build

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/penstock-ci/penstock/internal/imagetest"
)

// differences are Dockerfiles that a docker daemon's BuildKit builds too. Debian's is of 2021: what is newer is tested
// without it.
var differences = []struct{ name, dockerfile string }{
	{"copies", `FROM busybox
COPY a.txt /one
COPY a.txt b.txt /dir/
COPY a.txt /new/deep/file
COPY sub /sub
COPY sub /sub-slash/
COPY sub/. /dot
COPY *.txt sub/*.txt /wild/
COPY [ab].txt /class/
COPY link.txt /followed
COPY sub/link /kept/
COPY . /all/
COPY sub/inner/../inner/x.txt /cleaned
COPY script.sh /usr/bin/script.sh
`},
	{"chown and chmod", `FROM busybox
COPY --chown=12:34 a.txt /numbers
COPY --chown=12 a.txt /user-only
COPY --chown=nobody:app sub /names
COPY --chown=nobody a.txt /made/for/nobody
COPY --chmod=640 a.txt /mode
COPY --chown=1:2 --chmod=755 sub /both/
COPY --chown=:7 a.txt /group-only
`},
	{"over what is there", `FROM busybox
RUN mkdir -p /d/e /real && echo old > /d/a.txt && ln -s /real /link && echo keep > /d/keep
COPY a.txt /d/
COPY sub /d
COPY a.txt /link/
COPY sub /link
RUN rm -r /d/inner && mkdir /d/inner && touch /d/inner/only
COPY b.txt /d/inner/b
`},
	{"archives", `FROM busybox
ADD tree.tar /plain
ADD tree.tar.gz /packed/
COPY tree.tar.gz /copied/
ADD a.txt /no-archive
`},
	{"working directories", `FROM busybox
WORKDIR /w
WORKDIR sub
RUN pwd > here
WORKDIR /w/with/user
USER 100:200
WORKDIR /owned/by
RUN touch /tmp/mine && id > /tmp/id
WORKDIR ../up
USER nobody
RUN id > /tmp/nobody && pwd >> /tmp/nobody
`},
	{"configuration", `FROM busybox
ENV A=1 B="two words" C=$A-$B
ENV OLD style value
ARG ARGUMENT=default
ENV FROM_ARG=${ARGUMENT:-none} UNSET=${NOTHING:-fallback} ALT=${A:+set}
LABEL one=1 "two words"="x y" multi="a\
b"
EXPOSE 80 443/tcp 53/udp $A
VOLUME /v1 /v2
VOLUME ["/v 3"]
USER app:staff
STOPSIGNAL SIGUSR1
SHELL ["/bin/sh", "-ec"]
HEALTHCHECK --interval=5s --timeout=2s --start-period=1s --retries=4 CMD test -e /ok
CMD echo "$A"
ENTRYPOINT ["/bin/echo", "$A"]
ONBUILD RUN echo never
MAINTAINER somebody
`},
	{"command resets", `FROM busybox AS base
ENTRYPOINT ["/e"]
CMD ["c"]
HEALTHCHECK CMD true
FROM base
ENTRYPOINT ["/other"]
HEALTHCHECK NONE
`},
	{"stages", `ARG BASE=busybox
FROM ${BASE} AS first
RUN mkdir /out && echo 1 > /out/1 && ln /out/1 /out/hard && ln -s 1 /out/soft && chmod 4755 /out/1 && chown 9:8 /out
FROM first AS second
RUN echo 2 > /out/2 && rm /out/soft
FROM scratch AS files
COPY --from=first /out/1 /
COPY --from=1 /out /second/
FROM busybox
COPY --from=files / /files/
COPY --from=first /out/ /out
COPY --from=second --chown=3:4 /out/2 /two
COPY --from=busybox /etc/motd /motd
`},
	{"onbuild", `FROM busybox AS parent
ONBUILD COPY a.txt /onbuild
ONBUILD RUN cat /onbuild > /ran
ONBUILD ENV X=1
FROM parent
RUN echo $X > /x
`},
	{"what RUN does", `FROM busybox
RUN echo a > /a && echo b > /b && mkdir -p /t/u && echo c > /t/u/c
RUN rm /a && rm -r /t && mkdir /t && chmod 1777 /t && mkfifo /t/pipe && ln -s /nowhere /t/dangling
RUN mv /b /moved && touch -d @1000000 /moved && chmod 0 /moved
RUN ["/bin/echo", "$NOT", "expanded"]
RUN cd /etc && chmod 700 . && echo changed >> motd
RUN mkdir /q && chown 1234:5678 /q && chmod g+s /q
RUN --mount=type=tmpfs,target=/mnt/tmp --mount=type=cache,target=/mnt/cache --mount=type=bind,source=sub,target=/mnt/bind ls /mnt/bind > /listing && touch /mnt/tmp/x /mnt/cache/y
RUN (sleep 1000 &) ; true
RUN env | sort >/env; umask >>/env
USER app
ENV HOME_IS=x
RUN env | sort >/tmp/env; echo ~ >>/tmp/env
`},
	{"nothing but configuration", "FROM busybox\nENV A=b\n"},
	{"scratch", "FROM scratch\nCOPY a.txt /\nCOPY sub /x/y/\nENV P=q\n"},
	{"ignored files", "FROM busybox\nCOPY . /c/\nCOPY keep /k/\n"},
	{"escape", "# escape=`\nFROM busybox\nRUN echo one `\n  two > /x\nENV P=C:\\dir\n"},
}

// TestAsBuildKit builds the same Dockerfiles with a docker daemon's BuildKit: the same files with the same owners and
// modes, and the same configuration.
func TestAsBuildKit(t *testing.T) {
	b := common.bench(t)
	docker, err := imagetest.StartDocker(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := docker.Close(); err != nil {
			t.Error(err)
		}
	})
	var base bytes.Buffer
	if err := b.Images.Save(t.Context(), &base, "busybox:latest"); err != nil {
		t.Fatal(err)
	}
	if _, err := docker.Run(t.Context(), &base, "load"); err != nil {
		t.Fatal(err)
	}
	root := differContext(t)
	for i, d := range differences {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			ours := b.saved(t, root, d.dockerfile)
			theirs, err := buildKit(t.Context(), docker, root.Name(), d.dockerfile, filepath.Join(t.TempDir(), fmt.Sprintf("theirs-%d.tar", i)))
			if err != nil {
				t.Fatal(err)
			}
			differ(t, describeImage(t, ours), describeImage(t, theirs))
		})
	}
}

// differContext is a build context with some of everything.
func differContext(t *testing.T) *os.Root {
	root := dir(t, map[string]string{
		"a.txt": "a\n", "b.txt": "bb\n", "sub/c.txt": "c\n", "sub/inner/x.txt": "x\n", "sub/.hidden": "h", "script.sh": "#!/bin/sh\n",
		"ignored.log": "no", "sub/ignored.log": "no", "node_modules/a/b": "no", "node_modules/keep/c": "yes", "keep/this": "1", "keep/not.log": "2", "keep/yes.log": "3",
		".dockerignore": "# comment\n*.log\n**/*.log\nnode_modules\n!node_modules/keep\n!keep/yes.log\ntree.tar.none\n",
	})
	for _, step := range []error{
		os.Chmod(filepath.Join(root.Name(), "script.sh"), 0o755), os.Chmod(filepath.Join(root.Name(), "sub/inner"), 0o700), os.Chmod(filepath.Join(root.Name(), "b.txt"), 0o600),
		os.Symlink("a.txt", filepath.Join(root.Name(), "link.txt")), os.Symlink("inner/x.txt", filepath.Join(root.Name(), "sub/link")), os.Symlink("/etc/passwd", filepath.Join(root.Name(), "sub/abs")),
		os.Chown(filepath.Join(root.Name(), "a.txt"), 55, 66),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	for _, args := range [][]string{{"-cf", "tree.tar"}, {"-czf", "tree.tar.gz"}} {
		cmd := exec.Command("tar", append(args, "--owner=77:77", "--group=88:88", "-C", root.Name(), "sub")...)
		cmd.Dir = root.Name()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("tar: %v\n%s", err, out)
		}
	}
	return root
}

// saved builds and gives the image as docker would save it.
func (b *bench) saved(t *testing.T, context *os.Root, dockerfile string) string {
	t.Helper()
	res, out, err := b.build(Request{Context: context, Dockerfile: []byte(dockerfile)})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	name := filepath.Join(t.TempDir(), "ours.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Images.Save(t.Context(), f, res.Image.Digest), f.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

// buildKit has a docker daemon build with its BuildKit, by Debian's client: newer ones want a plugin for that.
func buildKit(ctx context.Context, docker *imagetest.Docker, dir, dockerfile, to string) (string, error) {
	name := strings.TrimSuffix(filepath.Base(to), ".tar")
	cmd := exec.CommandContext(ctx, "/usr/bin/docker", "build", "--network=none", "--progress=plain", "--tag="+name, "--file=-", dir)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+docker.Host, "DOCKER_BUILDKIT=1", "DOCKER_CONFIG="+filepath.Dir(to))
	cmd.Stdin = strings.NewReader(dockerfile)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("docker build: %w\n%s", err, out)
	}
	_, err := docker.Run(ctx, nil, "save", "--output", to, name)
	return to, err
}

// described is what is compared of an image.
type described struct {
	files  map[string]string
	config map[string]string
	layers int
}

func describeImage(t *testing.T, archive string) described {
	t.Helper()
	img, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	d := described{files: map[string]string{}, config: describeConfig(&config.Config), layers: len(config.RootFS.DiffIDs)}
	stream := mutate.Extract(img)
	defer stream.Close()
	for in := tar.NewReader(stream); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return d
		}
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, in); err != nil {
			t.Fatal(err)
		}
		link := h.Linkname
		if h.Typeflag == tar.TypeLink {
			link = path.Clean("/" + link)
		}
		if name := path.Clean("/" + h.Name); name != "/" { // which not every layer has
			d.files[name] = fmt.Sprintf("%c %o %d:%d %q %d %x", h.Typeflag, h.Mode&0o7777, h.Uid, h.Gid, link, h.Size, sum.Sum(nil)[:4])
		}
	}
}

func describeConfig(c *v1.Config) map[string]string {
	health := "none"
	if c.Healthcheck != nil {
		health = fmt.Sprintf("%q %v %v %v %d", c.Healthcheck.Test, c.Healthcheck.Interval, c.Healthcheck.Timeout, c.Healthcheck.StartPeriod, c.Healthcheck.Retries)
	}
	return map[string]string{
		"env": fmt.Sprintf("%q", c.Env), "cmd": fmt.Sprintf("%q", c.Cmd), "entrypoint": fmt.Sprintf("%q", c.Entrypoint), "workdir": c.WorkingDir, "user": c.User,
		"ports": fmt.Sprint(slices.Sorted(maps.Keys(c.ExposedPorts))), "volumes": fmt.Sprint(slices.Sorted(maps.Keys(c.Volumes))), "labels": fmt.Sprintf("%q", c.Labels),
		"onbuild": fmt.Sprintf("%q", c.OnBuild), "signal": c.StopSignal, "shell": fmt.Sprintf("%q", c.Shell), "health": health,
	}
}

func differ(t *testing.T, got, want described) {
	t.Helper()
	for _, part := range []struct{ got, want map[string]string }{{got.files, want.files}, {got.config, want.config}} {
		names := maps.Clone(part.got)
		maps.Copy(names, part.want)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if part.got[name] != part.want[name] {
				t.Errorf("%s\nours     %s\nBuildKit %s", name, part.got[name], part.want[name])
			}
		}
	}
	if got.layers != want.layers {
		t.Errorf("%d layers, BuildKit's has %d", got.layers, want.layers)
	}
}
