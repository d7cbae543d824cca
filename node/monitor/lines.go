package monitor

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"mailnode/storage/fair"
)

// How many lines the log takes. A cause that repeats, or a client that makes it
// repeat, writes so much and no more, whatever it does.
const (
	linesPerKind   = 20               // of one kind in linesWindow
	linesWindow    = 10 * time.Second // from the first line that is counted
	lineKindsMax   = 4096             // kinds that are counted one by one; the rest share one count
	lineKindOthers = "other lines"
)

// lineSubject returns what an attribute adds to a line's kind; "": nothing. Lines
// about different slots, nodes, conditions, clients and users are different kinds. A
// client is its network, because it may come from any address of it; "user" is
// logged of those only who have proved to be one.
func lineSubject(a slog.Attr) string {
	value := a.Value.String()
	switch a.Key {
	case "slot", "node", "to", "member", "condition", "user":
	case "client":
		value = fair.NetworkOf(value)
	default:
		return ""
	}
	return "\x00" + a.Key + "=" + value
}

// LimitLines returns a handler that hands on at most 20 lines of a kind, and one of
// those that are equal in everything, in 10 seconds. A kind is a level, a message,
// and whom it is about (lineSubject). How many were left out is said, as
// `left_out`, by the next line of the kind, or by a line of its own. Debug lines
// pass: who asks for them wants all.
func LimitLines(to slog.Handler) slog.Handler {
	return &limitedLines{to: to, counts: &lineCounts{kinds: map[string]*lineCount{}}}
}

type limitedLines struct {
	to     slog.Handler
	about  string // of the attributes that every line has
	counts *lineCounts
}

// lineCounts are shared by a handler and all that were made from it.
type lineCounts struct {
	mu    sync.Mutex // guards what follows
	kinds map[string]*lineCount
	swept time.Time
}

// lineCount counts one kind for a window.
type lineCount struct {
	began   time.Time // monotonic
	level   slog.Level
	message string
	passed  int
	leftOut int
	seen    map[string]struct{} // the lines that passed, whole
}

// Enabled implements slog.Handler.
func (l *limitedLines) Enabled(ctx context.Context, level slog.Level) bool {
	return l.to.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (l *limitedLines) WithAttrs(attrs []slog.Attr) slog.Handler {
	about := l.about
	for _, a := range attrs {
		about += lineSubject(a)
	}
	return &limitedLines{to: l.to.WithAttrs(attrs), about: about, counts: l.counts}
}

// WithGroup implements slog.Handler.
func (l *limitedLines) WithGroup(name string) slog.Handler {
	return &limitedLines{to: l.to.WithGroup(name), about: l.about, counts: l.counts}
}

// Handle implements slog.Handler.
func (l *limitedLines) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return l.to.Handle(ctx, r)
	}
	kind, whole := r.Level.String()+"\x00"+r.Message+l.about, ""
	r.Attrs(func(a slog.Attr) bool {
		text := "\x00" + a.Key + "=" + a.Value.String()
		kind += lineSubject(a)
		whole += text
		return true
	})
	pass, leftOut, late := l.counts.count(time.Now(), kind, whole, r)
	for _, c := range late {
		said := slog.NewRecord(r.Time, c.level, "log lines left out", 0)
		said.AddAttrs(slog.String("line", c.message), slog.Int("left_out", c.leftOut))
		if err := l.to.Handle(ctx, said); err != nil {
			return err
		}
	}
	if !pass {
		return nil
	}
	if leftOut > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("left_out", leftOut))
	}
	return l.to.Handle(ctx, r)
}

// count counts a line. It reports whether the line passes, how many of its kind
// were left out before it, and which other kinds have ended with lines left out.
func (s *lineCounts) count(now time.Time, kind, whole string, r slog.Record) (pass bool, leftOut int, late []*lineCount) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.kinds[kind]
	if c != nil && now.Sub(c.began) >= linesWindow {
		leftOut = c.leftOut
		delete(s.kinds, kind)
		c = nil
	}
	if now.Sub(s.swept) >= linesWindow {
		late, s.swept = s.sweep(now), now
	}
	if c == nil {
		message := r.Message
		if len(s.kinds) >= lineKindsMax {
			kind, whole, message = lineKindOthers, kind+whole, lineKindOthers
		}
		if c = s.kinds[kind]; c == nil {
			c = &lineCount{began: now, level: r.Level, message: message, seen: map[string]struct{}{}}
			s.kinds[kind] = c
		}
	}
	if _, again := c.seen[whole]; again || c.passed >= linesPerKind {
		c.leftOut++
		return false, 0, late
	}
	c.seen[whole] = struct{}{}
	c.passed++
	return true, leftOut, late
}

// sweep forgets the kinds whose window has ended, and returns those that left
// lines out.
func (s *lineCounts) sweep(now time.Time) (late []*lineCount) {
	for kind, c := range s.kinds {
		if now.Sub(c.began) < linesWindow {
			continue
		}
		delete(s.kinds, kind)
		if c.leftOut > 0 {
			late = append(late, c)
		}
	}
	return late
}
