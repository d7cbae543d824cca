package local

import (
	"context"
	"runtime"
	"strings"
	"testing"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// A caller gave up and took its body off the stage while its change was in a
// batch that was not committed yet: compaction waits for that batch, and does
// not take the body for a dead one.
func TestLaw01BodyInABatchSurvivesCompaction(t *testing.T) {
	s := openSlot(t, smallPacks(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	queued := func(n int) {
		for s.com.lanes.waiting() < n {
			runtime.Gosched()
		}
	}
	hold := func() (held, free chan struct{}) {
		held, free = make(chan struct{}), make(chan struct{})
		go s.do(context.Background(), func(*txn) error { close(held); <-free; return nil })
		return held, free
	}
	held, first := hold()
	<-held
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- m.Deliver(ctx, storage.Delivery{Body: spooled(mail(1)), Recipients: []storage.Recipient{{Account: a.ID}}})[0]
	}()
	queued(1)
	// Its pack is full, and closed.
	large := slot.BodyRef{GUID: slot.SumGUID([]byte(strings.Repeat("z", 9<<10))), ID: 1}
	if err := s.stage(large, disk.Grow, nil, strings.NewReader(strings.Repeat("z", 9<<10)), 9<<10); err != nil {
		t.Fatal(err)
	}
	if err := s.packs.Sync(); err != nil {
		t.Fatal(err)
	}
	held, second := hold()
	queued(2)
	close(first)
	<-held // the delivery has run; its group is not committed
	cancel()
	if err := <-ended; err == nil {
		t.Fatal("a delivery that was given up was acknowledged before its commit")
	}
	compacted := make(chan error)
	go func() {
		_, err := s.CompactPacks(context.Background(), CompactOptions{})
		compacted <- err
	}()
	queued(1)
	close(second)
	if err := <-compacted; err != nil {
		t.Fatal(err)
	}
	if _, got := inbox(t, m, a); len(got) != 1 || got[1] != mail(1) {
		t.Fatalf("the INBOX has %d messages", len(got))
	}
	s.onStage.abandon(large)
}

// A body that is freed while it is copied stays freed, and the copy of it is dead.
func TestFreedWhileItIsCopied(t *testing.T) {
	o := smallPacks(t, newFS(t))
	k := newStock(t, openSlot(t, o))
	k.put(40)
	k.reopen(o)
	k.drop(func(u storage.UID) bool { return u%2 == 0 })
	calls := 0
	r := k.compact(CompactOptions{DeadShareMin: 0.1, Spend: func(context.Context, int64) error {
		if calls++; calls == 8 {
			k.drop(func(u storage.UID) bool { return u < 12 })
		}
		return nil
	}})
	if n := countKeys(t, k.s, event.PrefixBody); n != len(k.text) {
		t.Errorf("%d bodies have a place, %d messages live: %+v", n, len(k.text), r)
	}
	k.prove("afterwards")
}

// A reader that looked a body up just before it was moved finds it.
func TestReaderOfAMovedBodyFindsIt(t *testing.T) {
	o := smallPacks(t, newFS(t))
	k := newStock(t, openSlot(t, o))
	k.put(40)
	k.reopen(o)
	ref := bodyOf(t, k.m, k.box, 9)
	v := k.s.acquire()
	defer v.release()
	loc, err := k.s.locate(v, ref)
	if err != nil {
		t.Fatal(err)
	}
	k.drop(func(u storage.UID) bool { return u%3 != 0 })
	if r := k.compact(CompactOptions{}); r.Removed == 0 {
		t.Fatalf("%+v", r)
	}
	b, err := k.s.openAt(ref, loc)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got := make([]byte, b.Size()); b.Size() != int64(len(k.text[9])) {
		t.Errorf("%d bytes", b.Size())
	} else if _, err := b.ReadAt(got, 0); err != nil || string(got) != k.text[9] {
		t.Errorf("read: %v", err)
	}
}

// readerFunc is a body that tells when it is read.
type readerFunc func(b []byte, off int64) (int, error)

func (f readerFunc) ReadAt(b []byte, off int64) (int, error) { return f(b, off) }

// A pack that a body is being put into is not settled before the body is staged,
// however full it is by then.
func TestPackOfAPutUnderWayIsUnsettled(t *testing.T) {
	s := openSlot(t, smallPacks(t, newFS(t)))
	text := strings.NewReader(mail(1))
	ref := slot.BodyRef{GUID: slot.SumGUID([]byte(mail(1))), ID: 1}
	during := false
	var pack uint32
	if err := s.stage(ref, disk.Grow, nil, readerFunc(func(b []byte, off int64) (int, error) {
		pack = s.packs.PutsFrom()
		during = s.unsettled()(pack) && s.unsettled()(pack+1)
		return text.ReadAt(b, off)
	}), text.Size()); err != nil {
		t.Fatal(err)
	}
	if after := s.unsettled(); !during || !after(pack) || after(pack+1) || after(pack-1) {
		t.Errorf("unsettled: during the Put %v, after it %v, the next pack %v", during, after(pack), after(pack+1))
	}
	s.onStage.abandon(ref)
	if s.unsettled()(pack) {
		t.Error("unsettled without a staged body")
	}
}
