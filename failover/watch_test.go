package failover

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// brief shows commands in one line each.
func brief(cmds []cluster.Command) []string {
	var out []string
	slots := func(ps []cluster.ProposedSlot) string {
		var b strings.Builder
		for _, p := range ps {
			fmt.Fprintf(&b, " %s:%s->%s", p.Slot, p.From, p.To)
			if len(p.Others) > 0 {
				fmt.Fprintf(&b, "%v", p.Others)
			}
			if p.Note != "" {
				fmt.Fprintf(&b, "(%s)", p.Note)
			}
		}
		return b.String()
	}
	for _, c := range cmds {
		switch c := c.(type) {
		case cluster.OpenProposal:
			out = append(out, fmt.Sprintf("open %q %s:%s", c.Node, c.Reason, slots(c.Slots)))
		case cluster.UpdateProposal:
			out = append(out, fmt.Sprintf("update %s %s:%s", c.Proposal, c.Reason, slots(c.Slots)))
		case cluster.WithdrawProposal:
			out = append(out, fmt.Sprintf("withdraw %s: %s", c.Proposal, c.Why))
		default:
			out = append(out, fmt.Sprintf("%T", c))
		}
	}
	return out
}

// step is one thing that happens to a site; it returns what the leader did.
type step func(t *testing.T, s *site) []cluster.Command

func wait(d time.Duration) step {
	return func(t *testing.T, s *site) []cluster.Command { return s.run(t, d) }
}

func do(f func(s *site)) step {
	return func(_ *testing.T, s *site) []cluster.Command { f(s); return nil }
}

func raft(c cluster.Command) step {
	return func(t *testing.T, s *site) []cluster.Command { s.apply(t, c); return nil }
}

func down(n slot.NodeName) step { return do(func(s *site) { s.up[n] = false }) }

func up(n slot.NodeName) step { return do(func(s *site) { s.up[n] = true }) }

func edit(n slot.NodeName, id slot.ID, f func(*CopyAnswer)) step {
	return do(func(s *site) { s.edit(n, id, f) })
}

func confirm(id slot.ID, to slot.NodeName) step {
	return func(t *testing.T, s *site) []cluster.Command {
		s.apply(t, cluster.ConfirmSlot{Proposal: "p1", Slot: id, Epoch: 1, To: to, Unclean: true})
		s.edit(to, id, func(c *CopyAnswer) { c.Role, c.Serving, c.Epoch = RoleMaster, true, 2 })
		return nil
	}
}

type decision struct {
	name   string
	layout [][]slot.NodeName
	steps  []step
	want   []string
}

func checkDecisions(t *testing.T, tests []decision) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, tt.layout...)
			var got []string
			for _, st := range tt.steps {
				got = append(got, brief(st(t, s))...)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("commands (-want +got):\n%s", d)
			}
		})
	}
}

