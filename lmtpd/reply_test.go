package lmtpd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"mailnode/storage"
)

// everyKind is each kind of error that the node can return, and errors of none.
func everyKind() []error {
	return []error{storage.ErrNotMaster, storage.ErrNotFound, storage.ErrExists, storage.ErrInvalid, storage.ErrLimit, storage.ErrOverQuota,
		storage.ErrTooBig, storage.ErrAuth, storage.ErrCorrupt, storage.ErrDiverged, storage.ErrDiskFull, storage.ErrUnavailable,
		context.Canceled, context.DeadlineExceeded, errors.New("of no kind")}
}

// Each kind of error in each phase. "No such user" is said at RCPT, and only of
// an error that says nothing else; after an accepted RCPT only the size of the
// message itself, which the client was told, is a 5xx (law 7; RFC 2033).
func TestLaw07NoBounceAfterAnAcceptedRecipient(t *testing.T) {
	rcpt := map[error]string{storage.ErrNotFound: "550 5.1.1", storage.ErrTooBig: "552 5.3.4", storage.ErrDiskFull: "452 4.3.1", storage.ErrOverQuota: "452 4.2.2"}
	data := map[error]string{storage.ErrDiskFull: "452 4.3.1", storage.ErrOverQuota: "452 4.2.2"}
	message := map[error]string{storage.ErrTooBig: "552 5.3.4", storage.ErrDiskFull: "452 4.3.1", storage.ErrOverQuota: "452 4.2.2"}
	said := func(want map[error]string, kind error) string {
		if s := want[kind]; s != "" {
			return s
		}
		return "451 4.3.0"
	}
	show := func(code int, e [3]int) string { return fmt.Sprintf("%d %d.%d.%d", code, e[0], e[1], e[2]) }
	for _, kind := range everyKind() {
		err := storage.Errorf(kind, "do something: %w", kind)
		if r := reply(err); show(r.Code, r.EnhancedCode) != said(rcpt, kind) {
			t.Errorf("RCPT, %v: %s, want %s", kind, show(r.Code, r.EnhancedCode), said(rcpt, kind))
		}
		if r := dataReply(err); show(r.Code, r.EnhancedCode) != said(data, kind) {
			t.Errorf("DATA, %v: %s, want %s", kind, show(r.Code, r.EnhancedCode), said(data, kind))
		}
		if r := messageReply(err); show(r.Code, r.EnhancedCode) != said(message, kind) {
			t.Errorf("message, %v: %s, want %s", kind, show(r.Code, r.EnhancedCode), said(message, kind))
		}
		// An error of two kinds, one of which says that we don't know.
		for _, doubt := range []error{storage.ErrUnavailable, storage.ErrNotMaster} {
			if r := reply(storage.Errorf(doubt, "%w", err)); r.Code != 451 {
				t.Errorf("RCPT, %v and %v: %d, want 451", kind, doubt, r.Code)
			}
		}
	}
	if r := dataReply(nil); r.Code != 250 {
		t.Errorf("DATA, delivered: %d", r.Code)
	}
}

// The same on the wire: whatever becomes of an accepted recipient, the answer is
// temporary, and the other's is not touched by it.
func TestLaw07AcceptedRecipientOnTheWire(t *testing.T) {
	for _, kind := range everyKind() {
		t.Run(kind.Error(), func(t *testing.T) {
			h := serve(t, nil)
			h.bag.deliver = func(_ context.Context, to []Recipient) []error {
				errs := make([]error, len(to))
				errs[0] = storage.Errorf(kind, "deliver: %w", kind)
				return errs
			}
			script := "LHLO x\nMAIL FROM:<a@b>\nRCPT TO:<u1@example.org>\nRCPT TO:<u2@example.org>\nDATA\nSubject: x\n\nx\n.\nQUIT\n"
			out := play(dial(t, "tcp", h.addr), script)
			var after []string
			for l := range strings.Lines(out[strings.Index(out, "354"):]) {
				after = append(after, strings.TrimPrefix(strings.TrimSpace(l), "S: "))
			}
			var first, second string
			for _, l := range after {
				switch {
				case strings.Contains(l, "<u1@"):
					first = l
				case strings.Contains(l, "<u2@"):
					second = l
				}
			}
			if !strings.HasPrefix(first, "4") || !strings.HasPrefix(second, "250") {
				t.Errorf("%v: %q and %q, want 4xx and 250", kind, first, second)
			}
		})
	}
}

// A message over the announced size is the sender's trouble, also when it comes
// without a declared size.
func TestSizeOfTheMessageIsTheSenders(t *testing.T) {
	h := serve(t, func(c *Config) { c.MessageBytesMax = 1000 })
	out := play(dial(t, "tcp", h.addr), "LHLO x\nMAIL FROM:<a@b>\nRCPT TO:<u1@example.org>\nDATA\n"+string(bytes.Repeat([]byte("x"), 900))+"\n"+
		string(bytes.Repeat([]byte("y"), 900))+"\n.\nQUIT\n")
	if !strings.Contains(out, "552 5.3.4 <u1@example.org>") {
		t.Errorf("got %s", out)
	}
}
