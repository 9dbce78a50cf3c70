package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/penstock-ci/penstock/internal/proxy"
	"github.com/penstock-ci/penstock/internal/proxy/series"
	"github.com/penstock-ci/penstock/internal/proxy/tlsauto"
)

var (
	// ErrStale is of a table that is older than the one that is served.
	ErrStale = errors.New("a newer table is served")
	// errBusy is of what can be asked again soon.
	errBusy = errors.New("another process is taking over")
)

// set puts a table in force and on the disk. If one cannot be, the other is not either.
func (d *daemon) set(ctx context.Context, t proxy.Table) error {
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if d.handing {
		return errBusy
	}
	before := d.tableNow()
	switch {
	case t.Version < before.Version:
		return fmt.Errorf("table %d: %w: %d", t.Version, ErrStale, before.Version)
	case t.Version == before.Version && len(before.Routes) > 0:
		if reflect.DeepEqual(t, before) {
			return nil // its acknowledgement was lost
		}
		return fmt.Errorf("table %d: %w: another of that number", t.Version, ErrStale)
	}
	b, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("table %d: %w", t.Version, err)
	}
	commit, drop, err := stageFile(filepath.Join(d.conf.Dir, tableFile), b)
	if err != nil {
		return fmt.Errorf("table %d can not be kept, so table %d is served on: %w", t.Version, before.Version, err)
	}
	defer drop()
	if err := d.route(t); err != nil {
		return err
	}
	if err := commit(); err != nil {
		return errors.Join(fmt.Errorf("table %d can not be kept, so table %d is served on: %w", t.Version, before.Version, err), d.route(before))
	}
	d.serves(t)
	d.others.set(ctx, t)
	return nil
}

// restore takes up the table that was kept.
func (d *daemon) restore() error {
	path := filepath.Join(d.conf.Dir, tableFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var t proxy.Table
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err == nil {
		err = d.route(t)
	}
	if err != nil {
		return fmt.Errorf("the table that was kept in %s can not be served; nothing is, until another is set: %w", path, err)
	}
	d.serves(t)
	return nil
}

// route has the proxy carry by a table.
func (d *daemon) route(t proxy.Table) error { return d.proxy.Set(d.withChallenges(t)) }

// withChallenges adds a route by which an authority's questions for a host are answered here, whatever the host leads to.
func (d *daemon) withChallenges(t proxy.Table) proxy.Table {
	if d.tls == nil {
		return t
	}
	own := map[string]bool{} // hosts that have such a route of their own, or are served already
	for _, r := range t.Routes {
		for _, h := range r.Hosts {
			own[h] = own[h] || r.Path == tlsauto.ChallengePath
		}
	}
	routes := slices.Clip(t.Routes)
	for _, r := range t.Routes {
		addr, hosts := d.tls.Challenges(r.Hosts)
		hosts = slices.DeleteFunc(hosts, func(h string) bool { return own[h] })
		if len(hosts) == 0 {
			continue
		}
		for _, h := range hosts {
			own[h] = true
		}
		routes = append(routes, proxy.Route{
			Name: r.Name + "/acme", Hosts: hosts, Path: tlsauto.ChallengePath,
			Pools: []proxy.Pool{{Name: "acme", Weight: 100, Backends: []proxy.Backend{{Addr: addr}}}},
		})
	}
	t.Routes = routes
	return t
}

// serves notes which table is in force.
func (d *daemon) serves(t proxy.Table) {
	labels := map[poolName]series.Labels{}
	var hosts []string
	for _, r := range t.Routes {
		hosts = append(hosts, r.Hosts...)
		if len(r.Hosts) == 0 {
			hosts = append(hosts, "")
		}
		for _, p := range r.Pools {
			labels[poolName{r.Name, p.Name}] = labelsFrom(r, p)
		}
	}
	if d.tls != nil {
		d.tls.SetHosts(hosts)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.table, d.labels, d.trouble = t, labels, nil
}

// labelsFrom is what a table says of a pool: by its labels, or else by the names.
func labelsFrom(r proxy.Route, p proxy.Pool) series.Labels {
	l := series.Named(r.Name, p.Name)
	for name, v := range p.Labels {
		switch name {
		case "repository":
			l.Repository = v
		case "environment":
			l.Environment = v
		case "service":
			l.Service = v
		case "release":
			l.Release = v
		case "side":
			l.Side = v
		}
	}
	return l
}

func (d *daemon) tableNow() proxy.Table {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.table
}
