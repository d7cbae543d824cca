package diary

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mailnode/storage/slot"
)

func TestMain(m *testing.M) {
	flag.Bool("rewrite", false, "rewrite the golden files")
	flag.Parse()
	os.Exit(m.Run())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if flag.Lookup("rewrite").Value.String() == "true" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); -rewrite accepts it:\n%s", name, diff)
	}
}

// night is what two of three nodes noted of the death of the third; n2 was cut off
// from Raft for a while, and noted an outage that was none.
func night() Report {
	s3, s4, ms := slot.ID(3), slot.ID(4), int64(400)
	zero := int64(0)
	seq := uint64(0)
	told := func(agoS int64, e Entry) Told {
		seq++
		e.Seq = seq
		return Told{Entry: e, AgoMs: agoS * 1000}
	}
	note := Entry{Kind: Note, At: "n1", By: "ann", Text: "power supply of n3 *dead*\n## no heading\n"}
	return Report{Cluster: "c0ffee", By: "n1", Wall: time.Date(2026, 11, 21, 4, 0, 0, 0, time.UTC), SinceMs: 2 * 3600 * 1000,
		Unreached: map[slot.NodeName]string{"n3": "waited 3 s for n3: no answer in time"},
		Diaries: map[slot.NodeName][]Told{
			"n1": {told(1800, Entry{Kind: Began, Subject: "node-silent", About: "n3", ForMs: 15000}),
				told(1799, Entry{Kind: Proposed, Subject: "p1", Text: "is opened by watcher, 2 slots: n3 is silent"}),
				told(1700, Entry{Kind: Order, At: "n1", By: "root", Text: `confirm failover {"id":"p1"}: p1: 2 of 2 done`}),
				told(1699, Entry{Kind: Served, Slot: &s3, Epoch: 2, At: "n1", ForMs: 116000, LagMs: &ms}),
				told(1699, Entry{Kind: Served, Slot: &s4, Epoch: 2, At: "n2", ForMs: 115000}),
				told(1600, Entry{Kind: Protected, Slot: &s3, Epoch: 2, ForMs: 99000, LagMs: &zero}),
				told(60, note)},
			"n2": {told(1801, Entry{Kind: Began, Subject: "node-silent", About: "n3", ForMs: 14900}),
				told(1799, Entry{Kind: Proposed, Subject: "p1", Text: "is opened by watcher, 2 slots: n3 is silent"}),
				told(1698, Entry{Kind: Served, Slot: &s3, Epoch: 2, At: "n1", ForMs: 900000, CutOff: true}),
				told(900, Entry{Kind: Served, Slot: &s4, Epoch: 2, At: "n2", ForMs: 4000, CutOff: true}),
				told(60, note)},
		},
		Changes: []Change{{Slot: 3, Epoch: 2, From: "n3", To: "n1", Proposal: "p1", By: "root at n1", Unclean: true, AgoMs: 1700000},
			{Slot: 4, Epoch: 2, From: "n3", To: "n2", Proposal: "p1", By: "root at n1", Unclean: true, AcceptedLoss: true, AgoMs: 1700000}},
		Aside: []string{"s004 on n3, diverged-1-92: 3 messages, 1 user, may be acknowledged: `mailnode rescue show s004`"},
		Open: Standing{Proposals: []string{"p2"}, Losses: []slot.ID{4}, Unprotected: []slot.ID{4}, Away: map[slot.NodeName][]slot.ID{"n3": {3, 4}},
			Conditions: []Condition{{Name: "node-silent", About: "n3", Nodes: []slot.NodeName{"n1", "n2"}, Next: "mailnode failover list"}}},
	}
}

func TestReport(t *testing.T) {
	r := night()
	r.Complete()
	golden(t, "night.md", r.Markdown())
	again := r
	again.Complete()
	if again.Markdown() != r.Markdown() {
		t.Error("completed twice, it says something else")
	}
	if len(r.Silences) != 1 || len(r.Outages) != 3 || r.Outages[0].ForMs != 116000 || r.Outages[0].CutOff {
		t.Errorf("silences %+v, outages %+v", r.Silences, r.Outages)
	}
}

// What a person or a program wrote is one line of the report, and no Markdown of it.
func TestReportIsNotWrittenByItsNotes(t *testing.T) {
	r := night()
	r.Complete()
	for line := range strings.Lines(r.Markdown()) {
		if strings.HasPrefix(line, "## no heading") || strings.Contains(line, "*dead*") && !strings.Contains(line, `\*dead\*`) {
			t.Errorf("a note makes the line %q", line)
		}
	}
	empty := Report{Wall: time.Unix(0, 0)}
	empty.Complete()
	golden(t, "nothing.md", empty.Markdown())
}
