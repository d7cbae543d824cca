package cluster

import (
	"cmp"
	"slices"

	"mailnode/storage/slot"
)

// MaxVoters is how many members vote at most: each decision waits for more than
// half of them.
const MaxVoters = 7

// Seat is a server of Raft's configuration, or a member that has none yet, as the
// leader knows it.
type Seat struct {
	Name     slot.NodeName
	ServerID string
	Zone     string
	Role     Role // "": a server that is no member any more
	Standby  bool
	Server   bool // Raft's configuration has it
	Votes    bool
	Alive    bool // heard just now
	Gone     bool // silent for so long that its vote is given to another
	CaughtUp bool // answers, and holds the log
	Self     bool // the leader
}

// member says that the server is a member that may have a vote one day.
func (s Seat) member() bool { return s.Role == Voter || s.Role == Witness }

// WishedVoters returns who should vote, by server ID. Their number is odd, so that none is
// there in vain; but of two both vote, so that no decision is on one disk alone. They
// are spread over zones. Who votes keeps its vote for as long as nothing is gained,
// and who is gone has one only if nobody else is there to take it. A member that was
// never heard counts for nothing (LAWS §6.18).
func WishedVoters(seats []Seat) []string {
	var may []Seat
	for _, s := range seats {
		if s.member() && (s.Votes || s.Alive && s.CaughtUp) {
			may = append(may, s)
		}
	}
	n := min(len(may), MaxVoters)
	if n > 2 && n%2 == 0 {
		n--
	}
	var out []string
	inZone := map[string]int{}
	for len(out) < n {
		best := slices.MinFunc(may, func(a, b Seat) int {
			return cmp.Or(first(!a.Gone, !b.Gone), cmp.Compare(inZone[a.Zone], inZone[b.Zone]), first(a.Votes, b.Votes),
				first(a.Role == Witness, b.Role == Witness), first(!a.Standby, !b.Standby), cmp.Compare(a.Name, b.Name))
		})
		out = append(out, best.ServerID)
		inZone[best.Zone]++
		may = slices.DeleteFunc(may, func(s Seat) bool { return s.ServerID == best.ServerID })
	}
	slices.Sort(out)
	return out
}

// first orders those that have a property before those that do not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// Step is one change of Raft's configuration.
type Step string

// The steps.
const (
	NoStep  Step = ""
	Expel   Step = "remove"    // a server that is no member
	TakeIn  Step = "add"       // a member, without a vote
	GiveIt  Step = "give vote" // to a server that holds the log
	TakeIt  Step = "take vote"
	HandOff Step = "hand leadership over" // the leader is to go, or to lose its vote
)

// NextStep returns the next change that brings Raft's servers in line with the
// members: one at a time, and none after which those that are heard would be fewer
// than a quorum. A vote that nobody uses is taken first, which costs nothing; one
// that is used goes last.
func NextStep(seats []Seat) (Step, Seat) {
	wished := WishedVoters(seats)
	is := func(s Seat) bool { return slices.Contains(wished, s.ServerID) }
	for _, step := range []struct {
		step Step
		of   func(Seat) bool
	}{
		{Expel, func(s Seat) bool { return s.Role == "" && s.Server && !s.Votes }},
		{Expel, func(s Seat) bool { return s.Role == "" && s.Server && !s.Alive }},
		{TakeIt, func(s Seat) bool { return s.Role != "" && s.Votes && s.Gone && !is(s) }},
		{TakeIn, func(s Seat) bool { return s.Role != "" && !s.Server }},
		{GiveIt, func(s Seat) bool { return s.Server && !s.Votes && s.CaughtUp && is(s) }},
		{Expel, func(s Seat) bool { return s.Role == "" && s.Server }},
		{TakeIt, func(s Seat) bool { return s.Role != "" && s.Votes && !is(s) }},
	} {
		for _, s := range seats {
			if !step.of(s) || !quorate(seats, s, step.step) {
				continue
			}
			if s.Self && s.Votes && (step.step == Expel || step.step == TakeIt) {
				return HandOff, s
			}
			return step.step, s
		}
	}
	return NoStep, Seat{}
}

// quorate reports whether those that are heard are a quorum after a step about one
// server. That servers without a vote come and go changes nothing.
func quorate(seats []Seat, of Seat, step Step) bool {
	if step == TakeIn || step == Expel && !of.Votes {
		return true
	}
	voters, alive := 0, 0
	for _, s := range seats {
		votes := s.Votes
		if s.ServerID == of.ServerID {
			votes = step == GiveIt
		}
		if votes {
			voters++
			if s.Alive {
				alive++
			}
		}
	}
	return alive > voters/2
}
