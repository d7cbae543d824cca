package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// mute listens at a socket that a stopped process would have: it takes calls and
// never says anything.
func mute(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var taken []net.Conn
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			taken = append(taken, c)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range taken {
			c.Close()
		}
	})
	return path
}

// answering listens at a socket and answers the probe; everything else is do's.
func answering(t *testing.T, do http.HandlerFunc) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"node":"n1","version":"1"}`) })
	mux.HandleFunc("/", do)
	srv := &http.Server{Handler: mux}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return path
}

func hurried(path string) *Client {
	c := NewClient(path)
	c.probe = 100 * time.Millisecond
	c.within = func(string, string) time.Duration { return 100 * time.Millisecond }
	return c
}

func refused(t *testing.T, what string, err error, next string, words ...string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Exit != ExitFailed || e.Next != next {
		t.Errorf("%s: %#v, want exit 1 and next %q", what, err, next)
		return
	}
	for _, w := range append(words, "ask another node") {
		if !strings.Contains(e.Text, w) {
			t.Errorf("%s: %q does not say %q", what, e.Text, w)
		}
	}
	for _, raw := range []string{"rpc error", "desc =", "context deadline", "EOF", "Get \"", "Post \""} {
		if strings.Contains(e.Text, raw) {
			t.Errorf("%s: %q is not for operators", what, e.Text)
		}
	}
}

// TestMuteNode: a node whose process is stopped takes calls and never answers.
// Whoever asks is told so soon, and that nothing was asked of it.
func TestMuteNode(t *testing.T) {
	c := hurried(mute(t))
	ctx := t.Context()
	for what, ask := range map[string]func() error{
		"status":  func() error { _, err := c.Status(ctx); return err },
		"users":   func() error { _, err := c.Users(ctx); return err },
		"list":    func() error { _, err := c.Proposals(ctx, true); return err },
		"confirm": func() error { _, err := c.Confirm(ctx, ConfirmRequest{}); return err },
		"add":     func() error { _, err := c.AddUser(ctx, AddUser{}); return err },
	} {
		refused(t, what, ask(), "mailnode status, on another node", "waited", "nothing was asked of it")
	}
}

// TestNodeHangsInTheMiddle: it gave a sign of life, and no answer.
func TestNodeHangsInTheMiddle(t *testing.T) {
	hang := make(chan struct{})
	path := answering(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	defer close(hang)
	c := hurried(path)
	_, err := c.Status(t.Context())
	refused(t, "status", err, "mailnode status, on another node", "waited")
	_, err = c.Confirm(t.Context(), ConfirmRequest{ID: "p3"})
	refused(t, "confirm", err, "mailnode failover list, on another node", "waited", "the outcome is unknown")
	err = c.SetPassword(t.Context(), SetPassword{})
	refused(t, "passwd", err, "mailnode user list, on another node", "waited", "the outcome is unknown")
}

// TestNodeDiesInTheMiddleOfAConfirm: the connection breaks, before the answer or
// in it.
func TestNodeDiesInTheMiddleOfAConfirm(t *testing.T) {
	for name, say := range map[string]string{"before the answer": "", "in the answer": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"exit\":"} {
		t.Run(name, func(t *testing.T) {
			path := answering(t, func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				conn, _, err := w.(http.Hijacker).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				io.WriteString(conn, say)
				conn.Close()
			})
			c := NewClient(path)
			_, err := c.Confirm(t.Context(), ConfirmRequest{ID: "p3"})
			refused(t, "confirm", err, "mailnode failover list, on another node", "ended before it answered", "the outcome is unknown")
			_, err = c.Proposals(t.Context(), false)
			refused(t, "list", err, "mailnode status, on another node", "ended before it answered")
		})
	}
}

// TestBounded: a request that hangs on a disk is answered all the same, one that
// panics takes nothing down, and a partial answer that comes a little late counts.
func TestBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := errors.New("late")
		hang := make(chan struct{})
		limited := func() context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), questionTimeout)
			context.AfterFunc(ctx, cancel)
			return ctx
		}
		began := time.Now()
		_, err := bounded(limited(), quiet(), late, func() (int, error) { <-hang; return 1, nil })
		if took := time.Since(began); err != late || took != questionTimeout+answerGrace {
			t.Errorf("after %s: %v", took, err)
		}
		close(hang)
		ctx := limited()
		got, err := bounded(ctx, quiet(), late, func() (int, error) { <-ctx.Done(); return 7, nil })
		if got != 7 || err != nil {
			t.Errorf("a partial answer: %d, %v", got, err)
		}
		if _, err := bounded(limited(), quiet(), late, func() (int, error) { panic("no") }); err == nil || err == late {
			t.Errorf("a panic: %v", err)
		}
	})
}
