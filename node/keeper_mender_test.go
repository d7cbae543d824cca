package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"mailnode/failover"
	"mailnode/node/admin"
	"mailnode/node/job"
	"mailnode/node/monitor"
	"mailnode/storage/slot"
)

// flip turns a bit of every place over at which a node's packs hold a text.
func (r *running) flip(t *testing.T, text string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(r.cfg.Node.Data, "slots", "*", "packs", "*.pack"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; ; n++ {
			i := bytes.Index(b[at:], []byte(text)[1:]) // the first byte is the one that changes
			if i < 0 {
				break
			}
			if _, err := f.WriteAt([]byte{b[at+i-1] ^ 2}, int64(at+i-1)); err != nil {
				t.Fatal(err)
			}
			at += i + len(text)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n == 0 {
		t.Fatalf("%q is in no pack of %s", text, r.name)
	}
}

// read fetches a message whole: its text, or the server's refusal.
func (s *site) read(r *running, user string, uid imap.UID) (text string, err error) {
	c, err := imapclient.DialInsecure(r.cfg.IMAP.Plain, nil)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.Login(user, "pw").Wait(); err != nil {
		return "", err
	}
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		return "", err
	}
	section := &imap.FetchItemBodySection{Peek: true}
	got, err := c.Fetch(imap.UIDSetNum(uid), &imap.FetchOptions{UID: true, BodySection: []*imap.FetchItemBodySection{section}}).Collect()
	for _, m := range got {
		text += string(m.FindBodySection(section))
	}
	return text, err
}

// mendSite has three nodes and one slot, with one replica, and mail in it.
func mendSite(t *testing.T) (s *site, master, replica, other *running) {
	t.Helper()
	s = newSite(t, 3, 1, 1)
	ctx := context.Background()
	if _, err := s.nodes[0].admin.AddUser(ctx, admin.AddUser{Address: addr(t, "u@example.test"), Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := s.deliver(s.nodes[0], "u@example.test", mendText(i)); err != nil {
			t.Fatal(err)
		}
	}
	d, err := s.nodes[0].admin.Slot(ctx, "s000")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range s.nodes {
		switch {
		case r.cfg.Node.Name == d.Master:
			master = r
		case slices.Contains(d.Replicas, r.cfg.Node.Name):
			replica = r
		default:
			other = r
		}
	}
	return s, master, replica, other
}

func mendText(i int) string {
	return fmt.Sprintf("Subject: %d\r\n\r\nthis is the body of number %d\r\n", i, i)
}

// until asks until it is so.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(40 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 40 s: %s", what)
		}
		<-tick.C
	}
}

// unavailable reports whether an answer is NO [UNAVAILABLE].
func unavailable(err error) bool {
	var no *imap.Error
	return errors.As(err, &no) && no.Type == imap.StatusResponseTypeNo && no.Code == imap.ResponseCodeUnavailable
}

func has(r *running, name monitor.Name) bool {
	return slices.ContainsFunc(r.node.conditions.List(), func(c monitor.Condition) bool { return c.Name == name })
}

// A client never gets wrong bytes of a body that is damaged at the master: NO
// [UNAVAILABLE] at first, then what the replica has. What no copy has is removed
// and listed; it comes back under a new UID with the copy that has it.
func TestLaw06Law07DamagedBodies(t *testing.T) {
	t.Parallel()
	s, master, replica, _ := mendSite(t)
	master.flip(t, "this is the body of number 1")
	until(t, "the body is repaired", func() bool {
		text, err := s.read(master, "u@example.test", 2)
		switch {
		case err == nil && strings.HasSuffix(text, mendText(1)):
			return true
		case text != "" || !unavailable(err):
			t.Fatalf("a damaged body: %q, %v", text, err)
		}
		return false
	})
	until(t, "the condition clears", func() bool { return !has(master, monitor.BodyDamaged) })

	lost := "this is the body of number 2"
	replica.flip(t, lost)
	master.flip(t, lost)
	until(t, "the message is given up", func() bool {
		text, err := s.read(master, "u@example.test", 3)
		if text != "" || err != nil && !unavailable(err) {
			t.Fatalf("a lost body: %q, %v", text, err)
		}
		n, _ := s.count(master, "u@example.test", "pw")
		return err == nil && n == 2
	})
	m, err := s.nodes[0].admin.Missing(context.Background(), "s000")
	if err != nil || len(m.Messages) != 1 || m.Messages[0].Address != "u@example.test" || m.Messages[0].Mailbox != "INBOX" || m.Messages[0].UID != 3 {
		t.Fatalf("missing: %+v, %v", m, err)
	}
	until(t, "the condition says so", func() bool { return has(master, monitor.MessageMissing) })

	replica.stopped()
	replica.flip(t, lost) // as it was
	s.start(replica)
	until(t, "the message is back", func() bool {
		n, err := s.count(master, "u@example.test", "pw")
		return err == nil && n == 3
	})
	if text, err := s.read(master, "u@example.test", 4); err != nil || !strings.HasSuffix(text, mendText(2)) {
		t.Errorf("under its new UID: %q, %v", text, err)
	}
	if m, err := s.nodes[0].admin.Missing(context.Background(), ""); err != nil || len(m.Messages) != 0 || len(m.Unknown) != 0 {
		t.Errorf("still missing: %+v, %v", m, err)
	}
	until(t, "the condition clears", func() bool { return !has(master, monitor.MessageMissing) })
}

