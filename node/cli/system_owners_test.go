package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"mailnode/storage/slot"
)

// owners is what is seen of who owns which slot, at all nodes, while they are disturbed.
type owners struct {
	*system
	rng  *rand.Rand
	mu   sync.Mutex
	seen map[ownedIn]sighting
	did  map[string]int
}

// ownedIn is a slot in an epoch.
type ownedIn struct {
	slot  string
	epoch slot.Epoch
}

// sighting is who owned it, as a node has said first.
type sighting struct {
	master string
	at     time.Time
}

func watchOwners(s *system, seed uint64) *owners {
	return &owners{system: s, rng: rand.New(rand.NewPCG(seed, 1)), seen: map[ownedIn]sighting{}, did: map[string]int{}}
}

// TestLongLaw04OwnersUnderKillAndPause kills and pauses nodes at random, one at a time,
// while operators type hand-overs and confirm what is proposed, never a loss, and mail
// comes in. An epoch has one master whoever is asked, the slots are served in the end,
// and what was acknowledged is there (laws 1, 2, 4).
func TestLongLaw04OwnersUnderKillAndPause(t *testing.T) {
	skipUnlessLong(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("SEED=%d", seed)
	o := watchOwners(startSystem(t, shortDir(t), "--users", "6", "--slots", "6"), seed)
	o.allProtected(o.node("n1"))
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	for _, n := range o.demo().Nodes {
		watching.Go(func() { o.watch(ctx, n) })
	}
	o.underLoad(func() {
		for range 12 {
			o.disturb()
		}
	})
	o.within(3*time.Minute, "every slot is served, and nothing is proposed", o.settled)
	stop()
	watching.Wait()
	for _, n := range o.demo().Nodes {
		o.verify(n)
	}
	t.Logf("%d deliveries, %d epochs of 6 slots, did %v", len(o.acked), len(o.seen), o.did)
	if len(o.acked) < 200 || len(o.seen) < 8 {
		t.Error("this proves nothing")
	}
}

// settled confirms what is open, and reports whether all is well. What a person wished
// for and cannot have is rejected once every slot is served.
func (o *owners) settled() bool {
	st := o.status(o.node("n1"))
	served := true
	for _, sl := range st.Slots {
		served = served && sl.Serving && sl.Protected
	}
	for _, p := range st.Proposals {
		if o.typed(o.node("n2"), "failover", "confirm", p.ID, "--yes") != nil && served {
			_ = o.typed(o.node("n2"), "failover", "reject", p.ID, "--yes")
		}
	}
	return served && len(st.Proposals) == 0
}

// watch notes what a node says of epochs and masters.
func (o *owners) watch(ctx context.Context, n demoNode) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		<-tick.C
		out, err := exec.CommandContext(ctx, o.bin, "--socket", n.Admin, "status", "--json").Output()
		var st struct {
			Slots []struct {
				Slot, Master string
				Epoch        slot.Epoch
			}
		}
		if err != nil || json.Unmarshal(out, &st) != nil {
			continue // it is down, or paused
		}
		for _, sl := range st.Slots {
			o.owns(n.Name, ownedIn{sl.Slot, sl.Epoch}, sl.Master)
		}
	}
}

// owns notes what a node has said, or logged, of the owner of a slot in an epoch.
func (o *owners) owns(teller string, in ownedIn, master string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	was, known := o.seen[in]
	if known && was.master != master {
		o.t.Errorf("law 4: %s in epoch %d belongs to %s as %s says, and belonged to %s", in.slot, in.epoch, master, teller, was.master)
	}
	if !known {
		o.seen[in] = sighting{master, time.Now()}
	}
}

// typed runs a verb for a while; whatever it says, the state is what counts.
func (o *owners) typed(at demoNode, args ...string) error {
	ctx, cancel := context.WithTimeout(o.t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, o.bin, append([]string{"--socket", at.Admin}, args...)...).CombinedOutput()
	o.mu.Lock()
	defer o.mu.Unlock()
	how := "done"
	if err != nil {
		how = err.Error()
		o.t.Logf("%v at %s: %v: %s", args, at.Name, err, out)
	}
	o.did[args[0]+" "+args[1]+": "+how]++
	return err
}

// disturb kills or pauses a node while operators go on, and mends it.
func (o *owners) disturb() {
	nodes := o.demo().Nodes
	at := o.rng.IntN(len(nodes))
	hit, other := nodes[at], nodes[(at+1+o.rng.IntN(2))%3]
	kill := o.rng.IntN(2) == 0
	var operator sync.WaitGroup
	words := [][]string{{"fo", "-a", hit.Name, "--yes"}, {"fo", fmt.Sprintf("s%03d", o.rng.IntN(6)), other.Name, "--yes"},
		{"fo", "-m", nodes[o.rng.IntN(3)].Name, "--yes"}}[o.rng.IntN(3)]
	operator.Go(func() { _ = o.typed(other, words...) }) // what it says is not what counts
	o.pause(time.Duration(o.rng.IntN(600)) * time.Millisecond)
	if kill {
		o.did["kill"]++
		o.kill(hit)
		o.pause(time.Duration(o.rng.IntN(20)) * time.Second)
		operator.Wait()
		_ = o.typed(other, "failover", "confirm", "--yes")
		o.restart(hit.Name)
		return
	}
	o.did["pause"]++
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
		if err := syscall.Kill(hit.PID, sig); err != nil {
			o.t.Errorf("signal %s to %s: %v", sig, hit.Name, err)
		}
		o.pause(time.Duration(o.rng.IntN(20)) * time.Second)
	}
	operator.Wait()
}

func (o *owners) pause(d time.Duration) { <-time.After(d) }
