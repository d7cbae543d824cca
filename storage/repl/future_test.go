package repl

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"mailnode/storage/event"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// newerMaster is a copy of a release to come: beside what the message needs, an
// event after from carries a kind of change that this release does not know.
type newerMaster struct {
	*local.Slot
	from atomic.Uint64 // position; 0: none
}

func (m *newerMaster) JournalAfter(after slot.Position, bytesMax int) ([][]byte, slot.Position, error) {
	events, last, err := m.Slot.JournalAfter(after, bytesMax)
	for i, b := range events {
		ev, derr := event.Decode(b)
		if derr != nil {
			return nil, 0, derr
		}
		if from := m.from.Load(); from != 0 && ev.Position == from {
			c := &event.Change{}
			c.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), []byte("of a release to come")))
			ev.Changes = append(ev.Changes, c)
			events[i] = event.Encode(ev)
		}
	}
	return events, last, err
}

// TestLaw05FutureChangeDoesNotStopReplication: an event with a change of a newer
// release is set aside whole, does not count as acknowledged, and everything
// after it flows on.
func TestLaw05FutureChangeDoesNotStopReplication(t *testing.T) {
	t.Parallel()
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	rec := &record{}
	n1.lead(1, 0, rec, 100*time.Millisecond)
	a := n1.account("u1@example.test")
	n1.endRole()
	newer := &newerMaster{Slot: n1.copy}
	f, err := NewFeed(FeedOptions{Slot: newer, Epoch: 1, WaitForReplica: true, AckTimeout: 100 * time.Millisecond, ProtectAfter: 50 * time.Millisecond,
		Recorded: rec.begin(1), Again: true, Recorder: rec, Clock: n1.o.Clock, Logger: n1.o.Logger})
	if err != nil {
		t.Fatal(err)
	}
	m, err := n1.copy.Serve(context.Background(), 1, 0, f)
	if err != nil {
		t.Fatal(err)
	}
	n1.mu.Lock()
	n1.feed, n1.master = f, m
	n1.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); f.Run(ctx) }()
	n1.stop = func() {
		m.Stop()
		f.Close()
		cancel()
		<-ended
	}
	follower := n2.follow(n1, 1)
	sameState(t, n1, n2)
	h, err := n1.copy.Head()
	if err != nil {
		t.Fatal(err)
	}
	newer.from.Store(uint64(slot.At(1, h.Position.N()+1)))
	quarantinedAndOn(t, n1, n2, a, follower)
	if names, err := n2.copy.Quarantined(); err != nil || len(names) != 1 {
		t.Errorf("in quarantine: %q, %v", names, err)
	}
}
