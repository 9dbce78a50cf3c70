package build

import (
	"context"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// Finding is what BuildKit's own checks say of a Dockerfile.
type Finding struct {
	Rule    string // SecretsUsedInArgOrEnv
	URL     string
	Message string
	Line    int // from 1
}

// Lint checks a Dockerfile, all its stages, without fetching anything. A Dockerfile that can not be read is an *Error.
func Lint(ctx context.Context, name string, text []byte) ([]Finding, error) {
	w := &work{r: &Request{Name: name, Dockerfile: text}}
	var found []Finding
	caps := pb.Caps.CapSet(pb.Caps.All())
	main := llb.Local("context")
	_, err := dockerfile2llb.Dockerfile2LLB(ctx, text, dockerfile2llb.ConvertOpt{
		MainContext: &main, LLBCaps: &caps, MetaResolver: anyImage{}, AllStages: true,
		Warn: func(rule, _, url, message string, at []parser.Range) {
			f := Finding{Rule: rule, URL: url, Message: strings.TrimSpace(message)}
			if len(at) > 0 {
				f.Line = at[0].Start.Line
			}
			found = append(found, f)
		},
	})
	if err != nil {
		return nil, w.explain(err)
	}
	return found, nil
}

// anyImage takes every base image for an empty one.
type anyImage struct{}

// ResolveImageConfig implements llb.ImageMetaResolver.
func (anyImage) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config := []byte(`{"architecture":"amd64","os":"linux","config":{}}`)
	return ref, digest.FromBytes(config), config, nil
}
