package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestSaid(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{status.Error(codes.DeadlineExceeded, "context deadline exceeded"), "no answer in time"},
		{status.Error(codes.Canceled, "context canceled"), "nobody waits for the answer any more"},
		{status.Error(codes.Unimplemented, "unknown method Teleport for service mailnode.node.v1.Node"), "its release does not know this call: upgrade it"},
		{status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial node \"n3\": connect: connection refused"`),
			`it cannot be reached: dial node "n3": connect: connection refused`},
		{status.Error(codes.Unavailable, "error reading from server: EOF"), "the connection broke before it answered"},
		{status.Error(codes.Unavailable, "keepalive ping failed to receive ACK within timeout"), "the connection broke before it answered"},
		{status.Error(codes.Internal, "stream terminated by RST_STREAM with error code: CANCEL"), "the connection broke before it answered"},
		{status.Error(codes.FailedPrecondition, "this node is not the leader"), "this node is not the leader"},
		{fmt.Errorf("ask: %w", status.Error(codes.DeadlineExceeded, "x")), "no answer in time"},
		{io.ErrUnexpectedEOF, "unexpected EOF"},
	} {
		got := Said(c.err)
		if got.Error() != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
		for _, raw := range []string{"rpc error", "desc =", "code ="} {
			if strings.Contains(got.Error(), raw) {
				t.Errorf("%q is gRPC's language", got)
			}
		}
		if again := Said(fmt.Errorf("wrapped: %w", got)); again.Error() != "wrapped: "+c.want {
			t.Errorf("said twice: %q", again)
		}
	}
	late := Said(status.Error(codes.DeadlineExceeded, "x"))
	if !errors.Is(late, context.DeadlineExceeded) || status.Code(late) != codes.DeadlineExceeded {
		t.Errorf("%v has lost what it is", late)
	}
	if Said(nil) != nil {
		t.Error("no error is one")
	}
}
