package api

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/deploy"
	"github.com/penstock-ci/penstock/internal/store"
)

// undisputed refuses a release to hosts that lead elsewhere: a host and path lead to one environment, and a host to the
// repositories of one owner, lest somebody takes the traffic of others by a longer path or a narrower host. Two that begin at
// once may both get through; then deploy.Table lets one have it.
func (s *Server) undisputed(ctx context.Context, p *cd.Plan, extra json.RawMessage) error {
	own, err := claimsOf(p, extra)
	if err != nil {
		return err
	}
	active, err := s.Releases.Active(ctx)
	if err != nil {
		return err
	}
	for _, r := range active {
		if strings.EqualFold(r.Plan.Repository, p.Repository) && strings.EqualFold(r.Plan.Environment, p.Environment) {
			continue
		}
		others, err := claimsOf(r.Plan, r.Extra)
		if err != nil {
			return fmt.Errorf("release %d: %w", r.ID, err)
		}
		for _, c := range own {
			if slices.ContainsFunc(others, c.disputes) {
				return disputed(c, p, r)
			}
		}
	}
	return nil
}

// disputed says whose a host is, to those who may know.
func disputed(c hostClaim, p *cd.Plan, by store.Release) error {
	if !strings.EqualFold(p.Repository, by.Plan.Repository) {
		return notReleased("%s%s leads to what another repository of this server releases: write another host", c.host, c.path)
	}
	return notReleased("%s%s leads to %s, by its v%d: release %[3]s without it first, until v%[4]d runs no more, or write another host",
		c.host, c.path, by.Plan.Environment, by.Number)
}

// hostClaim is a host with a path that is to lead to a repository's release.
type hostClaim struct{ owner, host, path string }

// claimsOf are the claims of a release, those for tests too.
func claimsOf(p *cd.Plan, extra json.RawMessage) (all []hostClaim, err error) {
	var fronts []deploy.Front
	if err := json.Unmarshal(extra, &fronts); err != nil {
		return nil, fmt.Errorf("read how it is reached: %w", err)
	}
	owner, _, _ := strings.Cut(strings.ToLower(p.Repository), "/")
	for _, f := range fronts {
		hosts := f.Hosts
		if b := p.Strategy.BlueGreen; b != nil {
			hosts = slices.Concat(hosts, b.TestHosts)
		}
		for _, host := range hosts {
			all = append(all, hostClaim{owner, host, f.Path})
		}
	}
	return all, nil
}

func (c hostClaim) disputes(other hostClaim) bool {
	if c.host == other.host && c.path == other.path {
		return true
	}
	return c.owner != other.owner && (c.host == other.host || covers(c.host, other.host) || covers(other.host, c.host))
}

// covers reports whether a wildcard has a host below it.
func covers(wildcard, host string) bool {
	below, ok := strings.CutPrefix(wildcard, "*")
	return ok && strings.HasSuffix(host, below)
}
