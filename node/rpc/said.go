package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mailnode/storage/slot"
)

// Worded makes a connection to a node say its errors in words, see Said, with the
// node and how long it was waited for. Every connection between nodes has it: no
// caller can pass on gRPC's own language.
func Worded(node slot.NodeName) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, q, a any, c *grpc.ClientConn, call grpc.UnaryInvoker, o ...grpc.CallOption) error {
			began := time.Now()
			return said(call(ctx, method, q, a, c, o...), node, began)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, method string, open grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
			began := time.Now()
			s, err := open(ctx, d, c, method, o...)
			if err != nil {
				return nil, said(err, node, began)
			}
			return &wordedStream{ClientStream: s, node: node, began: began}, nil
		}),
	}
}

// wordedStream is a stream whose errors are in words; io.EOF stays what it is.
type wordedStream struct {
	grpc.ClientStream
	node  slot.NodeName
	began time.Time
}

// RecvMsg implements grpc.ClientStream.
func (s *wordedStream) RecvMsg(m any) error { return said(s.ClientStream.RecvMsg(m), s.node, s.began) }

// SendMsg implements grpc.ClientStream.
func (s *wordedStream) SendMsg(m any) error { return said(s.ClientStream.SendMsg(m), s.node, s.began) }

// said adds to an error of a call for whom was waited, when there was no answer.
func said(err error, node slot.NodeName, began time.Time) error {
	var done *callError
	if err = Said(err); !errors.As(err, &done) {
		return err
	}
	switch done.code {
	case codes.DeadlineExceeded:
		done.text = fmt.Sprintf("waited %s for %s: %s", patience(time.Since(began)), node, done.text)
	case codes.Unavailable, codes.Internal:
		done.text = fmt.Sprintf("%s: %s", node, done.text)
	}
	return err
}

func patience(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

// Said puts an error of a call to another node into words for operators and for
// the log; what is no error of a call stays as it is. It is the only place where
// codes of gRPC become words. errors.Is finds the context's errors in it, and
// status.Code the code.
func Said(err error) error {
	if err == nil {
		return nil
	}
	var done *callError
	if errors.As(err, &done) { // it was said already
		return err
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	return &callError{text: words(s), code: s.Code(), err: err}
}

// Unsent says that a call was never sent: there was no connection to send it on.
func Unsent(err error) bool {
	var e *callError
	return errors.As(err, &e) && e.code == codes.Unavailable && strings.Contains(status.Convert(e.err).Message(), dialing)
}

// dialing is what gRPC puts before the error of a connection that was not made.
const dialing = "Error while dialing: "

// callError is an error of a call, in words.
type callError struct {
	text string
	code codes.Code
	err  error
}

func (e *callError) Error() string { return e.text }
func (e *callError) Unwrap() error { return e.err }

// Is lets callers ask for the context's errors, which gRPC turns into codes.
func (e *callError) Is(target error) bool {
	return e.code == codes.DeadlineExceeded && target == context.DeadlineExceeded ||
		e.code == codes.Canceled && target == context.Canceled
}

func words(s *status.Status) string {
	switch s.Code() {
	case codes.DeadlineExceeded:
		return "no answer in time"
	case codes.Canceled:
		return "nobody waits for the answer any more"
	case codes.Unimplemented:
		return "its release does not know this call: upgrade it"
	case codes.ResourceExhausted:
		return "the message is too big for its release"
	case codes.Unavailable, codes.Internal:
		return broken(s.Message())
	}
	return s.Message() // a node's own words
}

// broken says how a connection failed. gRPC wraps what package node/peer said
// about it; what a node says itself stays.
func broken(text string) string {
	if _, cause, ok := strings.Cut(text, dialing); ok {
		return "it cannot be reached: " + strings.ReplaceAll(strings.TrimSuffix(cause, `"`), `\"`, `"`)
	}
	for _, own := range []string{"connection error:", "transport", "error reading from server", "broken pipe", "connection reset", "keepalive", "EOF", "RST_STREAM", "GOAWAY",
		"the client connection is closing", "the connection is draining", "latest balancer error", "stream terminated"} {
		if strings.Contains(text, own) {
			return "the connection broke before it answered"
		}
	}
	return text
}
