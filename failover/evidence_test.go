package failover

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mailnode/storage/slot"
)

func TestHearDropsOvertakenReports(t *testing.T) {
	e := NewEvidence("n2", 0)
	at := func(boot string, seq uint64, n uint64) Report {
		return Report{Node: "n1", Boot: boot, Seq: seq, Slots: []CopyReport{{Slot: 1, Position: slot.At(1, n)}}}
	}
	for i, tt := range []struct {
		r    Report
		want uint64
	}{
		{at("a", 1, 1), 1}, {at("a", 3, 3), 3}, {at("a", 2, 2), 3}, {at("a", 3, 9), 3},
		{at("b", 1, 4), 4}, {at("a", 4, 5), 4}, {at("b", 2, 6), 6}, {at("c", 1, 7), 7},
	} {
		e.Hear(time.Duration(i), tt.r)
		if c, _ := e.Snapshot(time.Duration(i)).copyOf("n1", 1); c.Position.N() != tt.want {
			t.Errorf("report %d: position %s, want %d", i, c.Position, tt.want)
		}
	}
	e.Hear(0, Report{})
	if v := e.Snapshot(0); len(v.Nodes) != 1 {
		t.Errorf("a nameless report was kept: %+v", v.Nodes)
	}
}

func TestSilence(t *testing.T) {
	const s = time.Second
	e := NewEvidence("n2", 100*s)
	e.Hear(101*s, Report{Node: "n1", Boot: "a", Seq: 1})
	e.Hear(110*s, Report{Node: "n3", Boot: "a", Seq: 1, Heard: []Heard{{Node: "n1", AgoMs: 2000}, {Node: "n4", AgoMs: 1 << 62}, {Node: "n5", AgoMs: -9}, {Node: "n2", AgoMs: 0}, {Node: "n3", AgoMs: 0}}})
	presences := func(now time.Duration) map[slot.NodeName]presence {
		out := map[slot.NodeName]presence{}
		for _, n := range list("n1", "n2", "n3", "n4", "n5", "n6") {
			out[n] = e.Snapshot(now).presence(n, 15*s)
		}
		return out
	}
	for _, tt := range []struct {
		now  time.Duration
		want map[slot.NodeName]presence
	}{
		{111 * s, map[slot.NodeName]presence{"n1": alive, "n2": alive, "n3": alive, "n4": unknown, "n5": alive, "n6": unknown}},
		{115 * s, map[slot.NodeName]presence{"n1": alive, "n2": alive, "n3": alive, "n4": silent, "n5": alive, "n6": silent}},
		{123 * s, map[slot.NodeName]presence{"n1": silent, "n2": alive, "n3": alive, "n4": silent, "n5": alive, "n6": silent}},
		{999 * s, map[slot.NodeName]presence{"n1": silent, "n2": alive, "n3": silent, "n4": silent, "n5": silent, "n6": silent}},
	} {
		if d := cmp.Diff(tt.want, presences(tt.now)); d != "" {
			t.Errorf("at %v:\n%s", tt.now, d)
		}
	}
	e.Paused(999 * s)
	for n, p := range presences(1013 * s) {
		if p == silent {
			t.Errorf("%s counts as silent 14 s after our pause", n)
		}
	}
	if got := e.Snapshot(1013 * s).Silence("n1"); got != 14*s {
		t.Errorf("silence after our pause: %v", got)
	}
	if got := e.Heard(111 * s); cmp.Diff([]Heard{{Node: "n1", AgoMs: 10000}, {Node: "n3", AgoMs: 1000}}, got) != "" {
		t.Errorf("heard: %v", got)
	}
}

// A process that was stopped declares nobody dead at wake-up, whichever of its
// goroutines runs first.
func TestPausedObserver(t *testing.T) {
	const s = time.Second
	e := NewEvidence("n2", 0)
	for i := range 10 {
		e.Hear(time.Duration(i)*s, Report{Node: "n1", Boot: "a", Seq: uint64(i + 1)})
		if e.Tick(time.Duration(i) * s) {
			t.Fatalf("paused at %d s", i)
		}
	}
	if v := e.Snapshot(60 * s); v.presence("n1", suspect) != unknown {
		t.Errorf("before the ticker: %v", v.presence("n1", suspect))
	}
	if !e.Tick(60 * s) {
		t.Error("a pause of 51 s was not noticed")
	}
	for i := 61; i < 75; i++ {
		if e.Tick(time.Duration(i) * s) {
			t.Errorf("paused again at %d s", i)
		}
		if v := e.Snapshot(time.Duration(i) * s); v.presence("n1", suspect) != unknown {
			t.Errorf("at %d s: %v", i, v.presence("n1", suspect))
		}
	}
	if e.Tick(75 * s); e.Snapshot(75*s).presence("n1", suspect) != silent {
		t.Error("silent for 15 s after our pause, and not noticed")
	}
}
