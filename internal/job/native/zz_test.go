package native

import (
	"testing"
	"time"
)

func TestZZ(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		for i := 0; i < 2; i++ {
			a := time.Now()
			j.must("actions/setup-python@v5", map[string]string{"python-version": "3.x"})
			t.Log("python", time.Since(a))
		}
		a := time.Now()
		j.must("actions/setup-node@v5", map[string]string{"node-version": "20"})
		t.Log("node", time.Since(a))
		a = time.Now()
		j.must("actions/setup-go@v5", map[string]string{"go-version": "stable", "cache": "false"})
		t.Log("go", time.Since(a))
		a = time.Now()
		j.sh("true")
		t.Log("exec", time.Since(a))
	})
}
