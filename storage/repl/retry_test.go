package repl

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// A stream that broke is opened again at once; the back-off begins with the second
// failure in a row, and ends with progress.
func TestLaw01BrokenStreamIsOpenedAgainAtOnce(t *testing.T) {
	var r retry
	for i, step := range []struct {
		failed, progress bool
		want             time.Duration
	}{
		{true, false, 0}, {true, false, backOffMin}, {true, false, 2 * backOffMin}, {true, false, 4 * backOffMin},
		{true, true, 0}, {true, true, 0}, {true, false, backOffMin},
		{false, false, 0}, {true, false, 0}, {true, false, backOffMin},
	} {
		if got := r.after(step.failed, step.progress); got != step.want {
			t.Errorf("step %d: pause %s, want %s", i, got, step.want)
		}
	}
	for range 100 {
		r.after(true, false)
	}
	if got := r.after(true, false); got != backOffMax {
		t.Errorf("after many failures: %s, want %s", got, backOffMax)
	}
}

// Why a stream ended is in the log, and does not fill it.
func TestEndsAreToldOfAtARate(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	var w warnings
	for i := range 100 {
		w.ended(log, time.Duration(i)*time.Second, errors.New("cut off"))
	}
	if n := strings.Count(out.String(), "level=WARN"); n != 10 {
		t.Errorf("%d warnings in 100 s, want 10", n)
	}
	if n := strings.Count(out.String(), "ended_since_last_told=9"); n != 9 {
		t.Errorf("%d say how many were withheld, want 9: %s", n, out.String())
	}
}
