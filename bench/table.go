package main

import (
	"fmt"
	"io"
	"time"
)

// row is one line of the table.
type row struct {
	what, ours, beside, ratio, target string
	met                               bool
}

// faster adds a row: ours must be at least so many times faster than the peer.
func (b *bench) faster(what string, ours, peer sample, peerName string, atLeast float64) {
	ratio := float64(peer.wall) / float64(ours.wall)
	b.rows = append(b.rows, row{
		what, millis(ours.wall), peerName + " " + millis(peer.wall), fmt.Sprintf("%.1fx faster", ratio),
		fmt.Sprintf("at least %gx faster", atLeast), ratio >= atLeast,
	})
}

// within adds a row: ours may take at most so many times as long as the peer.
func (b *bench) within(what string, ours, peer sample, peerName string, atMost float64) {
	ratio := float64(ours.wall) / float64(peer.wall)
	b.rows = append(b.rows, row{
		what, millis(ours.wall), peerName + " " + millis(peer.wall), fmt.Sprintf("%.2fx the time", ratio),
		fmt.Sprintf("at most %gx the time", atMost), ratio <= atMost,
	})
}

// atMost adds a row: ours may take at most so long, whatever stands beside it.
func (b *bench) atMost(what string, ours sample, beside string, limit time.Duration) {
	b.rows = append(b.rows, row{
		what, millis(ours.wall), beside, fmt.Sprintf("%.2f of the limit", float64(ours.wall)/float64(limit)),
		"at most " + millis(limit), ours.wall <= limit,
	})
}

// over adds a row: ours may take at most so much longer than the peer, shared among count units.
func (b *bench) over(what string, ours, peer sample, count int, peerName string, limit time.Duration) {
	more := (ours.wall - peer.wall) / time.Duration(count)
	b.rows = append(b.rows, row{
		what, millis(ours.wall / time.Duration(count)), peerName + " " + millis(peer.wall/time.Duration(count)),
		millis(more) + " more", "at most " + millis(limit) + " more", more <= limit,
	})
}

func millis(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case ms >= 100 || ms <= -100:
		return fmt.Sprintf("%.0f ms", ms)
	case ms >= 10 || ms <= -10:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.2f ms", ms)
}

func printTable(w io.Writer, rows []row) {
	fmt.Fprintln(w, "| case | ours | beside | ratio | target | met |")
	fmt.Fprintln(w, "| --- | ---: | ---: | ---: | --- | --- |")
	for _, r := range rows {
		met := "yes"
		if !r.met {
			met = "**no**"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |\n", r.what, r.ours, r.beside, r.ratio, r.target, met)
	}
}
