package local

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

var be = binary.BigEndian

// A location is 24 bytes: pack, offset, size, bytes of note. Behind these an
// encoded body has its encoding (1 byte) and its bytes as stored (8).
const (
	plainLocationBytes   = 24
	encodedLocationBytes = plainLocationBytes + 9
)

func encodeLocation(l blob.Location) []byte {
	b := be.AppendUint32(make([]byte, 0, encodedLocationBytes), l.Pack)
	b = be.AppendUint64(be.AppendUint64(b, uint64(l.Offset)), uint64(l.Size))
	b = be.AppendUint32(b, l.NoteBytes)
	if l.Encoding == 0 {
		return b
	}
	return be.AppendUint64(append(b, l.Encoding), uint64(l.Stored))
}

func decodeLocation(b []byte) (blob.Location, error) {
	if len(b) != plainLocationBytes && (len(b) != encodedLocationBytes || b[plainLocationBytes] == 0) {
		return blob.Location{}, storage.Errorf(storage.ErrCorrupt, "read body location: %d bytes", len(b))
	}
	l := blob.Location{Pack: be.Uint32(b), Offset: int64(be.Uint64(b[4:])), Size: int64(be.Uint64(b[12:])), NoteBytes: be.Uint32(b[20:])}
	if len(b) == encodedLocationBytes {
		l.Encoding, l.Stored = b[plainLocationBytes], int64(be.Uint64(b[plainLocationBytes+1:]))
	}
	return l, nil
}

// stage puts a body into the packs, for an event that will name it.
func (s *Slot) stage(ref slot.BodyRef, l disk.Level, note *blob.BirthNote, body io.ReaderAt, size int64) error {
	room, err := s.space.hold(l, size)
	if err != nil {
		return err
	}
	defer room.release()
	lent := &lentBody{body: body}
	err = s.guarded(func() error { // a disk that hangs holds nobody up
		defer s.pins.putting(s.packs)()
		loc, err := s.packs.Put(ref, note, lent, size)
		if err != nil {
			return err
		}
		s.onStage.add(ref, loc)
		return nil
	})
	if s.Failure() != nil { // a Put may be under way, and its read hang as well
		s.unlessHung(func() { lent.takeBack() })
	} else if bad := lent.takeBack(); bad != nil && err != nil {
		return storage.Errorf(storage.ErrUnavailable, "read body %s: %w", ref, bad) // not this slot's disk
	}
	if errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EROFS) {
		s.fail(err) // a disk that cannot be written to: the slot is to be served elsewhere
		return s.Failure()
	}
	if err != nil {
		return writeError(err)
	}
	return nil
}

// lentBody is a caller's body. A Put that the caller does not wait for any more
// must not go on reading: a Spool uses its memory for the next message.
type lentBody struct {
	mu   sync.Mutex
	body io.ReaderAt // nil: taken back
	err  error       // of reading body
}

// ReadAt implements io.ReaderAt.
func (l *lentBody) ReadAt(p []byte, off int64) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.body == nil {
		return 0, errors.New("the body was taken back")
	}
	n, err := l.body.ReadAt(p, off)
	if err != nil && err != io.EOF {
		l.err = err
	}
	return n, err
}

// takeBack ends the loan, and returns the error of reading the body.
func (l *lentBody) takeBack() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.body = nil
	return l.err
}

// StageBody keeps a body that arrived from another node until its event comes.
// The caller has proved that the bytes have the GUID.
func (s *Slot) StageBody(ref slot.BodyRef, note []byte, body io.ReaderAt, size int64) error {
	n := &blob.BirthNote{}
	if err := n.Unmarshal(note); err != nil {
		return storage.Errorf(storage.ErrCorrupt, "stage body %s: %w", ref, err)
	}
	if err := s.stage(ref, disk.Follow, n, body, size); err != nil {
		return err
	}
	s.onStage.cameFromElsewhere(ref)
	return nil
}

// HasBody reports whether a body is in the packs here. The stage is looked at first
// (see staged).
func (s *Slot) HasBody(ref slot.BodyRef) (bool, error) {
	if _, ok := s.onStage.at(ref); ok {
		return true, nil
	}
	return s.keptBody(ref)
}

// keptBody reports whether a body's place is durable: it outlives a restart.
func (s *Slot) keptBody(ref slot.BodyRef) (have bool, err error) {
	err = s.read(func(v *view) (err error) {
		_, have, err = v.Get(event.BodyKey(ref))
		return err
	})
	return have, err
}

