package monitor

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestRepeatedLinesAreLeftOut: what repeats is written once in a window, and how
// often it was not is said; what is about another slot is another line.
func TestRepeatedLinesAreLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(LimitLines(slog.NewTextHandler(&out, nil)))
		for range 494 {
			log.With("slot", "s001").Warn("told of a higher epoch", "higher", 3)
		}
		log.With("slot", "s002").Warn("told of a higher epoch", "higher", 3)
		log.Warn("told of a higher epoch", "slot", "s003", "higher", 3)
		if got := strings.Count(out.String(), "\n"); got != 3 {
			t.Fatalf("%d lines, want 3:\n%s", got, &out)
		}
		out.Reset()
		time.Sleep(linesWindow)
		log.With("slot", "s001").Warn("told of a higher epoch", "higher", 3)
		if !strings.Contains(out.String(), "left_out=493") {
			t.Errorf("it is not said how many were left out:\n%s", &out)
		}
	})
}

// TestLinesThatDifferAreLimited: a client that writes another value into each line
// does not fill the log either, and a kind that has ended is told of.
func TestLinesThatDifferAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(LimitLines(slog.NewTextHandler(&out, nil)))
		for i := range 10_000 {
			log.Info("login failed", "address", fmt.Sprint("192.0.2.", i))
			log.Info(fmt.Sprint("message ", i))
		}
		most := 1 + linesPerKind + lineKindsMax + linesPerKind // the last for what shares one count
		if got := strings.Count(out.String(), "\n"); got > most {
			t.Fatalf("%d lines, want at most %d", got, most)
		}
		out.Reset()
		time.Sleep(linesWindow)
		log.Info("something else")
		for _, want := range []string{`line="login failed" left_out=9980`, `line="other lines" left_out=`, "something else"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is missing in:\n%s", want, &out)
			}
		}
	})
}

// TestDebugLinesPass: a level that was asked for is not thinned out.
func TestDebugLinesPass(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(LimitLines(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	for range 100 {
		log.Debug("asked for")
	}
	if got := strings.Count(out.String(), "\n"); got != 100 {
		t.Errorf("%d lines, want 100", got)
	}
}
