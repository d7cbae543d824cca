package failover

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// copiesSite is s000 on n1 with replicas on n2 and n3, as the witness w1 sees
// it, which hears all.
type copiesSite struct {
	st *cluster.State
	v  View
}

func newCopiesSite(t *testing.T) *copiesSite {
	t.Helper()
	s := &copiesSite{st: cluster.New(), v: View{Self: "w1", Now: time.Minute, Nodes: map[slot.NodeName]NodeView{}}}
	m := func(n slot.NodeName, r cluster.Role) cluster.Member {
		return cluster.Member{Name: n, ServerID: string(n), Addr: "127.0.0.1:24", Role: r, Features: cluster.KnownFeatures}
	}
	s.do(t, cluster.Init{ClusterID: "c", SlotCount: 1, DefaultReplicas: 2, First: m("n1", cluster.Voter)})
	for _, n := range []slot.NodeName{"n2", "n3", "n4"} {
		s.do(t, cluster.AddMember{Member: m(n, cluster.Voter)})
	}
	s.do(t, cluster.AddMember{Member: m("w1", cluster.Witness)})
	s.do(t, cluster.AssignSlot{Slot: 0, Master: "n1", Replicas: []slot.NodeName{"n2", "n3"}})
	for _, n := range []slot.NodeName{"n1", "n2", "n3", "n4"} {
		s.hear(n, CopyReport{Slot: 0, Role: RoleReplica, Epoch: 1, Position: slot.At(1, 9), Health: Health{Viable: true}, OfMaster: OfMaster{LagKnown: true}, Counters: Counters{Bytes: 5 << 20}})
	}
	s.hear("n1", CopyReport{Slot: 0, Role: RoleMaster, Serving: true, Epoch: 1, Position: slot.At(1, 9), Health: Health{Viable: true}, Counters: Counters{Bytes: 5 << 20}})
	return s
}

func (s *copiesSite) hear(n slot.NodeName, c CopyReport) {
	s.v.Nodes[n] = NodeView{Known: true, HeardAt: s.v.Now, Copies: map[slot.ID]CopyView{0: {CopyReport: c}}}
}

func (s *copiesSite) do(t *testing.T, c cluster.Command) {
	t.Helper()
	sl, _ := s.st.Slot(0)
	switch x := c.(type) {
	case cluster.BeginDrop:
		x.Version = sl.Version
		c = x
	case cluster.SetReplicas:
		x.Version = sl.Version
		c = x
	case cluster.ConfirmSlot:
		x.Version = sl.Version
		c = x
	}
	if _, err := s.st.Apply(s.st.Index+1, c); err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
}

func replicas(n int) *int { return &n }

func silence(n slot.NodeName) func(*testing.T, *copiesSite) {
	return func(_ *testing.T, s *copiesSite) {
		nv := s.v.Nodes[n]
		nv.HeardAt = 0
		s.v.Nodes[n] = nv
	}
}

func building(n slot.NodeName) func(*testing.T, *copiesSite) {
	return func(_ *testing.T, s *copiesSite) {
		s.hear(n, CopyReport{Slot: 0, Role: RoleReplica, Epoch: 1, Health: Health{Building: true}})
	}
}

func leaves(n slot.NodeName) func(*testing.T, *copiesSite) {
	return func(t *testing.T, s *copiesSite) { s.do(t, cluster.BeginDrop{Slot: 0, Epoch: 1, Node: n}) }
}

func wants(n int) func(*testing.T, *copiesSite) {
	return func(t *testing.T, s *copiesSite) { s.do(t, cluster.SetReplicas{Slot: 0, Epoch: 1, Count: n}) }
}

// loss is a failover from n1 to n2 whose loss was accepted.
func loss(t *testing.T, s *copiesSite) {
	s.do(t, cluster.OpenProposal{Slots: []cluster.ProposedSlot{{Slot: 0, Epoch: 1, From: "n1", To: "n2"}}})
	s.do(t, cluster.ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, To: "n2", Unclean: true, AcceptLoss: true})
	s.hear("n2", CopyReport{Slot: 0, Role: RoleMaster, Serving: true, Epoch: 2, Position: slot.At(2, 9), Health: Health{Viable: true}})
}

