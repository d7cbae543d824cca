package failover

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"mailnode/figures"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// slotsPerLine keeps a group's list of slots readable.
const slotsPerLine = 8

// Render prints the plan for a person with a phone at night: the verdict first,
// alike slots in one group, each doubtful slot with its reason and the command
// that accepts it.
func (p Plan) Render(w io.Writer) error {
	var out printer
	p.print(&out)
	return out.writeTo(w)
}

func (p Plan) print(out *printer) {
	if p.State != cluster.Open {
		p.printClosed(out)
		return
	}
	safe, left := p.Safe()
	serves, stays := 0, 0
	for _, s := range p.Slots {
		if s.Serves {
			serves++
		}
		if s.Stays {
			stays++
		}
	}
	switch {
	case left > 0 && serves == left:
		out.line(0, "%s: nothing to do, %s answers again", p.Proposal, p.Node)
	case safe == left:
		out.line(0, "%s: SAFE, %s of %s", p.Proposal, figures.Count(left, "slot"), p.Node)
		out.command("mailnode failover confirm " + p.Proposal)
	case safe > 0:
		out.line(0, "%s: %d of %d slots of %s are SAFE", p.Proposal, safe, left, p.Node)
		out.command("mailnode failover confirm " + p.Proposal)
	case stays == left:
		out.line(0, "%s: NOT NOW, %s of %s", p.Proposal, figures.Count(left, "slot"), p.Node)
	default:
		out.line(0, "%s: NOT SAFE, %s of %s", p.Proposal, figures.Count(left, "slot"), p.Node)
	}
	reason := p.Reason
	if p.LastWords != "" { // the recorded reason repeats them, without their age
		reason = fmt.Sprintf("%s is silent", p.Node)
	}
	if p.SinceS > 0 {
		reason = fmt.Sprintf("%s (for %s)", reason, figures.Age(time.Duration(p.SinceS)*time.Second))
	}
	out.line(0, "%s", reason)
	if p.LastWords != "" {
		out.line(0, "%s", p.LastWords)
	}
	p.printSlots(out)
	if p.CutOff != "" {
		out.gap()
		out.line(0, "%s", p.CutOff)
	}
}

func (p Plan) printSlots(out *printer) {
	var safe, unsafe, done []PlanSlot
	for _, s := range p.Slots {
		switch {
		case s.Done:
			done = append(done, s)
		case s.Safe:
			safe = append(safe, s)
		default:
			unsafe = append(unsafe, s)
		}
	}
	for _, g := range grouped(unsafe, PlanSlot.said) {
		out.gap()
		printUnsafe(out, g)
	}
	for _, g := range grouped(safe, PlanSlot.said) {
		out.gap()
		out.line(0, "%s: %s -> %s", planNames(g), g[0].From, g[0].To)
		if g[0].HandOver {
			out.line(2, "handed over by %s, which serves: a pause of about a second, %s", g[0].From, usersOf(g))
		} else {
			out.line(2, "safe, %s", facts(g))
		}
		printRest(out, g)
	}
	for _, g := range grouped(done, PlanSlot.said) {
		out.gap()
		out.line(0, "%s: %s -> %s, done", planNames(g), g[0].From, g[0].To)
	}
}

// printUnsafe prints slots that need a person's word. Those without a command to
// type are grouped, the others stand alone.
func printUnsafe(out *printer, g []PlanSlot) {
	s := g[0]
	if s.Empty {
		printEmpty(out, s)
		return
	}
	if s.Serves || s.Stays {
		out.line(0, "%s: stays on %s", planNames(g), s.From)
		out.line(2, "%s", s.Why)
		if s.Next != "" {
			out.command(s.Next)
		}
		return
	}
	if s.To == s.From {
		out.line(0, "%s: %s begins again, NOT SAFE", planNames(g), s.From)
	} else {
		out.line(0, "%s: %s -> %s, NOT SAFE", planNames(g), s.From, nodeOrNobody(s.To))
	}
	out.line(2, "%s", s.Why)
	if s.Next != "" {
		out.command(s.Next)
	}
	if s.To == "" {
		if s.NoCopy {
			out.line(2, "if none comes back, on a node of your choice:")
			out.command(fmt.Sprintf("mailnode failover propose --slot %s --to NODE --empty --accept-loss", s.Slot))
		}
		return
	}
	out.line(2, "%s", facts(g))
	if names := s.names(); names != "" {
		out.line(2, "%s", names)
	}
	printRest(out, g)
	if s.Accept != "" {
		out.line(2, "to accept the loss:")
		out.command(s.Accept)
	}
}

// printRest says what else is known of the copies of a group.
func printRest(out *printer, g []PlanSlot) {
	switch {
	case len(g[0].OtherCopies) > 0:
	case g[0].HandOver:
		out.line(2, "%s keeps the only other copy", g[0].From)
	default:
		out.line(2, "no other viable copy remains")
	}
	if len(g[0].NotChosen) > 0 {
		out.line(2, "not chosen: %s", strings.Join(g[0].NotChosen, ", "))
	}
}

