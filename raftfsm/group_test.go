package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// firstAt is a cluster of one server at a feature level, of which it counts the entries.
func firstAt(t *testing.T, level slot.FeatureLevel, slots int) *server {
	t.Helper()
	s := start(t, config(t, "n1", listenNew(t)))
	if err := s.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "first leader", s.IsLeader)
	m := s.member()
	m.Features = level
	s.must(t, cluster.Init{ClusterID: "c", SlotCount: slots, DefaultReplicas: 1, First: m})
	return s
}

// behindOne proposes commands while the disk holds up an entry that was sent before
// them. It returns their errors, and how many entries they made.
func (s *server) behindOne(t *testing.T, ctx context.Context, list []cluster.Command, meanwhile func()) (errs []error, entries uint64) {
	t.Helper()
	hang := make(chan struct{})
	s.disk.set(nil, hang)
	before := s.raft.LastIndex()
	var wg sync.WaitGroup
	wg.Go(func() { s.must(t, cluster.UpdateMember{Name: "n1", Release: "first"}) })
	until(t, "the first is on its way", func() bool {
		s.group.mu.Lock()
		defer s.group.mu.Unlock()
		return s.group.busy && len(s.group.waiting) == 0
	})
	errs = make([]error, len(list))
	for i, c := range list {
		wg.Go(func() { _, errs[i] = s.Propose(ctx, c) })
	}
	until(t, "all others wait", func() bool {
		s.group.mu.Lock()
		defer s.group.mu.Unlock()
		return len(s.group.waiting) == len(list)
	})
	meanwhile()
	s.disk.set(nil, nil)
	close(hang)
	wg.Wait()
	return errs, s.raft.LastIndex() - before - 1
}

// assignments gives 40 slots a master, one of them twice: one is refused.
func assignments() []cluster.Command {
	list := []cluster.Command{cluster.AssignSlot{Slot: 7, Master: "n1"}}
	for id := range slot.ID(40) {
		list = append(list, cluster.AssignSlot{Slot: id, Master: "n1"})
	}
	return list
}

// TestLaw10CommandsOfOneMomentShareAnEntry: each has its own result all the same, also
// when the log is read again.
func TestLaw10CommandsOfOneMomentShareAnEntry(t *testing.T) {
	for level, want := range map[slot.FeatureLevel]uint64{1: 41, 2: 1} {
		t.Run(fmt.Sprint("level ", level), func(t *testing.T) {
			s := firstAt(t, level, 40)
			errs, entries := s.behindOne(t, t.Context(), assignments(), func() {})
			if entries != want {
				t.Errorf("%d entries, want %d", entries, want)
			}
			refused := 0
			for _, err := range errs {
				var stale cluster.ErrStale
				switch {
				case errors.As(err, &stale):
					refused++
				case err != nil:
					t.Error(err)
				}
			}
			if refused != 1 {
				t.Errorf("%d refused, want the one that came second: %v", refused, errs)
			}
			was := string(cluster.EncodeSnapshot(s.State()))
			s.end(t)
			cfg := s.cfg
			cfg.Transport = listen(t, s.Node.cfg.Addr)
			again := start(t, cfg)
			until(t, "it leads again", again.IsLeader)
			if err := again.Barrier(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := string(cluster.EncodeSnapshot(again.State())); got != was {
				t.Errorf("after a restart:\n%s\nwas\n%s", got, was)
			}
		})
	}
}

// TestLaw10GroupIsBounded: what does not fit into one entry is in the next.
func TestLaw10GroupIsBounded(t *testing.T) {
	s := firstAt(t, 2, 3*cluster.MaxGroup)
	var list []cluster.Command
	for id := range slot.ID(3 * cluster.MaxGroup) {
		list = append(list, cluster.AssignSlot{Slot: id, Master: "n1"})
	}
	errs, entries := s.behindOne(t, t.Context(), list, func() {})
	if err := errors.Join(errs...); err != nil || entries != 3 {
		t.Errorf("%d entries, want 3; %v", entries, err)
	}
}

// TestCommandThatWasNotSentIsNotDone: whoever stops waiting while another entry is on
// its way knows that his command was never sent.
func TestCommandThatWasNotSentIsNotDone(t *testing.T) {
	s := firstAt(t, 2, 40)
	ctx, hangUp := context.WithCancel(t.Context())
	errs, entries := s.behindOne(t, ctx, assignments(), func() {
		hangUp()
		until(t, "all have left", func() bool {
			s.group.mu.Lock()
			defer s.group.mu.Unlock()
			for _, w := range s.group.waiting {
				if !w.left {
					return false
				}
			}
			return true
		})
	})
	for i, err := range errs {
		if cluster.OutcomeOf(err) != cluster.NotDone {
			t.Errorf("command %d: %v", i, err)
		}
	}
	if sl, _ := s.State().Slot(7); entries != 0 || sl.Master != "" {
		t.Errorf("%d entries; slot 7: %+v", entries, sl)
	}
}
