package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mailnode/node/monitor"
	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/repl"
	"mailnode/storage/slot"
)

// How a mender goes about it.
const (
	giveUpAfter   = 10 * time.Minute // with copies that do not answer
	giveUpLeast   = 2 * time.Second  // also when all have answered: the disk is read a second time
	giveUpMax     = 1000             // bodies in an hour: more is a disk that fails, and a person's business
	fetchWithin   = 2 * time.Minute  // for one body from one copy
	mendAgainMin  = time.Second
	mendAgainMax  = time.Minute
	lookEvery     = time.Hour       // for missing messages' bodies
	lookAgain     = 2 * time.Second // when a copy that is connected did not answer
	damagedMax    = 10_000          // bodies a mender remembers; a scrub finds the others again
	mendTick      = time.Second
	recountWithin = 30 * time.Second // between two looks at how many messages are missing
)

// mender repairs one copy: it takes reports of damage from whoever meets it, asks
// the other copies for what is damaged, and gives up what none of them has (law
// 7). A copy has one for as long as it is open, whatever its role.
type mender struct {
	k    *keeper
	poke chan struct{} // capacity 1

	mending sync.Mutex // held while a body is mended, given up or taken back

	mu      sync.Mutex // guards all below
	damaged map[slot.BodyRef]*ailing
	dropped int   // reports beyond damagedMax
	index   error // damage of the index that is not dealt with

	// run's own.
	masterSince time.Duration         // 0: it is not the master
	lookAt      time.Duration         // when missing bodies are looked for again
	countAt     time.Duration         // when missing messages are counted again
	connected   map[slot.NodeName]int // replicas, by how often each has connected
	givenUp     int                   // bodies since hourFrom
	hourFrom    time.Duration         // Clock.Mono
	giveUpAt    time.Duration         // not before
}

// ailing is a body that is damaged here.
type ailing struct {
	met   time.Duration // Clock.Mono
	next  time.Duration // when the other copies are asked again
	pause time.Duration
	gone  bool // every listed copy has answered that it does not have it
}

func newMender(k *keeper) *mender {
	return &mender{k: k, poke: make(chan struct{}, 1), damaged: map[slot.BodyRef]*ailing{}}
}

// report takes damage that was met; it never waits.
func (m *mender) report(d local.Damage) {
	now := m.k.n.clock.Mono()
	m.mu.Lock()
	switch {
	case d.Index:
		m.index = d.Err
		m.k.log.Error("damage found in the index", "err", d.Err)
	case d.Body == slot.BodyRef{}:
		m.k.log.Error("damage found and dealt with", "err", d.Err)
	case m.damaged[d.Body] != nil:
	case len(m.damaged) >= damagedMax:
		m.dropped++
	default:
		m.damaged[d.Body] = &ailing{met: now, next: now, pause: mendAgainMin}
		m.k.log.Error("damage found", "body", d.Body, "err", d.Err)
	}
	m.mu.Unlock()
	select {
	case m.poke <- struct{}{}:
	default:
	}
}

// run mends until ctx ends.
func (m *mender) run(ctx context.Context) {
	t := time.NewTicker(mendTick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.poke:
		case <-t.C:
		}
		if s := m.k.opened(); s != nil && s.Failure() == nil {
			s.StillThere()
			m.step(ctx)
		}
	}
}

func (m *mender) step(ctx context.Context) {
	m.mendIndex()
	silent := map[slot.NodeName]bool{}
	for _, ref := range m.due() {
		if ctx.Err() != nil {
			return
		}
		m.mending.Lock()
		m.mend(ctx, ref, silent)
		m.mending.Unlock()
	}
	m.giveUp(ctx)
	m.watchMissing(ctx)
	m.tell()
}

// due returns the damaged bodies whose time has come, the oldest first.
func (m *mender) due() []slot.BodyRef {
	now := m.k.n.clock.Mono()
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []slot.BodyRef
	for ref, a := range m.damaged {
		if a.next <= now {
			out = append(out, ref)
		}
	}
	slices.SortFunc(out, func(x, y slot.BodyRef) int { return cmp.Compare(m.damaged[x].met, m.damaged[y].met) })
	return out
}

// outcome is what became of a damaged body.
type outcome struct {
	from  slot.NodeName // who had it whole
	whole bool          // it is whole here now
	freed bool          // nothing names it any more
	gone  bool          // every listed copy says that it does not have it
	asked []slot.NodeName
}

