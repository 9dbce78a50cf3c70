package tlsauto

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// lookAgain is how often files are looked at.
const lookAgain = 10 * time.Second

// files are certificates in files, read again when they change. One that can not be read is told of, and the one before
// it is served on.
type files struct {
	log *slog.Logger

	mu     sync.Mutex
	pairs  []*filed
	looked time.Time
}

type filed struct {
	Pair
	changed [2]time.Time
	read    *tls.Certificate
	err     error
	since   time.Time
}

func newFiles(pairs []Pair, log *slog.Logger) *files {
	f := &files{log: log}
	for _, p := range pairs {
		f.pairs = append(f.pairs, &filed{Pair: p})
	}
	return f
}

// find gives the certificate that names a host, nil if none does. A wildcard host is named by the same wildcard.
func (f *files) find(host string) *tls.Certificate {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.look()
	for _, p := range f.pairs {
		if p.read != nil && p.read.Leaf.VerifyHostname(strings.Replace(host, "*.", "any.", 1)) == nil {
			return p.read
		}
	}
	return nil
}

func (f *files) look() {
	now := time.Now()
	if len(f.pairs) == 0 || now.Sub(f.looked) < lookAgain {
		return
	}
	f.looked = now
	for _, p := range f.pairs {
		if changed, ok := p.times(); ok && changed == p.changed {
			continue
		} else {
			p.changed = changed
		}
		c, err := tls.LoadX509KeyPair(p.Certificate, p.Key)
		if err != nil {
			if p.err == nil {
				p.since = now
			}
			p.err = fmt.Errorf("certificate %s with key %s: %w", p.Certificate, p.Key, err)
			f.log.Error("a certificate can not be read", "error", p.err)
			continue
		}
		p.read, p.err = &c, nil
	}
}

// times are when the files changed.
func (p *filed) times() (changed [2]time.Time, ok bool) {
	for i, path := range []string{p.Certificate, p.Key} {
		info, err := os.Stat(path)
		if err != nil {
			return changed, false
		}
		changed[i] = info.ModTime()
	}
	return changed, true
}

// troubles tells of the files that can not be read.
func (f *files) troubles() []Host {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Host
	for _, p := range f.pairs {
		if p.err != nil {
			out = append(out, Host{Name: p.Certificate, Source: FromFile, Error: p.err.Error(), Since: p.since})
		}
	}
	return out
}
