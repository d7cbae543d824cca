package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/emersion/go-imap/v2/imapclient"

	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/node/monitor"
	"mailnode/node/testport"
	"mailnode/storage/slot"
)

// site is a cluster of real nodes in this process, on loopback TCP.
type site struct {
	t           *testing.T
	nodes       []*running // those that are asked
	ports       *testport.Block
	upkeepEvery time.Duration // 0: the node's
	moveWithin  time.Duration // 0: the node's

	mu      sync.Mutex // guards started
	started []*running // all that have run, also those that are not asked any more
}

type running struct {
	name   string
	cfg    config.Config
	admin  *admin.Client
	node   *Node
	broken atomic.Pointer[string] // writes to paths that contain it fail
	stop   context.CancelFunc
	ended  sync.WaitGroup
	runErr error
}

func newSite(t *testing.T, nodes, replicas, slots int) *site {
	t.Helper()
	return newSiteWith(t, &site{t: t}, nodes, replicas, slots, "")
}

// newSiteWith adds settings to every node's file.
func newSiteWith(t *testing.T, s *site, nodes, replicas, slots int, settings string) *site {
	t.Helper()
	base := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	for i := range nodes {
		r := s.install(base, fmt.Sprintf("n%d", i+1), settings)
		cfg := r.cfg
		if i == 0 {
			if _, err := admin.InitCluster(ctx, cfg, admin.InitOptions{Slots: slots, Replicas: replicas, Nodes: nodes}); err != nil {
				t.Fatal(err)
			}
		} else {
			tok, err := s.nodes[0].admin.Token(ctx, admin.TokenRequest{Node: cfg.Node.Name})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := admin.JoinCluster(ctx, cfg, tok.Token); err != nil {
				t.Fatal(err)
			}
		}
		s.start(r)
	}
	t.Cleanup(s.stopAll)
	s.eventually("every slot serves and is protected", func(st admin.Status) bool {
		ok := len(st.Slots) == slots
		for _, sl := range st.Slots {
			ok = ok && sl.Serving && (sl.IsProtected() || replicas == 0)
		}
		return ok
	})
	return s
}

// install gives a machine its configuration; its node runs when start is called.
func (s *site) install(base, name, settings string) *running {
	s.t.Helper()
	if s.ports == nil {
		s.ports = testport.Take(s.t)
	}
	text := fmt.Sprintf("name = %q\ndata = %q\nhostname = \"%s.example.test\"\npeer = %q\nsocket = %q\nmetrics = %q\nimap = %q\nimaps = %q\nlmtp = %q\nlmtp_socket = \"\"\nsuspect_after = \"2s\"\nlog_level = \"info\"\n",
		name, filepath.Join(base, name), name, s.ports.Addr(), filepath.Join(base, name+".sock"), s.ports.Addr(), s.ports.Addr(), s.ports.Addr(), s.ports.Addr())
	cfg, problems := config.Parse("test", text+settings)
	if len(problems) > 0 {
		s.t.Fatal(problems)
	}
	r := &running{name: name, cfg: cfg, admin: admin.NewClient(cfg.Node.Socket), stop: func() {}}
	s.nodes = append(s.nodes, r)
	return r
}

func (s *site) stopAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.started {
		r.stop()
	}
	for _, r := range s.started {
		r.ended.Wait()
	}
}

// MaybeError implements errorfs.Injector.
func (r *running) MaybeError(op errorfs.Op) error {
	if part := r.broken.Load(); part != nil && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.Contains(op.Path, *part) {
		return syscall.EIO
	}
	return nil
}

// String implements errorfs.Injector.
func (r *running) String() string { return "broken folder of " + r.name }

func (s *site) start(r *running) {
	s.t.Helper()
	s.startWith(r, func(*Node) {})
}

