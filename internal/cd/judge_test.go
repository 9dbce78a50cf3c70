package cd

import (
	"math"
	"math/rand/v2"
	"testing"
)

// poisson draws from a Poisson distribution.
func poisson(r *rand.Rand, mean float64) int64 {
	if mean > 50 {
		return max(0, int64(math.Round(mean+math.Sqrt(mean)*r.NormFloat64())))
	}
	n, p := int64(0), r.Float64()
	for limit := math.Exp(-mean); p > limit; n++ {
		p *= r.Float64()
	}
	return n
}

// clustered draws errors that come in bursts of the mean size.
func clustered(r *rand.Rand, mean, size float64) int64 {
	n := int64(0)
	for range poisson(r, mean/size) {
		n += 1 + poisson(r, size-1)
	}
	return n
}

// rollout is ten looks of a minute, at weights of 5 to 50 percent, and says at which the errors alarmed, 0 for none.
func rollout(r *rand.Rand, rate, base, ratio, burst float64, shared bool) int {
	var e Evidence
	for look := 1; look <= 10; look++ {
		w := float64(look) * 0.05
		n, o := poisson(r, rate*60*w), poisson(r, rate*60*(1-w))
		failing := base
		if shared && r.IntN(4) == 0 {
			failing *= 20 // a dependency is down, for both
		}
		s := Sample{New: Traffics{Requests: n}, Old: Traffics{Requests: o}}
		s.New.Errors = min(n, clustered(r, float64(n)*failing*ratio, burst))
		s.Old.Errors = min(o, clustered(r, float64(o)*failing, burst))
		if e = e.plus(s); e.alarms() {
			return look
		}
	}
	return 0
}

// TestJudgeErrors reproduces the simulation that the test by betting was chosen by: how many rollouts it takes back, and when.
func TestJudgeErrors(t *testing.T) {
	const rollouts = 1000
	for _, c := range []struct {
		name              string
		rate, base, ratio float64
		burst             float64
		shared            bool
		least, most       float64 // of a hundred
		within            float64 // mean minute
	}{
		{"healthy, 10/s", 10, 0.008, 1, 1, false, 0, 2, 10},
		{"healthy, 100/s", 100, 0.008, 1, 1, false, 0, 2, 10},
		{"healthy, 1000/s", 1000, 0.008, 1, 1, false, 0, 2, 10},
		{"healthy, a dependency fails now and then", 100, 0.002, 1, 1, true, 0, 2, 10},
		{"healthy, errors in bursts of 3", 100, 0.008, 1, 3, false, 0, 2.5, 10},
		{"healthy, errors in bursts of 10", 100, 0.008, 1, 10, false, 0, 7, 10},
		{"healthy, errors in bursts of 10, 1000/s", 1000, 0.008, 1, 10, false, 0, 7, 10},
		{"five times 0.1 %, 10/s", 10, 0.001, 5, 1, false, 35, 100, 8},
		{"five times 0.1 %, 100/s", 100, 0.001, 5, 1, false, 98, 100, 5},
		{"five times 0.8 %, 100/s", 100, 0.008, 5, 1, false, 99, 100, 2.5},
		{"twenty times 0.8 %, 1/s", 1, 0.008, 20, 1, false, 97, 100, 6},
		{"five times 0.8 % in bursts of 3, 100/s", 100, 0.008, 5, 3, false, 95, 100, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(7, 11))
			alarms, minutes := 0, 0
			for range rollouts {
				if look := rollout(r, c.rate, c.base, c.ratio, c.burst, c.shared); look > 0 {
					alarms++
					minutes += look
				}
			}
			share, mean := 100*float64(alarms)/rollouts, float64(minutes)/float64(max(alarms, 1))
			t.Logf("%.1f %% taken back, after %.1f minutes", share, mean)
			if share < c.least || share > c.most || mean > c.within {
				t.Errorf("%.1f %% after %.1f minutes, want %v to %v %% within %v", share, mean, c.least, c.most, c.within)
			}
		})
	}
}

