package monitor

import (
	"flag"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"mailnode/storage/slot"
)

func TestMain(m *testing.M) {
	flag.Bool("rewrite", false, "rewrite the golden files")
	flag.Parse()
	os.Exit(m.Run())
}

// TestPage: docs/CONDITIONS.md lists exactly the conditions that there are.
func TestPage(t *testing.T) {
	const path = "../../docs/CONDITIONS.md"
	if flag.Lookup("rewrite").Value.String() == "true" {
		if err := os.WriteFile(path, []byte(page()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(text), page()); diff != "" {
		t.Errorf("%s differs from the table (-page +table); -rewrite accepts it:\n%s", path, diff)
	}
}

func TestTable(t *testing.T) {
	shape := regexp.MustCompile(`^[a-z]+(-[a-z]+)+$`)
	seen := map[Name]bool{}
	for _, k := range Table() {
		if seen[k.Name] || !shape.MatchString(string(k.Name)) {
			t.Errorf("%q is listed twice or misspelt", k.Name)
		}
		seen[k.Name] = true
		if k.Severity.rank() == 2 && k.Severity != Info {
			t.Errorf("%q: severity %q", k.Name, k.Severity)
		}
		if !strings.HasSuffix(k.Means, ".") || k.Next == "" {
			t.Errorf("%q: %q is no sentence, or there is no next command", k.Name, k.Means)
		}
		if k.Subject == "" && strings.Contains(k.Next, "{}") {
			t.Errorf("%q: the next command names a subject that it has not", k.Name)
		}
	}
}

func TestConditionsAreLevelTriggered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewConditions()
		if !c.Set(NodeSilent, "n1", "") || c.Set(NodeSilent, "n1", "last heard 03:31:07") {
			t.Error("only the first Set is news")
		}
		time.Sleep(17 * time.Second)
		c.Set(NodeSilent, "n1", "last heard 03:31:07")
		c.Put(true, TLSSelfSigned, "", "")
		c.Put(true, CopyBuilding, "s007", "")
		c.Put(true, DiskFull, "/srv", "")
		c.Put(false, DiskFull, "/srv", "")
		got := c.List()
		c.Tell(true, SlotUnprotected, "s001", Told{After: 15 * time.Second})
		if list := c.List(); len(list) != 3 {
			t.Errorf("what has to hold for a while is shown at once: %+v", list)
		}
		want := []Condition{
			{NodeSilent, Page, "n1", 17, "No node has heard from it for suspect_after (last heard 03:31:07): mailnode failover list", "mailnode failover list"},
			{TLSSelfSigned, Warn, "", 0, "Clients are shown a certificate that this node made itself: mailnode config example | grep -A1 tls_", "mailnode config example | grep -A1 tls_"},
			{CopyBuilding, Info, "s007", 0, "A copy is being filled or refilled and counts for nothing until it is done: mailnode slot show s007", "mailnode slot show s007"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if !c.Clear(NodeSilent, "n1") || c.Clear(NodeSilent, "n1") {
			t.Error("only the first Clear is news")
		}
		time.Sleep(15 * time.Second)
		c.Tell(true, SlotUnprotected, "s001", Told{After: 15 * time.Second, Detail: "why", Next: "do this"})
		if first := c.List()[0]; first.Name != SlotUnprotected || first.SinceS != 15 || first.Next != "do this" || !strings.HasSuffix(first.Text, "(why): do this") {
			t.Errorf("after its time: %+v", first)
		}
		c.Tell(false, SlotUnprotected, "s001", Told{})
		c.Tell(true, SlotUnprotected, "s001", Told{After: 15 * time.Second})
		if list := c.List(); list[0].Name == SlotUnprotected {
			t.Error("what ended and began again is shown at once")
		}
		if c.Tell(true, SlotUnprotected, "s001", Told{}); c.List()[0].Name != SlotUnprotected {
			t.Error("what need not hold any longer is not shown")
		}
	})
}

func TestConditionsConcurrently(t *testing.T) {
	c := NewConditions()
	var work sync.WaitGroup
	for i := range 8 {
		work.Go(func() {
			id := slot.ID(i).String()
			for range 200 {
				c.Set(SlotUnprotected, id, "")
				c.List()
				c.Clear(SlotUnprotected, id)
			}
		})
	}
	work.Wait()
	if list := c.List(); len(list) != 0 {
		t.Errorf("left over: %v", list)
	}
}

func TestUnknownConditionPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a name outside of the table was accepted")
		}
	}()
	NewConditions().Set("coffee-empty", "", "")
}

func TestMetrics(t *testing.T) {
	conditions := NewConditions()
	conditions.Set(NodeSilent, "n1", "")
	m := NewMetrics(Sources{
		Slots: func() []SlotState {
			return []SlotState{{0, "master", "serving", 0.25, false}, {1, "master", "serving", 0, true}, {2, "replica", "building", 9, false}}
		},
		RaftState:  func() string { return "Leader" },
		Passwords:  func() (uint64, int) { return 9, 7 },
		Conditions: conditions,
	}, "1.2.3")
	m.Delivery(Delivered)
	m.Delivery(Delivered)
	m.Delivery(Deferred)
	m.DeliveryTook(3 * time.Millisecond)
	m.FsyncTook(time.Millisecond)
	m.AckWaited(time.Millisecond)
	m.ClosureTook(time.Millisecond)
	m.StreamEnded(3)
	m.Command("FETCH", "OK")
	m.Login(false)
	m.Connection(IMAP, 1)
	m.Refused(LMTP, "address")
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`mailnode_deliveries_total{result="delivered"} 2`,
		`mailnode_deliveries_total{result="deferred"} 1`,
		`mailnode_deliveries_total{result="rejected"} 0`,
		`mailnode_delivery_seconds_count 1`,
		`mailnode_fsync_seconds_count 1`,
		`mailnode_ack_wait_seconds_count 1`,
		`mailnode_closure_seconds_count 1`,
		`mailnode_replica_stream_ends_total{slot="s003"} 1`,
		`mailnode_imap_commands_total{command="FETCH",response="OK"} 1`,
		`mailnode_imap_logins_total{result="refused"} 1`,
		`mailnode_imap_logins_total{result="ok"} 0`,
		`mailnode_connections{protocol="imap"} 1`,
		`mailnode_connections{protocol="lmtp"} 0`,
		`mailnode_connections_refused_total{protocol="lmtp",reason="address"} 1`,
		`mailnode_password_hashes_total 9`,
		`mailnode_password_hashes_waiting 7`,
		`mailnode_replica_lag_seconds{role="master",slot="s000"} 0.25`,
		`mailnode_slots{role="master",state="serving"} 2`,
		`mailnode_slots{role="replica",state="building"} 1`,
		`mailnode_raft_state{state="Leader"} 1`,
		`mailnode_condition{about="n1",name="node-silent",severity="page"} 1`,
		`mailnode_build_info{version="1.2.3"} 1`,
		"go_goroutines ",
		"process_open_fds ",
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the scrape lacks %q", want)
		}
	}
}

// TestNoMetricOfAUser guards the rule that no label names a person.
func TestNoMetricOfAUser(t *testing.T) {
	w := httptest.NewRecorder()
	NewMetrics(Sources{}, "dev").Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if found := regexp.MustCompile(`(user|account|address|mailbox)="`).FindString(w.Body.String()); found != "" {
		t.Errorf("a label names a user: %s", found)
	}
}
