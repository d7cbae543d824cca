package repl

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// gate is a Feed whose replicas and time are the test's own.
type gate struct {
	*Feed
	t    *testing.T
	s    *side
	rec  *record
	head slot.Position
	conn map[slot.NodeName]int
	now  time.Duration
}

// newGate makes a slot with ten events, all of them acknowledged by an earlier
// process of this master, and the feed of the next process.
func newGate(t *testing.T, inSync ...slot.NodeName) *gate {
	t.Helper()
	g := &gate{t: t, s: newSide(t, "n1"), rec: &record{protected: len(inSync) > 0}, conn: map[slot.NodeName]int{}}
	g.s.lead(1, 0, &record{}, time.Second)
	a := g.s.account("u1@example.test")
	for i := range 10 {
		if err := g.s.deliver(a, text(i, 10)); err != nil {
			t.Fatal(err)
		}
	}
	g.s.endRole()
	h, err := g.s.copy.Head()
	if err != nil {
		t.Fatal(err)
	}
	g.head = h.Position
	g.Feed = NewFeed(FeedOptions{Slot: g.s.copy, Epoch: 1, WaitForReplica: true, Protected: len(inSync) > 0, InSync: inSync,
		AckTimeout: 100 * time.Millisecond, ProtectAfter: time.Millisecond, Recorder: g.rec, Logger: g.s.o.Logger,
		Clock: storage.Clock{Mono: func() time.Duration { return g.now }, Wall: time.Now}, OnFenced: func(slot.Epoch) {}})
	return g
}

func (g *gate) connected(n slot.NodeName, behind slot.Position) {
	g.conn[n] = g.connect(n, g.head-behind)
}

func (g *gate) ack(n slot.NodeName, p slot.Position, viable bool) {
	g.onAck(n, g.conn[n], &Ack{Position: uint64(p), Viable: viable})
}

func (g *gate) ticks(n int) {
	for range n {
		g.now += 10 * time.Millisecond
		g.tick(context.Background())
	}
}

// never fails the test when Raft was told of a set without n.
func (g *gate) never(without slot.NodeName) {
	g.t.Helper()
	for _, l := range g.rec.log {
		if !strings.Contains(l, string(without)) {
			g.t.Errorf("recorded %q: %s alone may hold what was acknowledged", l, without)
		}
	}
}

// A master that has just started knows of nobody yet: a replica that is behind
// must not take the place of the one that holds what was acknowledged before.
func TestLaw01RestartedMasterKeepsWhoHeldTheRest(t *testing.T) {
	g := newGate(t, "n2", "n3")
	g.connected("n3", 5)
	g.ticks(20)
	g.never("n2")
}

// What a replica acknowledged before it began to drop its state, or says on a
// connection that has been replaced, counts for nothing.
func TestLaw01RefilledReplicaDoesNotCount(t *testing.T) {
	g := newGate(t, "n2", "n3")
	g.connected("n2", 0)
	g.connected("n3", 1)
	old := g.conn["n2"]
	g.refill("n2")
	g.onAck("n2", old, &Ack{Position: uint64(g.head), Viable: true})
	g.mu.Lock()
	acked := g.acked()
	g.mu.Unlock()
	if acked != g.head-1 {
		t.Errorf("%s is counted as acknowledged, only %s is held", acked, g.head-1)
	}
	g.ticks(20)
	for _, l := range g.rec.log {
		if !strings.Contains(l, "n2") {
			t.Errorf("recorded %q: %s may be nowhere else than at n2", l, g.head)
		}
	}
}

// An in-sync record that fails must not leave a set that forgets who holds what
// was acknowledged, so that the next record makes one that lacks it the target.
func TestLaw01FailedRecordForgetsNobody(t *testing.T) {
	g := newGate(t, "n2")
	g.connected("n2", 0)
	g.ticks(2)
	g.ack("n2", g.head, false)
	g.connected("n3", 1)
	g.rec.refuse = true
	g.ticks(5)
	g.rec.refuse = false
	g.ticks(5)
	g.never("n2")
}