// What is damaged at the master while the other copy is away is refused until the
// time is over, then listed as missing; the other copy returns, and gives it back.
func TestLaw07GivenUpWhileTheOtherCopyIsAway(t *testing.T) {
	t.Parallel()
	s, master, replica, _ := mendSite(t)
	master.stopped()
	s.startWith(master, func(n *Node) { n.giveUpAfter = 3 * time.Second })
	replica.stopped()
	master.flip(t, "this is the body of number 1")
	refused := 0
	until(t, "the message is given up", func() bool {
		text, err := s.read(master, "u@example.test", 2)
		switch {
		case text != "":
			t.Fatalf("a damaged body was given out: %q", text)
		case unavailable(err):
			refused++
			return false
		}
		n, cerr := s.count(master, "u@example.test", "pw")
		return err == nil && cerr == nil && n == 2
	})
	if refused == 0 {
		t.Error("no client was told to wait")
	}
	s.start(replica)
	until(t, "the message is back", func() bool {
		text, err := s.read(master, "u@example.test", 4)
		return err == nil && strings.HasSuffix(text, mendText(1))
	})
	if n, err := s.count(master, "u@example.test", "pw"); err != nil || n != 3 {
		t.Errorf("%d messages, %v", n, err)
	}
}

// audited runs an audit to its end.
func audited(t *testing.T, r *running, repair bool) (lines []string, end admin.Job) {
	t.Helper()
	ctx := context.Background()
	jobs, err := r.admin.Audit(ctx, admin.AuditRequest{Slots: []slot.ID{0}, Repair: repair})
	if err != nil || len(jobs.Jobs) != 1 {
		t.Fatalf("audit at %s: %+v, %v", r.name, jobs, err)
	}
	until(t, "the audit ends", func() bool {
		d, err := r.admin.Job(ctx, jobs.Jobs[0].ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		lines, end = d.Lines, d.Status
		return d.State.Over()
	})
	return lines, end
}

// An audit names damage by message, repairs when it is told to, compares with
// the other copies, and is refused where there is no copy.
func TestLaw06Law12Audit(t *testing.T) {
	t.Parallel()
	s, master, replica, other := mendSite(t)
	if lines, end := audited(t, master, false); end.State != job.Done || len(lines) != 0 || end.BytesDone == 0 {
		t.Fatalf("a sound copy: %v, %+v", lines, end)
	}
	var refusal *admin.Error
	if _, err := other.admin.Audit(context.Background(), admin.AuditRequest{Slots: []slot.ID{0}}); !errors.As(err, &refusal) ||
		refusal.Exit != admin.ExitUsage || !strings.Contains(refusal.Text, master.name) || refusal.Next == "" {
		t.Errorf("where there is no copy: %v", err)
	}
	for _, r := range []*running{replica, master} {
		r.flip(t, "this is the body of number 1")
		lines, end := audited(t, r, false)
		if end.State != job.Failed || len(lines) != 1 || !strings.HasPrefix(lines[0], "u@example.test INBOX uid 2: body damaged; not repaired") ||
			!strings.HasSuffix(end.Error, "mailnode slot audit s000 --repair") {
			t.Fatalf("%s: %q, %+v", r.name, lines, end)
		}
		from := master
		if r == master {
			from = replica
		}
		lines, end = audited(t, r, true)
		if want := fmt.Sprintf("u@example.test INBOX uid 2: body damaged; fetched from %s, sha256 ok", from.name); end.State != job.Done || len(lines) != 1 || lines[0] != want {
			t.Fatalf("%s: %q, want %q, %+v", r.name, lines, want, end)
		}
		if lines, end := audited(t, r, false); end.State != job.Done || len(lines) != 0 {
			t.Fatalf("%s after the repair: %v, %+v", r.name, lines, end)
		}
	}
	if text, err := s.read(master, "u@example.test", 2); err != nil || !strings.HasSuffix(text, mendText(1)) {
		t.Errorf("%q, %v", text, err)
	}
}

// The background scrub finds damage by itself, and remembers where it was.
func TestLaw12ScrubRepairsByItself(t *testing.T) {
	t.Parallel()
	s, master, _, _ := mendSite(t)
	master.stopped()
	scrubbed := filepath.Join(master.cfg.Node.Data, "scrub.json")
	s.startWith(master, func(n *Node) { n.scrubDelay = 5 * time.Second })
	until(t, "the slot is served", func() bool { // after the self-check, which would find it
		_, err := s.read(master, "u@example.test", 2)
		return err == nil
	})
	master.flip(t, "this is the body of number 0")
	until(t, "a round of the scrub ends", func() bool {
		b, err := os.ReadFile(scrubbed)
		return err == nil && bytes.Contains(b, []byte(`"idle":true`))
	})
	jobs := master.node.jobs.List(true)
	if len(jobs) != 1 || jobs[0].Kind != job.Scrub || jobs[0].State != job.Done || jobs[0].Findings != 1 {
		t.Errorf("jobs: %+v", jobs)
	}
	if lines, end := audited(t, master, false); end.State != job.Done {
		t.Errorf("after the scrub: %v, %+v", lines, end)
	}
}

// flipTables damages every table of the index of slot s000.
func (r *running) flipTables(t *testing.T) {
	t.Helper()
	tables, err := filepath.Glob(filepath.Join(r.slotDir("s000"), "index", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("tables of %s: %v, %v", r.name, tables, err)
	}
	for _, name := range tables {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/3] ^= 0x10
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt(b, 0)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// A damaged table of a replica's index stays damaged when the state is fetched
// again: an audit with --repair has the index rebuilt, after which another one
// finds nothing. Without --repair nothing is changed. At a master that has
// replicas it says what a person is to do.
func TestLaw06AuditOfADamagedTable(t *testing.T) {
	t.Parallel()
	s, master, replica, _ := mendSite(t)
	for _, r := range []*running{replica, master} {
		r.stopped()
		s.start(r) // a start leaves tables where the log was
		until(t, "the copy is open", func() bool { return r.node.copies.slot(0) != nil })
	}
	s.eventually("all is served", func(st admin.Status) bool { return st.Slots[0].Serving })
	replica.flipTables(t)
	lines, end := audited(t, replica, false)
	if end.State != job.Failed || len(lines) == 0 || !strings.HasPrefix(lines[0], "index damaged: ") || strings.Contains(lines[0], "detail carrier") ||
		!strings.HasSuffix(lines[0], "not repaired: mailnode slot audit s000 --repair") {
		t.Fatalf("%q, %+v", lines, end)
	}
	lines, end = audited(t, replica, true)
	if end.State != job.Done || len(lines) == 0 || !strings.HasSuffix(lines[0], "the index is rebuilt from the master: mailnode job list") {
		t.Fatalf("%q, %+v", lines, end)
	}
	if d := s.reindexOver(replica, "s000 index"); d.State != job.Done {
		t.Fatalf("%+v", d)
	}
	until(t, "the replica is sound", func() bool {
		k := replica.node.copies.keeper(0)
		return k.opened() != nil && !k.opened().Building() && !has(replica, monitor.IndexDamaged)
	})
	if lines, end := audited(t, replica, false); end.State != job.Done || len(lines) != 0 {
		t.Errorf("after the repair: %q, %+v", lines, end)
	}

	master.flipTables(t)
	lines, end = audited(t, master, true)
	if end.State != job.Failed || len(lines) == 0 || !strings.HasSuffix(lines[0], master.node.copies.keeper(0).serveElsewhere()) {
		t.Fatalf("at the master: %q, %+v", lines, end)
	}
	until(t, "the condition says so", func() bool { return has(master, monitor.IndexDamaged) })

	// It serves, so it is proposed to hand the slot over; then it is rebuilt as a replica.
	s.eventually("it is to be moved", func(st admin.Status) bool { return len(st.Proposals) == 1 && st.Proposals[0].Slots[0].Safe })
	if out, err := replica.admin.Confirm(t.Context(), admin.ConfirmRequest{}); err != nil || out.Exit != admin.ExitDone {
		t.Fatalf("move it: %+v, %v", out, err)
	}
	until(t, "the old master is a sound replica", func() bool {
		k := master.node.copies.keeper(0)
		return k.role.is() == failover.RoleReplica && k.opened() != nil && !k.opened().Building() && !has(master, monitor.IndexDamaged)
	})
	if lines, end := audited(t, master, false); end.State != job.Done || len(lines) != 0 {
		t.Errorf("after the move: %q, %+v", lines, end)
	}
}
