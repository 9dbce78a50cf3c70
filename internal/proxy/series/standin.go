package series

import "time"

// PoolStats is the proxy's.
type PoolStats struct {
	Route, Pool string
	Codes       map[int]int64
	Latency     []int64
	Sum         time.Duration
}
