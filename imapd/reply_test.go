package imapd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"mailnode/storage"
)

// TestReplyTo: each kind has its code, and wrapping does not matter.
func TestReplyTo(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{storage.ErrNotFound, "NO [NONEXISTENT]"},
		{fmt.Errorf("%w: %w", errTarget, storage.ErrNotFound), "NO [TRYCREATE]"},
		{storage.ErrExists, "NO [ALREADYEXISTS]"},
		{storage.ErrOverQuota, "NO [OVERQUOTA]"},
		{storage.ErrLimit, "NO [LIMIT]"},
		{storage.ErrTooBig, "NO [LIMIT]"},
		{storage.ErrInvalid, "NO [CANNOT]"},
		{storage.ErrAuth, "NO [AUTHENTICATIONFAILED]"},
		{storage.ErrUnavailable, "NO [UNAVAILABLE]"},
		{storage.ErrDiskFull, "NO [UNAVAILABLE]"},
		{storage.ErrCorrupt, "NO [UNAVAILABLE]"},
		{storage.ErrNotMaster, "BYE [UNAVAILABLE]"},
		{context.Canceled, "BYE [UNAVAILABLE]"},
		{context.DeadlineExceeded, "NO [UNAVAILABLE]"},
		{io.ErrClosedPipe, "NO [SERVERBUG]"},
		// Of two kinds: an account that is gone, or a node that doubts.
		{storage.Errorf(storage.ErrUnavailable, "%w", storage.ErrNotFound), "NO [UNAVAILABLE]"},
		{storage.Errorf(storage.ErrNotMaster, "%w", storage.ErrNotFound), "BYE [UNAVAILABLE]"},
		{storage.Errorf(storage.ErrUnavailable, "%w", storage.ErrAuth), "NO [UNAVAILABLE]"},
		{storage.ErrDiverged, "NO [UNAVAILABLE]"},
	} {
		r, bye := replyTo(storage.Errorf(tt.err, "do something: %w", tt.err))
		got := r.status + " [" + r.code + "]"
		if bye != nil {
			got = "BYE [" + bye.code + "]"
		}
		if got != tt.want {
			t.Errorf("%v is answered with %s, want %s", tt.err, got, tt.want)
		}
	}
	for kind, want := range map[error]error{storage.ErrAuth: storage.ErrAuth, storage.ErrLimit: storage.ErrLimit, storage.ErrNotMaster: storage.ErrUnavailable} {
		if back := peerError(storage.KindName(kind), "x"); !errors.Is(back, want) || errors.Is(back, storage.ErrNotMaster) {
			t.Errorf("%v came back from a peer as %v, want %v", kind, back, want)
		}
	}
}