// mend tries once to make a body whole; m.mending is held. silent are nodes that
// did not answer just now.
func (m *mender) mend(ctx context.Context, ref slot.BodyRef, silent map[slot.NodeName]bool) outcome {
	out := m.fetch(ctx, ref, silent)
	switch {
	case out.from != "":
		m.k.log.Info("damaged body replaced", "body", ref, "from", out.from)
	case out.whole:
		m.k.log.Info("body reported as damaged is whole", "body", ref)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.damaged[ref]
	switch {
	case out.whole || out.freed:
		delete(m.damaged, ref)
	case a != nil:
		a.gone = out.gone
		a.next, a.pause = m.k.n.clock.Mono()+a.pause, min(2*a.pause, mendAgainMax)
	}
	return out
}

func (m *mender) fetch(ctx context.Context, ref slot.BodyRef, silent map[slot.NodeName]bool) (out outcome) {
	s := m.k.opened()
	if s == nil {
		return out // its index is being rebuilt
	}
	switch err := s.ProveBody(ref); {
	case err == nil:
		out.whole = true
		return out
	case !errors.Is(err, storage.ErrNotFound) && !errors.Is(err, storage.ErrCorrupt):
		return out
	}
	if unneeded, err := s.BodyUnneeded(ref); err == nil && unneeded {
		m.k.n.logErr("forget a damaged body", s.ForgetDamaged(ctx, ref))
		out.freed = true
		return out
	}
	out.gone = true
	for _, node := range m.k.others() {
		if silent[node] {
			out.gone = false
			continue
		}
		err := m.fetchFrom(ctx, node, ref)
		switch {
		case err == nil:
			out.from, out.whole, out.gone = node, true, false
			return out
		case errors.Is(err, errUnnamed):
			out.freed = true
			return out
		case errors.Is(err, storage.ErrNotFound):
		default:
			m.k.log.Info("body not fetched", "body", ref, "from", node, "err", err)
			silent[node] = silent[node] || status.Code(err) == codes.Unavailable
			out.gone = false
		}
		out.asked = append(out.asked, node)
	}
	return out
}

// errUnnamed says that a body came and is not needed any more.
var errUnnamed = errors.New("no message names it any more")

// fetchFrom takes a body from one other copy.
func (m *mender) fetchFrom(ctx context.Context, node slot.NodeName, ref slot.BodyRef) error {
	conn, err := m.k.n.peers.conn(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchWithin)
	defer cancel()
	got, err := repl.FetchBody(ctx, repl.NewReplicationClient(conn), m.k.id, ref, m.k.n.spool)
	if err != nil {
		return err
	}
	defer got.Body.Close()
	s := m.k.opened()
	if s == nil {
		return storage.Errorf(storage.ErrUnavailable, "replace body %s: the copy is not open", ref)
	}
	err = s.ReplaceBody(ctx, ref, got.Note, got.Body, got.Body.Size())
	if errors.Is(err, storage.ErrNotFound) {
		return errUnnamed
	}
	return err
}

// giveUp removes, at the master, what no copy has: LAWS §4.15.
func (m *mender) giveUp(ctx context.Context) {
	master, _, _ := m.k.role.parts()
	if master == nil {
		return
	}
	now := m.k.n.clock.Mono()
	if now-m.hourFrom >= time.Hour {
		m.givenUp, m.hourFrom = 0, now
	}
	m.mu.Lock()
	var over []slot.BodyRef
	for ref, a := range m.damaged {
		if waited := now - a.met; a.gone && waited >= giveUpLeast || waited >= m.k.n.giveUpAfter {
			over = append(over, ref)
		}
	}
	m.mu.Unlock()
	if over = over[:min(len(over), max(0, giveUpMax-m.givenUp))]; len(over) == 0 || now < m.giveUpAt {
		return
	}
	m.mending.Lock()
	defer m.mending.Unlock()
	if _, err := m.giveUpNow(ctx, master, over); err != nil {
		m.k.log.Warn("messages not given up yet", "bodies", len(over), "err", err)
		m.giveUpAt = now + mendAgainMax // it reads the whole index
		return
	}
	m.givenUp += len(over)
	m.countAt = 0
}

// giveUpNow gives bodies up; m.mending is held.
func (m *mender) giveUpNow(ctx context.Context, master *local.Master, bodies []slot.BodyRef) ([]storage.Missing, error) {
	gone, err := master.GiveUp(ctx, bodies)
	for _, x := range gone {
		m.k.log.Error("message given up: no copy has its body", "account", x.Address, "mailbox", x.Mailbox, "uid", x.UID, "guid", x.GUID)
	}
	if err != nil {
		return gone, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ref := range bodies {
		delete(m.damaged, ref)
	}
	return gone, nil
}

// mendIndex has a replica whose index has a wrong record fetch its state again.
// Damaged files of an index, and wrong records of a master's, are the keeper's
// (keeper_rebuild.go).
func (m *mender) mendIndex() {
	m.mu.Lock()
	err := m.index
	m.mu.Unlock()
	_, _, follower := m.k.role.parts()
	s := m.k.opened()
	if err == nil || follower == nil || s == nil || s.Building() || local.IndexLost(err) {
		return
	}
	follower.Refetch("its index is damaged: " + err.Error())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index = nil
}

// watchMissing looks for the bodies of missing messages: hourly, when a copy
// comes back, and when this node becomes the master.
func (m *mender) watchMissing(ctx context.Context) {
	now := m.k.n.clock.Mono()
	master, feed, _ := m.k.role.parts()
	if master == nil {
		m.masterSince, m.connected, m.countAt = 0, nil, 0
		m.k.n.conditions.Clear(monitor.MessageMissing, m.k.id.String())
		return
	}
	if m.masterSince == 0 {
		m.masterSince, m.lookAt = now, now
	}
	if m.newcomer(feed) {
		m.lookAt = now
	}
	if now < m.countAt && now < m.lookAt {
		return
	}
	s := m.k.opened()
	if s == nil {
		return
	}
	bodies, messages, err := s.GivenUp()
	if err != nil {
		m.k.n.logErr("list missing messages", err)
		return
	}
	m.countAt = now + recountWithin
	if now >= m.lookAt {
		m.lookAt = now + lookEvery
		for _, ref := range bodies {
			n, all := m.takeBack(ctx, master, ref)
			if messages -= n; !all {
				m.lookAt = now + lookAgain
			}
		}
	}
	detail := fmt.Sprintf("%d messages", messages)
	if messages == 1 {
		detail = "one message"
	}
	m.k.n.conditions.Put(messages > 0, monitor.MessageMissing, m.k.id.String(), detail)
}

// newcomer reports whether a replica has connected since the last look.
func (m *mender) newcomer(feed *repl.Feed) bool {
	if feed == nil {
		return false
	}
	_, replicas := feed.State()
	fresh := false
	now := map[slot.NodeName]int{}
	for _, r := range replicas {
		if r.Connected { // else it is looked at when it has come
			now[r.Node] = r.Times
			fresh = fresh || m.connected[r.Node] != r.Times
		}
	}
	m.connected = now
	return fresh
}

// takeBack delivers again the missing messages of a body when a copy has it, and
// returns their number. all is false when a copy that is connected did not answer.
func (m *mender) takeBack(ctx context.Context, master *local.Master, ref slot.BodyRef) (n int, all bool) {
	m.mending.Lock()
	defer m.mending.Unlock()
	all = true
	s := m.k.opened()
	whole := s != nil && s.ProveBody(ref) == nil
	for _, node := range m.k.others() {
		if whole {
			break
		}
		err := m.fetchFrom(ctx, node, ref)
		whole = err == nil
		if _, connected := m.connected[node]; connected && err != nil && !errors.Is(err, storage.ErrNotFound) {
			m.k.log.Info("missing body not fetched", "body", ref, "from", node, "err", err)
			all = false
		}
	}
	if !whole {
		return 0, all
	}
	n, err := master.TakeBack(ctx, ref)
	if err != nil {
		m.k.log.Warn("missing messages not delivered yet", "body", ref, "err", err)
		return n, false
	}
	if n > 0 {
		m.k.log.Info("missing messages delivered again: their body has turned up", "body", ref, "messages", n)
	}
	return n, true
}

// ails reports whether damage of this copy is known and not mended.
func (m *mender) ails() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.damaged) > 0 || m.dropped > 0 || m.index != nil
}

