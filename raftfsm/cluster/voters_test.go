package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"mailnode/storage/slot"
)

// seats reads a line such as "n1*a n2-b w3+": n1 leads, * votes, + is heard and holds
// the log without a vote, - votes and is gone, ~ votes and is silent, . has joined and
// was never heard, ! votes and is no member any more; then the zone. w is a witness, s a standby.
func seats(line string) []Seat {
	var out []Seat
	for i, f := range strings.Fields(line) {
		s := Seat{Name: slot.NodeName(f[:2]), ServerID: f[:2] + "-1", Zone: f[3:], Role: Voter, Server: true, Self: i == 0}
		switch f[0] {
		case 'w':
			s.Role = Witness
		case 's':
			s.Standby = true
		}
		switch f[2] {
		case '*':
			s.Votes, s.Alive, s.CaughtUp = true, true, true
		case '+':
			s.Alive, s.CaughtUp = true, true
		case '-':
			s.Votes, s.Gone = true, true
		case '~':
			s.Votes = true
		case '.':
			s.Server = false
		case '!':
			s.Votes, s.Alive, s.CaughtUp, s.Role = true, true, true, ""
		case 'x':
			s.Votes, s.Role = true, ""
		}
		out = append(out, s)
	}
	return out
}

// take does a step, as Raft would; the server that is given the leadership leads.
func take(all []Seat, step Step, of Seat) []Seat {
	all = slices.Clone(all)
	i := slices.IndexFunc(all, func(s Seat) bool { return s.ServerID == of.ServerID })
	switch step {
	case Expel:
		return slices.Delete(all, i, i+1)
	case TakeIn:
		all[i].Server = true
	case GiveIt:
		all[i].Votes = true
	case TakeIt:
		all[i].Votes = false
	case HandOff:
		all[i].Self = false
		j := slices.IndexFunc(all, func(s Seat) bool { return s.Votes && s.Alive && s.ServerID != of.ServerID })
		all[j].Self = true
	}
	return all
}

