package slot

import "fmt"

// PositionBits is how many low bits of a Position count events inside an epoch.
const PositionBits = 40

// MaxN is the largest event number inside one epoch.
const MaxN = 1<<PositionBits - 1

// Position is the place of an event in a slot's journal: epoch<<40 | n.
// Positions order events only along one lineage. Zero is before everything.
type Position uint64

// At returns the position of event n of an epoch.
func At(e Epoch, n uint64) Position { return Position(uint64(e)<<PositionBits | n&MaxN) }

// Epoch returns the epoch in which the event was made.
func (p Position) Epoch() Epoch { return Epoch(p >> PositionBits) }

// N returns the number of the event inside its epoch.
func (p Position) N() uint64 { return uint64(p) & MaxN }

// String returns "epoch/n", the form that operators see.
func (p Position) String() string { return fmt.Sprintf("%d/%d", p.Epoch(), p.N()) }

// Branch is one entry of a lineage: an epoch, and the position after which it began.
type Branch struct {
	Epoch Epoch    `json:"epoch"`
	After Position `json:"after"`
}

// Lineage is a copy's list of epochs in order, never trimmed.
type Lineage []Branch

// Last returns the newest epoch of the lineage, 0 when it is empty.
func (l Lineage) Last() Epoch {
	if len(l) == 0 {
		return 0
	}
	return l[len(l)-1].Epoch
}

// Shared returns the last position up to which two copies have the same history:
// a copy with this lineage whose journal ends at head, and another with lineage
// m that ends at mHead.
func (l Lineage) Shared(head Position, m Lineage, mHead Position) Position {
	i := 0
	for i < len(l) && i < len(m) && l[i] == m[i] {
		i++
	}
	// Past entry i-1 the histories part: each copy's stretch of the last common
	// epoch ends where its next epoch began, or at its head.
	end := func(x Lineage, h Position) Position {
		if i < len(x) {
			return min(x[i].After, h)
		}
		return h
	}
	if i == 0 {
		return 0
	}
	return min(end(l, head), end(m, mHead))
}

// Diverged reports whether a copy (lineage l, last event head) holds events that
// the history of m up to mHead does not have and cannot get by more events.
func (l Lineage) Diverged(head Position, m Lineage, mHead Position) bool {
	return l.Shared(head, m, mHead) < head
}

// Clone returns an independent copy.
func (l Lineage) Clone() Lineage { return append(Lineage(nil), l...) }
