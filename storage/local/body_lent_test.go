package local

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/slot"
)

// watchedBody notes reads after its owner took it back.
type watchedBody struct {
	storage.Body
	back atomic.Bool
	late atomic.Int64
}

func (b *watchedBody) ReadAt(p []byte, off int64) (int, error) {
	if b.back.Load() {
		b.late.Add(1)
	}
	return b.Body.ReadAt(p, off)
}

// A delivery that is refused because the disk hangs reads its body no more: by the time
// the disk answers, the spool's memory belongs to another message.
func TestLaw06RefusedDeliveryStopsReadingItsBody(t *testing.T) {
	h := &hang{folder: "packs", kinds: []errorfs.OpKind{errorfs.OpFileWriteAt}, release: make(chan struct{})}
	o := options(t, injected(newFS(t), h))
	o.HangAfter = 200 * time.Millisecond
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(1), a)
	h.armed.Store(true)
	b := &watchedBody{Body: body(t, mail(2)+strings.Repeat("x", 1<<20))}
	within(t, "deliver", func() {
		err = m.Deliver(context.Background(), storage.Delivery{Body: b, Recipients: []storage.Recipient{{Account: a.ID}}})[0]
	})
	b.back.Store(true)
	if !errors.Is(err, storage.ErrUnavailable) {
		t.Fatalf("deliver: %v", err)
	}
	h.armed.Store(false)
	close(h.release)
	// The disk answers: the write that hung ends, and so do those behind it.
	eventually(t, "the rest of the Put", func() bool { return b.late.Load() > 0 || !s.putting() })
	if n := b.late.Load(); n > 0 {
		t.Errorf("the body was read %d times after the delivery was refused", n)
	}
	within(t, "close", func() { s.Close() })
}

// putting reports whether a Put is under way.
func (s *Slot) putting() bool {
	s.pins.putsMu.Lock()
	defer s.pins.putsMu.Unlock()
	return len(s.pins.puts) > 0
}

// While one delivery waits for the next pack on a disk that hangs, others get
// their answer too.
func TestLaw09HungRollHoldsNobodyUp(t *testing.T) {
	h := &hang{folder: "packs", kinds: []errorfs.OpKind{errorfs.OpCreate}, release: make(chan struct{})}
	defer close(h.release)
	o := options(t, injected(newFS(t), h))
	o.HangAfter, o.PackBytesMax = 200*time.Millisecond, 1<<10
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(1), a)
	h.armed.Store(true)
	var answers []<-chan error
	for range 4 {
		answers = append(answers, started(deliverTo(m, a, mail(2)+strings.Repeat("x", 1000))))
	}
	within(t, "deliver", func() {
		for _, c := range answers {
			if err := <-c; !errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("deliver: %v", err)
			}
		}
	})
	within(t, "read", func() {
		if _, err := s.packs.Open(slot.BodyRef{}, blob.Location{Pack: 1, Offset: 64}); !errors.Is(err, blob.ErrDamaged) {
			t.Errorf("read of no body: %v", err)
		}
	})
	within(t, "close", func() { s.Close() })
}

// A compaction that hangs on its disk does not hold up Close for ever.
func TestLaw09HungCompactionDoesNotHoldClose(t *testing.T) {
	for _, kind := range []errorfs.OpKind{errorfs.OpFileSyncData, errorfs.OpFileWriteAt, errorfs.OpRemove} {
		h := &hang{folder: "packs", kinds: []errorfs.OpKind{kind}, release: make(chan struct{})}
		var met atomic.Bool
		o := smallPacks(t, injected(injected(newFS(t), h), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == kind && h.armed.Load() {
				met.Store(true)
			}
			return nil
		})))
		o.HangAfter = 200 * time.Millisecond
		k := newStock(t, openSlot(t, o))
		k.put(40)
		k.reopen(o)
		k.drop(func(u storage.UID) bool { return u%3 != 0 })
		h.armed.Store(true)
		done := started(func() error { _, err := k.s.CompactPacks(context.Background(), CompactOptions{}); return err })
		eventually(t, "the hang", met.Load)
		within(t, "close", func() { k.s.Close() })
		close(h.release)
		<-done
	}
}

// brokenBody cannot be read a second time.
type brokenBody struct {
	storage.Body
	begun atomic.Int64
}

func (b *brokenBody) ReadAt(p []byte, off int64) (int, error) {
	if off == 0 && b.begun.Add(1) > 1 {
		return 0, syscall.EIO
	}
	return b.Body.ReadAt(p, off)
}

// The disk of the spool is not the slot's: an error of it is the delivery's own.
func TestLaw09SpoolErrorIsTheDeliverysOwn(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	b := &brokenBody{Body: body(t, mail(1))}
	err := m.Deliver(context.Background(), storage.Delivery{Body: b, Recipients: []storage.Recipient{{Account: a.ID}}})[0]
	if !errors.Is(err, storage.ErrUnavailable) || b.begun.Load() < 2 {
		t.Fatalf("deliver: %v after %d reads", err, b.begun.Load())
	}
	if s.Failure() != nil {
		t.Fatalf("the slot has stopped: %v", s.Failure())
	}
	deliver(t, m, mail(2), a)
}
