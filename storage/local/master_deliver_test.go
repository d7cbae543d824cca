package local

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// One recipient's damaged mailbox record is that recipient's trouble: the others
// of the same delivery get their mail.
func TestLaw09DamagedMailboxDoesNotHoldUpOtherRecipients(t *testing.T) {
	s := openUnchecked(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	all := []storage.Account{account(t, m, "u1@example.test"), account(t, m, "u2@example.test"), account(t, m, "u3@example.test")}
	ref := refOf(t, m, all[1], "INBOX")
	behind(t, s, func(b *pebble.Batch) { b.Set(event.StatsKey(ref), []byte{0xff}, nil) })
	d := storage.Delivery{Body: spooled(mail(1))}
	for _, a := range all {
		d.Recipients = append(d.Recipients, storage.Recipient{Account: a.ID})
	}
	errs := m.Deliver(context.Background(), d)
	if errs[0] != nil || errs[2] != nil || !errors.Is(errs[1], storage.ErrCorrupt) {
		t.Fatalf("deliver: %v", errs)
	}
	for _, a := range []storage.Account{all[0], all[2]} {
		if _, got := inbox(t, m, a); len(got) != 1 {
			t.Errorf("%s has %d messages", a.Address, len(got))
		}
	}
}

// A state transfer does not take a body for kept that was staged and forgotten.
func TestLaw01KeepBodiesKeepsThemOrFails(t *testing.T) {
	ctx := context.Background()
	s := openSlot(t, options(t, newFS(t)))
	serve(t, s, 1, 0)
	text := mail(1)
	ref := slot.BodyRef{GUID: slot.SumGUID([]byte(text)), ID: 5}
	if err := s.KeepBodies(ctx, []slot.BodyRef{ref}); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("keep a body that is nowhere: %v", err)
	}
	b := body(t, text)
	if err := s.StageBody(ref, nil, b, b.Size()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // several messages may name it
		if err := s.KeepBodies(ctx, []slot.BodyRef{ref, ref}); err != nil {
			t.Error(err)
		}
	}
}

// An event that could not be replicated is refused by the copy that would make it, and
// leaves no trace.
func TestLaw05Law09EventTooLargeToReplicateIsRefused(t *testing.T) {
	o := options(t, newFS(t))
	o.sizes.eventBytes = 4 << 10
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	for i := range 30 {
		if err := deliverTo(m, a, mail(i))(); err != nil {
			t.Fatal(err)
		}
	}
	box, texts := inbox(t, m, a)
	uids := slices.Collect(maps.Keys(texts))
	before, _ := s.Head()
	if _, err := m.Copy(context.Background(), storage.Ref{Account: a.ID, Mailbox: box.ID}, uids, "INBOX"); !errors.Is(err, storage.ErrLimit) {
		t.Errorf("copy of %d messages: %v", len(uids), err)
	}
	if after, _ := s.Head(); after.Position != before.Position {
		t.Errorf("the head moved from %s to %s", before.Position, after.Position)
	}
	if err := deliverTo(m, a, mail(31))(); err != nil {
		t.Error(err)
	}
}
