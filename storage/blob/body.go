package blob

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"mailnode/storage/slot"
)

// Body reads a stored body as it was received. It must be closed: until then its
// pack stays open, also when it has been removed.
type Body struct {
	*io.SectionReader
	release func()
}

// Close gives the pack back; it may be called again.
func (b *Body) Close() error {
	b.release()
	return nil
}

// Turn runs some work of the processor's, when it is its turn. Its error means that the
// work has not been done. Nothing is read from a disk in a turn.
type Turn func(work func()) error

func atOnce(work func()) error {
	work()
	return nil
}

// Open proves a body against its GUID and opens it. ErrDamaged when it differs,
// also ErrGone when its pack is not there; any other error says nothing about
// the body.
func (s *Store) Open(ref slot.BodyRef, loc Location) (*Body, error) {
	return s.OpenInTurns(ref, loc, atOnce)
}

// OpenInTurns is Open, and computes piece by piece, in turns.
func (s *Store) OpenInTurns(ref slot.BodyRef, loc Location, turn Turn) (*Body, error) {
	if loc.Offset < preambleBytes || loc.Size < 0 {
		return nil, fmt.Errorf("read body %s: %w: no body can lie at %d", ref, ErrDamaged, loc.Offset)
	}
	h, err := s.reader(loc.Pack)
	if err != nil {
		return nil, err
	}
	release := sync.OnceFunc(func() { s.o.Handles.release(h) })
	b := &Body{release: release}
	var stopped error // of turn
	counted := func(work func()) error {
		stopped = turn(work)
		return stopped
	}
	if loc.Encoding == plainBody {
		b.SectionReader = io.NewSectionReader(h.f, loc.Offset, loc.Size)
		err = prove(b.SectionReader, ref, counted)
	} else {
		defer release() // the body is in memory
		var raw []byte
		raw, _, err = s.decode(h.f, ref, loc, counted)
		b.SectionReader = io.NewSectionReader(bytes.NewReader(raw), 0, int64(len(raw)))
	}
	if stopped != nil {
		release()
		return nil, fmt.Errorf("prove body %s: %w", ref, stopped)
	}
	if err != nil {
		release()
		return nil, fmt.Errorf("read body %s in %q at %d: %w: %w", ref, s.path(loc.Pack), loc.Offset, ErrDamaged, err)
	}
	return b, nil
}

// provePieceBytes is how much of a body is hashed in one turn.
const provePieceBytes = 128 << 10

func prove(r *io.SectionReader, ref slot.BodyRef, turn Turn) error {
	h := sha256.New()
	piece := make([]byte, min(max(r.Size(), 1), provePieceBytes))
	for off := int64(0); off < r.Size(); off += int64(len(piece)) {
		piece = piece[:min(r.Size()-off, int64(len(piece)))]
		if err := readFull(r, piece, off); err != nil {
			return err
		}
		if err := turn(func() { h.Write(piece) }); err != nil {
			return err
		}
	}
	if got := slot.GUID(h.Sum(nil)); got != ref.GUID {
		return fmt.Errorf("its SHA-256 is %s", got)
	}
	return nil
}

// decode returns an encoded body as received, proved, and as stored. Nothing that
// lies in the pack can make it ask for more memory than loc allows.
func (s *Store) decode(r io.ReaderAt, ref slot.BodyRef, loc Location, turn Turn) (raw, stored []byte, err error) {
	switch {
	case loc.Encoding != zstdBody:
		return nil, nil, fmt.Errorf("its encoding %d is not known", loc.Encoding)
	case loc.Size < 0 || loc.Size > EncodedBytesMax || loc.Stored < 0 || loc.Stored > loc.Size:
		return nil, nil, fmt.Errorf("%d bytes cannot have been stored as %d", loc.Size, loc.Stored)
	}
	stored = make([]byte, loc.Stored)
	if err := readFull(r, stored, loc.Offset); err != nil {
		return nil, nil, err
	}
	var guid slot.GUID
	if stopped := turn(func() {
		if raw, err = s.o.Handles.decoder.DecodeAll(stored, make([]byte, 0, loc.Size)); err == nil {
			guid = slot.SumGUID(raw)
		}
	}); stopped != nil {
		return nil, nil, stopped
	}
	if err != nil {
		return nil, nil, err
	}
	if int64(len(raw)) != loc.Size {
		return nil, nil, fmt.Errorf("it has %d bytes, not %d", len(raw), loc.Size)
	}
	if guid != ref.GUID {
		return nil, nil, fmt.Errorf("its SHA-256 is %s", guid)
	}
	return raw, stored, nil
}

// outOfFiles reports whether an error is the process's or the system's, and not the
// file's.
func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}
