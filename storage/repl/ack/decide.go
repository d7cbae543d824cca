package ack

import (
	"slices"
	"time"

	"mailnode/storage/slot"
)

// decide looks at the whole state, after anything but an ordinary
// acknowledgement, and says what is to be done. It is level-triggered: called
// again with the same state it asks for nothing more.
func (s State) decide() (State, []Action) {
	var out []Action
	if s.joining.set != nil && s.stalled(s.joining) {
		s.leave(s.joining.set)
	}
	if s.free && s.trueAgain() {
		s.free, s.goAlone = false, 0
	}
	if s.alone.set && s.claimed && s.recorded.Protected && !s.free && s.limit() >= s.released {
		s.alone = mark{}
		out = append(out, ClearAlone{})
	}
	if want, why := s.want(); want != nil {
		s.propose(*want)
		out = append(out, Propose{Record: s.proposed[len(s.proposed)-1].Record, Why: why})
	}
	if n := s.mayDrop(); n != "" {
		s.dropping.underWay = n
		out = append(out, Drop{n, s.recorded.Version})
	}
	if s.goAlone != 0 && s.now >= s.goAlone && !s.free && s.claimed {
		s.free = true
		s.leave(nil)
	}
	if s.limit() == unlimited && !s.alone.set && !s.alone.asked && s.now >= s.alone.failed {
		s.alone.asked, s.alone.since = true, s.released
		out = append(out, MarkAlone{s.released})
	}
	return s.release(out)
}

// release lets go what may be acknowledged.
func (s State) release(out []Action) (State, []Action) {
	if p := min(s.may(), s.asked); p > s.granted {
		s.granted, s.released, s.waits = p, max(s.released, p), s.now
		out = append(out, Release{p})
	}
	return s, out
}

// propose notes a record that Raft may come to have.
func (s *State) propose(r Record) {
	p := proposal{Record: r}
	p.Version = s.recorded.Version
	s.underWay, s.joining = &p.Record, condition{}
	list := slices.Clone(s.proposed)
	if i := slices.IndexFunc(list, func(o proposal) bool { return o.same(r) }); i >= 0 {
		p.sent = list[i].sent
		list = slices.Delete(list, i, i+1)
	}
	s.proposed = append(list, p)
}

// want is the record that Raft should be asked for now; nil: none, or not yet.
func (s *State) want() (*Record, string) {
	never := !s.WantsReplicas() && (s.recorded.Protected || s.mayComeTrue())
	stalled := s.WantsReplicas() && !s.free && slices.ContainsFunc(s.conditions(), s.stalled)
	switch {
	case s.free:
	case !stalled && !never:
		s.goAlone = 0
	case s.goAlone == 0 && s.claimed:
		s.goAlone = s.now + RecordWithin
	}
	alone := &Record{Since: s.released}
	if s.alone.set {
		alone.Since = min(alone.Since, s.alone.since)
	}
	switch {
	case s.underWay != nil || s.now < s.tryAfter:
		return nil, ""
	case s.recorded.Protected && s.alone.set, s.free && (s.recorded.Protected || s.mayComeTrue()):
		return alone, "acknowledged alone"
	case never:
		return alone, `ack = "local", or no replicas`
	case s.forsaken():
		return alone, "the replica that counts is dropped"
	case stalled:
		return alone, "no replica moves"
	case !s.claimed:
		r := s.recorded
		return &r, "this master serves again"
	case !s.WantsReplicas():
		return nil, ""
	case len(s.proposed) > 0: // until its outcome is known it is asked for again
		r := s.proposed[len(s.proposed)-1].Record
		return &r, "asked for again"
	case s.recorded.Protected:
		return s.adjusted()
	}
	return s.joined()
}

// mayComeTrue reports whether Raft may come to have the slot as protected.
func (s State) mayComeTrue() bool {
	return slices.ContainsFunc(s.proposed, func(p proposal) bool { return p.Protected })
}

// stalled reports whether a change waits for a set of replicas of which none has
// moved for AckTimeout. A replica that lost its connection a moment ago has its
// AckTimeout too.
func (s State) stalled(c condition) bool {
	goal := s.asked
	if c.from != 0 { // those who join must reach what was acknowledged without them
		goal = max(goal, s.released)
	}
	if s.held(c.set) >= goal {
		return false
	}
	last := max(c.from, s.waits)
	for _, n := range c.set {
		if r := s.Replica(n); r.Viable {
			last = max(last, r.Progress)
		}
	}
	return (s.asked > s.granted || c.from != 0) && s.now-last >= s.set.AckTimeout
}

// leave ends the attempt to be protected; who did not keep up must be at the
// head for ProtectAfter again.
func (s *State) leave(set []slot.NodeName) {
	s.joining = condition{}
	list := slices.Clone(s.replicas)
	for i := range list {
		if set == nil || slices.Contains(set, list[i].Name) {
			list[i].AtHead = false
		}
	}
	s.replicas = list
}

