package storage

import "time"

// Clock is how time comes in. Mono never jumps and decides; Wall is shown and
// stored, and decides nothing (law 11).
type Clock struct {
	Mono func() time.Duration
	Wall func() time.Time
}

// SystemClock reads the machine's clocks.
func SystemClock() Clock {
	start := time.Now()
	return Clock{Mono: func() time.Duration { return time.Since(start) }, Wall: time.Now}
}
