package failover

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/cockroachdb/datadriven"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// TestPlanGolden runs the scenarios of testdata: sites, faults, and what the
// operator reads. -rewrite writes the files again.
//
//	site             one line per slot: master and replicas
//	down n1, up n1   stops and starts nodes
//	words n1 TEXT    what n1 says in its reports
//	set n2 s000 K=V  what n2 says about its copy
//	raft s000 K      what Raft records about the slot
//	wait 20s         time passes; prints what the leader did
//	plan p1, list, json p1
//	by bob           who confirms from here on; hands-over: masters hand over when asked
//	before records s000, before gives s000 n3: what happens between plan and command
//	propose -a n1    what an operator wants, as he types it behind `mailnode fo`
//	confirm [ID] [--slot s000]... [--accept-loss]
func TestPlanGolden(t *testing.T) {
	datadriven.Walk(t, "testdata/plan", func(t *testing.T, path string) {
		var s *site
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string {
			var out bytes.Buffer
			if td.Cmd == "site" {
				var layout [][]slot.NodeName
				for line := range strings.Lines(td.Input) {
					var nodes []slot.NodeName
					for f := range strings.FieldsSeq(line) {
						nodes = append(nodes, slot.NodeName(f))
					}
					layout = append(layout, nodes)
				}
				s = newSite(t, layout...)
				return ""
			}
			// In a bubble, since nodes that are down take their time not to answer.
			synctest.Test(t, func(t *testing.T) {
				for line := range strings.Lines(td.Cmd + " " + args(td) + "\n" + td.Input) {
					if f := strings.Fields(line); len(f) > 0 {
						s.golden(t, &out, f)
					}
				}
			})
			return out.String()
		})
	})
}

func args(td *datadriven.TestData) string {
	var out []string
	for _, a := range td.CmdArgs {
		out = append(out, a.String())
	}
	return strings.Join(out, " ")
}

