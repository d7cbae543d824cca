package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

const suspect = 15 * time.Second

func list(n ...slot.NodeName) []slot.NodeName { return n }

// site is a small cluster for tests: the real state machine, evidence as n2 (the
// leader) keeps it, and what each node would answer.
type site struct {
	mu       sync.Mutex
	st       *cluster.State
	index    uint64
	now      time.Duration
	ev       *Evidence
	seq      uint64
	up       map[slot.NodeName]bool
	boot     map[slot.NodeName]string
	words    map[slot.NodeName]string
	copies   map[slot.NodeName]map[slot.ID]CopyAnswer
	heard    map[slot.NodeName][]Heard
	propose  func(cluster.Command) error // a fault before a command is applied
	after    func(cluster.Command) error // a fault after it was applied
	notServe map[slot.ID]bool
	seen     map[slot.NodeName][]Sighting // what others have heard
	by       string                       // who confirms; "": alice
}

// newSite makes nodes n1..n4 (n4 is a standby) and the slots that layout gives
// as master and replicas; every slot is protected by all its replicas.
func newSite(t testing.TB, layout ...[]slot.NodeName) *site {
	t.Helper()
	s := &site{st: cluster.New(), now: 100 * time.Second, up: map[slot.NodeName]bool{}, boot: map[slot.NodeName]string{},
		words: map[slot.NodeName]string{}, copies: map[slot.NodeName]map[slot.ID]CopyAnswer{}, heard: map[slot.NodeName][]Heard{}, notServe: map[slot.ID]bool{}}
	s.ev = NewEvidence("n2", s.now)
	for i, n := range list("n1", "n2", "n3", "n4") {
		m := cluster.Member{Name: n, ServerID: string(n) + "-1", Addr: "127.0.0.1:24", Role: cluster.Voter, Standby: n == "n4"}
		if i == 0 {
			s.apply(t, cluster.Init{ClusterID: "c", SlotCount: max(1, len(layout)), DefaultReplicas: 1, First: m})
		} else {
			s.apply(t, cluster.AddMember{Member: m})
		}
		s.up[n], s.boot[n], s.copies[n] = true, "boot1", map[slot.ID]CopyAnswer{}
	}
	for i, nodes := range layout {
		id := slot.ID(i)
		s.apply(t, cluster.AssignSlot{Slot: id, Master: nodes[0], Replicas: nodes[1:]})
		if len(nodes) > 1 {
			s.apply(t, cluster.SetProtected{Slot: id, Epoch: 1, InSync: nodes[1:]})
		}
		for j, n := range nodes {
			c := CopyAnswer{CopyReport: CopyReport{Slot: id, Role: RoleReplica, Epoch: 1, Position: slot.At(1, 100), Lineage: 1, Health: Health{Viable: true},
				InSync: true, Counters: Counters{100, 40, 4e6},
				OfMaster: OfMaster{LagMs: 200, Head: slot.At(1, 100), HeadCount: Counters{100, 40, 4e6}}},
				UsersKnown: true, Users: 3, UserNames: []string{"ann@example.org", "bob@example.org", "cy@example.org"}}
			if j == 0 {
				c.Role, c.Serving, c.InSync = RoleMaster, true, false
			}
			s.copies[n][id] = c
		}
	}
	s.run(t, 5*time.Second)
	return s
}

func (s *site) apply(t testing.TB, c cluster.Command) {
	t.Helper()
	c = decidedOn(s.State(), c)
	if _, err := s.Propose(context.Background(), c); err != nil {
		t.Fatalf("apply %+v: %v", c, err)
	}
}

// decidedOn returns the command as it is decided on the slot record of now.
func decidedOn(st *cluster.State, c cluster.Command) cluster.Command {
	version := func(id slot.ID) uint64 { sl, _ := st.Slot(id); return sl.Version }
	switch x := c.(type) {
	case cluster.SetUnprotected:
		x.Version = version(x.Slot)
		return x
	case cluster.SetProtected:
		x.Version = version(x.Slot)
		return x
	case cluster.ConfirmSlot:
		x.Version = version(x.Slot)
		return x
	}
	return c
}

// Fresh implements Ownership.
func (s *site) Fresh(ctx context.Context) error { return ctx.Err() }

// edit changes what a node says about one copy.
func (s *site) edit(n slot.NodeName, id slot.ID, f func(*CopyAnswer)) {
	c := s.copies[n][id]
	f(&c)
	s.copies[n][id] = c
}

// report makes the report of one node.
func (s *site) report(n slot.NodeName) Report {
	s.seq++
	r := Report{Node: n, Boot: s.boot[n], Seq: s.seq, LastWords: s.words[n], Heard: s.heard[n]}
	for _, id := range slices.Sorted(keys(s.copies[n])) {
		r.Slots = append(r.Slots, s.copies[n][id].CopyReport)
	}
	return r
}

func keys[K comparable, V any](m map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// run lets time pass: each second all living nodes report, and the leader decides.
func (s *site) run(t testing.TB, d time.Duration) []cluster.Command {
	t.Helper()
	var all []cluster.Command
	for range int(d / time.Second) {
		s.now += time.Second
		s.ev.Tick(s.now)
		for _, n := range list("n1", "n2", "n3", "n4") {
			if s.up[n] {
				s.ev.Hear(s.now, s.report(n))
			}
		}
		s.ev.Observe(s.now, s.st)
		cmds := Decide(s.st, s.view(), suspect)
		for _, c := range cmds {
			s.apply(t, c)
		}
		all = append(all, cmds...)
	}
	return all
}

func (s *site) view() View {
	v := s.ev.Snapshot(s.now)
	v.Wall = time.Date(2026, 3, 1, 3, 31, 0, 0, time.UTC).Add(s.now)
	return v
}

// State implements Ownership.
func (s *site) State() *cluster.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st
}

// Propose implements Ownership with the state machine itself.
func (s *site) Propose(ctx context.Context, c cluster.Command) (cluster.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return cluster.Result{}, err
	}
	if s.propose != nil {
		if err := s.propose(c); err != nil {
			return cluster.Result{}, err
		}
	}
	next := s.st.Clone()
	s.index++
	res, err := next.Apply(s.index, c)
	if err != nil {
		return cluster.Result{}, fmt.Errorf("propose %T: %w", c, err)
	}
	s.st = next
	if s.after != nil {
		if err := s.after(c); err != nil {
			return cluster.Result{}, err
		}
	}
	return res, nil
}

// Ask implements Asker: a node that is down hangs until the asker gives up.
func (s *site) Ask(ctx context.Context, n slot.NodeName, q []Question) (Answer, error) {
	var out Answer
	if !s.up[n] {
		<-ctx.Done()
		return out, ctx.Err()
	}
	out.Seen = s.seen[n]
	for _, x := range q {
		if c, ok := s.copies[n][x.Slot]; ok {
			out.Copies = append(out.Copies, c)
		}
	}
	return out, nil
}

// Serving implements Serving: a node serves what Raft gave it.
func (s *site) Serving(_ context.Context, n slot.NodeName, id slot.ID, e slot.Epoch) (bool, error) {
	st := s.State()
	sl, _ := st.Slot(id)
	if !s.up[n] {
		return false, errors.New("no answer")
	}
	return sl.Master == n && sl.Epoch >= e && !s.notServe[id], nil
}

func (s *site) deps() Deps {
	return Deps{Ownership: s, Serving: s, Asker: s, View: s.view, SuspectAfter: suspect}
}

func (s *site) plan(t testing.TB, id string) Plan {
	t.Helper()
	p, err := MakePlan(context.Background(), s.st, s.view(), suspect, id, s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
