package node

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mailnode/node/admin"
	"mailnode/node/diary"
	"mailnode/node/monitor"
)

// told are the lines of a report that do not depend on how fast the machine is: times
// and durations are replaced, and so is what placement chooses; left out is what came and went by the way.
func told(report string) string {
	for _, x := range [][2]string{
		{`cluster [0-9a-f]+`, "cluster C"}, {`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`, "DATE TIME"}, {`\d\d:\d\d:\d\d`, "TIME"},
		{`\d+(\.\d)? (s|min)\b`, "SOME s"}, {`(lag before|after) (SOME s|not known)`, "$1 LAG"}, {`(protected after|for at most) LAG`, "$1 SOME s"}, {`\bp\d+\b`, "pN"}, {`; said only by .*`, ""},
		{`\bs\d{3}\b`, "sNNN"}, {`-> n[12] `, "-> OTHER "}, {`until n[12] `, "until OTHER "}, // placement chooses
	} {
		report = regexp.MustCompile(x[0]).ReplaceAllString(report, x[1])
	}
	passing := regexp.MustCompile(`(slot-|raft-|slots-|replica-|tls-|disk-|make join token|proposal-open|lives and does not serve|withdrawn|longest)`)
	var out, moments []string
	for line := range strings.Lines(report) {
		switch {
		case passing.MatchString(line):
		case strings.HasPrefix(line, "- TIME "):
			moments = append(moments, line) // what two nodes note of one moment comes in either order
		default:
			slices.Sort(moments)
			out = append(append(out, moments...), line)
			moments = nil
		}
	}
	return strings.Join(out, "")
}

// A node stops, a person confirms on another and writes a note, the node comes back:
// the report of a third tells all of that, and who is still away from home.
func TestReportOfAFailover(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n1, n2, n3 := s.nodes[0], s.nodes[1], s.nodes[2]
	n3.stopped()
	until(t, "n1 and n2 have noted the silence and the proposal", func() bool {
		return has(n1, monitor.NodeSilent) && has(n2, monitor.NodeSilent) && has(n1, monitor.ProposalOpen) && noted(n1, diary.Proposed) && noted(n2, diary.Proposed) &&
			noted(n1, diary.Began) && noted(n2, diary.Began)
	})
	if out, err := n2.admin.Confirm(ctx, admin.ConfirmRequest{ID: s.proposalOf("n3")}); err != nil || out.Exit != 0 {
		t.Fatalf("confirm: %+v, %v", out, err)
	}
	if got, err := n2.admin.Note(ctx, admin.NoteRequest{Text: "the power of n3 was cut"}); err != nil || len(got.Nodes) != 2 || got.Missing["n3"] == "" {
		t.Fatalf("note: %+v, %v", got, err)
	}
	if got, err := n2.admin.Note(ctx, admin.NoteRequest{Text: "the power of n3 was cut"}); err != nil || !got.Again {
		t.Fatalf("the same note again: %+v, %v", got, err)
	}
	r, err := n1.admin.Incident(ctx, 3600)
	if err != nil || r.Unreached["n3"] == "" || len(r.Diaries) != 2 {
		t.Fatalf("while n3 is away: %v, %v", r.Unreached, err)
	}
	s.start(n3)
	until(t, "the slot is protected again, and n1 and n2 have noted it", func() bool {
		return !has(n1, monitor.NodeSilent) && !has(n2, monitor.NodeSilent) && noted(n1, diary.Protected) && noted(n2, diary.Protected) && noted(n1, diary.Ended) && noted(n2, diary.Ended)
	})
	until(t, "n1 hears n3", func() bool {
		r, err = n1.admin.Incident(ctx, 3600)
		return err == nil && len(r.Unreached) == 0 && len(r.Outages) == 1 && r.Outages[0].LagAfterMs != nil && r.Silences[0].UntilMs != nil && len(r.Open.Unprotected) == 0
	})
	if o := r.Outages[0]; o.ForMs < 2000 {
		t.Errorf("the slot of n3 was away for suspect_after, 2 s, at least: %+v", o)
	}
	path := filepath.Join("testdata", "failover-report.md")
	if flag.Lookup("rewrite").Value.String() == "true" {
		if err := os.WriteFile(path, []byte(told(r.Markdown())), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), told(r.Markdown())); diff != "" {
		t.Errorf("(-want +got); -rewrite accepts it:\n%s", diff)
	}
	h, err := n3.admin.History(ctx)
	if err != nil || len(h.Changes) < 4 || h.Changes[len(h.Changes)-1].By != r.Changes[0].By {
		t.Errorf("history: %+v, %v", h.Changes, err)
	}
	if b, err := json.Marshal(r); err != nil || strings.Contains(string(b), "null,\"happenings") {
		t.Errorf("json: %v", err)
	}
}

// noted reports whether a node has noted the part of n3's story that is of this kind.
func noted(r *running, kind diary.Kind) bool {
	return slices.ContainsFunc(r.node.happenings.diary.Since(time.Hour), func(e diary.Told) bool {
		switch kind {
		case diary.Began, diary.Ended:
			return e.Kind == kind && e.Subject == string(monitor.NodeSilent) && e.About == "n3"
		case diary.Proposed:
			return e.Kind == kind && strings.Contains(e.Text, "n3 is silent")
		}
		return e.Kind == kind
	})
}

// What a node noted is there after its restart, in one order with what came then.
func TestDiaryOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1, 0, 1)
	n := s.nodes[0]
	if _, err := n.admin.Note(t.Context(), admin.NoteRequest{Text: "before"}); err != nil {
		t.Fatal(err)
	}
	n.stopped()
	s.start(n)
	var texts []string
	for _, e := range n.node.happenings.diary.Since(time.Hour) {
		if e.Kind == diary.Node || e.Kind == diary.Note {
			texts = append(texts, e.Text)
		}
	}
	if got, want := strings.Join(texts, "; "), "started, test; before; is stopping; has stopped; started, test"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
