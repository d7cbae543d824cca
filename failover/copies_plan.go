package failover

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"mailnode/figures"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// CopiesWish is what an operator wants of a slot's replicas: one more on a node, one
// less, or so many. Exactly one of Add, Drop and Count is set.
type CopiesWish struct {
	Slot  slot.ID
	Add   slot.NodeName
	Drop  slot.NodeName
	Count *int
	Force bool // drop also when no healthy copy is left beside the master
}

// CopiesPlan is what is done for a wish: in order, each decided on the record of the slot
// that the plan was made from. The first of them may refuse the next; then the plan is made again.
type CopiesPlan struct {
	Commands []cluster.Command
	Lines    []string // for a person; the first says what is done, or why nothing is
	ExitCode int
	Next     string // the command to type next, "" when there is none
}

// healthyLag is how far a copy may be behind that is counted on when another is dropped.
const healthyLag = 10 * time.Second

// copiesPlanner makes the plan of one slot.
type copiesPlanner struct {
	st           *cluster.State
	v            View
	suspectAfter time.Duration
	w            CopiesWish
	sl           cluster.Slot
}

// PlanCopies says what is to be done for a wish, by what is known now. It is made again
// before anything is done: wished again, it finds what is left, or nothing.
func PlanCopies(st *cluster.State, v View, suspectAfter time.Duration, w CopiesWish) CopiesPlan {
	sl, ok := st.Slot(w.Slot)
	if !ok {
		return noCopies(ExitUsage, "mailnode slot list", "there is no slot %s; there are s000 to s%03d", w.Slot, max(len(st.Slots)-1, 0))
	}
	pl := copiesPlanner{st, v, suspectAfter, w, sl}
	switch {
	case sl.Master == "":
		return noCopies(ExitRefused, "mailnode cluster place", "%s has no master yet: its replicas are placed with it", sl.ID)
	case w.Count != nil:
		return pl.count(*w.Count)
	case w.Add != "":
		return pl.add([]slot.NodeName{w.Add})
	}
	return pl.drop(w.Drop)
}

func noCopies(exit int, next, format string, args ...any) CopiesPlan {
	return CopiesPlan{ExitCode: exit, Next: next, Lines: []string{fmt.Sprintf(format, args...)}}
}

func (pl copiesPlanner) show() string { return "mailnode slot show " + pl.sl.ID.String() }

// mailNode finds a node that may hold mail; the plan is why there is none.
func (pl copiesPlanner) mailNode(n slot.NodeName) *CopiesPlan {
	m, ok := pl.st.Member(n)
	var no CopiesPlan
	switch {
	case !ok:
		var there []string
		for _, m := range pl.st.Members {
			if m.Role != cluster.Witness {
				there = append(there, string(m.Name))
			}
		}
		no = noCopies(ExitUsage, "mailnode cluster members", "there is no node %s; with mail there are %s", shownName(n), strings.Join(there, ", "))
	case m.Role == cluster.Witness:
		no = noCopies(ExitRefused, "mailnode cluster members", "%s is a witness: it holds no mail", n)
	default:
		return nil
	}
	return &no
}

// shownName keeps what somebody typed short and on one line.
func shownName(n slot.NodeName) string {
	q := fmt.Sprintf("%q", string(n))
	return q[:min(len(q), 40)]
}

