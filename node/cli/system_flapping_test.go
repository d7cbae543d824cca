package cli_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestLongLaw04FlappingInNamespaces cuts a node off twenty times in about two minutes,
// now and then long enough for a proposal. Proposals come and are withdrawn, one at a
// time, with one condition; no master changes, and what was acknowledged is there.
func TestLongLaw04FlappingInNamespaces(t *testing.T) {
	skipUnlessLong(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("SEED=%d", seed)
	l := newLab(t)
	p := &parted{watchOwners(l.system(), seed), l}
	n1, n2 := p.node("n1"), p.node("n2")
	was := p.masters(n2)
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	proposals, worst := map[string]bool{}, 0
	watching.Go(func() {
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			st := p.status(n2)
			for _, open := range st.Proposals {
				proposals[open.ID] = true
			}
			_, out := p.cli(n2, "status")
			worst = max(worst, len(st.Proposals), strings.Count(out, "page: proposal-open"))
		}
	})
	p.underLoad(func() {
		for i := range 20 {
			away := time.Duration(1000+p.rng.IntN(6000)) * time.Millisecond
			if i%5 == 2 {
				away = 12 * time.Second
			}
			l.without(n1.Name, func() { p.pause(away) })
			p.pause(time.Duration(500+p.rng.IntN(1000)) * time.Millisecond)
		}
	})
	p.within(time.Minute, "all is as it was, and nothing is proposed", func() bool {
		return p.masters(n1) == was && p.masters(n2) == was && len(p.status(n2).Proposals) == 0
	})
	stop()
	watching.Wait()
	p.allProtected(n2)
	for _, n := range p.demo().Nodes {
		p.verify(n)
	}
	t.Logf("%d proposals came and went, %d at once at most, %d deliveries", len(proposals), worst, len(p.acked))
	if worst > 1 {
		t.Errorf("%d proposals or conditions at once", worst)
	}
	if len(proposals) == 0 || len(p.acked) < 100 {
		t.Error("this proves nothing")
	}
}

// masters is who owns which slot, and in which epoch, as a node says.
func (s *system) masters(at demoNode) string {
	s.t.Helper()
	var b strings.Builder
	for _, sl := range s.status(at).Slots {
		fmt.Fprintf(&b, "%s %s %d\n", sl.Slot, sl.Master, sl.Epoch)
	}
	return b.String()
}
