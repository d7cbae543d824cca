// Package monitor is what a node says about its own health: the closed list of
// conditions, those that hold at this moment, the metrics for Prometheus, and how
// many lines its log takes.
//
// A condition is level-triggered: whoever watches something calls Set for as
// long as it is so and Clear when it no longer is; the same call twice changes
// nothing. Its age is measured with a monotonic clock (law 11).
package monitor

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Severity says who should look, and when.
type Severity string

// The severities.
const (
	Page Severity = "page" // wake somebody
	Warn Severity = "warn" // look at it today
	Info Severity = "info" // a standing fact that one should know
)

// rank orders severities, the gravest first.
func (s Severity) rank() int {
	switch s {
	case Page:
		return 0
	case Warn:
		return 1
	}
	return 2
}

// Condition is something that is so at this moment.
type Condition struct {
	Name     Name     `json:"name"`
	Severity Severity `json:"severity"`
	About    string   `json:"about"`   // node, slot or file; "" concerns the node itself
	SinceS   int64    `json:"since_s"` // seconds for which it has been so, monotonic
	Text     string   `json:"text"`    // ends with the next command to type
	Next     string   `json:"next"`    // that command alone
}

// Told is what the table cannot know of a condition that holds.
type Told struct {
	Detail string        // in brackets behind the table's text; "" for nothing
	Next   string        // the command to type instead of the table's; "" for that
	After  time.Duration // for how long it is to hold before it is shown
}

// Conditions holds what is so on this node. Safe for concurrent use.
type Conditions struct {
	age func() time.Duration // monotonic time since some fixed moment

	mu  sync.Mutex // guards now
	now map[key]standing
}

type key struct {
	name  Name
	about string
}

type standing struct {
	since time.Duration
	after time.Duration // shown when it is that old
	text  string
	next  string
}

// NewConditions returns an empty registry on the process's monotonic clock.
func NewConditions() *Conditions {
	start := time.Now()
	return &Conditions{age: func() time.Duration { return time.Since(start) }, now: make(map[key]standing)}
}

// Set says that a condition holds. detail is what the table's text cannot know
// ("" for nothing); a later Set of the same name and about replaces the detail and
// keeps the age. A name that is not in the table panics: the list is closed.
// It reports whether the condition is new, which is when it should be logged.
func (c *Conditions) Set(name Name, about, detail string) bool {
	return c.tell(name, about, Told{Detail: detail})
}

func (c *Conditions) tell(name Name, about string, t Told) bool {
	kind, ok := Lookup(name)
	if !ok {
		panic(fmt.Sprintf("set condition %q about %q: it is not in the table", name, about))
	}
	if t.Next == "" {
		t.Next = kind.next(about)
	}
	text := kind.text(t.Detail, t.Next)
	c.mu.Lock()
	defer c.mu.Unlock()
	k := key{name, about}
	before, known := c.now[k]
	if !known {
		before.since = c.age()
	}
	c.now[k] = standing{since: before.since, after: t.After, text: text, next: t.Next}
	return !known
}

// Clear says that a condition no longer holds, and whether it did.
func (c *Conditions) Clear(name Name, about string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := key{name, about}
	_, known := c.now[k]
	delete(c.now, k)
	return known
}

// Holds reports whether a condition holds, shown or not yet.
func (c *Conditions) Holds(name Name, about string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, holds := c.now[key{name, about}]
	return holds
}

// Put is Set or Clear, for watchers that have a verdict at hand.
func (c *Conditions) Put(holds bool, name Name, about, detail string) bool {
	if holds {
		return c.Set(name, about, detail)
	}
	return c.Clear(name, about)
}

// Tell is Put with all that can be told.
func (c *Conditions) Tell(holds bool, name Name, about string, t Told) bool {
	if holds {
		return c.tell(name, about, t)
	}
	return c.Clear(name, about)
}

// List returns what holds and is to be shown, the gravest first, then by name and subject.
func (c *Conditions) List() []Condition {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.age()
	list := make([]Condition, 0, len(c.now))
	for k, s := range c.now {
		if now-s.since < s.after {
			continue
		}
		kind, _ := Lookup(k.name)
		list = append(list, Condition{Name: k.name, Severity: kind.Severity, About: k.about, SinceS: int64((now - s.since) / time.Second), Text: s.text, Next: s.next})
	}
	Sort(list)
	return list
}

// Before reports whether c is to be dealt with before d: the graver one, then the
// one that stands higher in the table.
func (c Condition) Before(d Condition) bool {
	if c.Severity != d.Severity {
		return c.Severity.rank() < d.Severity.rank()
	}
	return place(c.Name) < place(d.Name)
}

func place(name Name) int {
	return slices.IndexFunc(Table(), func(k Kind) bool { return k.Name == name })
}

// Sort brings conditions, for instance of several nodes, into the order of List.
func Sort(list []Condition) {
	slices.SortFunc(list, func(a, b Condition) int {
		return cmp.Or(cmp.Compare(a.Severity.rank(), b.Severity.rank()), cmp.Compare(a.Name, b.Name), cmp.Compare(a.About, b.About))
	})
}
