package local

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/index"
	"mailnode/storage/slot"
)

// view is a state of the copy: a snapshot of one group and all before it, taken
// before the next one is committed. It is shown to readers only once it is
// durable. It is counted, because readers outlive its replacement.
type view struct {
	*viewState
	ctx context.Context // of whoever reads it; nil: reads to the end
}

// viewState is what the readers of a view share.
type viewState struct {
	s    *Slot
	snap *pebble.Snapshot
	refs atomic.Int64
	// generation counts how often the slot's whole state was replaced before.
	generation uint64
	// number is higher than that of every earlier view of this Slot.
	number uint64
	// users is as its group left it.
	users userCount
	known event.Head // the head of this state, in memory: a caller need not wait for the disk
}

// views are the states of a copy: the durable one, which readers see, and what is
// kept in memory of it.
type views struct {
	durable  atomic.Pointer[view]
	readers  sync.WaitGroup // views that are not released
	made     atomic.Uint64  // how many there ever were
	known    event.Head     // of the last group that entered Pebble; Open's, then the committer's own
	building atomic.Bool
	// generation is raised in the committer when the whole state is replaced:
	// what was remembered of an older one is worth nothing (view_listing.go).
	generation  atomic.Uint64
	usersAtOpen atomic.Pointer[int] // nil: not counted yet (CountUsers)
}

// newView takes what is committed now, durable or not. Only the committer and
// Open call it, right after a commit.
func (s *Slot) newView() *view {
	v := &view{viewState: &viewState{s: s, snap: s.db.NewSnapshot(), generation: s.generation.Load(), number: s.made.Add(1), known: s.known}}
	v.refs.Store(1)
	return v
}

// install makes v, which has become durable, what readers see.
func (w *views) install(v *view) {
	w.readers.Add(1)
	if old := w.durable.Swap(v); old != nil {
		old.release()
	}
}

// endViews refuses further reads and waits for those under way; after a failure
// it does not wait, since the index then stays open.
func (s *Slot) endViews() {
	if v := s.durable.Swap(nil); v != nil {
		s.guarded(func() error { v.release(); return nil })
	}
	if s.Failure() == nil {
		s.unlessHung(s.readers.Wait)
	}
}

// acquire takes the durable state; the caller releases it. Nil after Close.
func (w *views) acquire() *view {
	for {
		v := w.durable.Load()
		if v == nil {
			return nil
		}
		if n := v.refs.Load(); n > 0 && v.refs.CompareAndSwap(n, n+1) {
			return v
		}
	}
}

// read runs fn on the durable state.
func (s *Slot) read(fn func(v *view) error) error {
	v := s.acquire()
	if v == nil {
		return storage.Errorf(storage.ErrUnavailable, "slot %s is closed", s.o.Slot)
	}
	defer v.release()
	return s.met(fn(v))
}

// until returns the view for a reader who reads no further once ctx has ended.
func (v *view) until(ctx context.Context) *view { return &view{v.viewState, ctx} }

// ended is why reading ends before its end, or nil.
func (v *view) ended() error {
	if v.ctx == nil || v.ctx.Err() == nil {
		return nil
	}
	return storage.Errorf(storage.ErrUnavailable, "slot %s: %w", v.s.o.Slot, v.ctx.Err())
}

func (v *view) release() {
	if v.refs.Add(-1) == 0 {
		if v.s.Failure() == nil { // else a parked goroutine may own Pebble's locks
			v.snap.Close()
		}
		v.s.readers.Done()
	}
}

// Get implements the reading half of event.Records.
func (v *view) Get(key []byte) ([]byte, bool, error) {
	if err := v.ended(); err != nil {
		return nil, false, err
	}
	return pebbleGet(v.snap, key)
}

func (s *Slot) get(key []byte) ([]byte, bool, error) { return pebbleGet(s.db, key) }

func pebbleGet(r pebble.Reader, key []byte) ([]byte, bool, error) {
	v, found, err := index.Get(r, key)
	if err != nil {
		err = readError(err)
	}
	return v, found, err
}

