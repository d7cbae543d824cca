package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// How long who waits for whom. Everything has an end: a node whose process is
// stopped still takes connections, and whoever asks it must be told so and sent
// to another node.
const (
	probeTimeout    = 5 * time.Second  // the client, for any sign of life before it asks
	questionTimeout = 12 * time.Second // the node, for a question that it asks other nodes about
	requestTimeout  = 30 * time.Second // the node, for an order
	confirmTimeout  = 90 * time.Second // the node, for a hand-over and 30 s until all serve
	answerGrace     = 2 * time.Second  // then, for a partial answer
	wayTimeout      = 2 * time.Second  // the client, beyond what the node takes
)

// bounded runs f, which may hang on a disk in spite of its context, and gives up
// on it some time after the context's end. What f panics with is its error.
func bounded[T any](ctx context.Context, log *slog.Logger, late error, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				log.Error("panic in a request of an operator", slog.Any("panic", p))
				r.err = fmt.Errorf("answer request: internal error: %v", p)
			}
			done <- r
		}()
		r.v, r.err = f()
	}()
	var none T
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
	}
	grace := time.NewTimer(answerGrace)
	defer grace.Stop()
	select {
	case r := <-done:
		return r.v, r.err
	case <-grace.C:
		return none, late
	}
}

// lateAnswer is the refusal of a question that hangs in this node.
func (s *Server) lateAnswer() error {
	return &Error{Text: fmt.Sprintf("%s has not found the answer in %s: one of its disks may hang; ask another node", s.node, seconds(questionTimeout+answerGrace)),
		Exit: ExitFailed, Next: "mailnode status", status: http.StatusGatewayTimeout}
}

// lateOrder is the answer about an order that hangs in this node. It goes on.
func (s *Server) lateOrder(what string, limit time.Duration) error {
	return &Error{Text: fmt.Sprintf("%s: the outcome is unknown: %s is not done with it after %s, and goes on; ask another node", what, s.node, seconds(limit+answerGrace)),
		Exit: ExitFailed, Next: "mailnode failover list", status: http.StatusGatewayTimeout}
}

// patience is how long the client waits for the answer to a request.
func patience(method, path string) time.Duration {
	switch {
	case method == http.MethodGet:
		return questionTimeout + answerGrace + wayTimeout
	case path == "/v1/failover/confirm", path == "/v1/users/undelete":
		return confirmTimeout + answerGrace + wayTimeout
	}
	return requestTimeout + answerGrace + wayTimeout
}

// next is the command that shows what became of an order.
func next(path string) string {
	switch path {
	case "/v1/users", "/v1/users/password", "/v1/users/quota", "/v1/users/disabled", "/v1/users/delete", "/v1/users/erase", "/v1/users/undelete":
		return "mailnode user list"
	case "/v1/tokens", "/v1/upgrade", "/v1/place", "/v1/recovery":
		return "mailnode cluster members"
	case "/v1/alone":
		return "mailnode slot list"
	case "/v1/audits", "/v1/reindex":
		return "mailnode job list"
	case "/v1/incident/notes":
		return "mailnode incident report"
	}
	return "mailnode failover list"
}

// silent says that the node takes connections and shows no sign of life.
func (c *Client) silent() *Error {
	return &Error{Text: fmt.Sprintf("waited %s for the node at %q, which takes calls and does not answer; nothing was asked of it: ask another node", seconds(c.probe), c.socket),
		Exit: ExitFailed, Next: "mailnode status, on another node"}
}

// unanswered says what is known of a request that was sent.
func (c *Client) unanswered(method, path string, waited time.Duration, err error) *Error {
	why := fmt.Sprintf("the node at %q ended before it answered", c.socket)
	if errors.Is(err, context.DeadlineExceeded) {
		why = fmt.Sprintf("waited %s for the node at %q", seconds(waited), c.socket)
	}
	if method == http.MethodGet {
		return &Error{Text: why + "; ask another node", Exit: ExitFailed, Next: "mailnode status, on another node"}
	}
	return &Error{Text: why + "; the outcome is unknown, ask another node", Exit: ExitFailed, Next: next(path) + ", on another node"}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.0f s", d.Seconds()) }
