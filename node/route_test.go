package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"mailnode/failover"
	"mailnode/storage"
)

// TestMTAIsPutOffWhenTheMasterIsNotHeard: a delivery to a master behind a cut ends
// within 5 s; one to a slow master that reports goes on.
func TestMTAIsPutOffWhenTheMasterIsNotHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := storage.SystemClock()
		n := &Node{clock: clock, outlook: outlook{evidence: failover.NewEvidence("n1", clock.Mono())}}
		slow, done := n.whileHeard(t.Context(), "n2")
		defer done()
		cut, done := n.whileHeard(t.Context(), "n3")
		defer done()
		for seq := range uint64(30) {
			n.evidence.Hear(clock.Mono(), failover.Report{Node: "n2", Boot: "b", Seq: seq + 1})
			time.Sleep(reportEvery)
			synctest.Wait()
			if over := cut.Err() != nil; over != (time.Duration(seq+1)*reportEvery >= cutOffAfter) {
				t.Fatalf("after %d s, never heard: over is %v", seq+1, over)
			}
		}
		if slow.Err() != nil {
			t.Fatalf("a master that reports was given up: %v", context.Cause(slow))
		}
		time.Sleep(cutOffAfter)
		synctest.Wait()
		if slow.Err() == nil {
			t.Error("a master that is silent is still waited for")
		}
	})
}
