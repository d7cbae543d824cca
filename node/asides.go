package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"mailnode/failover"
	"mailnode/figures"
	"mailnode/node/monitor"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// asides knows what this node's copies have set aside, and what other nodes say
// of theirs: mail that was accepted and is in no mailbox concerns the whole
// cluster, not the node on whose disk it lies (law 7).
type asides struct {
	n    *Node
	poke chan struct{} // capacity 1: something is not counted

	mu    sync.Mutex // guards all below
	own   map[asideKey]ownAside
	heard map[slot.NodeName][]failover.AsideReport
}

type asideKey struct {
	slot slot.ID
	name string
}

// ownAside is a state that lies on this node.
type ownAside struct {
	local.Aside
	counted *local.AsideContent // nil: not yet
	trouble string              // why not
}

const (
	countAsidesEvery  = 2 * time.Second
	countAsideWithin  = 10 * time.Minute
	asideReportsMax   = 100 // in one report
	asidesNamedMax    = 3   // in one condition
	asideTroubleAfter = time.Minute
)

func newAsides(n *Node) *asides {
	return &asides{n: n, poke: make(chan struct{}, 1), own: map[asideKey]ownAside{}, heard: map[slot.NodeName][]failover.AsideReport{}}
}

// lossOf reports whether Raft knows that this node was left behind as a slot's master
// by a promotion whose loss was accepted.
func (n *Node) lossOf(id slot.ID) bool {
	st, me := n.State(), n.cfg.Node.Name
	if sl, ok := st.Slot(id); ok && sl.OpenLoss != nil && (sl.OpenLoss.Node == me || slices.Contains(sl.OpenLoss.Also, me)) {
		return true
	}
	return slices.ContainsFunc(st.History, func(c cluster.Change) bool {
		return c.Kind == cluster.ChangeResolved && c.Slot == id && c.From == me
	})
}

// look reads again what a copy has set aside. It may wait for the copy's disk, so
// it is called by whoever works for that copy alone.
func (a *asides) look(id slot.ID, s *local.Slot) {
	list, err := s.Asides()
	if err != nil {
		a.n.log.Error("look for what was set aside", "slot", id, "err", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	before := maps.Clone(a.own)
	maps.DeleteFunc(a.own, func(k asideKey, _ ownAside) bool { return k.slot == id })
	for _, x := range list {
		k := asideKey{id, x.Name}
		o, known := before[k]
		o.Aside = x
		a.own[k] = o
		if !known {
			a.n.log.Warn("a state lies aside", "slot", id, "name", x.Name, "was", x.Role, "may_be_acknowledged", x.MayBeAcknowledged(), "dismissed", x.Seen != nil)
		}
	}
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// run counts what lies aside, one state after the other, until ctx ends.
func (a *asides) run(ctx context.Context) {
	t := time.NewTicker(countAsidesEvery)
	defer t.Stop()
	again := map[asideKey]time.Duration{} // not before, by Clock.Mono
	for {
		for _, k := range a.uncounted() {
			if a.n.clock.Mono() < again[k] || ctx.Err() != nil {
				continue
			}
			if err := a.count(ctx, k); err != nil && !errors.Is(err, storage.ErrUnavailable) {
				again[k] = a.n.clock.Mono() + asideTroubleAfter
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-a.poke:
		case <-t.C:
		}
	}
}

// uncounted returns the states that nobody has counted or looked at.
func (a *asides) uncounted() []asideKey {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []asideKey
	for k, o := range a.own {
		if o.counted == nil && o.Seen == nil {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(x, y asideKey) int { return cmp.Or(cmp.Compare(x.slot, y.slot), cmp.Compare(x.name, y.name)) })
	return out
}

func (a *asides) count(ctx context.Context, k asideKey) error {
	s := a.n.copies.slot(k.slot)
	if s == nil {
		return storage.Errorf(storage.ErrUnavailable, "slot %s is not open", k.slot)
	}
	ctx, cancel := context.WithTimeout(ctx, countAsideWithin)
	defer cancel()
	got, err := s.ReadAside(ctx, k.name, func(local.AsideMessage) error { return nil })
	a.mu.Lock()
	defer a.mu.Unlock()
	o, there := a.own[k]
	if !there {
		return nil
	}
	if o.trouble = ""; err != nil {
		o.trouble = err.Error()
	} else {
		o.counted = &got
		a.n.log.Warn("counted what lies aside", "slot", k.slot, "name", k.name, "messages", got.Messages, "users", got.Users, "folders", got.Folders, "unread", len(got.Unread))
	}
	a.own[k] = o
	return err
}

// open is what goes into this node's reports: what may have been acknowledged and
// what nobody has looked at.
func (a *asides) open() []failover.AsideReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []failover.AsideReport
	for k, o := range a.own {
		if o.Seen != nil || !o.MayBeAcknowledged() || o.counted != nil && o.counted.Nothing() {
			continue
		}
		r := failover.AsideReport{Slot: k.slot, Name: k.name, Trouble: o.trouble}
		if c := o.counted; c != nil {
			r.Counted, r.Messages, r.Users, r.Folders = true, c.Messages, max(c.Users, c.NewUsers, c.ChangedAll), max(c.Folders, c.NewFolders)
			if len(c.Unread) > 0 {
				r.Trouble = "not all of it can be read"
			}
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(x, y failover.AsideReport) int {
		return cmp.Or(cmp.Compare(x.Slot, y.Slot), cmp.Compare(x.Name, y.Name))
	})
	return out[:min(len(out), asideReportsMax)]
}

// hear takes in what a node says in its report. What a silent node said last stays.
func (a *asides) hear(r failover.Report) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard[r.Node] = r.Asides
}

// watchAsides keeps the condition about each slot true, on every node: whoever
// asks any of them must learn that mail is missing from mailboxes.
func (n *Node) watchAsides(st *cluster.State) {
	said := n.asides.said(st)
	for _, sl := range st.Slots {
		lines := said[sl.ID]
		if more := len(lines) - asidesNamedMax; more > 0 {
			lines = append(lines[:asidesNamedMax:asidesNamedMax], fmt.Sprintf("and %d more", more))
		}
		n.conditions.Put(len(lines) > 0, monitor.CopyDiverged, sl.ID.String(), strings.Join(lines, "; "))
	}
}

// said returns a line for each state, by slot.
func (a *asides) said(st *cluster.State) map[slot.ID][]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[slot.ID][]string{}
	for _, m := range st.Members {
		for _, r := range a.heard[m.Name] {
			out[r.Slot] = append(out[r.Slot], asideLine(m.Name, r))
		}
	}
	return out
}

func asideLine(n slot.NodeName, r failover.AsideReport) string {
	line := fmt.Sprintf("on %s, %s: ", n, r.Name)
	switch {
	case r.Counted:
		line += fmt.Sprintf("%s, %s, %s", figures.Count(r.Messages, "message"), figures.Count(r.Users, "user"), figures.Count(r.Folders, "folder"))
	default:
		line += "how much is not known yet"
	}
	if r.Trouble != "" {
		line += ", " + r.Trouble
	}
	return line
}