// readError wraps the error of a read in its kind.
func readError(err error) error {
	if index.IsDamaged(err) {
		return storage.Errorf(storage.ErrCorrupt, "read index: %w", index.FirstLine(err))
	}
	return storage.Errorf(storage.ErrUnavailable, "read index: %w", err)
}

func (v *view) iter(sp event.Span) (*pebble.Iterator, error) { return newIter(v.snap, sp) }

// met is how readers tell of a record that is wrong and does not stop them.
func (v *view) met(err error) { v.s.met(err) }

func (v *view) touch(int) {} // nobody waits for a reader

func newIter(r pebble.Reader, sp event.Span) (*pebble.Iterator, error) {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: sp.Lower, UpperBound: sp.Upper})
	if err != nil {
		return nil, readError(err)
	}
	return it, nil
}

// reader is what views and transactions have in common.
type reader interface {
	Get(key []byte) ([]byte, bool, error)
	iter(sp event.Span) (*pebble.Iterator, error)
	met(damage error)
	touch(keys int)
	ended() error
}

// each calls fn for the records of a span, in key order, until its first error.
func each(r reader, sp event.Span, fn func(key, value []byte) error) error {
	it, err := r.iter(sp)
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		r.touch(1)
		v, err := it.ValueAndErr()
		if err != nil {
			err = readError(err)
		} else if err = r.ended(); err == nil {
			err = fn(it.Key(), v)
		}
		if err != nil {
			it.Close()
			return err
		}
	}
	if err := it.Error(); err != nil {
		it.Close()
		return readError(err)
	}
	return it.Close()
}

func (v *view) head() (slot.Position, uint64, error) {
	var h event.HeadRecord
	_, err := event.Load(v, event.HeadKey(), &h)
	return slot.Position(h.Position), h.SlotClockMs, err
}

// headOf reads the head from the records.
func headOf(r reader) (h event.Head, err error) {
	var at event.HeadRecord
	if _, err := event.Load(r, event.HeadKey(), &at); err != nil {
		return h, err
	}
	rec := &event.SlotRecord{}
	if _, err := event.Load(r, event.SlotKey(), rec); err != nil {
		return h, err
	}
	h = event.Head{Position: slot.Position(at.Position), ClockMs: at.SlotClockMs, Births: at.Births, Bytes: at.BirthBytes,
		Lineage: rec.SlotLineage(), Unclean: slot.UncleanCount(rec.Unclean)}
	h.KeptAfter, err = journalStart(r)
	return h, err
}

// Head returns the durable head. It answers from memory: a node asks all its copies
// each second, and a copy whose disk hangs must not hold it up (law 9).
func (s *Slot) Head() (event.Head, error) {
	v := s.acquire()
	if v == nil {
		return event.Head{}, storage.Errorf(storage.ErrUnavailable, "slot %s is closed", s.o.Slot)
	}
	h := v.known
	v.release()
	h.Building = s.building.Load()
	return h, nil
}

// Find returns the scope of an address or, when name is not "", of one of its mailboxes,
// and the slot that the account is in: when that is another slot, the scope means
// nothing. It works on replicas too.
func (s *Slot) Find(addr slot.Address, name string) (sc Scope, in slot.ID, err error) {
	err = s.read(func(v *view) error {
		rec := &event.AddressRecord{}
		found, err := event.Load(v, event.AddressKey(addr), rec)
		if err != nil {
			return err
		}
		if !found || rec.Erased {
			return storage.Errorf(storage.ErrNotFound, "address %q is not known", addr)
		}
		sc.Account, in = storage.AccountID(rec.Account), slot.ID(rec.Slot)
		if name == "" || in != s.o.Slot {
			return nil
		}
		b, err := mailboxByName(v, sc.Account, name)
		if err == nil {
			sc.Mailbox = storage.MailboxID(b.Id)
		}
		return err
	})
	return sc, in, err
}
