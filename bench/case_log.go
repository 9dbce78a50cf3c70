package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// secrets are what the log of measureLog holds: one in every 50 lines each.
var secrets = []string{
	"API_TOKEN=tk_7Yq2vLx9RwZ4mKfB1sDh6nJ8",
	"DB_PASSWORD=s3cr3t/with+signs=and&more",
	"SIGNING_KEY=5f1d7a84695e4b2f9c0e3a17d2b86c44",
}

// measureLog: lines of output on their way to the log, with secrets to hide. act is given a part of it and its speed
// is what counts: the whole would take it a minute.
func measureLog(ctx context.Context, b *bench) error {
	const actsPart = 10
	size := b.size(200, 20) * 1_000_000
	files := map[string]string{
		"lines.txt":                   logLines(),
		".github/workflows/whole.yml": onPush("whole", "", "uses: actions/checkout@v4", "run: "+printing(size)),
		".github/workflows/part.yml":  onPush("part", "", "uses: actions/checkout@v4", "run: "+printing(size/actsPart)),
	}
	r, err := b.newRepository(ctx, "log", files)
	if err != nil {
		return err
	}
	whole, part := []string{"-W", ".github/workflows/whole.yml"}, []string{"-W", ".github/workflows/part.yml"}
	for _, s := range secrets {
		whole, part = append(whole, "-s", s), append(part, "-s", s)
	}
	if err := b.checkMasked(ctx, r, part); err != nil {
		return err
	}
	got, err := b.interleave(ctx,
		b.ours("auto", r, whole...),
		b.plain("cat", r.dir, printing(size)+" | cat >"+filepath.Join(b.dir, "log.out")),
		b.acts(r, part...),
	)
	if err != nil {
		return err
	}
	ours, plain, act := got[0], got[1], got[2]
	act.wall *= actsPart
	speed := func(s sample) string { return fmt.Sprintf("%.0f MB/s", float64(size)/1e6/s.wall.Seconds()) }
	ratio := float64(plain.wall) / float64(ours.wall)
	what := fmt.Sprintf("%d MB of log, three secrets", size/1_000_000)
	b.rows = append(b.rows, row{what, speed(ours), "cat >file " + speed(plain), fmt.Sprintf("%.0f %% of its speed", 100*ratio), "at least 60 %", ratio >= 0.6})
	ratio = float64(act.wall) / float64(ours.wall)
	b.rows = append(b.rows, row{what, speed(ours), "act " + speed(act), fmt.Sprintf("%.0fx faster", ratio), "at least 40x faster", ratio >= 40})
	megabytes := func(s sample) string { return fmt.Sprintf("%.0f MB", float64(s.rss)/1e6) }
	b.rows = append(b.rows, row{what + ", memory", megabytes(ours), "act " + megabytes(act), fmt.Sprintf("%.2f of the limit", float64(ours.rss)/100e6), "under 100 MB", ours.rss < 100e6})
	return nil
}

// printing is a command that prints size bytes of the lines in lines.txt, over and over.
func printing(size int) string {
	return fmt.Sprintf(`yes -- "$(cat lines.txt)" | head -c %d`, size)
}

// logLines are some hundred lines as a build prints them.
func logLines() string {
	var w strings.Builder
	for i := range 500 {
		at := time.Date(2026, 1, 2, 3, 4, i%60, 0, time.UTC).Format(time.RFC3339)
		fmt.Fprintf(&w, "%s [worker-%02d] compiled src/module_%03d/file_%03d.ts in %d ms", at, i%8, i%37, i, i*7%900)
		if i%50 < len(secrets) {
			_, value, _ := strings.Cut(secrets[i%50], "=")
			w.WriteString(" with " + value)
		}
		w.WriteString("\n")
	}
	return w.String()
}

// checkMasked makes sure that what is measured is really done: no secret comes out, and asterisks do.
func (b *bench) checkMasked(ctx context.Context, r repository, args []string) error {
	var out bytes.Buffer
	if _, err := b.spawn(ctx, r.dir, &out, append([]string{b.penstock, "run"}, args...)...); err != nil {
		return err
	}
	for _, s := range secrets {
		_, value, _ := strings.Cut(s, "=")
		if bytes.Contains(out.Bytes(), []byte(value)) {
			return errors.New("a secret is in the log")
		}
	}
	if !bytes.Contains(out.Bytes(), []byte("with ***")) {
		return errors.New("the log has no masked secret")
	}
	return nil
}
