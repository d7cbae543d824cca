package local

import (
	"sync"

	"mailnode/storage/blob"
	"mailnode/storage/slot"
)

// stage has the bodies that were put into the packs and that the durable state does
// not point to yet.
type stage struct {
	mu      sync.Mutex // guards all below
	bodies  map[slot.BodyRef]staged
	ever    uint64         // how many there ever were
	foreign []slot.BodyRef // of bodies: those from other nodes, oldest first
}

func newStage() stage { return stage{bodies: map[slot.BodyRef]staged{}} }

// staged is a body that was put into the packs. Bodies are numbered in the order in
// which they are staged, and only after Put has returned: so a caller that reads
// count and then syncs the packs has made durable all bodies up to that number.
//
// A body leaves the stage only when the durable state has it (landed), or when
// nothing can point to it any more (abandon): so a reader that looks on the stage
// first, and then takes the durable state, sees every body that is here.
type staged struct {
	blob.Location
	number    uint64
	placed    bool // a batch that is not settled points to it
	abandoned bool // by the change that staged it, while placed
}

// add puts a body on the stage.
func (g *stage) add(ref slot.BodyRef, loc blob.Location) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ever++
	g.bodies[ref] = staged{Location: loc, number: g.ever}
}

// count returns how many bodies were staged until now.
func (g *stage) count() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ever
}

func (g *stage) find(ref slot.BodyRef) (staged, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st, ok := g.bodies[ref]
	return st, ok
}

func (g *stage) at(ref slot.BodyRef) (blob.Location, bool) {
	st, ok := g.find(ref)
	return st.Location, ok
}

// place notes that a batch points to bodies.
func (g *stage) place(refs []slot.BodyRef) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range refs {
		if st, ok := g.bodies[r]; ok {
			st.placed = true
			g.bodies[r] = st
		}
	}
}

// unplace notes that the batch which pointed to bodies will never be.
func (g *stage) unplace(refs []slot.BodyRef) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range refs {
		st, ok := g.bodies[r]
		switch {
		case ok && st.abandoned:
			delete(g.bodies, r)
		case ok:
			st.placed = false
			g.bodies[r] = st
		}
	}
}

// landed takes bodies off the stage that the durable view has, which is installed
// before.
func (g *stage) landed(refs []slot.BodyRef) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range refs {
		if g.bodies[r].placed { // else it was staged again, for another change
			delete(g.bodies, r)
		}
	}
}

// abandon takes a body off the stage that its change, which has returned, does not
// need any more. The caller may have given up while the change was on its way to
// the disk: then the body stays until that is settled.
func (g *stage) abandon(ref slot.BodyRef) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if st, ok := g.bodies[ref]; ok && st.placed {
		st.abandoned = true
		g.bodies[ref] = st
		return
	}
	delete(g.bodies, ref)
}

// foreignMax is how many bodies from other nodes may wait for their events. One that
// the master pushed for a delivery that it then refused waits for ever, so the oldest
// are forgotten; when an event names such a one after all, it is asked for again.
const foreignMax = 1 << 16

// cameFromElsewhere notes that a staged body is another node's.
func (g *stage) cameFromElsewhere(ref slot.BodyRef) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.foreign = append(g.foreign, ref); len(g.foreign) > foreignMax {
		if oldest := g.foreign[0]; !g.bodies[oldest].placed {
			delete(g.bodies, oldest)
		}
		g.foreign = g.foreign[1:]
	}
}

// forgetForeign forgets bodies from other nodes that wait for their events in the packs
// of old.
func (g *stage) forgetForeign(old map[uint32]struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	kept := g.foreign[:0]
	for _, ref := range g.foreign {
		loc, ok := g.bodies[ref]
		if _, forget := old[loc.Pack]; ok && forget && !loc.placed {
			delete(g.bodies, ref)
		} else if ok {
			kept = append(kept, ref)
		}
	}
	clear(g.foreign[len(kept):])
	g.foreign = kept
}

// packs returns the packs that have a staged body.
func (g *stage) packs() map[uint32]struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	in := map[uint32]struct{}{}
	for _, st := range g.bodies {
		in[st.Pack] = struct{}{}
	}
	return in
}
