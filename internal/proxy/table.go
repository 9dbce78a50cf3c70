// Package proxy carries traffic to what was released: hosts and path prefixes to pools with weights, sticky and monotone,
// header and cookie routing, mirrors, health, draining, TLS, and metrics of its own for each pool.
//
// It knows tables and connections. It never knows releases: whoever does makes the table.
package proxy

import "time"

// Table is all that the proxy serves. It never changes; Proxy.Set puts another in its place in one step.
type Table struct {
	Version int64   `json:"version"`
	Routes  []Route `json:"routes"` // the most specific that matches is taken: host (exact before wildcard), then the longest path
}

// Route leads what comes for hosts, below a path, to pools.
type Route struct {
	// Name tells the route in metrics and logs: repository/environment/service.
	Name  string   `json:"name"`
	Hosts []string `json:"hosts"`          // shop.example.com, *.preview.example.com; empty is every host
	Path  string   `json:"path,omitempty"` // prefix of whole segments: /api; empty is all
	Strip bool     `json:"strip,omitempty"`
	// Pools share the traffic by their weights. With all weights zero, or no pool, the answer is 503.
	Pools []Pool `json:"pools"`
	// Rules come before weights: the first that matches chooses its pool.
	Rules []Rule `json:"rules,omitempty"`
	// Mirror is the name of a pool that gets a copy of requests, whose answers nobody sees; Percent of them.
	Mirror        string  `json:"mirror,omitempty"`
	MirrorPercent float64 `json:"mirror_percent,omitempty"`
	// Sticky says how a client stays in its pool while weights stay, and is not moved back when its pool's weight grows.
	Sticky Sticky `json:"sticky"`
	Paused bool   `json:"paused,omitempty"` // requests wait, for at most PauseLimit, until it is not

	MaxBody         int64         `json:"max_body,omitempty"`         // bytes; 0 takes the proxy's
	ResponseTimeout time.Duration `json:"response_timeout,omitempty"` // until the first byte of an answer; 0 takes the proxy's
	GRPC            bool          `json:"grpc,omitempty"`             // backends speak HTTP/2 in the clear (h2c)
}

// Pool is the backends of one revision.
type Pool struct {
	// Name tells the revision in metrics and logs, and is the pool's identity from table to table: its connections, health
	// and counters go on.
	Name     string    `json:"name"`
	Weight   int       `json:"weight"` // of the sum of all weights of the route
	Backends []Backend `json:"backends"`
	// Labels tell more of the pool where its metrics are asked for: repository, environment, service, release, and side (new
	// or old). They may change from table to table. What is missing is taken from the names.
	Labels map[string]string `json:"labels,omitempty"`
}

// Backend is one instance.
type Backend struct {
	// Addr is host:port, or unix:PATH of a socket that hands out connections (see Dial).
	Addr string `json:"addr"`
}

// Rule sends what matches to a pool: all of its headers match.
type Rule struct {
	Headers map[string]Matcher `json:"headers"` // lower case names; "cookie:NAME" is a cookie's value
	Pool    string             `json:"pool"`
}

// Matcher compares a value: one of its fields is set.
type Matcher struct {
	Exact  string `json:"exact,omitempty"`
	Prefix string `json:"prefix,omitempty"`
	Suffix string `json:"suffix,omitempty"`
	Regex  string `json:"regex,omitempty"` // RE2, of the whole value
}

// Sticky says by what a client is known again: a cookie of the proxy's own, set when it is missing; else a header; else,
// with neither, each request is on its own.
type Sticky struct {
	Cookie string        `json:"cookie,omitempty"`
	MaxAge time.Duration `json:"max_age,omitempty"`
	Header string        `json:"header,omitempty"`
}
