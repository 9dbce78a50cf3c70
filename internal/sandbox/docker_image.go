package sandbox

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
)

// dockerImage is what there is to know of an image before containers are made of it.
type dockerImage struct {
	id       string
	os, arch string   // the runner context's words
	path     string   // its PATH
	env      []string // the names of the variables that it sets
	tail     string   // its program that can sleep; empty if it has none
	shell    bool     // it has /bin/sh
	pause    []byte   // what sleeps if tail is empty
}

// image finds an image at the daemon; a missing one is pulled.
func (d *Docker) image(ctx context.Context, ref string) (*dockerImage, error) {
	if ref == "" {
		return nil, errors.New("no image is named: give the job a container:, or the runner's label an image")
	}
	got, err := d.api.ImageInspect(ctx, ref)
	if errdefs.IsNotFound(err) {
		if err := d.pull(ctx, ref); err != nil {
			return nil, fmt.Errorf("pull %s: %w", ref, err)
		}
		got, err = d.api.ImageInspect(ctx, ref)
	}
	if err != nil {
		return nil, fmt.Errorf("look at image %s: %w", ref, err)
	}
	d.mu.Lock()
	known := d.known[got.ID]
	d.mu.Unlock()
	if known != nil {
		return known, nil
	}
	image, err := readImage(got)
	if err == nil {
		err = d.lookInside(ctx, image)
	}
	if err != nil {
		return nil, fmt.Errorf("look into image %s: %w", ref, err)
	}
	d.mu.Lock()
	d.known[got.ID] = image
	d.mu.Unlock()
	return image, nil
}

func readImage(got client.ImageInspectResult) (*dockerImage, error) {
	if got.Os != "linux" {
		return nil, fmt.Errorf("it is for %s: only images for Linux can run jobs", got.Os)
	}
	arch := map[string]string{"amd64": "X64", "arm64": "ARM64", "386": "X86", "arm": "ARM"}[got.Architecture]
	if arch == "" {
		arch = strings.ToUpper(got.Architecture)
	}
	image := &dockerImage{id: got.ID, os: "Linux", arch: arch, path: dockerPath, pause: pauseProgram(got.Architecture)}
	if got.Config != nil {
		for _, kv := range got.Config.Env {
			name, value, _ := strings.Cut(kv, "=")
			image.env = append(image.env, name)
			if name == "PATH" && value != "" {
				image.path = value
			}
		}
	}
	return image, nil
}

// lookInside finds out what of an image can be used, by a container that is never started.
func (d *Docker) lookInside(ctx context.Context, image *dockerImage) error {
	name := dockerName("look")
	config := &container.Config{Image: image.id, Entrypoint: []string{"/none"}, Labels: d.labels("look")}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dockerPatience)
		defer cancel()
		_ = d.removeContainer(ctx, name) // if not now, then by a sweep
	}()
	if _, err := d.api.ContainerCreate(ctx, client.ContainerCreateOptions{Config: config, HostConfig: &container.HostConfig{NetworkMode: "none"}, Name: name}); err != nil {
		return err
	}
	has := func(file string) (bool, error) {
		_, err := d.api.ContainerStatPath(ctx, name, client.ContainerStatPathOptions{Path: file})
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	}
	for _, file := range []string{"/usr/bin/tail", "/bin/tail"} {
		found, err := has(file)
		if err != nil {
			return err
		}
		if found {
			image.tail = file
			break
		}
	}
	var err error
	if image.shell, err = has("/bin/sh"); err != nil {
		return err
	}
	if image.tail == "" && image.pause == nil {
		return fmt.Errorf("it has no tail, and nothing else is known that sleeps on %s", image.arch)
	}
	return nil
}

const pausePath = "/.penstock/pause"

// sleeper is a command that does nothing for ever: what GitHub's runner starts job containers with, else a program of
// our own.
func (i *dockerImage) sleeper() []string {
	if i.tail != "" {
		return []string{i.tail, "-f", "/dev/null"}
	}
	return []string{pausePath}
}

// unset gives the variables of the image that env does not set in the form that has Docker leave them out, with those
// that it adds by itself.
func (i *dockerImage) unset(env []string) []string {
	set := map[string]bool{}
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		set[name] = true
	}
	var out []string
	for _, name := range append([]string{"PATH", "HOSTNAME", "TERM"}, i.env...) {
		if !set[name] {
			set[name] = true
			out = append(out, name)
		}
	}
	return out
}

// additions packs what a container must have beside its image; nil if nothing.
func (i *dockerImage) additions(aliases []alias) io.Reader {
	if i.tail != "" && len(aliases) == 0 {
		return nil
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if i.tail == "" {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: pausePath[1:], Mode: 0o755, Size: int64(len(i.pause))})
		_, _ = w.Write(i.pause)
	}
	for _, a := range aliases {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: a.from[1:], Linkname: a.to, Mode: 0o777})
	}
	_ = w.Close() // a buffer takes it all
	return &b
}

// pull has the daemon fetch an image.
func (d *Docker) pull(ctx context.Context, ref string) error {
	var o client.ImagePullOptions
	if d.o.Credentials != nil {
		user, password, err := d.o.Credentials(ctx, ref)
		if err != nil {
			return fmt.Errorf("find credentials: %w", err)
		}
		if user != "" {
			if o.RegistryAuth, err = authconfig.Encode(registry.AuthConfig{Username: user, Password: password}); err != nil {
				return fmt.Errorf("pack credentials: %w", err)
			}
		}
	}
	got, err := d.api.ImagePull(ctx, ref, o)
	if err != nil {
		return err
	}
	defer got.Close()
	type share struct{ done, total int64 }
	layers, sum := map[string]share{}, share{}
	for message, err := range got.JSONMessages(ctx) {
		if err != nil {
			return err
		}
		if message.Error != nil {
			return message.Error
		}
		if message.Progress == nil || message.Status != "Downloading" || message.Progress.Total <= 0 {
			continue
		}
		before, now := layers[message.ID], share{message.Progress.Current, message.Progress.Total}
		layers[message.ID] = now
		sum.done += now.done - before.done
		sum.total += now.total - before.total
		if d.o.Progress != nil {
			d.o.Progress(ref, sum.done, sum.total)
		}
	}
	return ctx.Err()
}
