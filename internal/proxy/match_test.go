package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
)

func mustCompile(t *testing.T, routes ...Route) *table {
	t.Helper()
	c, err := compile(Table{Routes: routes})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func ofHTTP2(t *testing.T, from *http.Request) *request {
	t.Helper()
	r := new(request)
	if err := r.ofHTTP2(from); err != nil {
		t.Skip(err)
	}
	return r
}

func TestMatch(t *testing.T) {
	c := mustCompile(t,
		Route{Name: "any"},
		Route{Name: "any api", Path: "/api"},
		Route{Name: "shop", Hosts: []string{"Shop.example.com"}},
		Route{Name: "shop api", Hosts: []string{"shop.example.com"}, Path: "/api"},
		Route{Name: "shop api v2", Hosts: []string{"shop.example.com"}, Path: "/api/v2"},
		Route{Name: "previews", Hosts: []string{"*.example.com"}},
		Route{Name: "deep previews", Hosts: []string{"*.preview.example.com"}},
		Route{Name: "only admin", Hosts: []string{"admin.example.com"}, Path: "/admin"},
	)
	for _, m := range []struct{ host, path, want string }{
		{"nowhere.org", "/", "any"},
		{"nowhere.org", "/api", "any api"},
		{"nowhere.org", "/apis", "any"},
		{"nowhere.org", "/api/x", "any api"},
		{"shop.example.com", "/", "shop"},
		{"SHOP.example.com:8443", "/x", "shop"},
		{"shop.example.com.", "/api/", "shop api"},
		{"shop.example.com", "/api/v2/x", "shop api v2"},
		{"shop.example.com", "/api/v22", "shop api"},
		{"shop.example.com", "/api/v2/../v1", "shop api"},
		{"shop.example.com", "/x/../api", "shop api"},
		{"shop.example.com", "//api", "shop api"},
		{"shop.example.com", "/./api/v2/", "shop api v2"},
		{"shop.example.com", "/../..", "shop"},
		{"a.example.com", "/", "previews"},
		{"a.b.example.com", "/", "previews"},
		{"a.preview.example.com", "/", "deep previews"},
		{"preview.example.com", "/", "previews"},
		{"example.com", "/", "any"},
		{".example.com", "/", "any"},
		{"admin.example.com", "/admin/x", "only admin"},
		{"admin.example.com", "/else", "previews"},
		{"[::1]:80", "/", "any"},
		{"", "", "any"},
	} {
		got := "none"
		if r := c.match(m.host, m.path); r != nil {
			got = r.Name
		}
		if got != m.want {
			t.Errorf("%s%s: got %s, want %s", m.host, m.path, got, m.want)
		}
	}
	if r := mustCompile(t, Route{Name: "shop", Hosts: []string{"shop.example.com"}}).match("other.example.com", "/"); r != nil {
		t.Errorf("a host that is not served came to %s", r.Name)
	}
}

func TestTablesThatAreRefused(t *testing.T) {
	one := []Pool{{Name: "a", Backends: []Backend{{Addr: "127.0.0.1:80"}}}}
	for _, c := range []struct {
		route Route
		want  string
	}{
		{Route{}, "a name has 1 to"},
		{Route{Name: "a\nb"}, "a name has 1 to"},
		{Route{Name: "a", Hosts: []string{"a.com:80"}}, "without a port"},
		{Route{Name: "a", Hosts: []string{"a..com"}}, "write shop.example.com"},
		{Route{Name: "a", Hosts: []string{"*"}}, "write shop.example.com"},
		{Route{Name: "a", Hosts: []string{"a.*.com"}}, "write shop.example.com"},
		{Route{Name: "a", Hosts: []string{"a.com", "A.com"}}, "already"},
		{Route{Name: "a", Path: "api"}, "begins with a slash"},
		{Route{Name: "a", Path: "/"}, "empty is all"},
		{Route{Name: "a", Path: "/api/"}, "ends with none"},
		{Route{Name: "a", Path: "/a/../b"}, "dotted segments"},
		{Route{Name: "a", MaxBody: -1}, "not negative"},
		{Route{Name: "a", MirrorPercent: 101}, "0 to 100"},
		{Route{Name: "a", Mirror: "b", Pools: one}, "not one of the route's pools"},
		{Route{Name: "a", Sticky: Sticky{Cookie: "a b"}}, "without spaces"},
		{Route{Name: "a", Sticky: Sticky{Header: "a:"}}, "no name of a header"},
		{Route{Name: "a", Pools: []Pool{{Name: "x"}, {Name: "x"}}}, "there twice"},
		{Route{Name: "a", Pools: []Pool{{Name: "x", Weight: -1}}}, "weight -1"},
		{Route{Name: "a", Pools: []Pool{{Name: "x", Backends: []Backend{{Addr: "host"}}}}}, "write host:port"},
		{Route{Name: "a", Pools: []Pool{{Name: "x", Backends: []Backend{{Addr: "host:0"}}}}}, "write host:port"},
		{Route{Name: "a", Pools: []Pool{{Name: "x", Backends: []Backend{{Addr: "unix:rel"}}}}}, "unix: and the path"},
		{Route{Name: "a", Pools: []Pool{{Name: "x", Backends: []Backend{{Addr: "h:1"}, {Addr: "h:1"}}}}}, "there twice"},
		{Route{Name: "a", Pools: one, Rules: []Rule{{Pool: "a"}}}, "names no header"},
		{Route{Name: "a", Pools: one, Rules: []Rule{{Pool: "b", Headers: map[string]Matcher{"x": {Exact: "1"}}}}}, "not one of the route's"},
		{Route{Name: "a", Pools: one, Rules: []Rule{{Pool: "a", Headers: map[string]Matcher{"x": {}}}}}, "exactly one of"},
		{Route{Name: "a", Pools: one, Rules: []Rule{{Pool: "a", Headers: map[string]Matcher{"x": {Exact: "1", Prefix: "2"}}}}}, "exactly one of"},
		{Route{Name: "a", Pools: one, Rules: []Rule{{Pool: "a", Headers: map[string]Matcher{"x": {Regex: "a)|(b"}}}}}, "error parsing regexp"},
		{Route{Name: "a", Pools: one, Rules: []Rule{{Pool: "a", Headers: map[string]Matcher{"x y": {Regex: "a"}}}}}, "no name of a header"},
	} {
		if _, err := compile(Table{Routes: []Route{c.route}}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %q", c.route, err, c.want)
		}
	}
	if _, err := compile(Table{Routes: []Route{{Name: "a"}, {Name: "b"}}}); err == nil || !strings.Contains(err.Error(), `route "a" has host "" and path "" already`) {
		t.Errorf("got %v", err)
	}
	p := start(t, Options{})
	p.set(t, routeTo("127.0.0.1:1"))
	if err := p.Set(Table{Version: 7, Routes: []Route{{}, {Name: "a", Path: "/"}}}); err == nil || strings.Count(err.Error(), "route ") != 2 {
		t.Errorf("not all that is wrong: %v", err)
	}
	if len(p.Table().Routes) != 1 {
		t.Error("a wrong table took the place of a right one")
	}
}

func TestRules(t *testing.T) {
	c := mustCompile(t, Route{Name: "a", Pools: []Pool{{Name: "old", Weight: 1}, {Name: "insider"}, {Name: "browser"}}, Rules: []Rule{
		{Pool: "insider", Headers: map[string]Matcher{"x-user": {Exact: "insider"}, "cookie:beta": {Regex: "[0-9]+"}}},
		{Pool: "browser", Headers: map[string]Matcher{"user-agent": {Regex: ".*(Firefox|Chrome).*"}, "host": {Suffix: ".com"}}},
		{Pool: "browser", Headers: map[string]Matcher{"x-canary": {Prefix: "alw"}}},
	}})
	p := &Proxy{}
	for _, m := range []struct {
		headers []string
		want    string
	}{
		{nil, "old"},
		{[]string{"X-User", "insider"}, "old"},
		{[]string{"X-User", "insider", "Cookie", "beta=12"}, "insider"},
		{[]string{"X-User", "insider", "Cookie", "beta=12x"}, "old"},
		{[]string{"X-User", "other", "X-User", "insider", "Cookie", "a=b; beta=x; beta=1"}, "insider"},
		{[]string{"User-Agent", "a Chrome b"}, "browser"},
		{[]string{"User-Agent", "a chrome b"}, "old"},
		{[]string{"X-Canary", "always"}, "browser"},
	} {
		r := httptest.NewRequest("GET", "http://shop.com/", nil)
		for i := 0; i < len(m.headers); i += 2 {
			r.Header.Add(m.headers[i], m.headers[i+1])
		}
		if got, _ := p.choose(c.routes[0], ofHTTP2(t, r)); got.Name != m.want {
			t.Errorf("%v: got %s, want %s", m.headers, got.Name, m.want)
		}
	}
}

// places says to which pool each of many keys comes.
func places(p *Proxy, pools []Pool) []string {
	var compiled []*pool
	for i := range pools {
		compiled = append(compiled, &pool{Pool: &pools[i], point: mix(p.hash(pools[i].Name))})
	}
	at := make([]string, 20_000)
	for i := range at {
		at[i] = place(compiled, p.hash(fmt.Sprintf("u%d", i))).Name
	}
	return at
}

func TestStickyClientsMoveOnlyWhereTheyMust(t *testing.T) {
	p := &Proxy{o: Options{Key: 42}}
	var before []string
	for _, percent := range []int{0, 1, 5, 10, 50, 99, 100} {
		at := places(p, []Pool{{Name: "old", Weight: 100 - percent}, {Name: "new", Weight: percent}})
		news := 0
		for i, name := range at {
			if name == "new" {
				news++
			}
			if before != nil && before[i] == "new" && name != "new" {
				t.Fatalf("at %d%% key u%d was moved back", percent, i)
			}
		}
		if share := float64(news) / float64(len(at)) * 100; share < float64(percent)-1 || share > float64(percent)+1 {
			t.Errorf("asked for %d%%, got %.2f%%", percent, share)
		}
		before = at
	}
	// Of three pools one grows: nobody moves between the others, nor away from it; in another order nothing changes.
	three := []Pool{{Name: "a", Weight: 50}, {Name: "b", Weight: 30}, {Name: "c", Weight: 20}}
	more := []Pool{{Name: "c", Weight: 40}, {Name: "a", Weight: 50}, {Name: "b", Weight: 30}}
	was, is := places(p, three), places(p, more)
	for i := range was {
		if was[i] != is[i] && is[i] != "c" {
			t.Fatalf("u%d moved from %s to %s", i, was[i], is[i])
		}
	}
	if other := places(&Proxy{o: Options{Key: 43}}, three); reflect.DeepEqual(other, was) {
		t.Error("the key means nothing")
	}
	// The next release has other first clients than this one.
	both := 0
	next := places(p, []Pool{{Name: "old", Weight: 90}, {Name: "next", Weight: 10}})
	for i, name := range places(p, []Pool{{Name: "old", Weight: 90}, {Name: "new", Weight: 10}}) {
		if name == "new" && next[i] == "next" {
			both++
		}
	}
	if both > len(next)/20 {
		t.Errorf("%d of %d clients are the first each time", both, len(next))
	}
}

func TestDrawsFollowWeights(t *testing.T) {
	pools := []*pool{{Pool: &Pool{Name: "a", Weight: 9}}, {Pool: &Pool{Name: "none"}}, {Pool: &Pool{Name: "b", Weight: 1}}}
	n, runs := map[string]int{}, 0
	last := ""
	const draws = 100_000
	for range draws {
		name := draw(pools).Name
		n[name]++
		if name == "b" && last == "b" {
			runs++
		}
		last = name
	}
	if n["none"] != 0 || n["b"] < draws/10-1000 || n["b"] > draws/10+1000 {
		t.Errorf("got %v", n)
	}
	if runs < draws/100-400 || runs > draws/100+400 { // two on end are as likely as chance has it
		t.Errorf("%d times two on end", runs)
	}
	if draw(pools[1:2]) != nil || draw(nil) != nil || place(pools[1:2], 1) != nil || place(nil, 1) != nil {
		t.Error("a pool without weight was chosen")
	}
}

func FuzzTable(f *testing.F) {
	f.Add(`{"routes":[{"name":"a","hosts":["*.b.c"],"path":"/api","strip":true,"pools":[{"name":"p","weight":3,"backends":[{"addr":"h:1"}]}],"rules":[{"pool":"p","headers":{"cookie:x":{"regex":"a+"}}}],"mirror":"p","sticky":{"cookie":"c"}}]}`, "x.b.c", "/api/../%41?q", "a=b; x=aa")
	f.Fuzz(func(t *testing.T, text, host, target, cookies string) {
		var table Table
		if json.Unmarshal([]byte(text), &table) != nil {
			return
		}
		c, err := compile(table)
		if err != nil {
			return
		}
		r, err := http.NewRequest("GET", "http://x/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
		if u, err := r.URL.Parse(target); err == nil {
			r.URL = u
		}
		r.RequestURI, r.Host = target, host
		r.Header.Set("Cookie", cookies)
		rt := c.match(host, r.URL.Path)
		if rt == nil {
			return
		}
		if p := cleanPath(r.URL.Path); rt.Path != "" && p != rt.Path && !strings.HasPrefix(p, rt.Path+"/") {
			t.Fatalf("path %q came to %q", p, rt.Path)
		}
		if pl, _ := (&Proxy{}).choose(rt, ofHTTP2(t, r)); pl != nil && rt.pool(pl.Name) != pl {
			t.Fatalf("pool %q is not the route's", pl.Name)
		}
		sent := targetOf(ofHTTP2(t, r), rt)
		for _, c := range []byte(sent) {
			if c <= ' ' || c >= 0x7f {
				t.Fatalf("target %q of %q", sent, target)
			}
		}
		if sent[0] != '/' {
			t.Fatalf("target %q of %q", sent, target)
		}
	})
}