// lostAnswers records, and says that it is not known.
type lostAnswers struct{ *record }

func (r lostAnswers) SetProtected(ctx context.Context, s slot.ID, e slot.Epoch, in []slot.NodeName) error {
	r.record.SetProtected(ctx, s, e, in)
	return fmt.Errorf("no answer")
}

// While Raft may have the slot as protected, nothing is acknowledged alone.
func TestLaw01UnknownRecordGoesOnWaiting(t *testing.T) {
	g := newGate(t)
	g.o.Recorder = lostAnswers{g.rec}
	g.connected("n2", 0)
	g.ticks(5)
	if !g.rec.RecordedProtected(3, 1) {
		t.Fatal("not recorded")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := g.Await(ctx, g.head+1); err == nil {
		t.Fatal("acknowledged alone, while Raft has the slot as protected")
	}
	g.ack("n2", g.head+1, true)
	if err := g.Await(context.Background(), g.head+1); err != nil {
		t.Fatal(err)
	}
}

// A master whose disk forgot its newest events goes on in the same epoch. The
// replica that has them must not drop them in silence.
func TestLaw07EventsThatTheMasterLostAreSetAside(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, 100*time.Millisecond)
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	if err := n1.deliver(a, text(1, 10)); err != nil {
		t.Fatal(err)
	}
	sameState(t, n1, n2)
	clone := n1.fs.CrashClone(vfs.CrashCloneCfg{})
	if err := n1.deliver(a, text(2, 10)); err != nil {
		t.Fatal(err)
	}
	sameState(t, n1, n2)
	n2.endRole()
	n1.endRole()
	n1.reopen(clone)
	n1.lead(1, 0, &record{}, 100*time.Millisecond)
	if err := n1.deliver(a, text(3, 10)); err != nil {
		t.Fatal(err)
	}
	n2.follow(n1, 1)
	sameState(t, n1, n2)
	names, err := n2.copy.Quarantined()
	if err != nil || !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "diverged-1-") }) {
		t.Fatalf("the replica's own events are gone: quarantine has %v, %v", names, err)
	}
}

// A body that was here before the transfer, but only staged, must outlive a
// restart like those that the transfer fetched.
func TestLaw01TransferKeepsStagedBodies(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, 100*time.Millisecond)
	a := n1.account("u1@example.test")
	if err := n1.deliver(a, text(1, 10)); err != nil {
		t.Fatal(err)
	}
	if err := n1.copy.ReadState(func(r event.Record) error {
		m := &event.MessageRecord{}
		if r.Key[0] != event.PrefixMessage {
			return nil
		}
		if err := proto.Unmarshal(r.Value, m); err != nil {
			return err
		}
		b, note, err := n1.copy.Body(m.Body())
		if err != nil {
			return err
		}
		return n2.copy.StageBody(m.Body(), note, b, b.Size())
	}); err != nil {
		t.Fatal(err)
	}
	h, err := n1.copy.Head()
	if err != nil {
		t.Fatal(err)
	}
	if err := n1.copy.TrimJournal(context.Background(), h.Position); err != nil {
		t.Fatal(err)
	}
	n2.follow(n1, 1)
	sameState(t, n1, n2)
	n2.endRole()
	n2.reopen(n2.fs) // the check at the end reads every body
}

// A damaged event in the master's journal holds nobody up: who needs it gets the
// whole state.
func TestLaw05DamagedJournalDoesNotStopReplication(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, 100*time.Millisecond)
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	sameState(t, n1, n2)
	n2.endRole()
	before, err := n1.copy.Head()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 { // more than open looks at
		if err := n1.deliver(a, text(i, 10)); err != nil {
			t.Fatal(err)
		}
	}
	n1.endRole()
	key := journalKeyAfter(before.Position)
	value, _, err := n1.get(key)
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(value)
	bad[10] ^= 1
	n1.damage(key, bad)
	n1.lead(1, 0, &record{}, 100*time.Millisecond)
	n2.follow(n1, 1)
	sameState(t, n1, n2)
	n2.endRole()
	n1.endRole()
	n1.damage(key, value) // for the check at the end
}
