package sim

import (
	"cmp"
	"slices"

	"mailnode/storage/slot"
)

// event is one entry of a journal. id tells events of different histories apart,
// number is what clients are shown (law 2).
type event struct {
	position slot.Position
	id       uint64
	number   uint64
	branch   *slot.Branch // with which the lineage grows
}

// disk is a model copy: what is durable on one node.
type disk struct {
	journal  []event // never written in place
	kept     int     // the journal of the stream begins here; the state has all
	lineage  slot.Lineage
	alone    bool
	since    slot.Position
	promised slot.Epoch
	building bool
	unclean  bool      // the last stop was
	aside    [][]event // what was set aside
}

func (d disk) head() slot.Position {
	if len(d.journal) == 0 {
		return 0
	}
	return d.journal[len(d.journal)-1].position
}

func (d disk) holds(e event) bool {
	i, ok := slices.BinarySearchFunc(d.journal, e.position, func(x event, p slot.Position) int { return cmp.Compare(x.position, p) })
	return ok && d.journal[i].id == e.id
}

// after returns what the stream has after a position; false: it does not go back
// that far, or has no such position.
func (d disk) after(p slot.Position) ([]event, bool) {
	if p == 0 && d.kept == 0 {
		return d.journal, true
	}
	i, ok := slices.BinarySearchFunc(d.journal, p, func(x event, p slot.Position) int { return cmp.Compare(x.position, p) })
	if !ok || i+1 < d.kept {
		return nil, false
	}
	return d.journal[i+1:], true
}

// keptAfter is the position from which on the stream has everything.
func (d disk) keptAfter() slot.Position {
	if d.kept == 0 {
		return 0
	}
	return d.journal[d.kept-1].position
}

func (d *disk) append(e event) {
	d.journal = append(d.journal, e)
	if e.branch != nil {
		d.lineage = append(d.lineage.Clone(), *e.branch)
	}
}

// numbersPerCount is the range of numbers of one unclean count (law 2).
const numbersPerCount = 1 << 22

// next is the number that a master under an unclean count gives out.
func (d disk) next(x slot.UncleanCount) uint64 {
	least := uint64(x)*numbersPerCount + 1
	for _, e := range slices.Backward(d.journal) {
		if e.number != 0 {
			return max(least, e.number+1)
		}
	}
	return least
}
