package admin

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"mailnode/node/diary"
)

// book remembers the orders that it is told of.
type book struct{ orders []string }

func (b *book) History(context.Context) (History, error) { return History{}, nil }
func (b *book) Note(_ context.Context, r NoteRequest) (Noted, error) {
	return Noted{}, nil
}
func (b *book) Report(context.Context, time.Duration) (diary.Report, error) {
	return diary.Report{}, nil
}
func (b *book) Ordered(by, text string) { b.orders = append(b.orders, text) }

// An order is noted with what became of it; those about users, and their passwords,
// are not.
func TestOrdersAreNoted(t *testing.T) {
	b := &book{}
	s := &site{status: Status{Proposals: []Proposal{{ID: "p1", State: "open"}}}}
	server := NewServer(s.backend(), "n1", "test", quiet())
	server.backend.Incidents = b
	path := t.TempDir() + "/a.sock"
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	defer func() {
		if err := errors.Join(server.Close(), <-done); err != nil {
			t.Error(err)
		}
	}()
	c := NewClient(path)
	if _, err := c.AddUser(t.Context(), AddUser{Address: "ann@example.org", Password: "secret"}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetPassword(t.Context(), SetPassword{Address: "ann@example.org", Password: "secret"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Note(t.Context(), NoteRequest{Text: " words "}); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", " \n", strings.Repeat("x", diary.TextMax+1)} {
		var refused *Error
		if _, err := c.Note(t.Context(), NoteRequest{Text: text}); !errors.As(err, &refused) || refused.Exit != ExitUsage {
			t.Errorf("a note of %d bytes: %v", len(text), err)
		}
	}
	if _, err := c.Confirm(t.Context(), ConfirmRequest{ID: "p1"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Reject(t.Context(), RejectRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Confirm(t.Context(), ConfirmRequest{ID: "p1", Slots: nil, AcceptLoss: true}); err != nil {
		t.Fatal(err)
	}
	got, want := strings.Join(b.orders, "\n"), `confirm failover {"id":"p1"}: done
reject failover {"id":""}: done
confirm failover {"id":"p1","accept_loss":true}: done`
	if got != want {
		t.Errorf("noted:\n%s\nwant:\n%s", got, want)
	}
}
