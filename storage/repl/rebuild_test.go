package repl

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// counted counts the bodies that come from elsewhere.
type counted struct {
	*local.Slot
	staged *atomic.Int64
}

func (c counted) StageBody(ref slot.BodyRef, note []byte, body io.ReaderAt, size int64) error {
	c.staged.Add(1)
	return c.Slot.StageBody(ref, note, body, size)
}

// A replica that has lost its index is filled by the master with UIDs and flags;
// no body is fetched that its packs have, and those that they lack are.
func TestRebuiltReplicaFetchesOnlyWhatItsPacksLack(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, 200*time.Millisecond)
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	for i := range 200 {
		if err := n1.deliver(a, text(i, 100)); err != nil {
			t.Fatal(err)
		}
	}
	sameState(t, n1, n2)
	n2.endRole()
	for i := range 7 { // n2 is not there
		if err := n1.deliver(a, text(1000+i, 100)); err != nil {
			t.Fatal(err)
		}
	}
	n2.copy.Close()
	if err := n2.fs.RemoveAll("/slots/s003/index"); err != nil {
		t.Fatal(err)
	}
	var err error
	if _, err = local.Open(n2.o); !local.IndexLost(err) {
		t.Fatalf("packs without an index: %v", err)
	}
	got, err := local.Rebuild(context.Background(), n2.o, local.RebuildOptions{Mode: local.Refill, Epoch: 1})
	if err != nil || got.Bodies != 200 {
		t.Fatalf("%+v, %v", got, err)
	}
	if n2.open(); !n2.copy.Building() {
		t.Fatal("the copy is not being built")
	}
	if _, err := n2.copy.Serve(context.Background(), 2, 1, local.NoGate{}); err == nil {
		t.Fatal("a copy without its mail was served")
	}
	staged := &atomic.Int64{}
	f := NewFollower(FollowerOptions{Slot: counted{n2.copy, staged}, Node: "n2", Master: "n1", Epoch: 1, Client: NewReplicationClient(n1.conn),
		Spool: n2.spool, Clock: storage.SystemClock(), Logger: n2.o.Logger})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	n2.stop = func() { cancel(); <-done }
	sameState(t, n1, n2)
	if n := staged.Load(); n != 7 {
		t.Errorf("%d bodies were fetched, the packs lacked 7", n)
	}
	want := n1.bodies(a)
	n1.endRole()
	n2.lead(2, 1, &record{}, time.Second)
	if got := n2.bodies(a); len(got) != 207 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the rebuilt copy has %d messages, the master had %d", len(got), len(want))
	}
}
