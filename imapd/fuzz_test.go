package imapd

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mailnode/storage"
)

// errorsSeen is a log handler that counts errors: a session's panic, or an error
// that no reply stands for.
type errorsSeen struct {
	slog.Handler
	n    atomic.Int64
	last atomic.Value
}

func (e *errorsSeen) Enabled(context.Context, slog.Level) bool { return true }

func (e *errorsSeen) WithAttrs([]slog.Attr) slog.Handler { return e }

func (e *errorsSeen) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		text := r.Message
		r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
		e.last.Store(text)
		e.n.Add(1)
	}
	return nil
}

// anyPassword logs everybody in as alice.
type anyPassword struct{ *bench }

func (a anyPassword) Login(ctx context.Context, _ string, _ storage.Attempt) (Grant, error) {
	return a.bench.Login(ctx, "alice", storage.Attempt{Password: "secret"})
}

// FuzzSession plays any bytes to a session over the real store: nothing panics,
// no error is without its reply, and the session ends when its client leaves.
// Run it with -fuzzminimizetime=10x: the seeds are long.
func FuzzSession(f *testing.F) {
	seen := &errorsSeen{Handler: slog.DiscardHandler}
	b := newBench(f, nil)
	b.deliverMany("alice", 3)
	srv := b.serve(func(c *Config) {
		c.Login, c.Logger = anyPassword{b}, slog.New(seen)
		c.Limits.MessageBytesMax = 10_000
		c.Timeouts.Read = time.Second
	})
	files, err := filepath.Glob("testdata/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // testdata/fuzz
		}
		var in strings.Builder
		for line := range strings.SplitSeq(string(text), "\n") {
			if cmd, ok := strings.CutPrefix(line, "C: "); ok {
				in.WriteString(strings.ReplaceAll(cmd, "}", "+}") + "\r\n")
			}
		}
		f.Add([]byte(strings.ReplaceAll(in.String(), "++}", "+}")))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		ours, theirs := net.Pipe()
		c := newSession(srv, theirs, "")
		c.plainLogin = true
		if why := srv.register(c); why != nil {
			t.Fatal("the server is full: sessions do not end")
		}
		ended := make(chan struct{})
		go func() { c.run(c.serveClient); close(ended) }()
		go io.Copy(io.Discard, ours)
		ours.SetWriteDeadline(time.Now().Add(5 * time.Second))
		io.Copy(ours, bytes.NewReader(append([]byte("l LOGIN alice x\r\ns SELECT INBOX\r\n"), in...)))
		ours.Close()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Fatal("the session goes on without its client")
		}
		if seen.n.Load() > 0 {
			t.Fatal(seen.last.Load())
		}
	})
}