// names lists the users that a living node knows, the first few of them.
func (u KnownUsers) names() string {
	list := strings.Join(u.UserNames, ", ")
	if list != "" && u.Users > len(u.UserNames) {
		list += ", ..."
	}
	return list
}

// said is what would be printed of a slot. One with a command of its own stays
// alone.
func (s PlanSlot) said() string {
	return strings.Join([]string{string(s.From), string(s.To), s.Why, s.Accept, s.Next,
		strings.Join(s.OtherCopies, " "), strings.Join(s.NotChosen, " "), fmt.Sprint(s.Safe, s.HandOver, s.Serves, s.Stays, s.Empty, s.Done)}, "|")
}

// grouped puts together of what the same would be said.
func grouped[T any](list []T, said func(T) string) [][]T {
	var out [][]T
	at := map[string]int{}
	for _, s := range list {
		key := said(s)
		i, ok := at[key]
		if !ok {
			i = len(out)
			at[key] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], s)
	}
	return out
}

// names lists slots, "s001 s004 s007 (3)"; a long list is cut, the
// count and the JSON have them all.
func names(list []slot.ID) string {
	ids := make([]string, 0, len(list))
	for _, id := range list {
		ids = append(ids, id.String())
	}
	if len(ids) == 1 {
		return ids[0]
	}
	n := len(ids)
	if n > slotsPerLine {
		ids = append(slices.Clone(ids[:slotsPerLine-1]), "...", ids[n-1])
	}
	return fmt.Sprintf("%s (%d)", strings.Join(ids, " "), n)
}

func planNames(g []PlanSlot) string {
	list := make([]slot.ID, 0, len(g))
	for _, s := range g {
		list = append(list, s.Slot)
	}
	return names(list)
}

// facts are a group's numbers: the worst lag, the sum of the rest. What is not
// known is said.
func facts(g []PlanSlot) string {
	var events, messages, bytes uint64
	users, lag, lagKnown, riskKnown := 0, 0.0, true, true
	var oldest int64
	by := g[0].RiskBy
	for _, s := range g {
		if s.RiskKnown {
			events, messages, bytes = events+*s.EventsAtRisk, messages+*s.MessagesAtRisk, bytes+*s.BytesAtRisk
			oldest = max(oldest, s.RiskAgoMs)
		}
		if s.UsersAtRisk != nil {
			users += *s.UsersAtRisk
		}
		if s.LagS != nil {
			lag = max(lag, *s.LagS)
		}
		lagKnown, riskKnown = lagKnown && s.LagS != nil, riskKnown && s.RiskKnown
		if s.RiskBy != by {
			by = ""
		}
	}
	out := "lag not known"
	if lagKnown {
		out = fmt.Sprintf("lag %.1f s when last heard", lag)
	}
	out += ", " + usersOf(g)
	switch {
	case events > 0:
		out += fmt.Sprintf(", at risk: %s, %s, %s", figures.Count(events, "event"), figures.Count(messages, "message"), figures.Size(bytes))
		if users > 0 {
			out += fmt.Sprintf(" and all of %s", figures.Count(users, "user"))
		}
		if by != "" {
			out += fmt.Sprintf(" (as %s heard %s ago)", by, figures.Age(time.Duration(oldest)*time.Millisecond))
		}
	case !riskKnown:
		out += ", how much is at risk is not known"
	}
	return out
}

// usersOf says how many users a group's slots have, as far as that is known.
func usersOf(g []PlanSlot) string {
	users, known := 0, true
	for _, s := range g {
		users, known = users+s.Users, known && s.UsersKnown
	}
	switch {
	case known:
		return figures.Count(users, "user")
	case users > 0:
		return fmt.Sprintf("at least %s", figures.Count(users, "user"))
	}
	return "users not known"
}

func (p Plan) printClosed(out *printer) {
	by := ""
	if p.ClosedBy != "" {
		by = " by " + p.ClosedBy
	}
	out.line(0, "%s: %s%s", p.Proposal, p.State, by)
	if p.Closed != "" {
		out.line(2, "%s", p.Closed)
	}
	if p.Reason != "" {
		out.line(2, "it was opened because: %s", p.Reason)
	}
	var done, left []PlanSlot
	for _, s := range p.Slots {
		if s.Done {
			done = append(done, s)
		} else {
			left = append(left, s)
		}
	}
	for _, g := range grouped(done, PlanSlot.said) {
		out.line(0, "%s: %s -> %s, done", planNames(g), g[0].From, g[0].To)
	}
	for _, g := range grouped(left, PlanSlot.said) {
		out.line(0, "%s: %s -> %s, not done", planNames(g), g[0].From, nodeOrNobody(g[0].To))
	}
}

func nodeOrNobody(n slot.NodeName) string {
	if n == "" {
		return "nobody"
	}
	return string(n)
}

func nodeList(list []slot.NodeName) string {
	var out []string
	for _, n := range list {
		out = append(out, string(n))
	}
	return strings.Join(out, ", ")
}
