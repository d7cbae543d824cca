package failover

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mailnode/figures"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// Watcher stands as OpenedBy in the proposals that Decide made; it updates and
// withdraws no others.
const Watcher = "watcher"

// wallFormat is how wall times are stored in what is only shown.
const wallFormat = "2006-01-02T15:04:05Z07:00"

// Decide is what a leader does about what it noticed: open proposals for the
// slots of silent masters, of failed stores, and whatever else nobody serves, refresh targets and evidence of
// open ones, withdraw those whose cause went away. It is pure: the same state
// and view return the same commands, and once they are applied, none. It never
// changes a master (law 4). A node-wide proposal (Proposal.Node is set) is about
// a silent node; one without Node is about a living one that does not serve them.
func Decide(st *cluster.State, v View, suspectAfter time.Duration) []cluster.Command {
	w := &watch{st: st, v: v, suspectAfter: suspectAfter, freed: map[string]bool{}}
	w.countLoad()
	var out []cluster.Command
	for _, p := range st.OpenProposals() {
		if p.OpenedBy != Watcher {
			continue
		}
		if why := w.gone(p); why != "" {
			w.freed[p.ID] = true
			out = append(out, cluster.WithdrawProposal{Proposal: p.ID, Why: short(why)})
		} else if c, changed := w.update(p); changed {
			out = append(out, c)
		}
	}
	return append(out, w.open()...)
}

type watch struct {
	st           *cluster.State
	v            View
	suspectAfter time.Duration
	freed        map[string]bool       // proposals withdrawn in this round
	load         map[slot.NodeName]int // slots that a node has, or is to get
}

// countLoad counts what each node would serve if all open proposals came true.
func (w *watch) countLoad() {
	w.load = map[slot.NodeName]int{}
	for _, sl := range w.st.Slots {
		w.load[sl.Master]++
	}
	for _, p := range w.st.OpenProposals() {
		for _, ps := range p.Slots {
			if !ps.Done {
				w.load[ps.To]++
			}
		}
	}
}

// gone says why a proposal's cause is no longer there, "" while it is. A proposal
// stays as it is while some of its slots come back one after another; when that
// has come to rest, those that do not serve are proposed again, by themselves.
func (w *watch) gone(p cluster.Proposal) string {
	left, serving, settled := 0, 0, p.Node == "" || w.back(p.Node)
	for _, ps := range p.Slots {
		sl, ok := w.st.Slot(ps.Slot)
		switch {
		case ps.Done:
		case !ok || sl.Epoch != ps.Epoch || sl.Master != ps.From:
			return fmt.Sprintf("%s has changed since", ps.Slot)
		case w.v.away(sl, w.suspectAfter) != "":
			left++
			settled = false // it is handed over from where it is
		case w.v.serves(sl, w.suspectAfter):
			serving++
			settled = settled && w.back(sl.Master)
		default:
			left++
			settled = settled && w.v.unserved(sl, w.suspectAfter)
		}
	}
	switch {
	case p.Node != "" && w.v.presence(p.Node, w.suspectAfter) != alive:
		return ""
	case left == 0 && p.Node != "":
		return fmt.Sprintf("%s answers again", p.Node)
	case left == 0:
		return fmt.Sprintf("%s serves again", subject(p))
	case settled && p.Node != "":
		return fmt.Sprintf("%s answers again, and does not serve %s", p.Node, figures.Count(left, "slot"))
	case settled && serving > 0:
		return fmt.Sprintf("%s serves %s again", subject(p), figures.Count(serving, "slot"))
	}
	return ""
}

// back says that a node which was away has been heard for suspectAfter: what it
// does not serve by now does not come back by itself.
func (w *watch) back(n slot.NodeName) bool {
	return w.v.presence(n, w.suspectAfter) == alive && (!w.v.reports(n, w.suspectAfter) || w.v.Now-w.v.Nodes[n].Since >= w.suspectAfter)
}

// update refreshes what has changed of a proposal's evidence. Positions alone
// are no change: of a master that is only cut off they move all the time, and a
// plan asks for them again.
func (w *watch) update(p cluster.Proposal) (cluster.UpdateProposal, bool) {
	c := cluster.UpdateProposal{Proposal: p.ID}
	var slots []cluster.Slot
	for _, ps := range p.Slots {
		sl, ok := w.st.Slot(ps.Slot)
		if ps.Done || !ok {
			continue
		}
		slots = append(slots, sl)
		if ps.Empty { // a person's wish
			continue
		}
		s := w.survey(sl)
		if s.unknown {
			continue // not heard yet, after our start or pause: what stands is better
		}
		w.load[ps.To]--
		now := w.proposed(sl, s, w.target(s, ps.To))
		w.load[now.To]++
		if now.To != ps.To || now.Note != ps.Note || !slices.Equal(now.Others, ps.Others) {
			c.Slots = append(c.Slots, now)
		}
	}
	reason := w.reason(p.Node, slots)
	if reason != "" && reason != p.Reason {
		c.Reason = reason
	}
	return c, len(c.Slots) > 0 || c.Reason != ""
}