func (pl copiesPlanner) add(nodes []slot.NodeName) CopiesPlan {
	var p CopiesPlan
	for _, n := range nodes {
		if no := pl.mailNode(n); no != nil {
			return *no
		}
		_, leaves := pl.sl.Leaves(n)
		switch {
		case pl.sl.Master == n:
			return noCopies(ExitNothing, pl.show(), "%s is the master of %s", n, pl.sl.ID)
		case leaves:
			p.Commands = append(p.Commands, cluster.CancelDrop{Slot: pl.sl.ID, Epoch: pl.sl.Epoch, Version: pl.sl.Version, Node: n})
			p.Lines = append(p.Lines, fmt.Sprintf("%s keeps its replica of %s, which was being dropped", n, pl.sl.ID))
		case pl.sl.Holds(n):
			return noCopies(ExitNothing, pl.show(), "%s holds a replica of %s already%s", n, pl.sl.ID, pl.state(n))
		case len(pl.sl.Replicas) >= cluster.MaxReplicas:
			return noCopies(ExitRefused, pl.show(), "%s has %d replicas, the most it may have", pl.sl.ID, cluster.MaxReplicas)
		default:
			c := cluster.AddReplica{Slot: pl.sl.ID, Epoch: pl.sl.Epoch, Version: pl.sl.Version, Node: n}
			if pl.st.Permit(c) != nil { // before the upgrade it is written as it was
				c.Version = 0
			}
			p.Commands = append(p.Commands, c)
			p.Lines = append(p.Lines, fmt.Sprintf("add a replica of %s on %s", pl.sl.ID, n),
				fmt.Sprintf("a job on %s fills it from %s: %s", n, pl.sl.Master, pl.size()))
			if pl.v.presence(n, pl.suspectAfter) == silent {
				p.Lines = append(p.Lines, fmt.Sprintf("%s is silent: that begins when it is back", n))
			}
		}
	}
	p.Lines = append(p.Lines, "until it has caught up it counts for nothing", "healthy copies now: "+pl.healthyNow(""))
	p.Next = pl.show()
	return p
}

// size is about how much a copy of the slot has, by its master's last report.
func (pl copiesPlanner) size() string {
	c, ok := pl.v.copyOf(pl.sl.Master, pl.sl.ID)
	if !ok || c.Position == 0 {
		return "how much is not known"
	}
	return "up to " + figures.Size(c.Bytes)
}

// state says how a copy is that is not as good as it should be.
func (pl copiesPlanner) state(n slot.NodeName) string {
	if why := pl.unhealthy(n); why != "" {
		return ": it " + why
	}
	return ""
}

// unhealthy says why a copy is not counted on, "" when it is.
func (pl copiesPlanner) unhealthy(n slot.NodeName) string {
	c, heard := pl.v.copyOf(n, pl.sl.ID)
	switch {
	case pl.v.presence(n, pl.suspectAfter) == silent:
		return "is silent"
	case !heard:
		return "was not heard yet"
	case c.fault() != "":
		return c.fault()
	case n != pl.sl.Master && (!c.LagKnown || time.Duration(c.LagMs)*time.Millisecond > healthyLag):
		return "has not caught up"
	}
	return ""
}

// healthyNow names the copies that are counted on, but for one and those that leave.
func (pl copiesPlanner) healthyNow(but slot.NodeName) string {
	list := []string{string(pl.sl.Master) + " (master)"}
	if why := pl.unhealthy(pl.sl.Master); why != "" {
		list[0] = fmt.Sprintf("%s (master, which %s)", pl.sl.Master, why)
	}
	for _, n := range pl.sl.Staying(but) {
		if pl.unhealthy(n) == "" {
			list = append(list, string(n))
		}
	}
	return strings.Join(list, ", ")
}