func (s *site) golden(t *testing.T, out *bytes.Buffer, f []string) {
	switch f[0] {
	case "down", "up":
		s.up[slot.NodeName(f[1])] = f[0] == "up"
	case "words":
		s.words[slot.NodeName(f[1])] = strings.Join(f[2:], " ")
	case "set":
		id, err := slot.ParseID(f[2])
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range f[3:] {
			s.edit(slot.NodeName(f[1]), id, func(c *CopyAnswer) { setField(t, c, kv) })
		}
	case "raft":
		id, err := slot.ParseID(f[1])
		if err != nil {
			t.Fatal(err)
		}
		since, _ := strconv.ParseUint(f[3], 10, 64)
		s.apply(t, cluster.SetUnprotected{Slot: id, Epoch: 1, Since: slot.At(1, since)})
	case "reject":
		o, err := Reject(t.Context(), s, f[1], "eve", "not now")
		fmt.Fprintf(out, "%serr=%v exit %d\n", o.Text, err, o.ExitCode)
	case "wait":
		s.waitGolden(t, out, f[1])
	case "plan":
		var text strings.Builder
		if err := s.plan(t, f[1]).Render(&text); err != nil {
			t.Fatal(err)
		}
		checkWidth(t, text.String())
		out.WriteString(text.String())
	case "json":
		b, err := json.MarshalIndent(s.plan(t, f[1]), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(out, "%s\n", b)
	case "list":
		ps, err := List(t.Context(), s.st, s.view(), suspect, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := ps.Render(out); err != nil {
			t.Fatal(err)
		}
	case "propose":
		s.proposeGolden(t, out, f[1:])
	case "before":
		s.before(t, f[1:])
	case "hands-over":
		s.handsOver(t, 300*time.Millisecond)
	case "by":
		s.by = f[1]
	case "confirm":
		r := request(t, f[1:])
		r.By = cmp.Or(s.by, r.By)
		o, err := Confirm(t.Context(), s.deps(), r)
		fmt.Fprintf(out, "%serr=%v exit %d\n", o.Text, err, o.ExitCode)
		checkWidth(t, o.Text)
	default:
		t.Fatalf("unknown command %q", f)
	}
}

func (s *site) waitGolden(t *testing.T, out *bytes.Buffer, how string) {
	d, err := time.ParseDuration(how)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range brief(s.run(t, d)) {
		fmt.Fprintln(out, line)
	}
}

func (s *site) proposeGolden(t *testing.T, out *bytes.Buffer, f []string) {
	p := s.wish(t, wish(t, f))
	fmt.Fprintf(out, "%salso=%v exit %d\n", p.Text, p.Also, p.ExitCode)
	checkWidth(t, p.Text)
}

// checkWidth: nothing is wider than a terminal, and only commands, which must be
// whole, are wider than a phone.
func checkWidth(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n"))
		if n > 80 || n > columns && !strings.HasPrefix(line, "  mailnode ") && strings.Contains(strings.TrimSpace(line), " ") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func request(t *testing.T, f []string) Request {
	r := Request{By: "alice", Why: "3:30 am", WallTime: "2026-03-01T03:31:00Z"}
	for i := 0; i < len(f); i++ {
		switch {
		case f[i] == "--accept-loss":
			r.AcceptLoss = true
		case f[i] == "--slot":
			i++
			id, err := slot.ParseID(f[i])
			if err != nil {
				t.Fatal(err)
			}
			r.Slots = append(r.Slots, id)
		default:
			r.Proposal = f[i]
		}
	}
	return r
}

// before has something happen between the plan and the next command that changes a master.
func (s *site) before(t *testing.T, f []string) {
	id, err := slot.ParseID(f[1])
	if err != nil {
		t.Fatal(err)
	}
	s.propose = func(cluster.Command) error {
		s.propose = nil
		next := s.st.Clone()
		var c cluster.Command = cluster.SetProtected{Slot: id, Epoch: 1, InSync: next.Slots[id].Replicas[:1]}
		if f[0] == "gives" {
			p, _ := next.OpenProposalOf(id)
			c = cluster.ConfirmSlot{Proposal: p.ID, Slot: id, Epoch: 1, To: slot.NodeName(f[2]), Unclean: true, By: "bob"}
		}
		s.index++
		_, err := next.Apply(s.index, decidedOn(next, c))
		s.st = next
		return err
	}
}

// wish reads what `mailnode fo` takes: -a n1, -m n1, -K n1, s000 n2.
func wish(t *testing.T, f []string) Wish {
	n := slot.NodeName(f[1])
	switch f[0] {
	case "-a":
		return Wish{From: n}
	case "-m":
		return Wish{Home: true, HomeOf: n}
	case "-K":
		return Wish{From: n, Dead: true}
	}
	id, err := slot.ParseID(f[0])
	if err != nil {
		t.Fatal(err)
	}
	return Wish{Slot: id, To: n}
}

func setField(t *testing.T, c *CopyAnswer, kv string) {
	k, v, _ := strings.Cut(kv, "=")
	n, _ := strconv.ParseUint(v, 10, 40)
	switch k {
	case "building":
		c.Building = v == "true"
	case "diverged":
		c.Diverged = v == "true"
	case "quarantined":
		c.Quarantined, c.Viable = v == "true", v != "true"
	case "away":
		c.Away = v
	case "accounts":
		accounts := int(n)
		c.Accounts = &accounts
	case "serving":
		c.Serving = v == "true"
	case "failed":
		c.Failed, c.Serving = v, false
	case "position":
		c.Position = slot.At(1, n)
	case "lineage":
		c.Lineage = slot.Epoch(n)
	case "lag_ms":
		c.LagMs = int64(n)
	case "events":
		c.Events = n
	case "messages":
		c.Messages = n
	case "bytes":
		c.Bytes = n
	case "users":
		c.Users, c.UsersKnown = int(n), v != "?"
	default:
		t.Fatalf("unknown field %q", kv)
	}
}
