package diary

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mailnode/figures"
	"mailnode/storage/slot"
)

// Report is what was in the last Since, from all nodes that could be asked, and what
// is open now. Whoever gathers fills in the first part; Complete makes the second.
type Report struct {
	Cluster   string                   `json:"cluster"`
	By        slot.NodeName            `json:"by"`   // the node that asked
	Wall      time.Time                `json:"wall"` // its clock, shown only (law 11)
	SinceMs   int64                    `json:"since_ms"`
	Diaries   map[slot.NodeName][]Told `json:"diaries"`
	Unreached map[slot.NodeName]string `json:"unreached"` // and why
	Changes   []Change                 `json:"changes"`   // of masters, by Raft, oldest first
	Aside     []string                 `json:"aside"`     // a line for each state that lies aside
	Open      Standing                 `json:"open"`

	Happenings []Happening `json:"happenings"` // oldest first
	Outages    []Outage    `json:"outages"`    // by slot
	Silences   []Silence   `json:"silences"`
}

// Change is a change of a slot's master.
type Change struct {
	Slot         slot.ID       `json:"slot"`
	Epoch        slot.Epoch    `json:"epoch"`
	From         slot.NodeName `json:"from"`
	To           slot.NodeName `json:"to"`
	Proposal     string        `json:"proposal,omitempty"`
	By           string        `json:"by"`
	Why          string        `json:"why,omitempty"`
	Unclean      bool          `json:"unclean,omitempty"`
	AcceptedLoss bool          `json:"accepted_loss,omitempty"`
	AgoMs        int64         `json:"ago_ms"` // by the wall clock of the node that recorded it
}

// Standing is what whoever is next should know.
type Standing struct {
	Conditions  []Condition                 `json:"conditions"` // of all nodes, the gravest first
	Proposals   []string                    `json:"proposals"`
	Losses      []slot.ID                   `json:"losses"`      // open ones
	Unprotected []slot.ID                   `json:"unprotected"` // or not known to be protected
	Away        map[slot.NodeName][]slot.ID `json:"away"`        // by home, the slots that another node is master of
}

// Condition is one that holds now.
type Condition struct {
	Nodes []slot.NodeName `json:"nodes"` // that say so
	Name  string          `json:"name"`
	About string          `json:"about"`
	Next  string          `json:"next"`
}

// Happening is what one or more nodes noted at about the same time.
type Happening struct {
	Nodes []slot.NodeName `json:"nodes"`
	Told
}

// Outage is for how long nobody served a slot, before the epoch's master did. It is
// never shorter than it was: from the last report of the old master.
type Outage struct {
	Slot        slot.ID       `json:"slot"`
	Epoch       slot.Epoch    `json:"epoch"`
	Master      slot.NodeName `json:"master"` // who served it then
	ForMs       int64         `json:"for_ms"`
	AgoMs       int64         `json:"ago_ms"`
	CutOff      bool          `json:"cut_off,omitempty"` // said only by nodes that knew no Raft leader
	LagBeforeMs *int64        `json:"lag_before_ms"`     // of that master's copy, as a replica; null: not known
	LagAfterMs  *int64        `json:"lag_after_ms"`      // of the best replica, when the slot was protected again; null: it is not yet
	AfterMs     int64         `json:"protected_after_ms,omitempty"`
}

// Silence is a time in which nodes did not hear another.
type Silence struct {
	Node    slot.NodeName   `json:"node"`
	Nodes   []slot.NodeName `json:"nodes"` // that did not
	FromMs  int64           `json:"from_ago_ms"`
	UntilMs *int64          `json:"until_ago_ms"` // null: still
}

// mergeWithin is how far apart two nodes may note the same.
const mergeWithin = 15 * time.Second

// Complete makes of what was gathered what a person asks first.
func (r *Report) Complete() {
	r.Happenings, r.Outages, r.Silences = []Happening{}, []Outage{}, []Silence{}
	var all []Happening
	for node, list := range r.Diaries {
		for _, e := range list {
			all = append(all, Happening{Nodes: []slot.NodeName{node}, Told: e})
		}
	}
	slices.SortFunc(all, func(a, b Happening) int {
		return cmp.Or(cmp.Compare(b.AgoMs, a.AgoMs), cmp.Compare(a.Nodes[0], b.Nodes[0]), cmp.Compare(a.Seq, b.Seq))
	})
	for _, h := range all {
		r.take(h)
	}
	slices.SortStableFunc(r.Outages, func(a, b Outage) int { return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.Epoch, b.Epoch)) })
}

