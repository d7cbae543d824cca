package failover

import (
	"testing"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// Raft has recorded that the master was protected in this epoch, and its disk is
// back from before it: who was in sync is silent. The epoch is not begun a second
// time: its numbers were given out (law 2).
func TestLaw02ServedEpochIsNotBegunAgain(t *testing.T) {
	s := Start{Self: "n2", Position: slot.At(1, 9), Lineage: 1,
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
