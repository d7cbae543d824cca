package repl

import (
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	"mailnode/failover"
	"mailnode/failover/sim"
	"mailnode/storage"
	"mailnode/storage/check"
	"mailnode/storage/event"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

var (
	seeds = flag.Int("seeds", presetSeeds(), "how many stories are played on model copies and real stores")
	from  = flag.Uint64("seed", 1, "the first of them")
	words = flag.Int("words", 40, "words of each")
)

// presetSeeds is less under the race detector.
func presetSeeds() int {
	b, _ := debug.ReadBuildInfo()
	if b != nil && slices.Contains(b.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return 20
	}
	return 200
}

// TestModelCopiesAreLikeRealOnes plays the words of a story on the model copies of
// failover/sim and on real stores, feeds and followers, and wants both to be alike
// after each word.
func TestModelCopiesAreLikeRealOnes(t *testing.T) {
	var met sightings
	t.Cleanup(func() { met.enough(t) })
	for _, half := range []int{0, 1} {
		t.Run(fmt.Sprint(half), func(t *testing.T) {
			t.Parallel()
			for i := half; i < *seeds; i += 2 {
				seed := *from + uint64(i)
				story, why := playSeed(t, seed, &met)
				if why != "" {
					t.Fatalf("seed %d: %s\n%s\nagain: go test ./storage/repl -run TestModelCopies -seed %d -seeds 1", seed, why, story, seed)
				}
			}
		})
	}
}

// sightings count what the stories came upon: those that came upon nothing prove
// nothing.
type sightings struct {
	aside, building, alone, promised, lost, unheard atomic.Int64
}

func (s *sightings) note(p *pair) {
	for _, name := range p.real.names {
		n, c := p.real.nodes[name], p.model.Copy(name)
		for _, x := range []struct {
			is    bool
			count *atomic.Int64
		}{{len(c.Aside) > 0, &s.aside}, {c.Building, &s.building}, {c.Alone, &s.alone}, {c.Promised > 1, &s.promised},
			{n.role == failover.RoleMaster && n.lostTo != "", &s.lost}, {c.Up && c.Epoch < p.model.Record().Epoch, &s.unheard}} {
			if x.is {
				x.count.Add(1)
			}
		}
	}
}

// enough wants a few of each from as many seeds as are usual.
func (s *sightings) enough(t *testing.T) {
	got := map[string]int64{"set aside": s.aside.Load(), "building": s.building.Load(), "alone": s.alone.Load(), "promised": s.promised.Load(),
		"lost what it had": s.lost.Load(), "has not heard of its epoch": s.unheard.Load()}
	t.Logf("copies, after a word: %v", got)
	for what, n := range got {
		if n < 3 && *seeds >= 200 {
			t.Errorf("%d copies that are %q: these stories prove nothing about them", n, what)
		}
	}
}

// playSeed returns the story, and where the two are not alike.
func playSeed(t *testing.T, seed uint64, met *sightings) (story, why string) {
	var told []string
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 0x73746f7279))
		p := newPair(t)
		defer func() {
			if end := p.real.end(); why == "" {
				why = end
			}
		}()
		why = p.differ()
		for i := 0; i < *words && why == ""; i++ {
			x := p.model.Draw(rng)
			told = append(told, x.String())
			p.play(x)
			why = p.differ()
			met.note(p)
		}
	})
	return strings.Join(told, "\n"), why
}

// pair is one story on both.
type pair struct {
	model *sim.Story
	real  *stage
	guids map[slot.GUID]uint64 // of the messages, their ids
	at    map[slot.Position]slot.Position
	back  map[slot.Position]slot.Position
}

