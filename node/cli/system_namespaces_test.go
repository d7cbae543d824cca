package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"mailnode/node/peer"
	"mailnode/raftfsm/cluster"
	"mailnode/raftfsm/ownership"
	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// connect opens a connection from the clients' namespace.
func (l *lab) connect(address string) (net.Conn, error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	clients, err := os.Open("/run/netns/" + l.ns("c"))
	if err != nil {
		return nil, err
	}
	defer clients.Close()
	if err := unix.Setns(int(clients.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	conn, err := net.DialTimeout("tcp", address, 2*time.Second)
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return conn, errors.Join(err, back) // the thread stays locked: nothing else runs on it
	}
	runtime.UnlockOSThread()
	return conn, err
}

// system is the lab's nodes, as the other system tests see theirs.
func (l *lab) system() *system {
	s := newSystem(l.t, l.bin, l.dir)
	s.connect = l.connect
	l.describe()
	return s
}

// describe writes what a demo writes of its nodes.
func (l *lab) describe() {
	l.t.Helper()
	d := demoFile{Users: l.users}
	for _, name := range []string{"n1", "n2", "n3"} {
		d.Nodes = append(d.Nodes, demoNode{Name: name, PID: l.nodes[name].Process.Pid, IMAPS: l.address(name) + ":993",
			LMTP: l.address(name) + ":24", Admin: l.socket(name)})
	}
	b, err := json.Marshal(d)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "demo.json.new"), b, 0o600); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(l.dir, "demo.json.new"), filepath.Join(l.dir, "demo.json")); err != nil {
		l.t.Fatal(err)
	}
}

// lose has what a node sends to another vanish without a word, or arrive again: it goes
// to an Ethernet address that nobody has.
func (l *lab) lose(from, to string, lost bool) {
	l.t.Helper()
	if lost {
		l.sh("ip", "-n", l.ns(from), "neigh", "replace", l.address(to), "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent")
		return
	}
	_ = exec.Command("ip", "-n", l.ns(from), "neigh", "del", l.address(to), "dev", "eth0").Run() // it may be mended
}

// parted is the owners of a lab, whose network is cut too.
type parted struct {
	*owners
	l *lab
}

