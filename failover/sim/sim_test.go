package sim

import (
	"flag"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	seeds = flag.Int("seeds", 500, "how many seeds")
	from  = flag.Uint64("seed", 1, "the first seed")
	steps = flag.Int("steps", 300, "steps of each")
	put   = flag.Bool("faults", false, "put each known fault back, and want it caught")
)

// TestLaw01Law04Simulation runs seeds on two goroutines and tells the story of the
// first that breaks a law.
func TestLaw01Law04Simulation(t *testing.T) {
	seed, why, ran := search(NoFault, *from, *seeds)
	if why == "" {
		t.Logf("%d seeds of %d steps", ran, *steps)
		return
	}
	var story []string
	Run(seed, *steps, NoFault, func(format string, args ...any) { story = append(story, fmt.Sprintf(format, args...)) })
	t.Fatalf("seed %d: %s\n%s\nagain: go test ./failover/sim -seed %d -seeds 1", seed, why, strings.Join(story, "\n"), seed)
}

// search runs seeds until one breaks a law, and returns the lowest that does.
func search(f Fault, first uint64, count int) (seed uint64, why string, ran int) {
	var next atomic.Uint64
	next.Store(first)
	var mu sync.Mutex
	var wg sync.WaitGroup
	stop := first + uint64(count)
	for range 2 {
		wg.Go(func() {
			for {
				s := next.Add(1) - 1
				mu.Lock()
				over := s >= stop || why != "" && s > seed
				if !over {
					ran++
				}
				mu.Unlock()
				if over {
					return
				}
				if got := Run(s, *steps, f, nil); got != "" {
					mu.Lock()
					if why == "" || s < seed {
						seed, why = s, got
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return seed, why, ran
}

// TestSimulationCatches puts each known fault back, and wants it caught within
// 5,000 seeds. docs/HACKING.md has the table (-v prints it).
func TestSimulationCatches(t *testing.T) {
	if !*put {
		t.Skip("a lane of its own: go test ./failover/sim -faults")
	}
	for _, f := range Faults() {
		t.Run(string(f), func(t *testing.T) {
			seed, why, _ := search(f, 1, 5000)
			if why == "" {
				t.Fatalf("not caught in 5,000 seeds")
			}
			t.Logf("caught by seed %d: %s", seed, why)
		})
	}
}
