package repl

import (
	"log/slog"
	"time"
)

const (
	backOffMin = 200 * time.Millisecond
	backOffMax = 10 * time.Second
	// warnEvery is how often, at most, one follower's log says why a stream ended.
	warnEvery = 10 * time.Second
)

// retry says how long a follower waits before it connects again. A stream that
// broke is opened again at once: deliveries wait for it (law 1). Only when that
// fails as well, or comes to nothing, it backs off.
type retry struct{ failures int }

// after notes how a connection ended and returns the pause. One that made progress
// counts as the first that failed.
func (r *retry) after(failed, progress bool) time.Duration {
	if progress || !failed {
		r.failures = 0
	}
	if !failed {
		return 0
	}
	r.failures++
	if r.failures == 1 {
		return 0
	}
	pause := backOffMin
	for n := 2; n < r.failures && pause < backOffMax; n++ {
		pause *= 2
	}
	return min(pause, backOffMax)
}

// warnings writes why streams ended, not more often than warnEvery: one that
// breaks again and again must not fill the log.
type warnings struct {
	said     bool
	at       time.Duration // when it last wrote
	withheld int           // ends since
}

func (w *warnings) ended(log *slog.Logger, now time.Duration, why error) {
	if w.said && now-w.at < warnEvery {
		w.withheld++
		return
	}
	log.Warn("following ended", "err", why, "ended_since_last_told", w.withheld)
	*w = warnings{said: true, at: now}
}
