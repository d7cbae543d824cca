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

// Open proves a body against its GUID and opens it. ErrDamaged when it differs,
// also ErrGone when its pack is not there; any other error says nothing about
// the body.
func (s *Store) Open(ref slot.BodyRef, loc Location) (*Body, error) {
	if loc.Offset < preambleBytes || loc.Size < 0 {
		return nil, fmt.Errorf("read body %s: %w: no body can lie at %d", ref, ErrDamaged, loc.Offset)
	}
	h, err := s.reader(loc.Pack)
	if err != nil {
		return nil, err
	}
	release := sync.OnceFunc(func() { s.o.Handles.release(h) })
	b := &Body{release: release}
	if loc.Encoding == plainBody {
		b.SectionReader = io.NewSectionReader(h.f, loc.Offset, loc.Size)
		err = prove(b.SectionReader, ref)
	} else {
		defer release() // the body is in memory
		var raw []byte
		raw, _, err = s.decode(h.f, ref, loc)
		b.SectionReader = io.NewSectionReader(bytes.NewReader(raw), 0, int64(len(raw)))
	}
	if err != nil {
		release()
		return nil, fmt.Errorf("read body %s in %q at %d: %w: %w", ref, s.path(loc.Pack), loc.Offset, ErrDamaged, err)
	}
	return b, nil
}

func prove(r *io.SectionReader, ref slot.BodyRef) error {
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(r, 0, r.Size()), make([]byte, min(max(r.Size(), 1), 128<<10))); err != nil {
		return err
	}
	if got := slot.GUID(h.Sum(nil)); got != ref.GUID {
		return fmt.Errorf("its SHA-256 is %s", got)
	}
	return nil
}

// decode returns an encoded body as received, proved, and as stored. Nothing that
// lies in the pack can make it ask for more memory than loc allows.
func (s *Store) decode(r io.ReaderAt, ref slot.BodyRef, loc Location) (raw, stored []byte, err error) {
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
	if raw, err = s.o.Handles.decoder.DecodeAll(stored, make([]byte, 0, loc.Size)); err != nil {
		return nil, nil, err
	}
	if int64(len(raw)) != loc.Size {
		return nil, nil, fmt.Errorf("it has %d bytes, not %d", len(raw), loc.Size)
	}
	if got := slot.SumGUID(raw); got != ref.GUID {
		return nil, nil, fmt.Errorf("its SHA-256 is %s", got)
	}
	return raw, stored, nil
}

// outOfFiles reports whether an error is the process's or the system's, and not the
// file's.
func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}
