package failover

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// TestLaw01Law02StartStories plays the stories of a copy that wants to serve. A
// case begins with what Raft and the copy say; each line is an answer that came, or
// time that passed; then what MayServe says. -rewrite writes the files again.
//
//	serve
//	raft epoch=2 replicas=n1,n3 [awaits=n3] [atleast=1/100]
//	copy at=1/100 lineage=1 [building] [lost=n3]
//	answer n3 at=1/104 lineage=1 [opening|building|failed]
//	waited 20s
func TestLaw01Law02StartStories(t *testing.T) {
	datadriven.Walk(t, "testdata/serve", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string {
			s := Start{Answers: map[slot.NodeName]CopyAnswer{}, Passed: map[slot.NodeName]slot.Position{}}
			for line := range strings.Lines(td.Input) {
				if f := strings.Fields(line); len(f) > 0 {
					s.line(t, f)
				}
			}
			return s.told(MayServe(s))
		})
	})
}

func (s *Start) line(t *testing.T, f []string) {
	t.Helper()
	value := func(key string) string {
		for _, w := range f {
			if v, ok := strings.CutPrefix(w, key+"="); ok {
				return v
			}
		}
		return ""
	}
	at := func(key string) slot.Position {
		e, n, _ := strings.Cut(value(key), "/")
		x, _ := strconv.ParseUint(e, 10, 32)
		y, _ := strconv.ParseUint(n, 10, 64)
		return slot.At(slot.Epoch(x), y)
	}
	epoch := func(key string) slot.Epoch {
		x, _ := strconv.ParseUint(value(key), 10, 32)
		return slot.Epoch(x)
	}
	nodes := func(key string) (out []slot.NodeName) {
		for n := range strings.SplitSeq(value(key), ",") {
			if n != "" {
				out = append(out, slot.NodeName(n))
			}
		}
		return out
	}
	switch f[0] {
	case "raft":
		s.Slot = cluster.Slot{Epoch: epoch("epoch"), Master: "n2", Replicas: nodes("replicas"), Awaits: nodes("awaits"), AtLeast: at("atleast")}
	case "copy":
		s.Position, s.Lineage, s.Building, s.LostTo = at("at"), epoch("lineage"), slices.Contains(f, "building"), slot.NodeName(value("lost"))
	case "answer":
		a := CopyAnswer{CopyReport: CopyReport{Role: RoleReplica, Position: at("at"), Lineage: epoch("lineage"), Health: Health{Viable: true}}}
		switch {
		case slices.Contains(f, "opening"):
			a = CopyAnswer{CopyReport: CopyReport{Role: RoleNone, Health: Health{Opening: "proving the index"}}}
		case slices.Contains(f, "building"):
			a.Viable, a.Building = false, true
		case slices.Contains(f, "failed"):
			a.Viable, a.Failed = false, "EIO"
		}
		s.Answers[slot.NodeName(f[1])] = a
	case "waited":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			t.Fatal(err)
		}
		s.Waited = d
	default:
		t.Fatalf("no such line: %v", f)
	}
}

func (s *Start) told(d Decision) string {
	word := map[Begin]string{BeginServe: "serve", BeginWait: "wait", BeginTake: "take from " + string(d.From), BeginLost: "stay down"}[d.Begin]
	if d.Why == "" {
		return word + "\n"
	}
	return fmt.Sprintf("%s: %s\n", word, d.Why)
}

// Raft has recorded that the master was protected in this epoch, and its disk is
// back from before it: who was in sync is silent. The epoch is not begun a second
// time: its numbers were given out (law 2).
func TestLaw02ServedEpochIsNotBegunAgain(t *testing.T) {
	s := Start{Position: slot.At(1, 9), Lineage: 1,
		Slot: cluster.Slot{Epoch: 2, Master: "n2", Replicas: []slot.NodeName{"n3"}, AtLeast: slot.At(1, 9)}}
	if d := MayServe(s); d.Begin != BeginServe {
		t.Errorf("nothing is recorded of the epoch: %+v", d)
	}
	s.Slot.Protected, s.Slot.InSync = true, []slot.NodeName{"n3"}
	if d := MayServe(s); d.Begin != BeginLost {
		t.Errorf("protected in the epoch: %+v, want %v", d, BeginLost)
	}
	s.Slot.Protected, s.Slot.InSync, s.Slot.UnprotectedSince = false, nil, slot.At(2, 4)
	if d := MayServe(s); d.Begin != BeginLost {
		t.Errorf("unprotected since an event of the epoch: %+v, want %v", d, BeginLost)
	}
}