// TestLongLaw04OwnersInNamespaces cuts one node off, cuts pairs in both directions and in
// one, kills and pauses, at random and two at once, while operators at any node type
// hand-overs and confirm what is proposed, never a loss, and mail comes in. Afterwards
// every acknowledged message is there, and porcupine finds an order of all deliveries, by
// the epoch that wrote each, in which an epoch has one master and none acknowledges after
// a later one (laws 1, 4).
func TestLongLaw04OwnersInNamespaces(t *testing.T) {
	skipUnlessLong(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("SEED=%d", seed)
	l := newLab(t)
	p := &parted{watchOwners(l.system(), seed), l}
	began := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	for _, n := range p.demo().Nodes {
		watching.Go(func() { p.watch(ctx, n) })
	}
	p.underLoad(func() {
		for range 10 {
			p.disturb()
		}
	})
	p.within(3*time.Minute, "every slot is served, and nothing is proposed", p.settled)
	stop()
	watching.Wait()
	for _, n := range p.demo().Nodes {
		p.verify(n)
	}
	histories, given := p.given(began)
	p.served()
	p.halt()
	p.wrote(began, histories)
	for id, h := range histories {
		if err := h.Check(ownership.Owner{Epoch: 1, Master: p.first(id)}, time.Minute); err != nil {
			t.Errorf("law 4: slot %s: %v", id, err)
		}
	}
	t.Logf("%d deliveries, %d changes of 6 slots, did %v", len(p.acked), given, p.did)
	if len(p.acked) < 200 || given < 6 {
		t.Error("this proves nothing")
	}
}

// disturb makes one fault, or two at once, while operators go on, and mends them.
func (p *parted) disturb() {
	nodes := p.demo().Nodes
	var mend []func()
	for _, at := range p.rng.Perm(3)[:1+p.rng.IntN(2)] {
		mend = append(mend, p.fault(nodes[at], nodes[(at+1+p.rng.IntN(2))%3]))
	}
	var operators sync.WaitGroup
	for range 2 { // two at once, who don't know of each other
		at := nodes[p.rng.IntN(3)]
		words := [][]string{{"fo", "-a", nodes[p.rng.IntN(3)].Name, "--yes"},
			{"fo", fmt.Sprintf("s%03d", p.rng.IntN(6)), nodes[p.rng.IntN(3)].Name, "--yes"},
			{"fo", "-m", nodes[p.rng.IntN(3)].Name, "--yes"}}[p.rng.IntN(3)]
		wait := time.Duration(p.rng.IntN(12)) * time.Second
		operators.Go(func() {
			_ = p.typed(at, words...) // what it says is not what counts
			p.pause(wait)
			_ = p.typed(at, "failover", "confirm", "--yes")
		})
	}
	p.pause(time.Duration(2+p.rng.IntN(13)) * time.Second)
	for _, m := range mend {
		m()
	}
	operators.Wait()
}

// fault makes a fault of a node, or between it and another, and returns what mends it.
func (p *parted) fault(hit, other demoNode) (mend func()) {
	kind := []string{"cut off", "cut in one direction", "cut a pair", "kill", "pause"}[p.rng.IntN(5)]
	p.mu.Lock()
	p.did[kind]++
	p.mu.Unlock()
	p.t.Logf("%s: %s, %s", kind, hit.Name, other.Name)
	link := func(state string) { p.l.sh("ip", "-n", p.l.ns("c"), "link", "set", hit.Name, state) }
	switch kind {
	case "cut off":
		link("down")
		return func() { link("up") }
	case "cut in one direction":
		p.l.lose(hit.Name, other.Name, true)
		return func() { p.l.lose(hit.Name, other.Name, false) }
	case "cut a pair":
		p.l.lose(hit.Name, other.Name, true)
		p.l.lose(other.Name, hit.Name, true)
		return func() { p.l.lose(hit.Name, other.Name, false); p.l.lose(other.Name, hit.Name, false) }
	case "kill":
		p.l.end(hit.Name, syscall.SIGKILL)
		return func() { p.l.serve(hit.Name); p.l.describe() }
	}
	signal := func(sig syscall.Signal) {
		if err := syscall.Kill(hit.PID, sig); err != nil {
			p.t.Errorf("signal %s to %s: %v", sig, hit.Name, err)
		}
	}
	signal(syscall.SIGSTOP)
	return func() { signal(syscall.SIGCONT) }
}

// end ends a node and waits until it is gone.
func (l *lab) end(name string, sig syscall.Signal) {
	l.t.Helper()
	if err := l.nodes[name].Process.Signal(sig); err != nil {
		l.t.Fatal(err)
	}
	if err := l.nodes[name].Wait(); err != nil && sig != syscall.SIGKILL {
		l.t.Errorf("%s: %v", name, err)
	}
}

// given begins the slots' histories with Raft's own, of which each entry is a person's
// confirmed proposal. A change is over when it was first seen.
func (p *parted) given(began time.Time) (histories map[string]*ownership.History, changes int) {
	code, out := p.cli(p.node("n1"), "failover", "history", "--json")
	var raft struct {
		Changes []struct {
			Kind, Slot, Proposal, By string
			Epoch                    slot.Epoch
			From, To                 slot.NodeName
		}
	}
	if err := json.Unmarshal([]byte(out), &raft); err != nil || code != 0 {
		p.t.Fatalf("history: exit %d, %v: %s", code, err, out)
	}
	histories = map[string]*ownership.History{}
	for _, c := range raft.Changes {
		if c.Slot == "" {
			continue
		}
		in := ownedIn{c.Slot, c.Epoch}
		p.owns("Raft's history", in, string(c.To))
		if c.Kind == "assigned" {
			histories[c.Slot] = &ownership.History{}
			continue
		}
		if c.Kind != "confirmed" {
			continue
		}
		if c.Proposal == "" || c.By == "" || c.Epoch == 1 {
			p.t.Errorf("law 4: a change that nobody confirmed: %+v", c)
		}
		changes++
		histories[c.Slot].Note(len(p.acked), 0, int64(p.seen[in].at.Sub(began)), ownership.Gives{From: ownership.Owner{Epoch: c.Epoch - 1, Master: c.From},
			To: ownership.Owner{Epoch: c.Epoch, Master: c.To}}, cluster.Done)
	}
	return histories, changes
}

// first is a slot's first master.
func (p *parted) first(id string) slot.NodeName {
	return slot.NodeName(p.seen[ownedIn{id, 1}].master)
}

// served compares what the nodes' logs say of serving with what was heard before.
func (p *parted) served() {
	line := regexp.MustCompile(`msg="slot served" node=\S+ slot=(s\d+) epoch=(\d+)`)
	for name := range p.l.nodes {
		b, err := os.ReadFile(p.l.log(name, p.l.bin))
		if err != nil {
			p.t.Fatal(err)
		}
		lines := line.FindAllSubmatch(b, -1)
		if len(lines) == 0 {
			p.t.Errorf("the log of %s does not say what it has served", name)
		}
		for _, m := range lines {
			epoch, err := strconv.ParseUint(string(m[2]), 10, 32)
			if err != nil {
				p.t.Fatal(err)
			}
			p.owns(name+"'s log", ownedIn{string(m[1]), slot.Epoch(epoch)}, name)
		}
	}
}

// wrote adds the acknowledged deliveries to the histories: each was acknowledged by the
// master of the epoch that its event was written in, which its record keeps.
func (p *parted) wrote(began time.Time, histories map[string]*ownership.History) {
	id := regexp.MustCompile(`<\d+\.system@example\.test>`)
	client := 0
	for name, h := range histories {
		last := ownedIn{name, 1}
		for p.seen[ownedIn{name, last.epoch + 1}].master != "" {
			last.epoch++
		}
		p.records(name, p.seen[last].master, func(r *event.MessageRecord, envelope []byte) {
			a, acked := p.acked[string(id.Find(envelope))]
			if !acked {
				return // its answer was lost
			}
			in := ownedIn{name, slot.Position(r.Modseq).Epoch()}
			client++
			h.Note(client, int64(a.began.Sub(began)), int64(a.ended.Sub(began)), ownership.Reads{},
				ownership.Owner{Epoch: in.epoch, Master: slot.NodeName(p.seen[in].master)})
		})
	}
	if client != len(p.acked) {
		p.t.Errorf("the slots' owners have records of %d messages, %d were acknowledged (law 1)", client, len(p.acked))
	}
}

// records reads the messages of a slot's copy at a node that has stopped.
func (p *parted) records(name, node string, fn func(r *event.MessageRecord, envelope []byte)) {
	p.t.Helper()
	dir := filepath.Join(p.l.dir, node)
	identity, err := peer.Load(dir)
	if err != nil {
		p.t.Fatal(err)
	}
	id, err := slot.ParseID(name)
	if err != nil {
		p.t.Fatal(err)
	}
	resources := local.NewResources(8 << 20)
	defer resources.Close()
	s, err := local.Open(local.Options{FS: vfs.Default, Dir: filepath.Join(dir, "slots", name), Cluster: identity.ClusterID(), Slot: id,
		Logger: slog.New(slog.DiscardHandler), Clock: storage.SystemClock(), Resources: resources, Passwords: local.NewPasswords(1)})
	if err != nil {
		p.t.Fatal(err)
	}
	defer s.Close()
	err = s.Snapshot(func(x local.Snapshot) error {
		return x.Each(event.SpanOf([]byte{event.PrefixMessage}), func(_, value []byte) error {
			r := &event.MessageRecord{}
			if err := proto.Unmarshal(value, r); err != nil {
				return err
			}
			summary, _, err := x.Get(event.SummaryKey(storage.Ref{Account: storage.AccountID(r.Account), Mailbox: storage.MailboxID(r.Mailbox)}, storage.UID(r.Uid)))
			fn(r, summary)
			return err
		})
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// halt stops all nodes.
func (p *parted) halt() {
	for name := range p.l.nodes {
		p.l.end(name, syscall.SIGTERM)
	}
}