func votersOf(all []Seat) string {
	var out []string
	for _, s := range all {
		if s.Votes {
			out = append(out, string(s.Name))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestVotersOfASite: who votes in the end, and by which steps.
func TestVotersOfASite(t *testing.T) {
	for line, want := range map[string]string{
		"n1*":                                 "n1:",
		"n1* n2.":                             "n1: add n2",
		"n1* n2+":                             "n1 n2: give vote n2",
		"n1* n2+ w1+":                         "n1 n2 w1: give vote n2, give vote w1",
		"n1* n2* w1* n3+":                     "n1 n2 w1:", // a fourth vote is worth nothing
		"n1* n2* n3+ n4+":                     "n1 n2 n3: give vote n3",
		"n1* n2* n3* n4+ n5+":                 "n1 n2 n3 n4 n5: give vote n4, give vote n5",
		"n1*a n2*a n3+a n4+b":                 "n1 n2 n4: give vote n4",
		"n1*a n2*a n3*a n4+b":                 "n1 n2 n4: give vote n4, take vote n3",
		"n1*a n2*a n3*b n4+b n5+c":            "n1 n2 n3 n4 n5: give vote n4, give vote n5",
		"n1* n2* s3+ n4+":                     "n1 n2 n4: give vote n4",
		"n1* n2+ n3+ n4+ n5+ n6+ n7+ n8+ n9+": "n1 n2 n3 n4 n5 n6 n7: give vote n2, give vote n3, give vote n4, give vote n5, give vote n6, give vote n7",
		"n1* n2* n3-":                         "n1 n2 n3:", // nobody is there to take it
		"n1* n2* n3- n4+":                     "n1 n2 n4: take vote n3, give vote n4",
		"n1* n2* n3~ n4+":                     "n1 n2 n3:", // it may be back in a minute
		"n1* n2- w1*":                         "n1 n2 w1:",
		"n1* n2- w1* n3+":                     "n1 n3 w1: take vote n2, give vote n3",
		"n1* n2- n3- n4* n5*":                 "n1 n2 n3 n4 n5:",
		"n1* n2- n3- n4* n5* n6+":             "n1 n2 n4 n5 n6: take vote n3, give vote n6",
		"n1* n2x n3*":                         "n1 n3: remove n2", // replaced, and dead
		"n1* n2x w1*":                         "n1 w1: remove n2",
		"n1* n2! n3*":                         "n1 n3: remove n2", // removed, and alive
		"n1* n2! n3~":                         "n1 n2 n3:",        // two votes of two would be needed
		"n1* n2! n3* n4+":                     "n1 n3 n4: give vote n4, remove n2",
		"n1! n2* n3*":                         "n2 n3: hand leadership over n1, remove n1",
		"n1* n2!":                             "n1: remove n2",
		"n1* n2* n3* n4!":                     "n1 n2 n3: remove n4",
	} {
		all := seats(line)
		var steps []string
		for range 20 {
			step, of := NextStep(all)
			if step == NoStep {
				break
			}
			steps = append(steps, fmt.Sprintf("%s %s", step, of.Name))
			all = take(all, step, of)
		}
		got := votersOf(all) + ":"
		if len(steps) > 0 {
			got += " " + strings.Join(steps, ", ")
		}
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", line, got, want)
		}
	}
}

// TestVotersComeToRest: from wherever, the steps end; no step leaves fewer than a
// quorum alive that was alive before it, and in the end the votes are as wished as far
// as the living can bring them there.
func TestVotersComeToRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []Seat
		for i := range rapid.IntRange(1, 11).Draw(t, "nodes") {
			s := Seat{Name: slot.NodeName(fmt.Sprintf("n%02d", i)), ServerID: fmt.Sprintf("n%02d-1", i), Self: i == 0,
				Zone: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "zone"), Role: rapid.SampledFrom([]Role{Voter, Voter, Witness, Nonvoter, ""}).Draw(t, "role"),
				Server: rapid.Bool().Draw(t, "server"), Alive: rapid.IntRange(0, 3).Draw(t, "alive") > 0}
			if i == 0 {
				s.Role, s.Server, s.Alive, s.Votes = Voter, true, true, true
			}
			s.Votes = s.Votes || s.Server && s.Role != Nonvoter && rapid.Bool().Draw(t, "votes")
			s.CaughtUp = s.Alive && s.Server && (s.Votes || rapid.Bool().Draw(t, "caught up"))
			s.Gone = !s.Alive && rapid.Bool().Draw(t, "gone")
			if s.Role == "" && !s.Server {
				continue
			}
			all = append(all, s)
		}
		slack := func() int {
			voters, alive := 0, 0
			for _, s := range all {
				if s.Votes {
					voters++
					if s.Alive {
						alive++
					}
				}
			}
			return alive - voters/2 - 1
		}
		if slack() < 0 {
			t.Skip("there is no quorum, and so no leader")
		}
		for n := 0; ; n++ {
			step, of := NextStep(all)
			if step == NoStep {
				break
			}
			all = take(all, step, of)
			if slack() < 0 {
				t.Fatalf("%s %s cost the quorum: %+v", step, of.Name, all)
			}
			if n > 60 {
				t.Fatalf("no end: %s %s in %+v", step, of.Name, all)
			}
		}
		wished := WishedVoters(all)
		if n := len(wished); n > 2 && n%2 == 0 || n > MaxVoters {
			t.Fatalf("%d voters are wished", n)
		}
		silent := slices.ContainsFunc(all, func(s Seat) bool { return s.Votes && !s.Alive })
		for _, s := range all {
			if want := slices.Contains(wished, s.ServerID); !silent && s.Votes != want {
				t.Fatalf("%s: votes %v, want %v: %+v", s.Name, s.Votes, want, all)
			}
		}
	})
}