// TestCopiesPlan: what each wish is answered, and that refusals name the next command.
func TestCopiesPlan(t *testing.T) {
	type given = []func(*testing.T, *copiesSite)
	for name, x := range map[string]struct {
		given given
		wish  CopiesWish
		exit  int
		does  string // commands
		says  string
		next  string
	}{
		"add":                       {wish: CopiesWish{Add: "n4"}, does: "add-replica", says: "up to 5", next: "mailnode slot show s000"},
		"add to a silent node":      {given: given{silence("n4")}, wish: CopiesWish{Add: "n4"}, does: "add-replica", says: "n4 is silent"},
		"add again":                 {wish: CopiesWish{Add: "n2"}, exit: ExitNothing, says: "already"},
		"add the master":            {wish: CopiesWish{Add: "n1"}, exit: ExitNothing, says: "is the master"},
		"add nobody":                {wish: CopiesWish{Add: "n9"}, exit: ExitUsage, says: "n1, n2, n3, n4", next: "mailnode cluster members"},
		"add a witness":             {wish: CopiesWish{Add: "w1"}, exit: ExitRefused, says: "witness"},
		"add one that leaves":       {given: given{leaves("n2")}, wish: CopiesWish{Add: "n2"}, does: "cancel-drop", says: "keeps"},
		"drop":                      {wish: CopiesWish{Drop: "n2"}, does: "begin-drop", says: "healthy copies then: n1 (master), n3"},
		"drop again":                {given: given{leaves("n2")}, wish: CopiesWish{Drop: "n2"}, exit: ExitNothing, says: "being dropped already"},
		"drop again, and force":     {given: given{leaves("n2")}, wish: CopiesWish{Drop: "n2", Force: true}, does: "begin-drop"},
		"drop what is not there":    {wish: CopiesWish{Drop: "n4"}, exit: ExitNothing, says: "holds no replica"},
		"drop the master":           {wish: CopiesWish{Drop: "n1"}, exit: ExitRefused, says: "master", next: "mailnode fo s000 n2"},
		"drop nobody":               {wish: CopiesWish{Drop: "n9"}, exit: ExitUsage, says: `"n9"`},
		"drop the last healthy":     {given: given{building("n3")}, wish: CopiesWish{Drop: "n2"}, exit: ExitRefused, says: "n3 is building", next: "mailnode slot drop-replica s000 n2 --force"},
		"drop it anyway":            {given: given{building("n3")}, wish: CopiesWish{Drop: "n2", Force: true}, does: "begin-drop", says: "n1 IS LEFT ALONE"},
		"drop while another leaves": {given: given{leaves("n3")}, wish: CopiesWish{Drop: "n2"}, exit: ExitRefused, says: "there is no other replica"},
		"drop without a master":     {given: given{silence("n1")}, wish: CopiesWish{Drop: "n2", Force: true}, exit: ExitRefused, says: "nobody serves s000"},
		"drop the unrescued":        {given: given{loss}, wish: CopiesWish{Drop: "n1", Force: true}, exit: ExitRefused, says: "not rescued", next: "mailnode rescue list"},
		"two, one was wanted":       {given: given{wants(1)}, wish: CopiesWish{Count: replicas(2)}, does: "set-replicas", says: "2 replicas from now on"},
		"one of one wanted":         {given: given{wants(1), leaves("n3")}, wish: CopiesWish{Count: replicas(1)}, exit: ExitNothing, says: "1 replica already"},
		"drop below what is wanted": {wish: CopiesWish{Drop: "n3"}, does: "begin-drop", says: "mailnode slot replicas s000 1"},
		"two of two":                {wish: CopiesWish{Count: replicas(2)}, exit: ExitNothing, says: "2 replicas already"},
		"two, one silent":           {given: given{silence("n3")}, wish: CopiesWish{Count: replicas(2)}, exit: ExitNothing, says: "n3 is silent"},
		"three":                     {wish: CopiesWish{Count: replicas(3)}, does: "set-replicas add-replica", says: "on n4"},
		"three, n4 silent":          {given: given{silence("n4")}, wish: CopiesWish{Count: replicas(3)}, exit: ExitRefused, says: "needs 1 node"},
		"four":                      {wish: CopiesWish{Count: replicas(4)}, exit: ExitRefused, next: "mailnode cluster token NODE"},
		"nine":                      {wish: CopiesWish{Count: replicas(9)}, exit: ExitUsage},
		"one, n3 building":          {given: given{building("n3")}, wish: CopiesWish{Count: replicas(1)}, does: "set-replicas begin-drop", says: "on n3"},
		"none":                      {wish: CopiesWish{Count: replicas(0)}, exit: ExitRefused, next: "mailnode slot replicas s000 0 --force"},
		"none anyway":               {wish: CopiesWish{Count: replicas(0), Force: true}, does: "set-replicas begin-drop begin-drop", says: "LEFT ALONE"},
		"two, one of them leaves":   {given: given{leaves("n2")}, wish: CopiesWish{Count: replicas(2)}, does: "cancel-drop"},
		"no such slot":              {wish: CopiesWish{Slot: 7, Add: "n4"}, exit: ExitUsage, next: "mailnode slot list"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newCopiesSite(t)
			for _, g := range x.given {
				g(t, s)
			}
			p := PlanCopies(s.st, s.v, 15*time.Second, x.wish)
			var does []string
			for _, c := range p.Commands {
				does = append(does, cluster.KindOf(c))
			}
			text := strings.Join(p.Lines, "\n")
			if p.ExitCode != x.exit || strings.Join(does, " ") != x.does || !strings.Contains(text, x.says) || x.next != "" && p.Next != x.next {
				t.Errorf("exit %d, does %v, next %q:\n%s", p.ExitCode, does, p.Next, text)
			}
			if (p.ExitCode == ExitDone) != (len(p.Commands) > 0) || len(p.Lines) == 0 {
				t.Errorf("exit %d with %v, lines %v", p.ExitCode, does, p.Lines)
			}
			if len(p.Commands) > 0 {
				if _, err := s.st.Clone().Apply(s.st.Index+1, p.Commands[0]); err != nil {
					t.Errorf("%+v: %v", p.Commands[0], err)
				}
			}
		})
	}
}