// find finds a body wherever it is now, and returns its place record as well, nil when
// it has none. It looks in the order in which a body moves: on the stage, then in the
// durable state as it is after that. In the other order it would miss a body that lands
// between the two looks.
func (s *Slot) find(ref slot.BodyRef) (loc blob.Location, place []byte, err error) {
	loc, onStage := s.onStage.at(ref)
	place, placed, err := s.placeOf(ref)
	switch {
	case err != nil:
		return loc, nil, err
	case placed:
		loc, err = decodeLocation(place)
		return loc, place, err
	case !onStage:
		return loc, nil, storage.Errorf(storage.ErrNotFound, "body %s is not here", ref)
	}
	return loc, nil, nil
}

// locate finds a body that a view names. When the view does not know its place, the
// body may have come since the view was taken.
func (s *Slot) locate(v *view, ref slot.BodyRef) (blob.Location, error) {
	place, have, err := v.Get(event.BodyKey(ref))
	if err != nil {
		return blob.Location{}, err
	}
	if have {
		return decodeLocation(place)
	}
	loc, _, err := s.find(ref)
	return loc, err
}

// hasBody reports whether an event may name a body. Only the committer moves bodies
// from the stage into the state that a closure sees, so nothing moves meanwhile; the
// durable state may have bodies that the closure's state has dropped.
func (t *txn) hasBody(ref slot.BodyRef) (bool, error) {
	_, have, err := t.Get(event.BodyKey(ref))
	if err == nil && !have {
		_, have = t.s.onStage.at(ref)
	}
	return have, err
}

// at calls use with the place of a body. A compaction may have moved the body
// since loc was looked up: when its pack is gone, use is called with the new
// place. It returns ErrCorrupt when the body is damaged, ErrUnavailable when that
// cannot be told.
func (s *Slot) at(ref slot.BodyRef, loc blob.Location, use func(blob.Location) error) error {
	err := use(loc)
	for errors.Is(err, blob.ErrGone) {
		now, _, lost := s.find(ref)
		if lost != nil {
			return lost
		}
		if now == loc {
			break
		}
		loc = now
		err = use(loc)
	}
	if err != nil && !errors.Is(err, blob.ErrDamaged) {
		return storage.Errorf(storage.ErrUnavailable, "slot %s: %w", s.o.Slot, err)
	}
	if err != nil {
		return s.damaged(Damage{Body: ref, Err: err})
	}
	return nil
}

// openAt proves and opens a body that was found at loc.
func (s *Slot) openAt(ref slot.BodyRef, loc blob.Location) (b *blob.Body, err error) {
	err = s.at(ref, loc, func(loc blob.Location) (err error) {
		b, err = s.packs.Open(ref, loc)
		return err
	})
	return b, err
}

// proveAtOnceMax is how large a body is that is proved without a turn.
const proveAtOnceMax = 1 << 20

// openFor is openAt for a client, of whom there are many: a large body is proved in turns
// of a node, half of whose processors are left to others, and no longer than until ctx
// ends.
func (s *Slot) openFor(ctx context.Context, ref slot.BodyRef, loc blob.Location) (b *blob.Body, err error) {
	if loc.Size <= proveAtOnceMax {
		return s.openAt(ref, loc)
	}
	turn := func(work func()) error {
		select {
		case s.o.Resources.proofs <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-s.o.Resources.proofs }()
		work()
		return ctx.Err()
	}
	err = s.at(ref, loc, func(loc blob.Location) (err error) {
		b, err = s.packs.OpenInTurns(ref, loc, turn)
		return err
	})
	return b, err
}

// Body proves and opens a body, and returns its birth note too, for another copy.
func (s *Slot) Body(ref slot.BodyRef) (storage.BodyReader, []byte, error) {
	loc, _, err := s.find(ref)
	if err != nil {
		return nil, nil, unfound(ref, err)
	}
	var body *blob.Body
	var note []byte
	if err := s.at(ref, loc, func(loc blob.Location) (err error) {
		if note, err = s.packs.Note(ref, loc); err != nil {
			return err
		}
		body, err = s.packs.Open(ref, loc)
		return err
	}); err != nil {
		return nil, nil, err
	}
	return body, note, nil
}

func randomID() uint64 {
	for {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			panic(fmt.Sprintf("read randomness: %v", err)) // crypto/rand never returns an error
		}
		if id := be.Uint64(b[:]) >> 1; id != 0 {
			return id
		}
	}
}