// tell keeps the conditions about damage of this copy.
func (m *mender) tell() {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.damaged) + m.dropped
	if len(m.damaged) == 0 {
		m.dropped = 0
	}
	about := m.k.id.String()
	text := fmt.Sprintf("%d bodies", n)
	if n == 1 {
		text = "one body"
	}
	if m.givenUp >= giveUpMax {
		text += "; so many that none is given up before a person has looked at the disk"
	}
	m.k.n.conditions.Put(len(m.damaged) > 0, monitor.BodyDamaged, about, text)
	m.k.tellIndexDamage(m.index)
}

// now is the repair of one body while an audit waits for it: what became of it,
// in an operator's words, and whether that is the end of it. giveUp allows it to
// give the body up at once; without it run does, within its bounds.
func (m *mender) now(ctx context.Context, ref slot.BodyRef, giveUp bool) (fixed bool, did string) {
	m.mending.Lock()
	defer m.mending.Unlock()
	out := m.mend(ctx, ref, map[slot.NodeName]bool{})
	master, _, _ := m.k.role.parts()
	switch {
	case out.from != "":
		return true, fmt.Sprintf("fetched from %s, sha256 ok", out.from)
	case out.whole:
		return true, "whole when it was read again"
	case out.freed:
		return true, "nothing needs it any more"
	case out.gone && master != nil && giveUp:
		gone, err := m.giveUpNow(ctx, master, []slot.BodyRef{ref})
		if err != nil {
			return false, fmt.Sprintf("not repaired: no copy has it; not given up: %v", err)
		}
		if len(gone) == 0 {
			return true, "no copy has it, and no mailbox shows it"
		}
		return false, "no copy has it: removed from the mailbox, mailnode slot missing " + m.k.id.String()
	}
	m.report(local.Damage{Slot: m.k.id, Body: ref, Err: errors.New("found by an audit")})
	if out.gone {
		return false, "not repaired: no copy has it; the master gives it up"
	}
	return false, "not repaired: not all copies answer; tried again in the background"
}

// indexMended clears what was said of the index: all of it has been read and proved.
func (m *mender) indexMended() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index = nil
}