// take puts one entry where it belongs; they come oldest first.
func (r *Report) take(h Happening) {
	switch h.Kind {
	case Served:
		r.outage(h)
		return
	case Protected:
		for i := range r.Outages {
			if o := &r.Outages[i]; o.Slot == *h.Slot && o.Epoch == h.Epoch && o.LagAfterMs == nil {
				o.LagAfterMs, o.AfterMs = h.LagMs, h.ForMs
			}
		}
		return
	case Began, Ended:
		if h.Subject == nodeSilent {
			r.silence(h)
		}
	}
	for i := len(r.Happenings) - 1; i >= 0; i-- {
		was := &r.Happenings[i]
		if was.Ago()-h.Ago() > mergeWithin {
			break
		}
		if same(was.Entry, h.Entry) && !slices.Contains(was.Nodes, h.Nodes[0]) {
			was.Nodes = append(was.Nodes, h.Nodes[0])
			slices.Sort(was.Nodes)
			return
		}
	}
	r.Happenings = append(r.Happenings, h)
}

// nodeSilent is the name of the condition, which is monitor's.
const nodeSilent = "node-silent"

// same reports whether two nodes note one thing. A note is told to all nodes, and
// has the number that its own node gave it.
func same(a, b Entry) bool {
	if a.Kind != b.Kind || a.Subject != b.Subject || a.About != b.About || a.At != b.At {
		return false
	}
	switch a.Kind {
	case Node, Order:
		return false
	case Note:
		return a.By == b.By && a.Text == b.Text
	}
	return true
}

// outage takes the longest of what the nodes say, of those that knew a leader if
// there are any.
func (r *Report) outage(h Happening) {
	o := Outage{Slot: *h.Slot, Epoch: h.Epoch, Master: h.At, ForMs: h.ForMs, AgoMs: h.AgoMs, CutOff: h.CutOff, LagBeforeMs: h.LagMs}
	for i := range r.Outages {
		was := &r.Outages[i]
		if was.Slot != o.Slot || was.Epoch != o.Epoch || was.AgoMs-o.AgoMs > mergeWithin.Milliseconds() {
			continue
		}
		if was.CutOff && !o.CutOff || was.CutOff == o.CutOff && o.ForMs > was.ForMs {
			o.LagBeforeMs = cmp.Or(o.LagBeforeMs, was.LagBeforeMs)
			*was = o
		} else if was.LagBeforeMs == nil {
			was.LagBeforeMs = o.LagBeforeMs
		}
		return
	}
	r.Outages = append(r.Outages, o)
}

func (r *Report) silence(h Happening) {
	node := slot.NodeName(h.About)
	i := slices.IndexFunc(r.Silences, func(s Silence) bool {
		return s.Node == node && (s.UntilMs == nil || *s.UntilMs-h.AgoMs <= mergeWithin.Milliseconds())
	})
	switch {
	case h.Kind == Began && i < 0:
		r.Silences = append(r.Silences, Silence{Node: node, Nodes: h.Nodes, FromMs: h.AgoMs + h.ForMs})
	case h.Kind == Began:
		s := &r.Silences[i]
		if !slices.Contains(s.Nodes, h.Nodes[0]) {
			s.Nodes = append(slices.Clone(s.Nodes), h.Nodes[0])
			slices.Sort(s.Nodes)
		}
	case i >= 0:
		s := &r.Silences[i]
		s.UntilMs = &h.AgoMs
	default: // it began before the time that is asked about
		r.Silences = append(r.Silences, Silence{Node: node, Nodes: h.Nodes, FromMs: h.AgoMs + h.ForMs, UntilMs: &h.AgoMs})
	}
}

// longestOutage returns the outage that was longest; false when there was none.
func (r *Report) longestOutage() (Outage, bool) {
	if len(r.Outages) == 0 {
		return Outage{}, false
	}
	return slices.MaxFunc(r.Outages, func(a, b Outage) int { return cmp.Compare(a.ForMs, b.ForMs) }), true
}

// clock shows a moment on the asking node's clock.
func (r *Report) clock(agoMs int64) string {
	return r.Wall.Add(-time.Duration(agoMs) * time.Millisecond).UTC().Format("15:04:05")
}

func names(list []slot.NodeName) string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = string(n)
	}
	return strings.Join(words, " ")
}

// seconds shows a time of up to some minutes exactly enough.
func seconds(ms int64) string { return figures.FineAge(time.Duration(ms) * time.Millisecond) }

func lag(ms *int64) string {
	if ms == nil {
		return "not known"
	}
	return fmt.Sprintf("%.1f s", float64(*ms)/1000)
}