func newPair(t *testing.T) *pair {
	log := slog.New(slog.DiscardHandler)
	if *seeds == 1 {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	p := &pair{model: sim.NewStory(), guids: map[slot.GUID]uint64{}, at: map[slot.Position]slot.Position{0: 0}, back: map[slot.Position]slot.Position{0: 0}}
	p.real = newStage(t, log)
	return p
}

// play plays a word on both.
func (p *pair) play(x sim.Word) {
	ids := p.model.Play(x)
	if x.Verb != sim.VerbDeliver {
		p.real.play(x)
	}
	for _, id := range ids {
		p.guids[p.real.deliver(x.Node, id)] = id
	}
	p.real.rest(x.Rest())
}

// differ says in what the two are not alike, "" when they are.
func (p *pair) differ() string {
	synctest.Wait()
	p.real.endFenced()
	synctest.Wait() // its replicas hear of it
	var out []string
	for _, name := range p.real.names {
		n := p.real.nodes[name]
		model := p.model.Copy(name)
		if !n.up {
			if model.Up {
				out = append(out, fmt.Sprintf("%s is up", name))
			}
			continue
		}
		real, err := p.see(n)
		if err != nil {
			return fmt.Sprintf("%s: %v", name, err)
		}
		out = append(out, p.compare(name, model, real)...)
	}
	m, r := p.model.Record(), p.real.record()
	if m.Epoch != r.Epoch || m.Master != r.Master || m.Protected != r.Protected || !slices.Equal(m.InSync, r.InSync) {
		out = append(out, fmt.Sprintf("Raft: model %+v\n  real %+v", m, r))
	}
	for _, id := range p.guids {
		if id != 0 && p.model.Acknowledged(id) != p.real.acknowledged(id) {
			out = append(out, fmt.Sprintf("message %d is acknowledged: model %t, real %t", id, p.model.Acknowledged(id), p.real.acknowledged(id)))
		}
	}
	return strings.Join(out, "\n")
}

// see looks at a real copy as sim.Story looks at a model.
func (p *pair) see(n *realNode) (c sim.Copy, err error) {
	h, err := n.copy.Head()
	if err != nil {
		return c, err
	}
	c = sim.Copy{Up: true, Serving: n.feed != nil, Following: n.follower != nil && n.follower.State().Connected, Epoch: n.epoch, Head: h.Position,
		Lineage: h.Lineage, Building: h.Building, Messages: map[uint64]uint64{}}
	if c.Promised, err = n.copy.Promised(); err != nil {
		return c, err
	}
	if c.AloneSince, c.Alone, err = n.copy.Alone(); err != nil {
		return c, err
	}
	names, err := n.copy.Quarantined()
	if err != nil {
		return c, err
	}
	for _, name := range names {
		var e slot.Epoch
		var at uint64
		if _, err := fmt.Sscanf(name, "diverged-%d-%d", &e, &at); err != nil {
			return c, fmt.Errorf("in quarantine: %q", name)
		}
		c.Aside = append(c.Aside, slot.At(e, at))
	}
	slices.Sort(c.Aside)
	return c, n.copy.Snapshot(func(x local.Snapshot) error {
		return x.Each(event.SpanOf([]byte{event.PrefixMessage}), func(_, value []byte) error {
			m := &event.MessageRecord{}
			if err := proto.Unmarshal(value, m); err != nil {
				return err
			}
			ref := m.Body()
			id, ok := p.guids[ref.GUID]
			if !ok || id == 0 {
				return fmt.Errorf("it has message %d, which nobody took", m.Uid)
			}
			c.Messages[id] = uint64(m.Uid)
			return nil
		})
	})
}

// same reports whether a position of a model is this one of the real stores, which
// have other events, and larger jumps, in between.
func (p *pair) same(model, real slot.Position) bool {
	if _, ok := p.at[model]; !ok && p.back[real] == 0 {
		for m, r := range p.at {
			if (m < model) != (r < real) {
				return false
			}
		}
		p.at[model], p.back[real] = real, model
	}
	return p.at[model] == real && p.back[real] == model
}

func (p *pair) compare(name slot.NodeName, m, r sim.Copy) (out []string) {
	say := func(what string, model, real any) {
		out = append(out, fmt.Sprintf("%s: %s: model %v, real %v", name, what, model, real))
	}
	if m.Serving != r.Serving || m.Epoch != r.Epoch || m.Following != r.Following {
		say("part", fmt.Sprint(m.Epoch, m.Serving, m.Following), fmt.Sprint(r.Epoch, r.Serving, r.Following))
	}
	if m.Building != r.Building {
		say("building", m.Building, r.Building)
	}
	same := len(m.Lineage) == len(r.Lineage)
	for i := 0; same && i < len(m.Lineage); i++ {
		same = m.Lineage[i].Epoch == r.Lineage[i].Epoch && p.same(m.Lineage[i].After, r.Lineage[i].After)
	}
	if !same {
		say("lineage", m.Lineage, r.Lineage)
	}
	if !p.same(m.Head, r.Head) {
		say("head", m.Head, fmt.Sprint(r.Head, ", where the model is at ", p.at[m.Head], ", ", p.back[r.Head]))
	}
	if m.Promised != r.Promised {
		say("promised", m.Promised, r.Promised)
	}
	if m.Alone != r.Alone || m.Alone && !p.same(m.AloneSince, r.AloneSince) {
		say("alone", fmt.Sprint(m.Alone, m.AloneSince), fmt.Sprint(r.Alone, r.AloneSince))
	}
	same = len(m.Aside) == len(r.Aside)
	for i := 0; same && i < len(m.Aside); i++ {
		same = p.same(m.Aside[i], r.Aside[i])
	}
	if !same {
		say("set aside", m.Aside, r.Aside)
	}
	if !m.Building && !maps.Equal(m.Messages, r.Messages) {
		say("messages", m.Messages, r.Messages)
	}
	return out
}

// checkStore is what every test of a store ends with.
func checkStore(s *local.Slot) error {
	return s.Snapshot(func(x local.Snapshot) error {
		found, err := check.Run(x, check.Options{Bodies: !s.Building()})
		if err == nil && len(found) > 0 {
			err = storage.Errorf(storage.ErrCorrupt, "%s", found[0])
		}
		return err
	})
}