func TestDecideSilence(t *testing.T) {
	three := [][]slot.NodeName{list("n1", "n2", "n3"), list("n1", "n3", "n2"), list("n2", "n1"), list("n1", "n2", "n3"), list("n1", "n3", "n2")}
	two := [][]slot.NodeName{list("n1", "n2", "n3"), list("n1", "n3", "n2")}
	checkDecisions(t, []decision{
		{"all is well", three, []step{wait(60 * time.Second)}, nil},
		{"not silent yet", three, []step{down("n1"), wait(14 * time.Second)}, nil},
		{"silent, ties spread", three, []step{down("n1"), wait(40 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n3[n2] s001:n1->n2[n3] s003:n1->n3[n2] s004:n1->n2[n3]`}},
		{"stopped cleanly", two[:1], []step{do(func(s *site) { s.words["n1"] = CleanStop }), wait(time.Second), down("n1"), wait(20 * time.Second)},
			[]string{`open "n1" n1 is silent, its last words: clean stop: s000:n1->n2[n3]`}},
		{"answers again", two, []step{down("n1"), wait(20 * time.Second), up("n1"), wait(20 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n2[n3] s001:n1->n3[n2]`, "withdraw p1: n1 answers again"}},
		{"answers again, and is silent again", two[:1], []step{down("n1"), wait(20 * time.Second), up("n1"), wait(time.Second), down("n1"), wait(20 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n2[n3]`, "withdraw p1: n1 answers again", `open "n1" n1 is silent: s000:n1->n2[n3]`}},
		{"the rest of a confirmed one is withdrawn", two, []step{down("n1"), wait(15 * time.Second), confirm(0, "n2"), up("n1"), wait(20 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n2[n3] s001:n1->n3[n2]`, "withdraw p1: n1 answers again"}},
		{"two nodes silent", [][]slot.NodeName{list("n1", "n3", "n2"), list("n3", "n1", "n2"), list("n3", "n1")},
			[]step{down("n1"), down("n3"), wait(20 * time.Second)}, []string{
				`open "n1" n1 is silent: s000:n1->n2(n3 is silent)`,
				`open "n3" n3 is silent: s001:n3->n2(n1 is silent) s002:n3->(n1 is silent)`}},
		{"the new master dies too", two[:1], []step{down("n1"), wait(15 * time.Second), confirm(0, "n3"), down("n3"), wait(20 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n2[n3]`, `open "n3" n3 is silent: s000:n3->n2(n1 is silent)`}},
		{"cut off from the leader only", two, []step{do(func(s *site) { s.heard["n3"] = []Heard{{Node: "n1", AgoMs: 400}} }), down("n1"), wait(60 * time.Second)}, nil},
		{"rejected", two[:1], []step{down("n1"), wait(15 * time.Second), raft(cluster.RejectProposal{Proposal: "p1", By: "eve"}), wait(60 * time.Second), up("n1"), wait(time.Second), down("n1"), wait(20 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n2[n3]`, `open "n1" n1 is silent: s000:n1->n2[n3]`}},
		{"not the watcher's", two[:1], []step{raft(cluster.OpenProposal{Node: "n1", By: "alice", Slots: []cluster.ProposedSlot{{Slot: 0, Epoch: 1, From: "n1", To: "n2"}}}), wait(20 * time.Second)}, nil},
		{"leader paused", two, []step{down("n1"), wait(10 * time.Second), do(func(s *site) { s.now += time.Minute }), wait(13 * time.Second)}, nil},
		{"leader paused with an open proposal", two[:1], []step{down("n1"), wait(20 * time.Second), do(func(s *site) { s.now += time.Hour }), wait(40 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n2[n3]`}},
		{"new leader from zero", two[:1], []step{down("n1"), wait(20 * time.Second), do(func(s *site) { s.ev = NewEvidence("n2", s.now) }), wait(40 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n2[n3]`}},
		{"never heard", two[:1], []step{down("n1"), do(func(s *site) { s.ev = NewEvidence("n2", s.now) }), wait(15 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n2[n3]`}},
	})
}

func TestDecideFailedStore(t *testing.T) {
	two := [][]slot.NodeName{list("n1", "n2", "n3"), list("n1", "n3", "n2")}
	broken := edit("n1", 0, func(c *CopyAnswer) { c.Serving, c.Failed = false, "input/output error" })
	checkDecisions(t, []decision{
		{"failed store", two, []step{broken, wait(3 * time.Second)}, []string{
			`open "" store of s000 failed on n1: input/output error: s000:n1->n2[n3]`}},
		{"failed store heals", two, []step{broken, wait(3 * time.Second), edit("n1", 0, func(c *CopyAnswer) { c.Failed = "" }), wait(3 * time.Second),
			edit("n1", 0, func(c *CopyAnswer) { c.Serving = true }), wait(3 * time.Second)}, []string{
			`open "" store of s000 failed on n1: input/output error: s000:n1->n2[n3]`, "update p1 n1 lives and does not serve s000: it does not say why:",
			"withdraw p1: n1 serves again"}},
		{"failed store, then the node falls silent", two, []step{broken, wait(3 * time.Second), down("n1"), wait(20 * time.Second)}, []string{
			`open "" store of s000 failed on n1: input/output error: s000:n1->n2[n3]`, "update p1 n1 is silent:", `open "n1" n1 is silent: s001:n1->n3[n2]`}},
		{"silent, then back with a failed store", two, []step{down("n1"), wait(15 * time.Second), broken, up("n1"), wait(20 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n2[n3] s001:n1->n3[n2]`, "update p1 store of s000 failed on n1: input/output error:",
			"withdraw p1: n1 answers again, and does not serve 1 slot",
			`open "" store of s000 failed on n1: input/output error: s000:n1->n2[n3]`}},
		{"several stores failed", two, []step{broken, edit("n1", 1, func(c *CopyAnswer) { c.Failed = "hangs\nfor 40 s" }), wait(3 * time.Second)}, []string{
			`open "" 2 stores failed; the first: store of s000 failed on n1: input/output error: s000:n1->n2[n3] s001:n1->n3[n2]`}},
	})
}

// TestLaw04DecideUnserved: a slot that nobody serves for suspect_after is proposed,
// whatever its living master says about it, or somebody else, or nobody; and a
// proposal stays one while its slots come back.
func TestLaw04DecideUnserved(t *testing.T) {
	one := [][]slot.NodeName{list("n1", "n2", "n3")}
	two := [][]slot.NodeName{list("n1", "n2", "n3"), list("n1", "n3", "n2")}
	not := func(f func(c *CopyAnswer)) step {
		return edit("n1", 0, func(c *CopyAnswer) { c.Serving = false; f(c) })
	}
	waits := not(func(c *CopyAnswer) { c.Waiting = "waits for a quorum: dial tcp 127.0.0.1:4711: refused" })
	serves := edit("n1", 0, func(c *CopyAnswer) { c.Serving, c.Waiting, c.Opening, c.Role = true, "", "", RoleMaster })
	opens := not(func(c *CopyAnswer) { c.Role, c.Opening, c.OpeningPercent = RoleNone, "proves its logs", 40 })
	const lives, to = `open "" n1 lives and does not serve s000: `, ": s000:n1->n2[n3]"
	quorum := []string{lives + "waits for a quorum" + to}
	relay := func(u ...Unserved) step {
		return do(func(s *site) { s.heard["n3"] = []Heard{{Node: "n1", AgoMs: 400, Unserved: u}} })
	}
	checkDecisions(t, []decision{
		{"not for long enough", one, []step{waits, wait(14 * time.Second), serves, wait(14 * time.Second), waits, wait(14 * time.Second)}, nil},
		{"waits", one, []step{waits, wait(60 * time.Second)}, quorum},
		{"and serves again", one, []step{waits, wait(20 * time.Second), serves, wait(60 * time.Second)}, append(quorum[:1:1], "withdraw p1: n1 serves again")},
		{"what changes from try to try is no update", one, []step{waits, wait(20 * time.Second), not(func(c *CopyAnswer) { c.Waiting = "waits for a quorum: EOF" }), wait(20 * time.Second)}, quorum},
		{"opens its copy", one, []step{opens, wait(20 * time.Second), not(func(c *CopyAnswer) { c.OpeningPercent = 50 }), wait(20 * time.Second)}, []string{
			lives + "its copy is still opening, it proves its logs" + to}},
		{"its disk hangs", one, []step{not(func(c *CopyAnswer) { c.Serving, c.Hangs = true, "read" }), wait(20 * time.Second)}, []string{
			lives + "its disk does not answer a read" + to}},
		{"has not taken the role", one, []step{not(func(c *CopyAnswer) { c.Role = RoleReplica }), wait(20 * time.Second)}, []string{lives + "it has not taken the role" + to}},
		{"reports no copy", one, []step{do(func(s *site) { delete(s.copies["n1"], 0) }), wait(20 * time.Second)}, []string{lives + "it reports no copy" + to}},
		{"an older epoch", one, []step{edit("n1", 0, func(c *CopyAnswer) { c.Epoch = 0 }), wait(20 * time.Second)}, []string{lives + "it works under epoch 0" + to}},
		{"two slots", two, []step{waits, edit("n1", 1, func(c *CopyAnswer) { c.Serving = false }), wait(20 * time.Second)}, []string{
			`open "" 2 slots are not served; the first: n1 lives and does not serve s000: waits for a quorum: s000:n1->n2[n3] s001:n1->n3[n2]`}},
		{"cut off from the leader alone, as somebody else says", one, []step{relay(Unserved{Slot: 0, Why: "waits for a quorum"}), down("n1"), wait(60 * time.Second)}, []string{
			`open "" n1 lives (n3 hears it) and does not serve s000: waits for a quorum` + to}},
		{"cut off from the leader alone, and serves again", one, []step{relay(Unserved{Slot: 0}), down("n1"), wait(20 * time.Second), relay(), wait(20 * time.Second)}, []string{
			`open "" n1 lives (n3 hears it) and does not serve s000: ` + to, "withdraw p1: n1 serves again"}},
		{"dies again and again before it serves", one, []step{waits, wait(10 * time.Second), down("n1"), wait(10 * time.Second), up("n1"), wait(10 * time.Second), down("n1"), wait(10 * time.Second), up("n1"), wait(10 * time.Second)}, quorum},
		{"back from silence, it opens its copies one by one", two, []step{down("n1"), wait(20 * time.Second), opens, up("n1"), wait(10 * time.Second), serves, wait(60 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n2[n3] s001:n1->n3[n2]`, "update p1 n1 lives and does not serve s000: its copy is still opening, it proves its logs:",
			"withdraw p1: n1 answers again"}},
		{"back from silence, and one does not come", two, []step{down("n1"), wait(20 * time.Second), waits, up("n1"), wait(60 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n2[n3] s001:n1->n3[n2]`, "update p1 n1 lives and does not serve s000: waits for a quorum:",
			"withdraw p1: n1 answers again, and does not serve 1 slot", quorum[0]}},
		{"the new master does not come up", one, []step{down("n1"), wait(15 * time.Second),
			raft(cluster.ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, To: "n3", Unclean: true}), wait(14 * time.Second)}, []string{`open "n1" n1 is silent` + to}},
		{"and is proposed", one, []step{down("n1"), wait(15 * time.Second),
			raft(cluster.ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, To: "n3", Unclean: true}), wait(17 * time.Second)}, []string{`open "n1" n1 is silent` + to,
			`open "" n3 lives and does not serve s000: it has not taken the role: s000:n3->n2(n1 is silent)`}},
		{"rejected", one, []step{waits, wait(20 * time.Second), raft(cluster.RejectProposal{Proposal: "p1", By: "eve"}), wait(60 * time.Second)}, quorum},
		{"the whole cluster starts", one, []step{waits, do(func(s *site) { s.ev = NewEvidence("n2", s.now) }), wait(14 * time.Second), serves, wait(20 * time.Second)}, nil},
	})
}

func TestDecideTarget(t *testing.T) {
	two := [][]slot.NodeName{list("n1", "n2", "n3"), list("n1", "n3", "n2")}
	checkDecisions(t, []decision{
		{"the highest copy", two[:1], []step{edit("n2", 0, func(c *CopyAnswer) { c.Position++ }), down("n1"), wait(20 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n2[n3]`}},
		{"the newer lineage, though its position is lower", two[:1], []step{edit("n2", 0, func(c *CopyAnswer) { c.Position, c.Lineage = slot.At(1, 500), 0 }), down("n1"), wait(20 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n3[n2]`}},
		{"not viable", two[:1], []step{edit("n2", 0, func(c *CopyAnswer) { c.Viable, c.Building = false, true }), edit("n3", 0, func(c *CopyAnswer) { c.Diverged = true }),
			down("n1"), wait(20 * time.Second)}, []string{`open "n1" n1 is silent: s000:n1->(n2 is building, n3 has diverged)`}},
		{"no other copy", [][]slot.NodeName{list("n1")}, []step{down("n1"), wait(20 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->(no other copy of it exists)`}},
		{"standby last", [][]slot.NodeName{list("n1", "n4", "n3")}, []step{edit("n3", 0, func(c *CopyAnswer) { c.Position-- }), down("n1"), wait(20 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n3[n4]`}},
		{"only a standby", [][]slot.NodeName{list("n1", "n4", "n3")}, []step{down("n3"), down("n1"), wait(20 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n4(n3 is silent)`}},
		{"target dies, a better one appears", two[:1], []step{down("n1"), edit("n3", 0, func(c *CopyAnswer) { c.Building = true }), wait(20 * time.Second),
			edit("n2", 0, func(c *CopyAnswer) { c.Failed = "EIO" }), edit("n3", 0, func(c *CopyAnswer) { c.Building = false }), wait(20 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n2(n3 is building)`, `update p1 : s000:n1->n3(n2 has a failed store)`}},
		{"a higher copy returns", two[:1], []step{edit("n3", 0, func(c *CopyAnswer) { c.Position += 5 }), wait(time.Second), down("n3"), wait(10 * time.Second), down("n1"), wait(20 * time.Second), up("n3"), wait(20 * time.Second)}, []string{
			`open "n1" n1 is silent: s000:n1->n2(n3 is silent)`, `update p1 : s000:n1->n3[n2]`}},
	})
}

// A new leader that kept its own evidence needs no new suspect_after.
func TestLeaderChangeKeepsEvidence(t *testing.T) {
	s := newSite(t, list("n1", "n2", "n3"))
	other := NewEvidence("n3", 0)
	for i := range 5 {
		now := time.Duration(i) * time.Second
		for _, n := range list("n1", "n2", "n3") {
			other.Hear(now, s.report(n))
		}
	}
	for i := 5; i < 20; i++ {
		now := time.Duration(i) * time.Second
		other.Hear(now, s.report("n2"))
		other.Hear(now, s.report("n3"))
	}
	got := brief(Decide(s.st, other.Snapshot(19*time.Second), suspect))
	if d := cmp.Diff([]string{`open "n1" n1 is silent: s000:n1->n2[n3]`}, got); d != "" {
		t.Error(d)
	}
}

// A node that has just joined counts as silent only suspect_after later, however
// long this process has been up.
func TestNewMemberIsNotSilent(t *testing.T) {
	e := NewEvidence("n1", 0)
	e.Observe(time.Minute, &cluster.State{Members: []cluster.Member{{Name: "n1"}}})
	e.Observe(2*time.Minute, &cluster.State{Members: []cluster.Member{{Name: "n1"}, {Name: "n2"}}})
	for _, c := range []struct {
		now, want time.Duration
	}{{2*time.Minute + time.Second, time.Second}, {3 * time.Minute, time.Minute}} {
		if got := e.Snapshot(c.now).Silence("n2"); got != c.want {
			t.Errorf("at %s n2 is silent for %s, want %s", c.now, got, c.want)
		}
	}
}
