package repl

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// Replicas that work through something large, and end nothing for longer than
// ack_timeout, are waited for. When they no longer work, their master goes on alone,
// although events still come in there.
func TestLaw01SlowReplicaIsNotDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, slog.New(slog.DiscardHandler))
		defer func() {
			if why := st.end(); why != "" {
				t.Error(why)
			}
		}()
		replicas := []*realNode{st.nodes["n2"], st.nodes["n3"]}
		for _, n := range replicas {
			n.intake.close()
			defer n.intake.open()
		}
		if !st.record().Protected {
			t.Fatal("the slot is not protected: this proves nothing")
		}
		st.deliver("n1", 1)
		for range 60 {
			for _, n := range replicas {
				n.effort.Add(1)
			}
			time.Sleep(500 * time.Millisecond)
		}
		if st.acknowledged(1) || !st.record().Protected {
			t.Fatal("slow replicas were taken for dead")
		}
		for id := uint64(2); id < 12; id++ { // bytes come in, nothing is done with them
			st.deliver("n1", id)
			time.Sleep(time.Second)
		}
		if !st.acknowledged(1) || st.record().Protected {
			t.Error("dead replicas were waited for")
		}
	})
}