// trueAgain reports whether a master that went on without Raft's word may rest on
// Raft's record again: one of the replicas that it names has kept up, and each
// condition is met by what was acknowledged.
func (s State) trueAgain() bool {
	if !s.recorded.Protected || !slices.ContainsFunc(s.ready(), func(n slot.NodeName) bool { return slices.Contains(s.recorded.InSync, n) }) {
		return false
	}
	return !slices.ContainsFunc(s.conditions(), func(c condition) bool { return s.held(c.set) < s.released })
}

// ready lists the replicas that have been at the head for ProtectAfter: those that stay,
// and where there are none those that leave and have nobody to take their place.
func (s State) ready() []slot.NodeName {
	var stay, leave []slot.NodeName
	for _, r := range s.replicas {
		l, leaves := s.leaves(r.Name)
		switch {
		case !r.AtHead || s.now-r.HeadFrom < s.set.ProtectAfter || l.Anyway:
		case leaves:
			leave = append(leave, r.Name)
		default:
			stay = append(stay, r.Name)
		}
	}
	if stay == nil {
		return leave
	}
	return stay
}

// joined makes changes wait for those who are ready, and wants those recorded who
// hold everything acknowledged before.
func (s *State) joined() (*Record, string) {
	if s.joining.set == nil {
		if ready := s.ready(); len(ready) > 0 {
			s.joining = condition{set: ready, from: max(s.now, time.Nanosecond)}
		}
	}
	if s.joining.set == nil {
		return nil, ""
	}
	var in []slot.NodeName
	for _, n := range s.joining.set {
		if r := s.Replica(n); r.Viable && r.Acked >= s.released {
			in = append(in, n)
		}
	}
	if in == nil {
		return nil, ""
	}
	return &Record{Protected: true, InSync: in}, "replicas have kept up"
}

// adjusted adds replicas that have caught up to the set, and takes out those
// that are gone or leave while another holds everything acknowledged.
func (s State) adjusted() (*Record, string) {
	base := s.recorded.InSync
	for _, leaver := range []bool{false, true} { // rather those that stay
		if keep := s.kept(leaver); keep != nil {
			base = keep
			break
		}
	}
	want := slices.Clone(base)
	for _, n := range s.ready() {
		if !slices.Contains(want, n) {
			want = append(want, n)
		}
	}
	slices.Sort(want)
	if slices.Equal(want, s.recorded.InSync) {
		return s.begun()
	}
	return &Record{Protected: true, InSync: want}, "replicas have come or gone"
}

// kept lists those of the set that are there, with or without those that leave and wait
// for another; nil when none of them holds everything acknowledged.
func (s State) kept(leavers bool) []slot.NodeName {
	var keep []slot.NodeName
	holds := false
	for _, n := range s.recorded.InSync {
		r := s.Replica(n)
		if l, leaves := s.leaves(n); l.Anyway || leaves && !leavers {
			continue
		}
		if r.Conn == 0 && s.now-s.began < EvictAfter || r.Viable && (r.AtHead || s.now-max(r.Progress, r.Gone) < EvictAfter) {
			keep = append(keep, n)
			holds = holds || r.Viable && r.Acked >= s.released
		}
	}
	if !holds {
		return nil
	}
	return keep
}

// begun is the first record of an epoch that a hand-over began, once all who protect it
// have its first event. Until then Raft's record says that it may not have begun, and a
// copy that lacks all of it still counts: one whose disk was restored later must not.
func (s State) begun() (*Record, string) {
	if s.recorded.Begins == 0 || slices.ContainsFunc(s.recorded.InSync, func(n slot.NodeName) bool { return s.Replica(n).Acked < s.recorded.Begins }) {
		return nil, ""
	}
	return &Record{Protected: true, InSync: s.recorded.InSync}, "the epoch has begun"
}

// forsaken reports whether a replica that counts leaves anyway, and no other is near
// enough to take its place.
func (s State) forsaken() bool {
	if !s.recorded.Protected {
		return false
	}
	forced := false
	for _, n := range s.recorded.InSync {
		l, _ := s.leaves(n)
		if !l.Anyway && s.Replica(n).AtHead {
			return false // it will hold everything in a moment
		}
		forced = forced || l.Anyway
	}
	return forced && len(s.ready()) == 0
}

// mayDrop returns a replica that leaves and may go now, "" when there is none. The
// command is decided on the record that is known: whatever is recorded before it refuses
// it, so that no replica goes which a record counts, or that must still be heard.
func (s State) mayDrop() slot.NodeName {
	if s.dropping.underWay != "" || s.now < s.dropping.tryAfter || s.underWay != nil || s.free || !s.claimed {
		return ""
	}
	for _, l := range s.leaving {
		switch {
		case slices.Contains(s.recorded.InSync, l.Node):
		case l.Anyway, s.recorded.Protected, !s.set.Waits && len(s.ready()) > 0:
			return l.Node
		}
	}
	return ""
}