// open makes the new proposals: one per silent node, one per living node that does
// not serve what is its own.
func (w *watch) open() []cluster.Command {
	quiet, failed := map[slot.NodeName][]cluster.Slot{}, map[slot.NodeName][]cluster.Slot{}
	away, spreads := map[slot.NodeName][]cluster.Slot{}, map[slot.NodeName]bool{}
	for _, sl := range w.st.Slots {
		if sl.Master == "" || sl.Epoch >= slot.MaxEpoch || w.proposedAlready(sl.ID) {
			continue
		}
		switch {
		case w.v.presence(sl.Master, w.suspectAfter) == silent:
			if !w.wasRejected(sl, w.v.word(sl.Master)) {
				quiet[sl.Master] = append(quiet[sl.Master], sl)
			}
		case w.v.failed(sl, w.suspectAfter) != "":
			c, _ := w.v.copyOf(sl.Master, sl.ID)
			if !w.wasRejected(sl, c.FailedSince) {
				failed[sl.Master] = append(failed[sl.Master], sl)
			}
		case w.v.away(sl, w.suspectAfter) != "" && w.relief(sl):
			c, _ := w.v.copyOf(sl.Master, sl.ID)
			if !w.wasRejected(sl, c.FailedSince) {
				away[sl.Master] = append(away[sl.Master], sl)
			}
			spreads[sl.Master] = spreads[sl.Master] || w.v.Now-c.FailedSince < settleAfter
		case w.v.presence(sl.Master, w.suspectAfter) == alive && w.v.unserved(sl, w.suspectAfter):
			if !w.wasRejected(sl, w.v.UnservedSince(sl, w.suspectAfter)) {
				failed[sl.Master] = append(failed[sl.Master], sl)
			}
		}
	}
	for n, slots := range away {
		if !spreads[n] { // they are served: what has one cause is to be in one proposal
			failed[n] = append(failed[n], slots...)
		}
	}
	var out []cluster.Command
	for _, n := range slices.Sorted(maps.Keys(quiet)) {
		out = append(out, w.openFor(n, n, quiet[n], w.v.Silence(n)))
	}
	for _, n := range slices.Sorted(maps.Keys(failed)) {
		var age time.Duration
		for _, sl := range failed[n] {
			if c, _ := w.v.copyOf(n, sl.ID); c.Failed != "" || c.Away != "" {
				age = max(age, w.v.Now-c.FailedSince)
			} else {
				age = max(age, w.v.Now-w.v.UnservedSince(sl, w.suspectAfter))
			}
		}
		out = append(out, w.openFor("", n, failed[n], age))
	}
	return out
}

// relief reports whether a slot would be better off on another node (LAWS §6.16).
func (w *watch) relief(sl cluster.Slot) bool {
	to := w.target(w.survey(sl), "")
	return to != nil && !to.strained
}

func (w *watch) openFor(about, master slot.NodeName, slots []cluster.Slot, age time.Duration) cluster.Command {
	c := cluster.OpenProposal{Node: about, By: Watcher, Reason: w.reason(about, slots)}
	if t, ok := w.v.wallAt(age); ok {
		c.SinceWall = t.Format(wallFormat)
	}
	w.load[master] -= len(slots)
	for _, sl := range slots {
		s := w.survey(sl)
		ps := w.proposed(sl, s, w.target(s, ""))
		w.load[ps.To]++
		c.Slots = append(c.Slots, ps)
	}
	return c
}

// proposedAlready reports whether a slot stays in an open proposal after this round.
func (w *watch) proposedAlready(id slot.ID) bool {
	p, ok := w.st.OpenProposalOf(id)
	return ok && !w.freed[p.ID]
}

// wasRejected reports whether an operator rejected the watcher's last proposal for the
// slot's epoch after the cause began: then it is not proposed again until the cause
// went away and came back. That a person's wish was rejected says nothing of a cause.
func (w *watch) wasRejected(sl cluster.Slot, since time.Duration) bool {
	for _, p := range slices.Backward(w.st.Proposals) {
		if !slices.ContainsFunc(p.Slots, func(ps cluster.ProposedSlot) bool { return ps.Slot == sl.ID && ps.Epoch == sl.Epoch }) || p.OpenedBy != Watcher {
			continue
		}
		if p.State != cluster.Rejected {
			return false
		}
		at, seen := w.v.Rejected[p.ID]
		return !seen || at >= since // not seen yet: it is newer than this view
	}
	return false
}

// reason is the text over a proposal. It holds no ages: a text that changes each
// second would be a Raft write each second.
func (w *watch) reason(about slot.NodeName, slots []cluster.Slot) string {
	if about != "" && w.v.presence(about, w.suspectAfter) != alive {
		if words := w.v.Nodes[about].LastWords; words != "" {
			return short(fmt.Sprintf("%s is silent, its last words: %s", about, words))
		}
		return short(fmt.Sprintf("%s is silent", about))
	}
	first, count, stores, served := "", 0, 0, 0
	for _, sl := range slots {
		why := w.v.Idle(sl, w.suspectAfter)
		if away := w.v.away(sl, w.suspectAfter); away != "" {
			away, _, _ = strings.Cut(away, ": ")
			why = fmt.Sprintf("%s serves %s, but %s", sl.Master, sl.ID, away)
			served++
		}
		if store := w.v.failed(sl, w.suspectAfter); store != "" {
			stores++
			why = fmt.Sprintf("store of %s failed on %s: %s", sl.ID, sl.Master, store)
		}
		if why != "" {
			if count++; count == 1 {
				first = why
			}
		}
	}
	switch {
	case count > 1 && stores == count:
		first = fmt.Sprintf("%d stores failed; the first: %s", count, first)
	case count > 1 && served == count:
		first = fmt.Sprintf("%d slots are served, and are to be moved; the first: %s", count, first)
	case count > 1:
		first = fmt.Sprintf("%d slots are not served; the first: %s", count-served, first)
	}
	return short(first)
}

// subject names the node or nodes that a proposal takes slots from.
func subject(p cluster.Proposal) string {
	if p.Node != "" {
		return string(p.Node)
	}
	var from []string
	for _, ps := range p.Slots {
		if !slices.Contains(from, string(ps.From)) {
			from = append(from, string(ps.From))
		}
	}
	slices.Sort(from)
	return strings.Join(from, ", ")
}