// TestLaw01CopiesNeverFallBelowHealthy: whatever is wished, without force a healthy copy
// stays beside the master in every plan that drops one.
func TestLaw01CopiesNeverFallBelowHealthy(t *testing.T) {
	nodes := []slot.NodeName{"n2", "n3", "n4"}
	for mask := range 1 << 6 {
		s := newCopiesSite(t)
		healthy := map[slot.NodeName]bool{}
		s.do(t, cluster.AddReplica{Slot: 0, Epoch: 1, Node: "n4"})
		for i, n := range nodes {
			healthy[n] = mask>>i&1 == 0
			if !healthy[n] {
				s.hear(n, CopyReport{Slot: 0, Role: RoleReplica, Epoch: 1, Health: Health{Building: true}})
			}
			if mask>>(3+i)&1 == 1 {
				s.do(t, cluster.BeginDrop{Slot: 0, Epoch: 1, Node: n})
				healthy[n] = false
			}
		}
		wishes := []CopiesWish{{Drop: "n2"}, {Drop: "n3"}, {Drop: "n4"}, {Count: replicas(0)}, {Count: replicas(1)}, {Count: replicas(2)}}
		for _, w := range wishes {
			p := PlanCopies(s.st, s.v, 15*time.Second, w)
			left := slices.DeleteFunc(slices.Clone(nodes), func(n slot.NodeName) bool {
				return !healthy[n] || slices.ContainsFunc(p.Commands, func(c cluster.Command) bool { d, ok := c.(cluster.BeginDrop); return ok && d.Node == n })
			})
			drops := slices.ContainsFunc(p.Commands, func(c cluster.Command) bool { _, ok := c.(cluster.BeginDrop); return ok })
			if drops && len(left) == 0 {
				t.Errorf("%06b, %s: %v leaves no healthy copy", mask, fmt.Sprint(w), p.Lines)
			}
		}
	}
}
