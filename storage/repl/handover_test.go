package repl

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// A slot is handed over while mail comes, to and fro. What was acknowledged is on the
// new master, what had not begun is repeated there, and no numbers jump: the epoch is
// clean (laws 1, 2, 3).
func TestLaw01Law02Law03HandOverUnderLoad(t *testing.T) {
	sides := map[slot.NodeName]*side{"n1": newSide(t, "n1"), "n2": newSide(t, "n2")}
	rec := &record{}
	from, to := sides["n1"], sides["n2"]
	from.lead(1, 0, rec, 2*time.Second)
	a := from.account("u1@example.test")
	to.follow(from, 1)
	eventually(t, "protected", func() bool { return rec.protected() })

	var mu sync.RWMutex // the master of the moment
	master := from
	spool := from.spool
	var acked, moved atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				mu.RLock()
				m := master.master
				mu.RUnlock()
				body := spool.New()
				fmt.Fprintf(body, "Subject: %d of %d\r\n\r\n", i, w)
				err := m.Deliver(context.Background(), storage.Delivery{Body: body, Recipients: []storage.Recipient{{Account: a.ID}}})[0]
				body.Close()
				switch {
				case err == nil:
					acked.Add(1)
				case errors.Is(err, storage.ErrMoved):
					moved.Add(1)
				default:
					t.Errorf("a delivery during a hand-over: %v", err)
				}
			}
		})
	}
	unclean := func(s *side) slot.UncleanCount { h, _ := s.copy.Head(); return h.Unclean }
	before := unclean(from)
	for e := slot.Epoch(2); e < 8; e++ {
		was := acked.Load()
		eventually(t, "mail", func() bool { return acked.Load() > was+20 })
		from.handsOver(to.name)
		mu.Lock()
		from.endRole()
		to.lead(e, 0, rec, 2*time.Second)
		from.follow(to, e)
		master, from, to = to, to, from
		mu.Unlock()
		eventually(t, "protected", func() bool { return rec.protected() })
	}
	stop()
	wg.Wait()
	t.Log(acked.Load(), "acknowledged,", moved.Load(), "repeated")
	if got := len(from.bodies(a)); int64(got) != acked.Load() {
		t.Errorf("%d messages, %d were acknowledged", got, acked.Load())
	}
	if unclean(from) != before {
		t.Error("a hand-over was counted as an unclean epoch")
	}
	sameState(t, from, to)
}

// handsOver seals a master, and waits until the only other copy has everything.
func (s *side) handsOver(to slot.NodeName) {
	s.t.Helper()
	p, err := s.master.Seal(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	inSync, err := s.feed.HandOver(s.t.Context(), to, p)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.master.Drained(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	if len(inSync) != 0 { // there is no third copy
		s.t.Fatalf("in sync: %v", inSync)
	}
	if h, _ := s.copy.Head(); h.Position != p {
		s.t.Fatalf("sealed at %s, and the head is %s", p, h.Position)
	}
}

// A hand-over to a copy that does not follow says what it waits for; the master
// takes changes again when the seal ends.
func TestHandOverGivenUp(t *testing.T) {
	n1 := newSide(t, "n1")
	n1.lead(1, 0, &record{}, 50*time.Millisecond)
	a := n1.account("u1@example.test")
	p, err := n1.master.Seal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- n1.deliver(a, text(1, 10)) }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := n1.feed.HandOver(ctx, "n2", p); err == nil || err.Error() != "hand slot s003 over: n2 does not follow: context deadline exceeded" {
		t.Errorf("hand over to nobody: %v", err)
	}
	if _, err := n1.master.Mailboxes(t.Context(), a.ID); err != nil {
		t.Errorf("a read of a sealed slot: %v", err)
	}
	select {
	case err := <-waiting:
		t.Errorf("a change of a sealed slot has ended: %v", err)
	default:
	}
	n1.master.Unseal()
	if err := <-waiting; err != nil {
		t.Errorf("a change after the seal: %v", err)
	}
}