func (s *site) startWith(r *running, set func(*Node)) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	s.mu.Lock()
	s.started = append(s.started, r)
	s.mu.Unlock()
	ready := make(chan struct{})
	log := slog.New(slog.NewTextHandler(s.t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	r.node = newNode(r.cfg, log, "test")
	r.node.fs = errorfs.Wrap(r.node.fs, r)
	r.node.protectAfter, r.node.dropAskEvery = time.Second, time.Second
	if s.upkeepEvery > 0 {
		r.node.upkeepEvery = s.upkeepEvery
	}
	if s.moveWithin > 0 {
		r.node.moveWithin = s.moveWithin
	}
	set(r.node)
	r.ended.Go(func() {
		r.runErr = r.node.run(ctx, func() { close(ready) })
		if r.runErr != nil {
			s.t.Errorf("node %s: %v", r.name, r.runErr)
			cancel()
		}
	})
	select {
	case <-ready:
	case <-ctx.Done():
	case <-time.After(30 * time.Second):
		s.t.Fatalf("node %s is not ready after 30 s", r.name)
	}
}

// eventually asks the first running node until its status is right.
func (s *site) eventually(what string, ok func(admin.Status) bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last admin.Status
	for {
		for _, r := range s.nodes {
			if st, err := r.admin.Status(ctx); err == nil {
				last = st
				if ok(st) {
					return
				}
				break
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("not within 45 s: %s; last: %+v", what, last)
		}
	}
}

func (s *site) deliver(r *running, to, text string) error {
	c, err := net.Dial("tcp", r.cfg.LMTP.TCP)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	client, err := smtp.NewClient(lmtpAsSMTP{c}, "localhost")
	if err != nil {
		return err
	}
	if err := client.Mail("sender@sender.test"); err != nil {
		return err
	}
	if err := client.Rcpt(to); err != nil {
		return err
	}
	w, err := client.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte(text)); err != nil {
		return err
	}
	return w.Close()
}

// lmtpAsSMTP lets net/smtp speak LMTP: it says LHLO where it would say EHLO.
type lmtpAsSMTP struct{ net.Conn }

func (c lmtpAsSMTP) Write(b []byte) (int, error) {
	if strings.HasPrefix(string(b), "EHLO") {
		_, err := c.Conn.Write(append([]byte("LHLO"), b[4:]...))
		return len(b), err
	}
	return c.Conn.Write(b)
}

func (s *site) count(r *running, user, password string) (uint32, error) {
	c, err := imapclient.DialInsecure(r.cfg.IMAP.Plain, nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.Login(user, password).Wait(); err != nil {
		return 0, err
	}
	sel, err := c.Select("INBOX", nil).Wait()
	if err != nil {
		return 0, err
	}
	return sel.NumMessages, nil
}

// Mail in at any node, out at any node; a stopped master is proposed, nothing
// changes, a person confirms, mail flows, the old master comes back and follows.
func TestThreeNodes(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 6)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := []string{"u1@example.test", "u2@example.test", "u3@example.test", "u4@example.test", "u5@example.test"}
	for i, u := range users {
		if _, err := s.nodes[i%3].admin.AddUser(ctx, admin.AddUser{Address: addr(t, u), Password: "pw"}); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 3 {
		for _, u := range users {
			if err := s.deliver(s.nodes[round], u, fmt.Sprintf("Subject: %d\r\n\r\nhello\r\n", round)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, u := range users {
		if n, err := s.count(s.nodes[(i+1)%3], u, "pw"); err != nil || n != 3 {
			t.Fatalf("%s at %s: %d messages, %v", u, s.nodes[(i+1)%3].name, n, err)
		}
	}
	if err := s.deliver(s.nodes[0], "nobody@example.test", "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "550") {
		t.Fatalf("unknown user: %v", err)
	}
	last := s.nodes[2]
	last.stopped()
	s.eventually("a proposal", func(st admin.Status) bool { return len(st.Proposals) == 1 })
	out, err := s.nodes[0].admin.Confirm(ctx, admin.ConfirmRequest{})
	if err != nil || out.Exit != 0 {
		t.Fatalf("confirm: %+v, %v", out, err)
	}
	for _, c := range s.status(ctx, s.nodes[0]).Conditions { // asked at once: what is done is not shown as open
		if c.Name == monitor.ProposalOpen || c.Name == monitor.SlotNoMaster {
			t.Errorf("right after the confirm: %s %s", c.Name, c.About)
		}
	}
	for _, u := range users {
		if err := s.deliver(s.nodes[1], u, "Subject: after\r\n\r\nhello\r\n"); err != nil {
			t.Fatalf("%s after the failover: %v", u, err)
		}
		if n, err := s.count(s.nodes[0], u, "pw"); err != nil || n != 4 {
			t.Fatalf("%s after the failover: %d messages, %v", u, n, err)
		}
	}
	s.start(last)
	s.eventually("every slot is protected again", func(st admin.Status) bool {
		for _, sl := range st.Slots {
			if !sl.Serving || !sl.IsProtected() {
				return false
			}
		}
		return true
	})
}

func addr(t *testing.T, s string) slot.Address {
	t.Helper()
	a, err := slot.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A slot whose files are damaged is refused by name; the node serves the rest,
// and mail for the refused slot's users waits at the MTA (law 9).
func TestLaw09DamagedSlotIsRefusedAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1, 0, 3)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n := s.nodes[0]
	bySlot := map[slot.ID]string{}
	for i := 0; len(bySlot) < 3; i++ {
		u := fmt.Sprintf("u%d@example.test", i)
		if id := addr(t, u).Home(3); bySlot[id] == "" {
			bySlot[id] = u
			if _, err := n.admin.AddUser(ctx, admin.AddUser{Address: addr(t, u), Password: "pw"}); err != nil {
				t.Fatal(err)
			}
			if err := s.deliver(n, u, "Subject: x\r\n\r\nhello\r\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
	n.stopped()
	slots := filepath.Join(n.cfg.Node.Data, "slots")
	if err := os.Remove(filepath.Join(slots, "s000", "SLOT")); err != nil { // one that is only damaged is mended
		t.Fatal(err)
	}
	flip(t, filepath.Join(slots, "s002", "SLOT"))
	flip(t, filepath.Join(slots, "s001", "packs", "00000001.pack"))
	s.start(n)
	s.eventually("the slots that can be serve, the damage is named", func(st admin.Status) bool {
		named := map[string]bool{}
		for _, c := range st.Conditions {
			named[string(c.Name)+" "+c.About] = true
		}
		return st.Slots[2].Serving && st.Slots[1].Serving && !st.Slots[0].Serving && named["slot-refused s000"] && named["message-missing s001"] && named["slot-file-mended s002"]
	})
	for _, id := range []slot.ID{1, 2} {
		if err := s.deliver(n, bySlot[id], "Subject: y\r\n\r\nhello\r\n"); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	for _, id := range []slot.ID{0} {
		if err := s.deliver(n, bySlot[id], "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "451") {
			t.Errorf("%s: %v, want 451: accepted mail is never bounced", id, err)
		}
		if _, err := s.count(n, bySlot[id], "pw"); err == nil || strings.Contains(err.Error(), "AUTHENTICATIONFAILED") {
			t.Errorf("log in at %s: %v, want NO [UNAVAILABLE], never a failed password", id, err)
		}
	}
}

func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b[:min(len(b), 20)])-2] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A master whose slot folder is gone does not serve an empty slot in the old
// epoch: the slot stays down, is proposed, and the replica takes over with all
// mail; what was lost is filled again (laws 2 and 7).
func TestLaw02Law07EmptiedMasterDoesNotServe(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n1 := s.nodes[0]
	st, err := n1.admin.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var id slot.ID
	for _, sl := range st.Slots {
		if sl.Master == "n1" {
			id = sl.Slot
		}
	}
	user := ""
	for i := 0; user == ""; i++ {
		if u := fmt.Sprintf("u%d@example.test", i); addr(t, u).Home(3) == id {
			user = u
		}
	}
	if _, err := n1.admin.AddUser(ctx, admin.AddUser{Address: addr(t, user), Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := s.deliver(n1, user, "Subject: x\r\n\r\nhello\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	n1.stopped()
	if err := os.RemoveAll(filepath.Join(n1.cfg.Node.Data, "slots", id.String())); err != nil {
		t.Fatal(err)
	}
	s.start(n1)
	var proposal string
	s.eventually("the slot is down and proposed", func(st admin.Status) bool {
		for _, p := range st.Proposals {
			for _, ps := range p.Slots {
				if ps.Slot == id && ps.Safe && !st.Slots[id].Serving {
					proposal = p.ID
				}
			}
		}
		return proposal != ""
	})
	if out, err := s.nodes[1].admin.Confirm(ctx, admin.ConfirmRequest{ID: proposal}); err != nil || out.Exit != 0 {
		t.Fatalf("confirm: %+v, %v", out, err)
	}
	if n, err := s.count(s.nodes[2], user, "pw"); err != nil || n != 5 {
		t.Fatalf("%d messages after the failover, %v: want 5", n, err)
	}
	s.eventually("the emptied copy is filled again and counts", func(st admin.Status) bool {
		sl := st.Slots[id]
		return sl.Serving && sl.IsProtected() && sl.Master != "n1"
	})
}
