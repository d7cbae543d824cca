package repl

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// countingCopy counts the bodies that it gives.
type countingCopy struct {
	Copy
	bodies *atomic.Int64
}

func (c countingCopy) Body(ref slot.BodyRef) (storage.BodyReader, []byte, error) {
	c.bodies.Add(1)
	return c.Copy.Body(ref)
}

// measured is a FillProgress that ends a transfer after so many bodies.
type measured struct {
	end            func()
	after          int64
	bodies, spent  atomic.Int64
	total, toFetch atomic.Int64
}

func (m *measured) At(string) {}
func (m *measured) Total(bytes, bodies int64) {
	m.total.Store(bytes)
	m.toFetch.Store(bodies)
}
func (m *measured) Items(bodies int64) {
	if m.bodies.Add(bodies) >= m.after {
		m.end()
	}
}
func (m *measured) Spend(ctx context.Context, bytes int64) error {
	m.spent.Add(bytes)
	return ctx.Err()
}

// A fill that a restart cuts off in the middle begins again, and what came before is not
// sent again; every byte is counted before it is asked for.
func TestLaw12FillGoesOnAfterARestart(t *testing.T) {
	const messages, size = 400, 2000
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, time.Second)
	a := n1.account("u1@example.test")
	for i := range messages {
		if err := n1.deliver(a, text(i, size)); err != nil {
			t.Fatal(err)
		}
	}
	h, _ := n1.copy.Head()
	if err := n1.copy.TrimJournal(context.Background(), h.Position); err != nil {
		t.Fatal(err)
	}
	var given atomic.Int64
	n1.serveAs(func(s *local.Slot) Copy { return countingCopy{s, &given} })

	cut := make(chan struct{})
	ended := make(chan struct{})
	first := &measured{after: messages / 2, end: func() {
		select {
		case <-cut:
		default:
			close(cut)
		}
	}}
	n2.followWith(n1, 1, func(f *Follower) {
		f.o.Fill = func(ctx context.Context, transfer func(context.Context, FillProgress) error) error {
			select {
			case <-ended: // a second try
				<-ctx.Done()
				return ctx.Err()
			default:
			}
			defer close(ended)
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			go func() { <-cut; cancel() }()
			if err := transfer(ctx, first); err == nil {
				return errors.New("it was not cut off")
			}
			return ctx.Err()
		}
	})
	<-ended
	n2.endRole()
	before := given.Load()
	n2.copy.Close()
	n2.open()
	if !n2.copy.Building() || before < messages/2 || before >= messages {
		t.Fatalf("building %t, and %d of %d bodies were sent before the restart", n2.copy.Building(), before, messages)
	}
	second := &measured{after: messages + 1, end: func() {}}
	n2.followWith(n1, 1, func(f *Follower) {
		f.o.Fill = func(ctx context.Context, transfer func(context.Context, FillProgress) error) error {
			return transfer(ctx, second)
		}
	})
	sameState(t, n1, n2)
	if again := given.Load() - messages; again < 0 || again > wantedMax {
		t.Errorf("%d bodies were sent before the restart and %d after it, of %d: at most %d of them twice", before, given.Load()-before, messages, wantedMax)
	}
	if second.toFetch.Load() > messages-first.bodies.Load() || second.spent.Load() != second.total.Load() || first.spent.Load() < first.bodies.Load()*size {
		t.Errorf("first %d bytes for %d bodies; then %d of %d bytes, %d bodies to fetch", first.spent.Load(), first.bodies.Load(), second.spent.Load(), second.total.Load(), second.toFetch.Load())
	}
}
