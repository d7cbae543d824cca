package ack

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"mailnode/storage/slot"
)

// raftModel is Raft's record of the slot and what is on its way there.
type raftModel struct {
	record  Record
	listed  []slot.NodeName
	leaving []Leaver
	mail    []Record
	drops   []Drop
}

// drop lets a drop arrive, as the state machine does it.
func (r *raftModel) drop(d Drop) {
	i := slices.IndexFunc(r.leaving, func(l Leaver) bool { return l.Node == d.Node })
	if d.Version == r.record.Version && i >= 0 && !slices.Contains(r.record.InSync, d.Node) {
		r.leaving = slices.Delete(slices.Clone(r.leaving), i, i+1)
		r.listed = slices.DeleteFunc(slices.Clone(r.listed), func(n slot.NodeName) bool { return n == d.Node })
		r.record.Version++
	}
}

// wish is a person who adds a replica, has one dropped, or takes that back.
func (r *raftModel) wish(n slot.NodeName, anyway bool) {
	r.record.Version++
	at := slices.IndexFunc(r.leaving, func(l Leaver) bool { return l.Node == n })
	switch {
	case !slices.Contains(r.listed, n):
		r.listed = append(slices.Clone(r.listed), n)
	case at >= 0 && !anyway:
		r.leaving = slices.Delete(slices.Clone(r.leaving), at, at+1)
	case at < 0:
		r.leaving = append(slices.Clone(r.leaving), Leaver{n, anyway})
	}
}

// take lets a record arrive, as the state machine does it.
func (r *raftModel) take(i int) (done bool) {
	p := r.mail[i]
	r.mail = slices.Delete(r.mail, i, i+1)
	if p.Version != r.record.Version {
		return false
	}
	p.Version++
	r.record = p
	return true
}

// machine drives one master with whatever may happen.
type machine struct {
	t        *rapid.T
	s        State
	raft     raftModel
	now      time.Duration
	head     slot.Position
	holds    map[slot.NodeName]slot.Position // durable on each replica
	mark     bool                            // durable in the copy
	marks    []Action
	proposed *Record
	dropped  *Drop
}

// do takes actions in as a driver that may be interrupted anywhere.
func (m *machine) do(acts []Action) {
	for _, a := range acts {
		switch a := a.(type) {
		case Propose:
			if m.proposed != nil {
				m.t.Fatalf("%+v is proposed while %+v is", a.Record, *m.proposed)
			}
			m.proposed = &a.Record
		case Drop:
			if m.dropped != nil {
				m.t.Fatalf("%+v is proposed while %+v is", a, *m.dropped)
			}
			m.dropped = &a
		case MarkAlone, ClearAlone:
			m.marks = append(m.marks, a)
		}
	}
}

func (m *machine) step(e Event) {
	before := fmt.Sprintf("%+v", m.s)
	next, acts := Step(m.s, e)
	if after := fmt.Sprintf("%+v", m.s); after != before {
		m.t.Fatalf("%T changed the state that it was given", e)
	}
	m.s = next
	m.do(acts)
	m.check(e)
}

// check: for the record that Raft has, one of its set holds all that may have been
// acknowledged; what nobody holds has its mark first.
func (m *machine) check(e Event) {
	if m.s.WithoutRaft() {
		if !m.mark && m.s.Released() > m.best(m.raft.record.InSync) && m.raft.record.Protected {
			m.t.Fatalf("after %T: %d is acknowledged without Raft and without a mark", e, m.s.Released())
		}
		return
	}
	if m.raft.record.Protected && m.best(m.raft.record.InSync) < m.s.Released() {
		m.t.Fatalf("after %+v: %d may be acknowledged, Raft has %+v, held %v", e, m.s.Released(), m.raft.record, m.holds)
	}
}

func (m *machine) best(set []slot.NodeName) slot.Position {
	var p slot.Position
	for _, n := range set {
		p = max(p, m.holds[n])
	}
	return p
}

