package raftfsm

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// TestLaw10FreshIsShared: those who ask while a proof is under way share the next one,
// which begins after they asked, and none of them is answered by the one before.
func TestLaw10FreshIsShared(t *testing.T) {
	var p proofs
	begun, end := make(chan int), make(chan error)
	count := 0
	prove := func() (uint64, error) {
		count++
		begun <- count
		return uint64(count), <-end
	}
	first := p.next(prove)
	<-begun
	second, third := p.next(prove), p.next(prove)
	if first == second || second != third {
		t.Fatal("the second does not share with the third, or shares with the first")
	}
	end <- nil
	<-first.done
	<-begun
	fourth := p.next(prove)
	if fourth == second {
		t.Fatal("who asks later shares a proof that has begun")
	}
	end <- errors.New("no quorum")
	<-second.done
	<-begun
	end <- nil
	<-fourth.done
	if first.index != 1 || first.err != nil || second.index != 2 || second.err == nil || fourth.index != 3 || fourth.err != nil {
		t.Errorf("%+v, %+v, %+v", first, second, fourth)
	}
}

// TestLaw10FreshCostsFewEntries: forty slots that ask at one moment do not cost an entry
// each; whoever does not wait for the answer gets an error.
func TestLaw10FreshCostsFewEntries(t *testing.T) {
	s := firstAt(t, 2, 1)
	hang := make(chan struct{})
	before := s.raft.LastIndex()
	s.disk.set(nil, hang)
	var all sync.WaitGroup
	asked := make(chan struct{}, 40)
	for range 40 {
		all.Go(func() {
			asked <- struct{}{}
			if _, err := s.Fresh(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	for range 40 {
		<-asked
	}
	ctx, hangUp := context.WithCancel(t.Context())
	hangUp()
	if _, err := s.Fresh(ctx); err == nil {
		t.Error("an answer for one who has hung up")
	}
	s.disk.set(nil, nil)
	close(hang)
	all.Wait()
	if entries := s.raft.LastIndex() - before; entries > 20 { // those who came late on a busy machine have a few
		t.Errorf("%d entries for 40 questions at one moment", entries)
	}
}
