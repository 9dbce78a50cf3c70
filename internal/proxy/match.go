package proxy

import (
	"math"
	"math/rand/v2"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"
)

// match finds the route for a host, as it came in a request, and a path without its escapes. It is nil if there is none.
func (t *table) match(host, urlPath string) *route {
	urlPath = cleanPath(urlPath)
	if len(t.hosts) > 0 || len(t.wildcards) > 0 {
		host = cleanHost(host)
		if r := matchPath(t.hosts[host], urlPath); r != nil {
			return r
		}
		if len(t.wildcards) > 0 {
			for i, c := range []byte(host) { // from the left, so the longest suffix comes first
				if c == '.' && i > 0 {
					if r := matchPath(t.wildcards[host[i:]], urlPath); r != nil {
						return r
					}
				}
			}
		}
	}
	return matchPath(t.any, urlPath)
}

func matchPath(routes []*route, urlPath string) *route {
	for _, r := range routes {
		if rest, ok := strings.CutPrefix(urlPath, r.Path); ok && (rest == "" || r.Path == "" || rest[0] == '/') {
			return r
		}
	}
	return nil
}

// cleanHost gives a host without its port and final dot, in lower case.
func cleanHost(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// cleanPath resolves dots and double slashes, so that a path leads to the route that its backend will think it means.
func cleanPath(p string) string {
	if strings.Contains(p, "/.") || strings.Contains(p, "//") {
		clean := path.Clean(p)
		if strings.HasSuffix(p, "/") && clean != "/" {
			clean += "/"
		}
		return clean
	}
	return p
}

// choose gives the pool for a request, and the value of the cookie that the answer sets, if it is to. The pool is nil if
// none has a weight.
func (p *Proxy) choose(r *route, req *request) (chosen *pool, setCookie string) {
	key, known := "", false
	if name := r.Sticky.Cookie; name != "" {
		if mine := req.cookies(name); len(mine) > 0 {
			key = mine[0]
		}
		if key == "" || len(key) > maxStickyKey {
			key = newID()
			setCookie = key
		}
		known = true
	} else if name := r.Sticky.Header; name != "" {
		key = req.header.get(http.CanonicalHeaderKey(name))
		known = key != ""
	}
	for i := range r.rules {
		if r.rules[i].matches(req) {
			return r.rules[i].pool, setCookie
		}
	}
	if known {
		return place(r.pools, p.hash(key)), setCookie
	}
	return draw(r.pools), ""
}

// maxStickyKey bounds what of a client's cookie is believed to be the proxy's own.
const maxStickyKey = 64

func (ru *rule) matches(req *request) bool {
	for _, c := range ru.conditions {
		if !c.holds(req) {
			return false
		}
	}
	return true
}

func (c *condition) holds(req *request) bool {
	if c.cookie != "" {
		return slices.ContainsFunc(req.cookies(c.cookie), c.matches)
	}
	if c.header == "Host" { // which the target may have said
		return c.matches(req.host)
	}
	for i := range req.header {
		if f := &req.header[i]; f.name == c.header && c.matches(f.value) {
			return true
		}
	}
	return false
}

// cookies gives the values of a cookie.
func (r *request) cookies(name string) (values []string) {
	lines := r.header.all("Cookie")
	if len(lines) == 0 {
		return nil
	}
	for _, c := range (&http.Request{Header: http.Header{"Cookie": lines}}).CookiesNamed(name) {
		values = append(values, c.Value)
	}
	return values
}

// draw takes a pool at random by weight.
func draw(pools []*pool) *pool {
	var sum uint64
	for _, p := range pools {
		sum += uint64(p.Weight)
	}
	if sum == 0 {
		return nil
	}
	at := rand.Uint64N(sum)
	for _, p := range pools {
		if w := uint64(p.Weight); at < w {
			return p
		} else {
			at -= w
		}
	}
	return nil
}

// place takes the pool of a client whose key has a hash: weighted rendezvous hashing, in which each client has a time of
// its own for each pool, exponential with the pool's weight as its rate, and takes the first. So a pool whose weight grows
// only gains clients, one whose weight shrinks only loses some, nobody moves between two pools whose weights keep their
// proportion, and the order of pools means nothing. (Schindelhauer and Schomaker,
// "Weighted distributed hash tables", 2005.)
func place(pools []*pool, key uint64) *pool {
	var first *pool
	least := math.Inf(1)
	for _, p := range pools {
		if p.Weight == 0 {
			continue
		}
		if first != nil || len(pools) > 1 {
			u := (float64(mix(key^p.point)>>11) + 0.5) / (1 << 53) // in (0, 1)
			if at := -math.Log(u) / float64(p.Weight); at >= least {
				continue
			} else {
				least = at
			}
		}
		first = p
	}
	return first
}

func (p *Proxy) hash(s string) uint64 { return xxh3.HashStringSeed(s, p.o.Key) }

// mix spreads the bits of a number over all of it (the finaliser of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
