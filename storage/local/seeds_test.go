package local

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// tries is how often a random test repeats itself: `make test` runs the store with the
// race detector and without, and the many tries are those without.
func tries(many, raced int) int {
	if raceDetector {
		return raced
	}
	return many
}

// skipUnlessLong skips what is too long for `make test`.
func skipUnlessLong(t *testing.T) {
	t.Helper()
	if os.Getenv("MAILNODE_LONG") == "" {
		t.Skip("SKIPPED: MAILNODE_LONG is not set; run `make long`")
	}
}

// runSeeds runs a random test from one seed after another: once at least, and on
// until so many seconds have passed; run gets that time, so that a busy machine
// proves less rather than for longer. DURATION (`make crash`) replaces the
// seconds, ROUNDS bounds the seeds, SEED is the first. A failure names its seed.
func runSeeds(t *testing.T, seconds int, run func(t *testing.T, rng *rand.Rand, until time.Time) (proved int)) {
	t.Helper()
	first := seed(t)
	limit := time.Duration(seconds) * time.Second
	if d, err := time.ParseDuration(os.Getenv("DURATION")); err == nil {
		limit = d
	}
	roundsMax, err := strconv.Atoi(os.Getenv("ROUNDS"))
	if err != nil {
		roundsMax = 1 << 30
		if os.Getenv("SEED") != "" {
			roundsMax = 1
		}
	}
	proved, rounds := 0, 0
	for began := time.Now(); rounds < roundsMax && (rounds == 0 || time.Since(began) < limit); rounds++ {
		sd := first + uint64(rounds)
		t.Run(fmt.Sprintf("SEED=%d", sd), func(t *testing.T) { proved += run(t, rand.New(rand.NewPCG(sd, 1)), began.Add(limit)) })
		if t.Failed() {
			return
		}
	}
	t.Logf("%d seeds, %d states proved", rounds, proved)
}