func (m *machine) act() {
	t := m.t
	n := rapid.SampledFrom([]slot.NodeName{"n2", "n3"}).Draw(t, "node")
	m.now += time.Duration(rapid.IntRange(0, 1500).Draw(t, "ms")) * time.Millisecond
	switch rapid.IntRange(0, 11).Draw(t, "event") {
	case 0, 1:
		m.head++
		m.step(Asked{m.now, m.head})
	case 2: // a replica makes something durable and says so
		m.holds[n] = max(m.holds[n], slot.Position(rapid.Uint64Range(0, uint64(m.head)).Draw(t, "position")))
		m.step(Acked{At: m.now, Node: n, Conn: m.s.Replica(n).Conn, Position: m.holds[n], Viable: true})
	case 3:
		m.step(Connected{m.now, n, m.holds[n]})
	case 4:
		m.step(Disconnected{m.now, n, m.s.Replica(n).Conn})
	case 5:
		m.step(Tick{m.now, m.head})
	case 6, 7:
		m.answer()
	case 8: // what is on its way arrives late
		if len(m.raft.mail) > 0 {
			m.raft.take(rapid.IntRange(0, len(m.raft.mail)-1).Draw(t, "late"))
			m.check(nil)
		}
	case 9:
		m.learnOrMark()
	case 10: // a person, of whom the master learns now or later
		m.raft.wish(n, rapid.Bool().Draw(t, "anyway"))
		m.check(nil)
	case 11:
		m.answerDrop()
	}
}

// answerDrop ends a drop: it is done, lost, or comes late.
func (m *machine) answerDrop() {
	if len(m.raft.drops) > 0 && rapid.Bool().Draw(m.t, "late drop") {
		m.raft.drop(m.raft.drops[0])
		m.raft.drops = m.raft.drops[1:]
		m.check(nil)
		return
	}
	if m.dropped == nil {
		return
	}
	d := *m.dropped
	m.dropped = nil
	switch rapid.IntRange(0, 3).Draw(m.t, "outcome of a drop") {
	case 0:
		m.raft.drops = append(m.raft.drops, d)
	case 1: // lost
	default:
		m.raft.drop(d)
		m.check(nil)
		m.learn()
	}
	m.step(Dropped{m.now, d.Node})
}

func (m *machine) learn() { m.step(Recorded{m.now, m.raft.record, m.raft.listed, m.raft.leaving}) }

// answer ends the proposal under way in one of the ways there are.
func (m *machine) answer() {
	if m.proposed == nil {
		return
	}
	p := *m.proposed
	m.proposed = nil
	switch rapid.IntRange(0, 3).Draw(m.t, "outcome") {
	case 0:
		m.step(Proposed{m.now, p, NotSent})
	case 1: // lost, or late
		if rapid.Bool().Draw(m.t, "on its way") {
			m.raft.mail = append(m.raft.mail, p)
		}
		m.step(Proposed{m.now, p, Unknown})
	default:
		m.raft.mail = append(m.raft.mail, p)
		done := m.raft.take(len(m.raft.mail) - 1)
		m.check(nil)
		if done {
			m.learn()
			m.step(Proposed{m.now, p, Done})
		} else {
			m.step(Proposed{m.now, p, Refused})
		}
	}
}

func (m *machine) learnOrMark() {
	if len(m.marks) == 0 {
		m.learn()
		return
	}
	a := m.marks[0]
	m.marks = m.marks[1:]
	if x, set := a.(MarkAlone); set {
		m.mark = rapid.IntRange(0, 5).Draw(m.t, "disk") > 0
		m.step(Marked{At: m.now, Since: x.Since, Failed: !m.mark})
	} else {
		m.mark = false
	}
}

// TestLaw01EveryRecordIsMetByWhatIsAcknowledged: whatever happens, in whatever
// order, whoever a safe plan would choose has all that may have been acknowledged.
func TestLaw01EveryRecordIsMetByWhatIsAcknowledged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{t: t, now: time.Second, head: 10, holds: map[slot.NodeName]slot.Position{"n2": 10, "n3": 10}}
		m.raft.record, m.raft.listed = Record{Version: 1}, []slot.NodeName{"n2", "n3"}
		if rapid.Bool().Draw(t, "protected") {
			m.raft.record.Protected, m.raft.record.InSync = true, []slot.NodeName{"n2"}
			m.holds["n3"] = slot.Position(rapid.Uint64Range(0, 10).Draw(t, "n3"))
		}
		var acts []Action
		m.s, acts = New(Settings{Waits: rapid.IntRange(0, 4).Draw(t, "waits") > 0, AckTimeout: 2 * time.Second, ProtectAfter: 3 * time.Second},
			Start{At: m.now, Head: 10, Recorded: m.raft.record, Listed: []slot.NodeName{"n2", "n3"}, Again: rapid.Bool().Draw(t, "again")})
		m.do(acts)
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			m.act()
		}
	})
}