// TestJudgeLatency says how often the rank test calls a revision slower, by 20 looks.
func TestJudgeLatency(t *testing.T) {
	bounds := []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}
	latency := func(r *rand.Rand, n int64, scale float64) Traffics {
		t := Traffics{Requests: n, Bounds: bounds, Latency: make([]int64, len(bounds)+1)}
		for range n {
			ms := scale * 20 * math.Exp(0.8*r.NormFloat64())
			i := 0
			for i < len(bounds) && ms > bounds[i] {
				i++
			}
			t.Latency[i]++
		}
		return t
	}
	for _, c := range []struct {
		name        string
		n           int64   // requests of a look
		slower      float64 // times
		drift       float64 // both get slower from look to look
		least, most float64
	}{
		{"as fast", 100, 1, 1, 0, 1},
		{"as fast, few requests", 20, 1, 1, 0, 2},
		{"as fast, and slower by the hour", 100, 1, 1.1, 0, 1},
		{"5 % slower does not matter", 500, 1.05, 1, 0, 1},
		{"half as fast", 100, 2, 1, 99, 100},
		{"half as fast, few requests", 20, 2, 1, 90, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 5))
			const rollouts = 200
			alarms := 0
			for range rollouts {
				var e Evidence
				scale := 1.0
				for range 20 {
					e = e.plus(Sample{New: latency(r, c.n/5, scale*c.slower), Old: latency(r, c.n, scale)})
					if slower, _, _ := e.slower(); slower {
						alarms++
						break
					}
					scale *= c.drift
				}
			}
			if share := 100 * float64(alarms) / rollouts; share < c.least || share > c.most {
				t.Errorf("%.1f %% are called slower, want %v to %v", share, c.least, c.most)
			} else {
				t.Logf("%.1f %%", share)
			}
		})
	}
}

func TestBinomialTail(t *testing.T) {
	for _, c := range []struct {
		n, k int64
		p    float64
		want float64
	}{
		{10, 0, 0.5, 1}, {10, 10, 0.5, 1.0 / 1024}, {10, 9, 0.5, 11.0 / 1024}, {3, 2, 0.1, 0.028}, {100, 1, 0, 0}, {100, 3, 1, 1},
		{1000, 20, 0.01, 0.00326},
	} {
		if got := binomialTail(c.n, c.k, c.p); math.Abs(got-c.want) > c.want*0.01 {
			t.Errorf("at least %d of %d at %v: %v, want %v", c.k, c.n, c.p, got, c.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	h := Traffics{Bounds: []float64{10, 100}, Latency: []int64{50, 40, 10}}
	for _, c := range []struct{ q, want float64 }{{0.25, 5}, {0.5, 10}, {0.7, 55}, {0.9, 100}, {0.99, 100}} {
		if got, ok := h.quantile(c.q); !ok || got != c.want {
			t.Errorf("quantile %v: %v, want %v", c.q, got, c.want)
		}
	}
	if _, ok := (Traffics{}).quantile(0.5); ok {
		t.Error("nothing has a quantile")
	}
	for limit, want := range map[float64]int64{5: 50, 10: 50, 11: 10, 100: 10, 1000: 0} {
		if got := h.above(limit); got != want {
			t.Errorf("above %v: %d, want %d", limit, got, want)
		}
	}
}

// A bad revision is caught at its first weight, by looks seconds apart.
func TestJudgeActsAtOnce(t *testing.T) {
	var e Evidence
	e = e.plus(Sample{New: Traffics{Requests: 30, Errors: 20}, Old: Traffics{Requests: 270}})
	if !e.alarms() {
		t.Errorf("20 of 30 requests fail, none before, and the e-value is %v", e.eValue())
	}
	e = Evidence{}
	for look := range 2 {
		e = e.plus(Sample{New: Traffics{Requests: 15, Errors: 4}, Old: Traffics{Requests: 135}})
		if e.alarms() != (look == 1) {
			t.Errorf("look %d: 4 of 15 requests fail, none before, and the e-value is %v", look, e.eValue())
		}
	}
}
