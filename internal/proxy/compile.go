package proxy

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// What a table may hold at most. It comes from the program itself, but its parts come from people.
const (
	maxRoutes   = 10_000
	maxHosts    = 1_000
	maxPools    = 64
	maxBackends = 1_000
	maxRules    = 100
	maxText     = 1_024 // bytes of a name, a path, a value or an expression
	maxWeight   = 1_000_000
)

// table is a Table as it is served. It never changes.
type table struct {
	Table
	routes    []*route
	hosts     map[string][]*route // by exact host; the longest path first
	wildcards map[string][]*route // by what follows the star: .preview.example.com
	any       []*route
	next      chan struct{} // closed when another table is served
}

type route struct {
	*Route
	pools    []*pool
	rules    []rule
	mirror   *pool
	unrouted *counters // of requests that reached no pool
}

type pool struct {
	*Pool
	backends []*backend
	counters *counters
	point    uint64 // the hash of its name
}

type rule struct {
	conditions []condition
	pool       *pool
}

type condition struct {
	header, cookie string // one of them
	matches        func(string) bool
}

// compile makes a table ready to serve, without its backends' and counters' state. The error tells all that is wrong.
func compile(t Table) (*table, error) {
	c := &table{Table: t, hosts: map[string][]*route{}, wildcards: map[string][]*route{}, next: make(chan struct{})}
	if len(t.Routes) > maxRoutes {
		return nil, fmt.Errorf("%d routes: at most %d", len(t.Routes), maxRoutes)
	}
	var wrong []error
	taken := map[string]string{}
	for i := range t.Routes {
		r, err := compileRoute(&t.Routes[i])
		if err != nil {
			wrong = append(wrong, fmt.Errorf("route %q: %w", t.Routes[i].Name, err))
			continue
		}
		c.routes = append(c.routes, r)
		hosts := r.Hosts
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for _, h := range hosts {
			h = strings.ToLower(h)
			at := h + "/" + r.Path
			if other, ok := taken[at]; ok {
				wrong = append(wrong, fmt.Errorf("route %q: route %q has host %q and path %q already", r.Name, other, h, r.Path))
				continue
			}
			taken[at] = r.Name
			switch {
			case h == "":
				c.any = append(c.any, r)
			case h[0] == '*':
				c.wildcards[h[1:]] = append(c.wildcards[h[1:]], r)
			default:
				c.hosts[h] = append(c.hosts[h], r)
			}
		}
	}
	longestFirst := func(routes []*route) {
		slices.SortStableFunc(routes, func(a, b *route) int { return len(b.Path) - len(a.Path) })
	}
	for _, routes := range c.hosts {
		longestFirst(routes)
	}
	for _, routes := range c.wildcards {
		longestFirst(routes)
	}
	longestFirst(c.any)
	return c, errors.Join(wrong...)
}

func compileRoute(r *Route) (*route, error) {
	c := &route{Route: r}
	switch {
	case !goodName(r.Name):
		return nil, fmt.Errorf("a name has 1 to %d printable characters", maxText)
	case len(r.Hosts) > maxHosts:
		return nil, fmt.Errorf("%d hosts: at most %d", len(r.Hosts), maxHosts)
	case len(r.Pools) > maxPools:
		return nil, fmt.Errorf("%d pools: at most %d", len(r.Pools), maxPools)
	case len(r.Rules) > maxRules:
		return nil, fmt.Errorf("%d rules: at most %d", len(r.Rules), maxRules)
	case r.Path != "" && (r.Path[0] != '/' || r.Path == "/" || path.Clean(r.Path) != r.Path || len(r.Path) > maxText):
		return nil, fmt.Errorf("path %q: it begins with a slash, ends with none, and has no empty or dotted segments; empty is all", r.Path)
	case r.MaxBody < 0 || r.ResponseTimeout < 0:
		return nil, errors.New("a limit is not negative")
	case r.MirrorPercent < 0 || r.MirrorPercent > 100 || math.IsNaN(r.MirrorPercent):
		return nil, fmt.Errorf("mirror of %v percent: 0 to 100", r.MirrorPercent)
	case r.Sticky.Cookie != "" && !httpguts.ValidHeaderFieldName(r.Sticky.Cookie) || len(r.Sticky.Cookie) > maxText:
		return nil, fmt.Errorf("sticky cookie %q: it is a name without spaces and separators", r.Sticky.Cookie)
	case r.Sticky.Header != "" && !httpguts.ValidHeaderFieldName(r.Sticky.Header):
		return nil, fmt.Errorf("sticky header %q: it is no name of a header", r.Sticky.Header)
	case r.Sticky.MaxAge < 0:
		return nil, errors.New("a sticky cookie's age is not negative")
	}
	for _, h := range r.Hosts {
		if !goodHost(h) {
			return nil, fmt.Errorf("host %q: write shop.example.com or *.preview.example.com, without a port", h)
		}
	}
	for i := range r.Pools {
		p, err := compilePool(&r.Pools[i])
		if err != nil {
			return nil, fmt.Errorf("pool %q: %w", r.Pools[i].Name, err)
		}
		if c.pool(p.Name) != nil {
			return nil, fmt.Errorf("pool %q is there twice", p.Name)
		}
		c.pools = append(c.pools, p)
	}
	for i, ru := range r.Rules {
		one, err := c.compileRule(ru)
		if err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
		c.rules = append(c.rules, one)
	}
	if r.Mirror != "" {
		if c.mirror = c.pool(r.Mirror); c.mirror == nil {
			return nil, fmt.Errorf("mirror %q is not one of the route's pools", r.Mirror)
		}
	}
	return c, nil
}

