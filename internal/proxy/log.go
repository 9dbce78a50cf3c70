package proxy

import (
	"context"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	logFlush = time.Second
	logLast  = 5 * time.Second // that the last lines may take
	logFull  = 64 << 10        // bytes that are written without waiting longer
	logMost  = 1 << 20         // bytes that are held while the writer is slow
)

// accessLog gathers lines, so that a request never waits for the writer.
type accessLog struct {
	to      io.Writer
	full    chan struct{}
	dropped atomic.Uint64

	mu    sync.Mutex
	lines []byte
	spare []byte

	second int64  // of the Unix epoch
	stamp  []byte // which is that second, since most lines are of the same
}

func (l *accessLog) droppedLines() uint64 {
	if l == nil {
		return 0
	}
	return l.dropped.Load()
}

// run writes what has been gathered, until ctx ends, and then the rest.
func (l *accessLog) run(ctx context.Context) {
	tick := time.NewTicker(logFlush)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-l.full:
		case <-ctx.Done():
			l.flush()
			return
		}
		l.flush()
	}
}

func (l *accessLog) flush() {
	l.mu.Lock()
	lines := l.lines
	l.lines, l.spare = l.spare[:0], nil
	l.mu.Unlock()
	if len(lines) > 0 {
		_, _ = l.to.Write(lines) // there is nobody to tell
	}
	l.mu.Lock()
	l.spare = lines[:0]
	l.mu.Unlock()
}

// record writes the line of a request. The query is not in it: queries hold secrets.
func (l *accessLog) record(x *exchange, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) > logMost {
		l.dropped.Add(1)
		return
	}
	b := l.lines
	b = append(b, `{"time":"`...)
	if second := x.began.Unix(); second != l.second || l.stamp == nil {
		l.second, l.stamp = second, x.began.UTC().AppendFormat(l.stamp[:0], "2006-01-02T15:04:05.")
	}
	b = append(b, l.stamp...)
	ms := x.began.Nanosecond() / 1e6
	b = append(b, byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10))
	b = append(b, `Z","msg":"request","id":`...)
	b = appendJSON(b, x.head.id)
	if x.route != nil {
		b = append(b, `,"route":`...)
		b = appendJSON(b, x.route.Name)
	}
	if x.pool != nil {
		b = append(b, `,"pool":`...)
		b = appendJSON(b, x.pool.Name)
	}
	if x.backend != nil {
		b = append(b, `,"backend":`...)
		b = appendJSON(b, x.backend.addr)
	}
	b = append(b, `,"client":`...)
	b = appendJSON(b, x.r.client)
	b = append(b, `,"method":`...)
	b = appendJSON(b, x.r.method)
	b = append(b, `,"host":`...)
	b = appendJSON(b, x.r.host)
	b = append(b, `,"path":`...)
	b = appendJSON(b, x.r.path)
	b = append(b, `,"proto":"HTTP/`...)
	b = strconv.AppendInt(b, int64(x.r.major), 10)
	b = append(b, '.')
	b = strconv.AppendInt(b, int64(x.r.minor), 10)
	b = append(b, '"')
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(x.status), 10)
	b = append(b, `,"in":`...)
	b = strconv.AppendInt(b, x.in, 10)
	b = append(b, `,"out":`...)
	b = strconv.AppendInt(b, x.sent, 10)
	b = append(b, `,"ms":`...)
	b = strconv.AppendFloat(b, float64(took.Microseconds())/1000, 'f', -1, 64)
	if agent := x.r.header.get("User-Agent"); agent != "" {
		b = append(b, `,"agent":`...)
		b = appendJSON(b, agent)
	}
	if x.err != nil {
		b = append(b, `,"error":`...)
		b = appendJSON(b, x.err.Error())
	}
	l.lines = append(b, "}\n"...)
	if len(l.lines) > logFull {
		select {
		case l.full <- struct{}{}:
		default:
		}
	}
}

// appendJSON writes a string of a client's: at most some hundred bytes of it, and no byte that a terminal would obey.
func appendJSON(b []byte, s string) []byte {
	const longest = 512
	if len(s) > longest {
		s = s[:longest]
	}
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r > 0x9f && r != utf8.RuneError && r != '\u2028' && r != '\u2029' {
			i += size
			continue
		}
		b = append(b, s[from:i]...)
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case r == utf8.RuneError:
			b = append(b, `\ufffd`...)
		default:
			const hex = "0123456789abcdef"
			b = append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		}
		i += size
		from = i
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}
