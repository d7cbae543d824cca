package repl

import (
	"slices"
	"strings"
	"testing"
	"time"

	"mailnode/storage/repl/ack"
	"mailnode/storage/slot"
)

// The list of replicas changes while the master serves: who leaves is taken out of the
// record before it is dropped and follows no longer, without replicas nobody is waited for,
// and one that is listed again counts once it has caught up.
func TestLaw01ListChangesWhileTheMasterServes(t *testing.T) {
	n1, n2, n3 := newSide(t, "n1"), newSide(t, "n2"), newSide(t, "n3")
	rec := &record{}
	n1.lead(1, 0, rec, 300*time.Millisecond)
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	n3.follow(n1, 1)
	lines := func() []string {
		rec.mu.Lock()
		defer rec.mu.Unlock()
		return slices.Clone(rec.log)
	}
	logged := func(what string, last func(string) bool) {
		t.Helper()
		eventually(t, what, func() bool {
			log := lines()
			return len(log) > 0 && last(log[len(log)-1])
		})
	}
	is := func(line string) func(string) bool { return func(last string) bool { return last == line } }
	sent := 0
	send := func() {
		t.Helper()
		sent++
		if err := n1.deliver(a, text(sent, 100)); err != nil {
			t.Fatal(err)
		}
	}
	logged("both count", is("s003 protected by [n2 n3]"))
	send()

	rec.list([]slot.NodeName{"n2", "n3"}, ack.Leaver{Node: "n2"})
	logged("n2 has gone", is("s003 dropped n2"))
	if log := lines(); len(log) < 2 || log[len(log)-2] != "s003 protected by [n3]" {
		t.Errorf("dropped before the others were proved: %v", log)
	}
	eventually(t, "n2 does not follow", func() bool {
		_, rs := n1.feed.State()
		return len(rs) == 1 && rs[0].Node == "n3"
	})
	send()

	rec.list([]slot.NodeName{"n3"}, ack.Leaver{Node: "n3", Anyway: true})
	logged("n3 has gone", is("s003 dropped n3"))
	if log := lines(); !strings.HasSuffix(log[len(log)-2], "unprotected") {
		t.Errorf("dropped while the record counted it: %v", log)
	}
	send()
	if h, _ := n3.copy.Head(); h.Births >= uint64(sent) {
		t.Errorf("n3 has %d messages and was dropped", h.Births)
	}

	rec.list([]slot.NodeName{"n2"})
	logged("n2 counts again", is("s003 protected by [n2]"))
	send()
	sameState(t, n1, n2)
}
