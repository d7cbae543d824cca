package diary

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mailnode/figures"
	"mailnode/storage/slot"
)

// linesMax bounds each list of the text; the JSON has all.
const linesMax = 200

// Markdown is the report as it is pasted into a ticket. Lists rather than tables: it
// is read on a phone, too.
func (r *Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Incident report\n\n%s UTC, asked at %s, the last %s of cluster %s.\n",
		r.Wall.UTC().Format("2006-01-02 15:04:05"), r.By, figures.Age(time.Duration(r.SinceMs)*time.Millisecond), r.Cluster)
	b.WriteString("Times are that node's clock.\n\n")
	fmt.Fprintf(&b, "Asked: %s.\n", names(slices.Sorted(maps.Keys(r.Diaries))))
	for _, n := range slices.Sorted(maps.Keys(r.Unreached)) {
		fmt.Fprintf(&b, "**Not reached: %s** (%s). What only it knows is missing here.\n", n, plain(r.Unreached[n]))
	}
	r.short(&b)
	r.next(&b)
	section(&b, "What happened", "nothing was noted", r.lines())
	section(&b, "Slots that were not served", "none was noted", r.outageLines())
	section(&b, "Masters that changed", "none", r.changeLines())
	section(&b, "Set aside", "nothing", r.Aside)
	return b.String()
}

// section writes a list with its heading.
func section(b *strings.Builder, title, none string, lines []string) {
	fmt.Fprintf(b, "\n## %s\n\n", title)
	if len(lines) == 0 {
		fmt.Fprintf(b, "%s\n", none)
	}
	if more := len(lines) - linesMax; more > 0 {
		fmt.Fprintf(b, "- (%d earlier ones: `--json`)\n", more)
		lines = lines[more:]
	}
	for _, l := range lines {
		fmt.Fprintf(b, "- %s\n", l)
	}
}

// plain keeps what others wrote from being Markdown, or more than one line.
func plain(text string) string {
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, text)
	return strings.NewReplacer("`", "'", "*", `\*`, "_", `\_`, "<", `\<`, "[", `\[`, "#", `\#`).Replace(strings.Join(strings.Fields(text), " "))
}

// short is what a person asks first.
func (r *Report) short(b *strings.Builder) {
	var lines []string
	for _, s := range r.Silences {
		line := fmt.Sprintf("%s was silent from %s", s.Node, r.clock(s.FromMs))
		if s.UntilMs == nil {
			line = fmt.Sprintf("**%s is silent** since %s", s.Node, r.clock(s.FromMs))
		} else {
			line += fmt.Sprintf(" to %s, %s", r.clock(*s.UntilMs), figures.Age(time.Duration(s.FromMs-*s.UntilMs)*time.Millisecond))
		}
		lines = append(lines, line+fmt.Sprintf(" (not heard by %s)", names(s.Nodes)))
	}
	if o, ok := r.longestOutage(); ok {
		lines = append(lines, fmt.Sprintf("%s not served, the longest %s for at most %s", figures.Count(r.outSlots(), "slot"), o.Slot, seconds(o.ForMs)))
	}
	losses := map[slot.ID]bool{}
	for _, c := range r.Changes {
		if c.AcceptedLoss {
			losses[c.Slot] = true
		}
	}
	if len(losses) > 0 {
		lines = append(lines, fmt.Sprintf("**a loss was accepted** for %s", slot.Ranges(slices.Collect(maps.Keys(losses)))))
	}
	if len(r.Changes) > 0 {
		lines = append(lines, fmt.Sprintf("%s of master", figures.Count(len(r.Changes), "change")))
	}
	section(b, "In short", "nothing that concerned a master was noted", lines)
}

func (r *Report) outSlots() int {
	seen := map[slot.ID]bool{}
	for _, o := range r.Outages {
		seen[o.Slot] = true
	}
	return len(seen)
}

