package fair

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// linesEvery is how often a line of one kind is written about one subject.
	linesEvery = 10 * time.Second
	// subjectsMax bounds what is remembered of each kind; subjects beyond share one
	// line.
	subjectsMax = 1000
)

// Lines keeps whoever can make a log line repeat from filling the log: of one kind
// (its message) and subject (a client, a node) one line each 10 s is written, and
// the next one says how many were left out. A nil Lines writes all. Safe for
// concurrent use.
type Lines struct {
	mono func() time.Duration

	mu    sync.Mutex                      // guards what follows
	said  map[string]map[string]*repeated // by message and subject
	swept time.Duration
}

type repeated struct {
	at      time.Duration // of the last one that was written
	leftOut int
	log     *slog.Logger
	level   slog.Level
}

// NewLines measures time with mono, a monotonic clock.
func NewLines(mono func() time.Duration) *Lines {
	return &Lines{mono: mono, said: map[string]map[string]*repeated{}, swept: mono()}
}

// Log writes a line unless one like it was written just before. about is whom it
// concerns; it is not written, args are.
func (l *Lines) Log(log *slog.Logger, level slog.Level, about, message string, args ...any) {
	if !log.Enabled(context.Background(), level) {
		return
	}
	leftOut, ok := l.take(log, level, about, message)
	if !ok {
		return
	}
	if leftOut > 0 {
		args = append(args[:len(args):len(args)], "left_out", leftOut)
	}
	log.Log(context.Background(), level, message, args...)
}

// take reports whether a line may be written, and how many before it were not.
func (l *Lines) take(log *slog.Logger, level slog.Level, about, message string) (leftOut int, ok bool) {
	if l == nil {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.mono()
	defer l.sweep(now)
	of := l.said[message]
	if of == nil {
		of = map[string]*repeated{}
		l.said[message] = of
	}
	r := of[about]
	if r == nil && len(of) >= subjectsMax {
		about = ""
		r = of[about]
	}
	if r == nil {
		of[about] = &repeated{at: now, log: log, level: level}
		return 0, true
	}
	if now-r.at < linesEvery {
		r.leftOut++
		return 0, false
	}
	leftOut = r.leftOut
	r.at, r.leftOut = now, 0
	return leftOut, true
}

// sweep forgets what has not come again, once it has said how often it came.
func (l *Lines) sweep(now time.Duration) {
	if now-l.swept < linesEvery {
		return
	}
	l.swept = now
	for message, of := range l.said {
		for about, r := range of {
			if now-r.at < linesEvery {
				continue
			}
			if r.leftOut > 0 {
				r.log.Log(context.Background(), r.level, message, "about", about, "left_out", r.leftOut)
			}
			delete(of, about)
		}
	}
}