func (pl copiesPlanner) drop(n slot.NodeName) CopiesPlan {
	if no := pl.mailNode(n); no != nil {
		return *no
	}
	again := fmt.Sprintf("mailnode slot drop-replica %s %s", pl.sl.ID, n)
	l, leaves := pl.sl.Leaves(n)
	switch {
	case pl.sl.Master == n:
		next := pl.show()
		if rest := pl.sl.Staying(""); len(rest) > 0 {
			next = fmt.Sprintf("mailnode fo %s %s", pl.sl.ID, rest[0])
		}
		return noCopies(ExitRefused, next, "%s is the master of %s: it moves first", n, pl.sl.ID)
	case !pl.sl.Holds(n):
		return noCopies(ExitNothing, pl.show(), "%s holds no replica of %s", n, pl.sl.ID)
	case leaves && (l.Anyway || !pl.w.Force):
		return noCopies(ExitNothing, pl.show(), "the replica of %s on %s is being dropped already: %s", pl.sl.ID, n, pl.leavingFor(n))
	}
	if why := pl.sl.Keeps(n); why != "" {
		return noCopies(ExitRefused, named(why, pl.show()), "%s on %s stays: %s", pl.sl.ID, n, why)
	}
	if !pl.v.serves(pl.sl, pl.suspectAfter) {
		return noCopies(ExitRefused, pl.show(), "nobody serves %s, and only its master can say who else holds its mail", pl.sl.ID)
	}
	healthy := slices.DeleteFunc(pl.sl.Staying(n), func(o slot.NodeName) bool { return pl.unhealthy(o) != "" })
	if len(healthy) == 0 && !pl.w.Force {
		var why []string
		for _, o := range pl.sl.Staying(n) {
			why = append(why, fmt.Sprintf("%s %s", o, pl.unhealthy(o)))
		}
		if why == nil {
			why = []string{"there is no other replica"}
		}
		p := noCopies(ExitRefused, again+" --force", "no healthy copy of %s would be left beside its master %s: %s", pl.sl.ID, pl.sl.Master, strings.Join(why, ", "))
		p.Lines = append(p.Lines, fmt.Sprintf("until another has caught up, what is lost with %s is lost for good", pl.sl.Master))
		return p
	}
	p := CopiesPlan{Next: pl.show(), Commands: []cluster.Command{
		cluster.BeginDrop{Slot: pl.sl.ID, Epoch: pl.sl.Epoch, Version: pl.sl.Version, Node: n, Anyway: pl.w.Force}}}
	p.Lines = append(p.Lines, fmt.Sprintf("drop the replica of %s on %s", pl.sl.ID, n))
	if len(healthy) == 0 {
		p.Lines = append(p.Lines, fmt.Sprintf("%s IS LEFT ALONE with the mail of %s: nothing else is healthy", pl.sl.Master, pl.sl.ID))
	} else {
		p.Lines = append(p.Lines, "it goes when the others hold all that it has confirmed")
	}
	if wants := pl.sl.Wants(pl.st.DefaultReplicas); pl.w.Count == nil && len(pl.sl.Staying(n)) < wants {
		p.Lines = append(p.Lines, fmt.Sprintf("it is to have %s: a rebalance adds one. For fewer: mailnode slot replicas %s %d", figures.Count(wants, "replica"), pl.sl.ID, len(pl.sl.Staying(n))))
	}
	p.Lines = append(p.Lines, "healthy copies then: "+pl.healthyNow(n),
		fmt.Sprintf("%s removes its files when %s holds all of them; what it alone has is kept and named", n, pl.sl.Master))
	return p
}

// leavingFor says what a drop waits for.
func (pl copiesPlanner) leavingFor(n slot.NodeName) string {
	switch {
	case pl.sl.Keeps(n) != "":
		return pl.sl.Keeps(n)
	case !pl.v.serves(pl.sl, pl.suspectAfter):
		return "it goes when the slot is served"
	}
	return "it goes when others hold all that it has confirmed"
}

// LeavingFor says what the drops of a slot wait for.
func LeavingFor(st *cluster.State, v View, suspectAfter time.Duration, sl cluster.Slot) string {
	pl := copiesPlanner{st: st, v: v, suspectAfter: suspectAfter, sl: sl}
	var out []string
	for _, l := range sl.Leaving {
		out = append(out, fmt.Sprintf("%s: %s", l.Node, pl.leavingFor(l.Node)))
	}
	return strings.Join(out, "; ")
}

// named is the command that a reason names, else another.
func named(why, other string) string {
	if _, next, ok := strings.Cut(why, ": mailnode "); ok {
		return "mailnode " + next
	}
	return other
}

