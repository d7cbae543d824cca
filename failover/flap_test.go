package failover

import (
	"math/rand/v2"
	"testing"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// TestLaw04FlappingNetwork cuts a master off a hundred times in ten minutes, now and
// then for longer than a leader waits. Proposals come and are withdrawn, one at a time,
// none for a short cut; no master changes, and what Raft has to write stays little.
func TestLaw04FlappingNetwork(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	var layout [][]slot.NodeName
	for range 40 {
		layout = append(layout, list("n1", "n2", "n3"))
	}
	s := newSite(t, layout...)
	s.run(t, 30*time.Second)
	const cuts, long = 100, 8
	opened, withdrawn, updated, open, longCuts := 0, 0, 0, 0, 0
	count := func(cmds []cluster.Command) {
		for _, c := range cmds {
			switch c := c.(type) {
			case cluster.OpenProposal:
				opened++
				if len(c.Slots) != len(layout) {
					t.Errorf("%d slots are proposed, want all in one proposal", len(c.Slots))
				}
			case cluster.WithdrawProposal:
				withdrawn++
			case cluster.UpdateProposal:
				updated++
			default:
				t.Errorf("a leader's %T", c)
			}
		}
		open = len(s.State().OpenProposals())
		if open > 1 {
			t.Errorf("%d proposals are open", open)
		}
	}
	for i := range cuts {
		away := time.Second + time.Duration(rng.IntN(8000))*time.Millisecond
		if i%(cuts/long) == 0 {
			away = 18*time.Second + time.Duration(rng.IntN(4000))*time.Millisecond
			longCuts++
		}
		s.up["n1"] = false
		count(s.run(t, away))
		s.up["n1"] = true
		count(s.run(t, time.Duration(500+rng.IntN(500))*time.Millisecond))
	}
	count(s.run(t, time.Minute))
	for _, sl := range s.State().Slots {
		if sl.Master != "n1" || sl.Epoch != 1 {
			t.Fatalf("law 4: nobody confirmed, and %+v", sl)
		}
	}
	t.Logf("%d cuts, %d of them long: %d proposals, %d updates", cuts, longCuts, opened, updated)
	if opened == 0 || opened > longCuts || withdrawn != opened || open != 0 {
		t.Errorf("%d opened, %d withdrawn, %d open at the end; %d cuts were long", opened, withdrawn, open, longCuts)
	}
	if most := 2 * longCuts; updated > most {
		t.Errorf("%d updates, want at most %d", updated, most)
	}
}