// next is what the next person should know.
func (r *Report) next(b *strings.Builder) {
	var lines []string
	for _, p := range r.Open.Proposals {
		lines = append(lines, fmt.Sprintf("proposal %s is open: `mailnode failover show %s`", p, p))
	}
	for _, c := range r.Open.Conditions {
		lines = append(lines, fmt.Sprintf("%s holds, say %s: `%s`", plain(strings.TrimSpace(c.Name+" "+c.About)), names(c.Nodes), c.Next))
	}
	for _, id := range r.Open.Losses {
		lines = append(lines, fmt.Sprintf("open loss of %s: `mailnode rescue show %s`", id, id))
	}
	if list := r.Open.Unprotected; len(list) > 0 {
		lines = append(lines, fmt.Sprintf("not protected: %s", slot.Ranges(list)))
	}
	for _, home := range slices.Sorted(maps.Keys(r.Open.Away)) {
		lines = append(lines, fmt.Sprintf("away from home: %s; when %s is well: `mailnode fo -m %s`", slot.Ranges(r.Open.Away[home]), home, home))
	}
	section(b, "For whoever is next", "nothing is open", lines)
}

// lines tell the happenings, oldest first.
func (r *Report) lines() (out []string) {
	for _, h := range r.Happenings {
		out = append(out, fmt.Sprintf("%s %s: %s", r.clock(h.AgoMs), names(h.Nodes), h.words()))
	}
	return out
}

// words tells one entry.
func (e Entry) words() string {
	who := e.By
	if e.At != "" {
		who += " at " + string(e.At)
	}
	switch e.Kind {
	case Began:
		return plain(strings.TrimSpace(e.Subject + " " + e.About))
	case Ended:
		return plain(strings.TrimSpace(e.Subject+" "+e.About)) + " is over, after " + seconds(e.ForMs)
	case Proposed:
		return plain(e.Subject + " " + e.Text)
	case Order:
		return fmt.Sprintf("%s: %s", plain(who), plain(e.Text))
	case Note:
		return fmt.Sprintf("note of %s: %s", plain(who), plain(e.Text))
	}
	return plain(e.Text)
}

// outageLines tell the outages, equal ones of several slots in one line.
func (r *Report) outageLines() []string {
	var order []string
	slots := map[string][]slot.ID{}
	for _, o := range r.Outages {
		text := fmt.Sprintf("for at most %s, until %s served it at %s; lag before %s", seconds(o.ForMs), o.Master, r.clock(o.AgoMs), lag(o.LagBeforeMs))
		if o.LagAfterMs != nil {
			text += fmt.Sprintf(", after %s (protected after %s)", lag(o.LagAfterMs), seconds(o.AfterMs))
		}
		if o.CutOff {
			text += "; said only by nodes that were cut off from Raft"
		}
		if slots[text] == nil {
			order = append(order, text)
		}
		slots[text] = append(slots[text], o.Slot)
	}
	return bySlots(order, slots)
}

// bySlots begins each text with the slots that it is about.
func bySlots(order []string, slots map[string][]slot.ID) (out []string) {
	for _, text := range order {
		out = append(out, slot.Ranges(slots[text])+" "+text)
	}
	return out
}

// changeLines tell the changes of masters, those of one moment in one line.
func (r *Report) changeLines() []string {
	var order []string
	slots := map[string][]slot.ID{}
	for _, c := range r.Changes {
		text := fmt.Sprintf("%s -> %s at %s", c.From, c.To, r.clock(c.AgoMs))
		if c.Proposal != "" {
			text += ", " + c.Proposal
		}
		if c.By != "" {
			text += ", by " + plain(c.By)
		}
		switch {
		case c.AcceptedLoss:
			text += ", **loss accepted**"
		case c.Unclean:
			text += ", unclean"
		}
		if slots[text] == nil {
			order = append(order, text)
		}
		slots[text] = append(slots[text], c.Slot)
	}
	return bySlots(order, slots)
}
