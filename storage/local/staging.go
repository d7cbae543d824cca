package local

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

var be = binary.BigEndian

func encodeLocation(l blob.Location) []byte {
	b := be.AppendUint32(make([]byte, 0, 24), l.Pack)
	b = be.AppendUint64(be.AppendUint64(b, uint64(l.Offset)), uint64(l.Size))
	return be.AppendUint32(b, l.NoteBytes)
}

func decodeLocation(b []byte) (blob.Location, error) {
	if len(b) != 24 {
		return blob.Location{}, storage.Errorf(storage.ErrCorrupt, "read body location: %d bytes", len(b))
	}
	return blob.Location{Pack: be.Uint32(b), Offset: int64(be.Uint64(b[4:])), Size: int64(be.Uint64(b[12:])), NoteBytes: be.Uint32(b[20:])}, nil
}

// stage puts a body into the packs, for an event that will name it.
func (s *Slot) stage(ref slot.BodyRef, note *blob.BirthNote, body io.ReaderAt, size int64) error {
	if err := s.space.check(size); err != nil {
		return err
	}
	loc, err := s.packs.Put(ref, note, body, size)
	if errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EROFS) {
		s.fail(err) // a disk that cannot be written to: the slot is to be served elsewhere
		return s.failure
	}
	if err != nil {
		return writeError(err)
	}
	s.stagedMu.Lock()
	defer s.stagedMu.Unlock()
	s.staged[ref] = loc
	return nil
}

func (s *Slot) stagedAt(ref slot.BodyRef) (blob.Location, bool) {
	s.stagedMu.Lock()
	defer s.stagedMu.Unlock()
	loc, ok := s.staged[ref]
	return loc, ok
}

func (s *Slot) unstage(refs []slot.BodyRef) {
	s.stagedMu.Lock()
	defer s.stagedMu.Unlock()
	for _, r := range refs {
		delete(s.staged, r)
	}
}

// StageBody keeps a body that arrived from another node until its event comes.
// The caller has proved that the bytes have the GUID.
func (s *Slot) StageBody(ref slot.BodyRef, note []byte, body io.ReaderAt, size int64) error {
	n := &blob.BirthNote{}
	if err := n.Unmarshal(note); err != nil {
		return storage.Errorf(storage.ErrCorrupt, "stage body %s: %w", ref, err)
	}
	if err := s.stage(ref, n, body, size); err != nil {
		return err
	}
	s.stagedMu.Lock()
	defer s.stagedMu.Unlock()
	if s.foreign = append(s.foreign, ref); len(s.foreign) > foreignMax {
		delete(s.staged, s.foreign[0])
		s.foreign = s.foreign[1:]
	}
	return nil
}

// foreignMax is how many bodies from elsewhere may wait for their events. One
// that the master pushed for a delivery it then refused waits for ever, so the
// oldest are forgotten; an event that names one after all asks for it again.
const foreignMax = 1 << 16

// HasBody says whether a body is in the packs here.
func (s *Slot) HasBody(ref slot.BodyRef) (bool, error) {
	if _, ok := s.stagedAt(ref); ok {
		return true, nil
	}
	return s.keptBody(ref)
}

// keptBody says whether a body's place is durable: it outlives a restart.
func (s *Slot) keptBody(ref slot.BodyRef) (have bool, err error) {
	err = s.read(func(v *view) (err error) {
		_, have, err = v.Get(event.BodyKey(ref))
		return err
	})
	return have, err
}

// locate finds a body that an event has named, or one that is staged.
func (s *Slot) locate(r reader, ref slot.BodyRef) (blob.Location, error) {
	v, have, err := r.Get(event.BodyKey(ref))
	if err != nil {
		return blob.Location{}, err
	}
	if have {
		return decodeLocation(v)
	}
	if loc, ok := s.stagedAt(ref); ok {
		return loc, nil
	}
	return blob.Location{}, storage.Errorf(storage.ErrNotFound, "body %s is not here", ref)
}

// Body proves and opens a body, and gives its birth note, for another copy.
func (s *Slot) Body(ref slot.BodyRef) (storage.BodyReader, []byte, error) {
	var loc blob.Location
	err := s.read(func(v *view) (err error) {
		loc, err = s.locate(v, ref)
		return err
	})
	if err != nil {
		return nil, nil, unfound(ref, err)
	}
	body, err := s.packs.Open(ref, loc)
	if err != nil {
		return nil, nil, s.damaged(Damage{Body: ref, Err: err})
	}
	note, err := s.packs.Note(loc)
	if err != nil {
		return nil, nil, s.damaged(Damage{Body: ref, Err: err})
	}
	return body, note, nil
}

func randomID() uint64 {
	for {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			panic(fmt.Sprintf("read randomness: %v", err)) // crypto/rand never returns one
		}
		if id := be.Uint64(b[:]) >> 1; id != 0 {
			return id
		}
	}
}

// spaceGuard refuses new mail before the disk is so full that Pebble could not
// commit: reading, expunging and replication acknowledgements go on from the
// reserve.
type spaceGuard struct {
	fs    vfs.FS
	dir   string
	clock storage.Clock
	state chan spaceState // capacity 1: holds the state, and is its lock
}

type spaceState struct {
	at    time.Duration
	known bool
	free  uint64
}

const (
	// SpaceReserveBytes is what new mail must leave free on the disk.
	SpaceReserveBytes = 64 << 20
	spaceCheckEvery   = time.Second
)

func (g *spaceGuard) init(fs vfs.FS, dir string, c storage.Clock) {
	g.fs, g.dir, g.clock, g.state = fs, dir, c, make(chan spaceState, 1)
	g.state <- spaceState{}
}

func (g *spaceGuard) check(size int64) error {
	st := <-g.state
	if now := g.clock.Mono(); !st.known || now-st.at >= spaceCheckEvery {
		u, err := g.fs.GetDiskUsage(g.dir)
		if err != nil { // a file system that cannot say (tests) has no limit
			u.AvailBytes = 1 << 62
		}
		st = spaceState{at: now, known: true, free: u.AvailBytes}
	}
	full := st.free < SpaceReserveBytes+uint64(size)
	if !full {
		st.free -= uint64(size)
	}
	g.state <- st
	if full {
		return storage.Errorf(storage.ErrDiskFull, "slot folder %q: less than %d MiB would be left: free space or add a disk", g.dir, SpaceReserveBytes>>20)
	}
	return nil
}
