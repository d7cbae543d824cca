package repl

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/repl/ack"
	"mailnode/storage/slot"
)

// gate is a Feed whose replicas and time are the test's own. What it decides is
// tried in package ack; here, that the Feed does what is decided.
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
func newGate(t *testing.T, waits bool, rec *record) *gate {
	t.Helper()
	g := &gate{t: t, s: newSide(t, "n1"), rec: rec, conn: map[slot.NodeName]int{}}
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
	if err := g.s.copy.ClearAlone(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.head = h.Position
	g.restart(waits)
	return g
}

// restart is the next process of the same epoch.
func (g *gate) restart(waits bool) {
	g.t.Helper()
	f, err := NewFeed(FeedOptions{Slot: g.s.copy, Epoch: 1, WaitForReplica: waits, Recorded: g.rec.begin(1), Again: true,
		AckTimeout: 100 * time.Millisecond, ProtectAfter: time.Millisecond, Recorder: g.rec, Logger: g.s.o.Logger,
		Clock: storage.Clock{Mono: func() time.Duration { return g.now }, Wall: time.Now}})
	if err != nil {
		g.t.Fatal(err)
	}
	g.Feed = f
	g.carryOut()
}

// carryOut does what Run does.
func (g *gate) carryOut() {
	for todo := g.take(); len(todo) > 0; todo = g.take() {
		for _, a := range todo {
			if p, ok := a.(ack.Propose); ok {
				g.record(context.Background(), p)
			} else {
				g.mark(context.Background(), a)
			}
		}
	}
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
		g.tick()
		g.carryOut()
	}
}

// awaits reports whether a change at p is acknowledged now.
func (g *gate) awaits(p slot.Position) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	return g.Await(ctx, p)
}

// Alone without a quorum, so that nothing is recorded; the next process of the
// epoch has Raft record it before it acknowledges anything.
func TestLaw01AloneIsNotForgottenByARestart(t *testing.T) {
	g := newGate(t, true, protectedBy("n2"))
	g.connected("n2", 0)
	g.ticks(2)
	g.disconnect("n2", g.conn["n2"])
	g.rec.refuse = true
	if err := g.awaits(g.head + 1); err == nil {
		t.Fatal("acknowledged although n2 is gone")
	}
	for range 40 {
		g.now += 100 * time.Millisecond
		g.tick()
		g.carryOut()
	}
	if err := g.awaits(g.head + 1); err != nil {
		t.Fatalf("without a quorum it does not go on: %v", err)
	}
	since, alone, err := g.s.copy.Alone()
	if err != nil || !alone || since != g.head {
		t.Fatalf("the copy's mark: %s, %t, %v", since, alone, err)
	}
	g.Close()
	g.rec.refuse = false
	g.restart(true)
	if g.rec.protected() {
		t.Errorf("%s is acknowledged by nobody but this master, and Raft has the slot as protected", g.head+1)
	}
}

// ack = "local" in an epoch that Raft has as protected: Raft is told before the
// first acknowledgement.
func TestLaw01LocalAckInAProtectedEpochIsRecorded(t *testing.T) {
	g := newGate(t, false, protectedBy("n2"))
	if err := g.awaits(g.head + 1); err != nil {
		t.Fatal(err)
	}
	if g.rec.protected() {
		t.Fatal("acknowledged alone, and Raft has the slot as protected by n2")
	}
}

// A refusal that proves the end of the epoch is no lost quorum.
func TestLaw01RefusedEpochEndsTheMaster(t *testing.T) {
	g := newGate(t, true, protectedBy("n2"))
	g.connected("n2", 0)
	g.disconnect("n2", g.conn["n2"])
	fenced := false
	g.o.OnFenced = func() { fenced = true }
	g.awaits(g.head + 1)
	g.rec.gone = true
	g.ticks(100)
	if err := g.awaits(g.head + 1); !errors.Is(err, storage.ErrNotMaster) || !fenced {
		t.Errorf("acknowledged, or not told (%t), although Raft has another epoch: %v", fenced, err)
	}
}

// While Raft may have the slot as protected, nothing is acknowledged alone.
func TestLaw01UnknownRecordGoesOnWaiting(t *testing.T) {
	g := newGate(t, true, &record{})
	g.rec.lose = true
	g.connected("n2", 0)
	g.ticks(5)
	if !g.rec.protected() {
		t.Fatal("not recorded")
	}
	if err := g.awaits(g.head + 1); err == nil {
		t.Fatal("acknowledged alone, while Raft has the slot as protected")
	}
	g.ack("n2", g.head+1, true)
	if err := g.Await(context.Background(), g.head+1); err != nil {
		t.Fatal(err)
	}
}

// Only a node that Raft lists may follow, count, or fetch the state.
func TestLaw01UnlistedFollowerIsRefused(t *testing.T) {
	n1, n9 := newSide(t, "n1"), newSide(t, "n9")
	rec := &record{}
	n1.lead(1, 0, rec, 100*time.Millisecond)
	a := n1.account("u1@example.test")
	f := n9.follow(n1, 1)
	eventually(t, "it is refused", func() bool { return strings.Contains(f.State().Problem, "does not list n9") })
	if err := n1.deliver(a, text(1, 10)); err != nil {
		t.Fatal(err)
	}
	if _, replicas := n1.feed.State(); len(replicas) > 0 || rec.protected() {
		t.Errorf("an unlisted node counts: %+v", replicas)
	}
}

// Asked under a higher epoch, a copy follows no lower one, and tells its master.
func TestLaw01AskedUnderAHigherEpochItAcknowledgesNothingToALower(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, 10*time.Second)
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	sameState(t, n1, n2)
	n2.endRole()
	if err := n2.copy.Promise(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	n2.reopen(n2.fs) // a promise outlives the process
	n2.follow(n1, 1)
	eventually(t, "the old master is told", func() bool { return errors.Is(n1.deliver(a, text(2, 10)), storage.ErrNotMaster) })
}

// A master whose disk forgot its newest events goes on in the same epoch. The
// replica that has them must not drop them in silence, also when the journal is
// trimmed past the fork, and when the replica was told to fetch the whole state.
func TestLaw07EventsThatTheMasterLostAreSetAside(t *testing.T) {
	for _, tt := range []struct {
		name         string
		trim, refill bool
	}{{"journal", false, false}, {"trimmed", true, false}, {"refill", false, true}, {"trimmed, refill", true, true}} {
		t.Run(tt.name, func(t *testing.T) { lostByTheMaster(t, tt.trim, tt.refill) })
	}
}

func lostByTheMaster(t *testing.T, trim, refill bool) {
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
	if trim {
		h, err := n1.copy.Head()
		if err != nil {
			t.Fatal(err)
		}
		if err := n1.copy.TrimJournal(t.Context(), h.Position); err != nil {
			t.Fatal(err)
		}
	}
	n2.followWith(n1, 1, func(f *Follower) { f.refill = refill })
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
