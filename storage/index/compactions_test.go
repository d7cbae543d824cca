package index

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestLaw12CompactionsAreBoundedOverSlots: several real indexes that all have
// something to compact: never more at once than the node allows, and every one
// gets its turn.
func TestLaw12CompactionsAreBoundedOverSlots(t *testing.T) {
	const slots = 4
	shared := newCompactions(1)
	var mu sync.Mutex
	running, most, ended := 0, 0, map[int]int{}
	var dbs []*pebble.DB
	for i := range slots {
		o := &pebble.Options{FS: vfs.NewMem(), MemTableSize: 256 << 10, L0CompactionThreshold: 2, Logger: quietLogger{}, FormatMajorVersion: pebble.FormatWALSyncChunks,
			EventListener: &pebble.EventListener{
				CompactionBegin: func(pebble.CompactionInfo) {
					mu.Lock()
					defer mu.Unlock()
					running++
					most = max(most, running)
				},
				CompactionEnd: func(pebble.CompactionInfo) {
					mu.Lock()
					defer mu.Unlock()
					running--
					ended[i]++
				},
			}}
		o.Experimental.CompactionScheduler = shared.share()
		db, err := pebble.Open("/db", o)
		if err != nil {
			t.Fatal(err)
		}
		dbs = append(dbs, db)
	}
	var wg sync.WaitGroup
	for _, db := range dbs {
		wg.Go(func() {
			for round := range 8 {
				for k := range 2000 {
					if err := db.Set(fmt.Appendf(nil, "key %d", k), make([]byte, 100+round), pebble.NoSync); err != nil {
						t.Error(err)
						return
					}
				}
				if err := db.Flush(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	deadline := time.Now().Add(20 * time.Second)
	for _, db := range dbs {
		for db.Metrics().Levels[0].Sublevels >= 2 || db.Metrics().Compact.NumInProgress > 0 {
			if time.Now().After(deadline) {
				t.Fatalf("an index waits for its compaction for ever:\n%s", db.Metrics())
			}
			<-time.After(time.Millisecond)
		}
	}
	for _, db := range dbs {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if most != 1 || len(ended) != slots {
		t.Errorf("%d compactions at once, want 1; done by index: %v", most, ended)
	}
	if shared.running != 0 || len(shared.members) != 0 {
		t.Errorf("left behind: %d running, %d members", shared.running, len(shared.members))
	}
}

// stuckDB is an index that has nothing to compact, and says so when stuck is
// closed: that of a slot that has failed never does.
type stuckDB struct{ asked, stuck chan struct{} }

func (d stuckDB) GetAllowedWithoutPermission() int { return 1 }
func (d stuckDB) Schedule(pebble.CompactionGrantHandle) bool {
	return false
}

func (d stuckDB) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	close(d.asked)
	<-d.stuck
	return false, pebble.WaitingCompaction{}
}

// TestLaw09FailedSlotGivesCompactionsBack: neither one that runs for ever nor one
// that never answers keeps the other slots from compacting.
func TestLaw09FailedSlotGivesCompactionsBack(t *testing.T) {
	shared := newCompactions(1)
	stuck := stuckDB{make(chan struct{}), make(chan struct{})}
	defer close(stuck.stuck)
	idle := stuckDB{make(chan struct{}), make(chan struct{})}
	close(idle.stuck)
	one, two, three := shared.share(), shared.share(), shared.share()
	one.Register(2, stuckDB{})
	two.Register(2, stuck)
	three.Register(2, idle)
	if ok, _ := one.TrySchedule(); !ok {
		t.Fatal("refused on an idle node")
	}
	if ok, _ := two.TrySchedule(); ok {
		t.Fatal("two at once")
	}
	one.drop() // it failed in its compaction: now two is offered one, and hangs
	<-stuck.asked
	if ok, _ := three.TrySchedule(); ok {
		t.Fatal("two at once")
	}
	two.drop()
	two.Unregister()   // does not wait for what never answers
	<-idle.asked       // the place is offered on
	three.Unregister() // waits for the answer: it has nothing to do
	one.Done()         // late: it was given back already
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.running != 0 {
		t.Errorf("%d running, want 0", shared.running)
	}
}

// idleIndex is an index as the scheduler sees it: it may run one compaction.
type idleIndex struct{}

func (idleIndex) GetAllowedWithoutPermission() int { return 1 }
func (idleIndex) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	return false, pebble.WaitingCompaction{}
}
func (idleIndex) Schedule(pebble.CompactionGrantHandle) bool { return false }

// TestLaw09CompactionThatWaitsForRoomLendsItsTurn: a full disk concerns its slots
// alone, also when it holds up a compaction, or when its copy fails meanwhile.
func TestLaw09CompactionThatWaitsForRoomLendsItsTurn(t *testing.T) {
	shared := newCompactions(1)
	full, other := shared.share(), shared.share()
	full.Register(1, idleIndex{})
	other.Register(1, idleIndex{})
	settle := func() { // offers are made beside, and nobody takes these
		shared.mu.Lock()
		defer shared.mu.Unlock()
		for full.asked || other.asked {
			shared.offered.Wait()
		}
	}
	take := func(s *compactionShare, want bool) {
		t.Helper()
		settle()
		if got, _ := s.TrySchedule(); got != want {
			t.Fatalf("a compaction may begin: %v, want %v", got, want)
		}
	}
	take(full, true)
	take(other, false)
	full.pause()
	take(full, false)
	take(other, true)
	full.resume() // two run now, until one has ended
	other.Done()
	take(other, false)
	full.Done()
	take(other, true)
	other.pause()
	other.Done() // it has failed while it waited
	other.resume()
	take(full, true)
	full.pause()
	full.drop()
	take(other, true)
	other.Done()
	settle()
	if shared.running != 0 {
		t.Errorf("%d compactions are counted, and none runs", shared.running)
	}
}
