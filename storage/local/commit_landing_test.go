package local

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// A reader that looks into the durable state first, and then on the stage, misses a body
// that lands between the two looks. Each way of finding a body is tested with a state
// that is older than the landing.
func TestLaw01Law07LandingBodyIsFound(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	arrived, stop := s.Arrivals()
	defer stop()
	old := s.acquire()
	defer old.release()
	if err := deliverTo(m, a, mail(1))(); err != nil {
		t.Fatal(err)
	}
	ref := <-arrived
	if _, onStage := s.onStage.at(ref); onStage {
		t.Fatal("it has landed and is on the stage still")
	}
	if _, err := s.locate(old, ref); err != nil {
		t.Errorf("with a view from before it landed: %v", err)
	}
	if have, err := s.HasBody(ref); err != nil || !have {
		t.Errorf("has it: %v, %v", have, err)
	}
	if err := s.ProveBody(ref); err != nil {
		t.Errorf("prove: %v", err)
	}
	b, _, err := s.Body(ref)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
}

// When a caller gives up a delivery that is on its way to the disk, its body leaves the
// stage only when the durable state has it.
func TestLaw01GivenUpBodyStaysUntilItHasLanded(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	arrived, stop := s.Arrivals()
	defer stop()
	hold := func() (held, free chan struct{}) {
		held, free = make(chan struct{}), make(chan struct{})
		go s.do(context.Background(), func(*txn) error { close(held); <-free; return nil })
		return held, free
	}
	held, first := hold()
	<-held
	ctx, cancel := context.WithCancel(context.Background())
	ended := started(func() error {
		return m.Deliver(ctx, storage.Delivery{Body: spooled(mail(1)), Recipients: []storage.Recipient{{Account: a.ID}}})[0]
	})
	for s.com.lanes.waiting() < 1 {
		runtime.Gosched()
	}
	held, second := hold()
	for s.com.lanes.waiting() < 2 {
		runtime.Gosched()
	}
	close(first)
	<-held // the delivery has run; its group is not committed
	cancel()
	if err := <-ended; err == nil {
		t.Fatal("acknowledged before its commit")
	}
	ref := <-arrived
	if have, err := s.HasBody(ref); err != nil || !have {
		t.Errorf("while its group is on the way: has it: %v, %v", have, err)
	}
	close(second)
	if err := s.do(context.Background(), func(*txn) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, onStage := s.onStage.at(ref); onStage {
		t.Error("on the stage after its group has landed")
	}
	if have, err := s.HasBody(ref); err != nil || !have {
		t.Errorf("after its group has landed: has it: %v, %v", have, err)
	}
	gone := slot.BodyRef{GUID: slot.SumGUID([]byte("x")), ID: 1}
	if err := s.stage(gone, disk.Grow, nil, strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	// When a batch is undone, no body stays on the stage that nobody waits for.
	s.onStage.place([]slot.BodyRef{gone})
	s.onStage.abandon(gone)
	s.onStage.unplace([]slot.BodyRef{gone})
	if have, err := s.HasBody(gone); err != nil || have {
		t.Errorf("undone and given up: has it: %v, %v", have, err)
	}
}

// A body is found at any moment from its arrival on, while deliveries land.
func TestLaw01BodiesAreFoundWhileTheyLand(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	var askers, senders sync.WaitGroup
	quit := make(chan struct{})
	for range 4 {
		arrived, stop := s.Arrivals()
		askers.Go(func() {
			defer stop()
			for {
				select {
				case ref := <-arrived:
					for range 50 {
						if _, _, err := s.find(ref); err != nil {
							t.Errorf("find: %v", err)
							return
						}
						if have, err := s.HasBody(ref); err != nil || !have {
							t.Errorf("has %s: %v, %v", ref, have, err)
							return
						}
					}
				case <-quit:
					return
				}
			}
		})
	}
	end := time.Now().Add(2 * time.Second)
	for range 4 {
		senders.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				if err := deliverTo(m, a, mail(n))(); err != nil {
					t.Errorf("deliver: %v", err)
					return
				}
			}
		})
	}
	senders.Wait()
	close(quit)
	askers.Wait()
}