func (r *route) pool(name string) *pool {
	for _, p := range r.pools {
		if p.Name == name {
			return p
		}
	}
	return nil
}

func compilePool(p *Pool) (*pool, error) {
	switch {
	case !goodName(p.Name):
		return nil, fmt.Errorf("a name has 1 to %d printable characters", maxText)
	case p.Weight < 0 || p.Weight > maxWeight:
		return nil, fmt.Errorf("weight %d: 0 to %d", p.Weight, maxWeight)
	case len(p.Backends) > maxBackends:
		return nil, fmt.Errorf("%d backends: at most %d", len(p.Backends), maxBackends)
	}
	for i, b := range p.Backends {
		if !goodAddr(b.Addr) {
			return nil, fmt.Errorf("backend %q: write host:port, or unix: and the path of a socket that hands out connections", b.Addr)
		}
		if slices.Contains(p.Backends[:i], b) {
			return nil, fmt.Errorf("backend %q is there twice", b.Addr)
		}
	}
	return &pool{Pool: p}, nil
}

func (r *route) compileRule(ru Rule) (rule, error) {
	c := rule{pool: r.pool(ru.Pool)}
	if c.pool == nil {
		return rule{}, fmt.Errorf("pool %q is not one of the route's", ru.Pool)
	}
	if len(ru.Headers) == 0 {
		return rule{}, errors.New("it names no header, so that it would match everything: use weights for that")
	}
	for name, m := range ru.Headers {
		matches, err := m.compile()
		if err != nil {
			return rule{}, fmt.Errorf("%s: %w", name, err)
		}
		one := condition{matches: matches}
		if cookie, ok := strings.CutPrefix(name, "cookie:"); ok {
			one.cookie, name = cookie, cookie
		} else {
			one.header = http.CanonicalHeaderKey(name)
		}
		if !httpguts.ValidHeaderFieldName(name) || len(name) > maxText {
			return rule{}, fmt.Errorf("%q is no name of a header or cookie", name)
		}
		c.conditions = append(c.conditions, one)
	}
	return c, nil
}

func (m Matcher) compile() (func(string) bool, error) {
	set := 0
	for _, v := range []string{m.Exact, m.Prefix, m.Suffix, m.Regex} {
		if len(v) > maxText {
			return nil, fmt.Errorf("a value has at most %d bytes", maxText)
		}
		if v != "" {
			set++
		}
	}
	switch {
	case set != 1:
		return nil, errors.New("exactly one of exact, prefix, suffix and regex is set")
	case m.Exact != "":
		return func(s string) bool { return s == m.Exact }, nil
	case m.Prefix != "":
		return func(s string) bool { return strings.HasPrefix(s, m.Prefix) }, nil
	case m.Suffix != "":
		return func(s string) bool { return strings.HasSuffix(s, m.Suffix) }, nil
	}
	if _, err := regexp.Compile(m.Regex); err != nil { // by itself: a) (b would close the group below
		return nil, err
	}
	whole, err := regexp.Compile(`^(?:` + m.Regex + `)$`)
	if err != nil {
		return nil, err
	}
	return whole.MatchString, nil
}

func goodName(s string) bool {
	return s != "" && len(s) <= maxText && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}

// goodHost takes what can come in a Host header, in either case, with a star for its first labels.
func goodHost(h string) bool {
	h = strings.TrimPrefix(h, "*.")
	if h == "" || len(h) > 253 {
		return false
	}
	for label := range strings.SplitSeq(h, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

func goodAddr(addr string) bool {
	if len(addr) > maxText || strings.ContainsRune(addr, 0) {
		return false
	}
	if socket, ok := strings.CutPrefix(addr, unixPrefix); ok {
		return path.IsAbs(socket)
	}
	host, port, err := net.SplitHostPort(addr)
	n, err2 := strconv.ParseUint(port, 10, 16)
	return err == nil && err2 == nil && host != "" && n > 0
}
