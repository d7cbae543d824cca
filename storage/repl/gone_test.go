package repl

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// forgetful says of each body, the first times it is asked, that it is not there,
// although it is.
type forgetful struct {
	*local.Slot
	mu    *sync.Mutex
	times map[slot.BodyRef]int
	least int // answers before it tells the truth
	kind  error
}

func (f forgetful) Body(ref slot.BodyRef) (storage.BodyReader, []byte, error) {
	f.mu.Lock()
	f.times[ref]++
	n := f.times[ref]
	f.mu.Unlock()
	if n <= f.least {
		return nil, nil, storage.Errorf(f.kind, "body %s is not here", ref)
	}
	return f.Slot.Body(ref)
}

func (s *side) forgets(least int, kind error) {
	f := forgetful{mu: &sync.Mutex{}, times: map[slot.BodyRef]int{}, least: least, kind: kind}
	s.serveAs(func(c *local.Slot) Copy { f.Slot = c; return f })
}

// A push that does not find its body ends no stream: the replica asks for it.
func TestLaw01FailedPushEndsNoStream(t *testing.T) {
	for least := range 2 {
		n1, n2 := newSide(t, "n1"), newSide(t, "n2")
		n1.forgets(least, storage.ErrNotFound)
		n1.lead(1, 0, &record{}, 20e9)
		a := n1.account("u1@example.test")
		f := n2.follow(n1, 1)
		eventually(t, "protected", func() bool { return waitsNow(n1) })
		for i := range 3 {
			if err := n1.deliver(a, text(i, 100)); err != nil {
				t.Fatal(err)
			}
		}
		sameState(t, n1, n2)
		if st := f.State(); st.Ends != 0 {
			t.Errorf("%d wrong answers: the stream ended %d times: %s", least, st.Ends, st.LastEnd)
		}
	}
}

// A message is not given up for one wrong answer of another copy either.
func TestLaw07OneWrongGoneIsNotBelieved(t *testing.T) {
	n1 := newSide(t, "n1")
	n1.lead(1, 0, &record{}, 1e9)
	a := n1.account("u1@example.test")
	arrived, stop := n1.copy.Arrivals()
	defer stop()
	if err := n1.deliver(a, text(1, 100)); err != nil {
		t.Fatal(err)
	}
	n1.forgets(1, storage.ErrNotFound)
	got, err := FetchBody(context.Background(), NewReplicationClient(n1.conn), 3, <-arrived, n1.spool)
	if err != nil {
		t.Fatal(err)
	}
	got.Body.Close()
}

// A stream that breaks is opened again at once, and it can be seen why it broke.
func TestLaw01BrokenStreamIsSeen(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.forgets(2, storage.ErrUnavailable) // the push, then the question: that ends the stream
	n1.lead(1, 0, &record{}, 20e9)
	a := n1.account("u1@example.test")
	f := n2.follow(n1, 1)
	eventually(t, "protected", func() bool { return waitsNow(n1) })
	if err := n1.deliver(a, text(1, 100)); err != nil {
		t.Fatal(err)
	}
	sameState(t, n1, n2)
	if st := f.State(); st.Ends != 1 || !strings.Contains(st.LastEnd, "is not here") || !st.Connected {
		t.Errorf("ended %d times, at last because of %q; connected: %v", st.Ends, st.LastEnd, st.Connected)
	}
}

// trimmed forgets its journal between two looks: after where it begins was looked
// up, and before it is read.
type trimmed struct {
	*local.Slot
	armed *atomic.Bool
}

func (c trimmed) JournalAfter(after slot.Position, bytesMax int) ([][]byte, slot.Position, error) {
	if h, err := c.Head(); err == nil && c.armed.CompareAndSwap(true, false) {
		if err := c.TrimJournal(context.Background(), h.Position-1); err != nil {
			return nil, 0, err
		}
	}
	return c.Slot.JournalAfter(after, bytesMax)
}

// A replica whose place in the journal is trimmed just while it connects is behind.
// It has not diverged, and nothing of it is set aside.
func TestLaw07TrimmedJournalIsNoDivergence(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	armed := &atomic.Bool{}
	n1.serveAs(func(c *local.Slot) Copy { return trimmed{c, armed} })
	n1.lead(1, 0, &record{}, 50e6)
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	sameState(t, n1, n2)
	n2.endRole()
	for i := range 5 {
		if err := n1.deliver(a, text(i, 100)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "nobody follows", func() bool {
		_, rs := n1.feed.State()
		return len(rs) == 1 && !rs[0].Connected
	})
	armed.Store(true)
	n2.follow(n1, 1)
	sameState(t, n1, n2)
	if names, err := n2.copy.Quarantined(); err != nil || len(names) > 0 {
		t.Errorf("set aside: %v, %v", names, err)
	}
}