// count brings the number of replicas to what is wished for. It adds those that are
// missing, or drops what is too much, worst first.
func (pl copiesPlanner) count(want int) CopiesPlan {
	stay := pl.sl.Staying("")
	switch {
	case want < 0 || want > cluster.MaxReplicas:
		return noCopies(ExitUsage, "", "a slot has 0 to %d replicas beside its master, not %d", cluster.MaxReplicas, want)
	case want == len(stay) && pl.sl.Wants(pl.st.DefaultReplicas) != want:
		return pl.wanting(want, CopiesPlan{Next: pl.show()})
	case want == len(stay):
		p := noCopies(ExitNothing, pl.show(), "%s has %s already", pl.sl.ID, figures.Count(want, "replica"))
		for _, n := range stay {
			if why := pl.unhealthy(n); why != "" {
				p.Lines = append(p.Lines, fmt.Sprintf("%s %s", n, why))
			}
		}
		return p
	case want > len(stay):
		return pl.wanting(want, pl.more(want-len(stay)))
	}
	return pl.wanting(want, pl.fewer(len(stay)-want))
}

// wanting has the number recorded before what makes it true, so that nobody brings the
// slot back to the cluster's number.
func (pl copiesPlanner) wanting(want int, p CopiesPlan) CopiesPlan {
	c := cluster.SetReplicas{Slot: pl.sl.ID, Epoch: pl.sl.Epoch, Version: pl.sl.Version, Count: want}
	if p.ExitCode != ExitDone || pl.sl.Wants(pl.st.DefaultReplicas) == want || pl.st.Permit(c) != nil {
		return p
	}
	p.Commands = append([]cluster.Command{c}, p.Commands...)
	p.Lines = append([]string{fmt.Sprintf("%s is to have %s from now on", pl.sl.ID, figures.Count(want, "replica"))}, p.Lines...)
	return p
}

// more chooses nodes by the rule of placement, of those that are there. A replica that was
// being dropped is kept first.
func (pl copiesPlanner) more(missing int) CopiesPlan {
	var chosen []slot.NodeName
	for _, l := range pl.sl.Leaving {
		if len(chosen) < missing && pl.unhealthy(l.Node) == "" {
			chosen = append(chosen, l.Node)
		}
	}
	var there []cluster.Member
	for _, m := range pl.st.Members {
		if pl.sl.Holds(m.Name) || pl.v.presence(m.Name, pl.suspectAfter) == alive {
			there = append(there, m)
		}
	}
	sl := pl.sl
	for len(chosen) < missing {
		n, ok := cluster.NextReplica(there, pl.st.Slots, sl)
		if !ok {
			return noCopies(ExitRefused, "mailnode cluster token NODE", "%s needs %s without a copy of it that is there; there is %d",
				pl.sl.ID, figures.Count(missing, "node"), len(chosen))
		}
		chosen = append(chosen, n)
		sl.Replicas = append(slices.Clone(sl.Replicas), n)
	}
	return pl.add(chosen)
}

// fewer drops one after the other: first what is not healthy.
func (pl copiesPlanner) fewer(many int) CopiesPlan {
	var out CopiesPlan
	for range many {
		stay := pl.sl.Staying("")
		bad := slices.DeleteFunc(slices.Clone(stay), func(n slot.NodeName) bool { return pl.unhealthy(n) == "" })
		if len(bad) > 0 {
			stay = bad
		}
		n := cluster.SpareReplica(pl.st.Members, pl.st.Slots, pl.sl, stay)
		p := pl.drop(n)
		if p.ExitCode != ExitDone {
			if p.ExitCode == ExitRefused && strings.HasSuffix(p.Next, " --force") {
				p.Next = fmt.Sprintf("mailnode slot replicas %s %d --force", pl.sl.ID, *pl.w.Count)
			}
			return p
		}
		out.Commands = append(out.Commands, p.Commands...)
		out.Lines, out.Next = append(out.Lines, p.Lines...), p.Next
		pl.sl.Leaving = append(slices.Clone(pl.sl.Leaving), cluster.Leaver{Node: n, Anyway: pl.w.Force})
	}
	return out
}
