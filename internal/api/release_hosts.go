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
func (s *Server) undisputed(ctx context.Context, p *planned) error {
	active, err := s.Releases.Active(ctx)
	if err != nil {
		return err
	}
	for _, r := range active {
		if strings.EqualFold(r.Plan.Repository, p.plan.Repository) && strings.EqualFold(r.Plan.Environment, p.plan.Environment) {
			continue
		}
		var fronts []deploy.Front
		if err := json.Unmarshal(r.Extra, &fronts); err != nil {
			return fmt.Errorf("read how release %d is reached: %w", r.ID, err)
		}
		others := claimsOf(r.Plan, fronts)
		for _, own := range claimsOf(p.plan, p.fronts) {
			if i := slices.IndexFunc(others, own.disputes); i >= 0 {
				return disputed(own, p.plan, r)
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
func claimsOf(p *cd.Plan, fronts []deploy.Front) (all []hostClaim) {
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
	return all
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
