package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/penstock-ci/penstock/internal/build"
)

// cacheFile is the archive in the directory of --cache-to type=local.
const cacheFile = "penstock-build-cache.tar"

// buildAndDeliver builds and does what is asked for with the result.
func (c *call) buildAndDeliver(b *buildFlags, r *build.Request) error {
	defer func() {
		if r.Context != nil {
			r.Context.Close()
		}
		for _, root := range r.Dirs {
			root.Close()
		}
	}()
	outputs, err := c.readOutputs(b, r)
	if err != nil {
		return err
	}
	out := build.NewProgress(c.stderr)
	if b.quiet {
		out = build.Discard
	}
	res, err := c.Builder.Build(c.ctx, *r, out)
	if err != nil {
		var placed *build.Error
		if errors.As(err, &placed) {
			placed.Print(c.stderr)
			err = placed.Err
		}
		fmt.Fprintf(c.stderr, "ERROR: failed to build: failed to solve: %v\n", err) // buildx's words
		return exitCode(1)
	}
	c.warn(res.Warnings)
	if b.quiet {
		fmt.Fprintln(c.stdout, res.Image.ID)
	}
	for _, deliver := range outputs {
		if err := deliver(res); err != nil {
			return err
		}
	}
	return c.buildResults(b, res)
}

// warn prints what the linter of Dockerfiles has found, as buildx does.
func (c *call) warn(warnings []string) {
	if len(warnings) == 0 {
		return
	}
	plural := map[bool]string{true: "s"}[len(warnings) > 1]
	fmt.Fprintf(c.stderr, "\n %d warning%s found:\n", len(warnings), plural)
	for _, w := range warnings {
		fmt.Fprintf(c.stderr, " - %s\n", w)
	}
}

// buildResults pushes, and writes the files that tell of the result.
func (c *call) buildResults(b *buildFlags, res *build.Result) error {
	if b.push {
		for _, name := range res.Names {
			if err := c.pushOne(name); err != nil {
				return err
			}
		}
	}
	for _, to := range b.cacheTo {
		if err := c.writeCache(to, res); err != nil {
			return err
		}
	}
	if b.iid != "" && res.Image.ID != "" {
		if err := c.write(b.iid, []byte(res.Image.ID)); err != nil {
			return err
		}
	}
	if b.metadata == "" {
		return nil
	}
	meta, err := c.Builder.Metadata(res)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(meta, "", "  ")
	if err != nil {
		return err
	}
	return c.write(b.metadata, text)
}

// fields reads KEY=VALUE,... as options of buildx have them; a text without any is the value of key.
func fields(spec, key string) map[string]string {
	m := map[string]string{}
	last := ""
	for _, field := range strings.Split(spec, ",") {
		name, value, ok := strings.Cut(field, "=")
		switch {
		case ok:
			last, m[name] = name, strings.Trim(value, `"`)
		case last == "":
			m[key] = field
		default: // several names in one value
			m[last] += "," + strings.Trim(field, `"`)
		}
	}
	return m
}

// readOutputs reads --output: what is to be built, and what is done with it then.
func (c *call) readOutputs(b *buildFlags, r *build.Request) (deliver []func(*build.Result) error, err error) {
	trees := 0
	for _, spec := range b.outputs {
		o := fields(spec, "dest")
		dest := o["dest"]
		if o["type"] == "" { // -o DIR
			if o["type"] = "local"; dest == "-" {
				o["type"] = "tar"
			}
		}
		switch o["type"] {
		case "docker", "oci":
			if dest != "" {
				deliver = append(deliver, func(res *build.Result) error {
					return c.deliver(dest, func(w io.Writer) error { return c.Images.Save(c.ctx, w, saved(res)...) })
				})
			}
		case "image", "registry":
			for name := range strings.SplitSeq(o["name"], ",") {
				if name != "" {
					r.Names = append(r.Names, name)
				}
			}
			b.push = b.push || o["type"] == "registry" || o["push"] == "true"
		case "tar":
			trees++
			deliver = append(deliver, func(res *build.Result) error {
				return c.deliver(dest, func(w io.Writer) error { return c.Builder.Export(c.ctx, res, w) })
			})
		case "local":
			trees++
			deliver = append(deliver, func(res *build.Result) error { return c.unpackTree(dest, res) })
		case "cacheonly":
			trees++
		default:
			return nil, fmt.Errorf("output type %q is not supported here: use type=docker, image, registry, oci, tar, local or cacheonly", o["type"])
		}
		if dest == "" && (o["type"] == "tar" || o["type"] == "local") {
			return nil, fmt.Errorf("output type %s needs dest=PATH", o["type"])
		}
	}
	r.TreeOnly = trees > 0 && trees == len(b.outputs) && len(r.Names) == 0
	return deliver, nil
}

// saved are the names that an image is saved under, or its digest.
func saved(res *build.Result) []string {
	if len(res.Names) > 0 {
		return res.Names
	}
	return []string{res.Image.Digest}
}

// unpackTree writes the files of what was built into a directory of the machine.
func (c *call) unpackTree(dest string, res *build.Result) error {
	r, w := io.Pipe()
	go func() { w.CloseWithError(c.Builder.Export(c.ctx, res, w)) }()
	defer r.Close()
	return c.Machine.Put(c.ctx, c.abs(dest), r)
}

// writeCache carries out --cache-to. What is built is kept on this machine anyway.
func (c *call) writeCache(spec string, res *build.Result) error {
	o := fields(spec, "type")
	switch o["type"] {
	case "local":
		return c.deliver(path.Join(o["dest"], cacheFile), func(w io.Writer) error { return c.Builder.WriteCache(c.ctx, res, w) })
	case "gha", "inline", "registry":
		fmt.Fprintf(c.stderr, "cache-to type=%s: what was built is kept on this machine for every later build\n", o["type"])
		return nil
	}
	return fmt.Errorf("cache type %q is not supported here: use type=local, or gha, registry and inline, which need nothing here", o["type"])
}

// cacheSources reads --cache-from.
func (c *call) cacheSources(r *build.Request, specs []string) error {
	for _, spec := range specs {
		o := fields(spec, "ref")
		switch o["type"] {
		case "local":
			name := path.Join(o["src"], cacheFile)
			r.CacheFrom = append(r.CacheFrom, build.CacheSource{Name: o["src"], Open: func(context.Context) (io.ReadCloser, error) { return c.open(name) }})
		case "", "gha", "registry":
		default:
			return fmt.Errorf("cache type %q is not supported here: use type=local, or gha and registry, which need nothing here", o["type"])
		}
	}
	return nil
}
