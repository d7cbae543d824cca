package blob

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"mailnode/storage/slot"
)

// Found is one record that Scan found; its header and note are proved, its body
// is not (Open does that).
type Found struct {
	Ref      slot.BodyRef
	Location Location
	Note     *BirthNote
}

// Scan reads the records of one pack in their order. Places that hold no record
// are passed over; gap, when not nil, is told of those that are not all zero.
func (s *Store) Scan(n uint32, fn func(Found) error, gap func(offset, bytes int64)) error {
	h, err := s.reader(n)
	if err != nil {
		return err
	}
	defer s.o.Handles.release(h)
	p := h.f
	st, err := p.Stat()
	if err != nil {
		return fmt.Errorf("scan pack %q: %w", s.path(n), err)
	}
	size := st.Size()
	for at := int64(preambleBytes); at < size; {
		f, next, err := readFound(p, n, at, size)
		if err != nil {
			return fmt.Errorf("scan pack %q at %d: %w", s.path(n), at, err)
		}
		if f == nil {
			if next, err = nextMagic(p, at, size, gap); err != nil {
				return fmt.Errorf("scan pack %q at %d: %w", s.path(n), at, err)
			}
		} else if err := fn(*f); err != nil {
			return err
		}
		at = next
	}
	return nil
}

// readFound reads a record at an offset; nil when there is none.
func readFound(r io.ReaderAt, n uint32, at, size int64) (*Found, int64, error) {
	fixed := make([]byte, headerBytes)
	if err := readFull(r, fixed, at); err == io.ErrUnexpectedEOF {
		return nil, 0, nil
	} else if err != nil {
		return nil, 0, err
	}
	h, ok := parseHeader(fixed)
	if !ok || h.bodyBytes > size || at+headerBytes+extra(h.encoding)+int64(h.noteBytes)+h.bodyBytes > size {
		return nil, 0, nil
	}
	rest := make([]byte, extra(h.encoding)+int64(h.noteBytes))
	if err := readFull(r, rest, at+headerBytes); err != nil {
		return nil, 0, err
	}
	f := &Found{Ref: h.ref, Note: &BirthNote{}}
	if f.Location, ok = h.at(n, at, rest); !ok || !h.proves(fixed, rest) || proto.Unmarshal(rest[extra(h.encoding):], f.Note) != nil {
		return nil, 0, nil
	}
	return f, at + f.Location.RecordBytes(), nil
}

// nextMagic looks for the next place that may hold a record.
func nextMagic(r io.ReaderAt, at, size int64, gap func(offset, bytes int64)) (int64, error) {
	start, dirty := at, false
	buf := make([]byte, 64<<10)
	for at += alignBytes; at < size; at += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), size-at)]
		if err := readFull(r, b, at); err != nil {
			return 0, err
		}
		for i := 0; i+len(recordMagic) <= len(b); i += alignBytes {
			if string(b[i:i+len(recordMagic)]) == recordMagic {
				if gap != nil && dirty {
					gap(start, at+int64(i)-start)
				}
				return at + int64(i), nil
			}
		}
		dirty = dirty || len(bytes.Trim(b, "\x00")) > 0
	}
	if gap != nil && dirty {
		gap(start, size-start)
	}
	return size, nil
}

// Unmarshal reads a stored note.
func (n *BirthNote) Unmarshal(b []byte) error { return proto.Unmarshal(b, n) }

// Note returns the birth note of a stored body, proved against its CRC.
func (s *Store) Note(ref slot.BodyRef, loc Location) ([]byte, error) {
	h, err := s.reader(loc.Pack)
	if err != nil {
		return nil, err
	}
	defer s.o.Handles.release(h)
	note, err := readNote(h.f, ref, loc)
	if err != nil {
		return nil, fmt.Errorf("read birth note of %s in %q at %d: %w: %w", ref, s.path(loc.Pack), loc.Offset, ErrDamaged, err)
	}
	return note, nil
}

// readNote proves the head of the record at loc and returns its birth note.
func readNote(r io.ReaderAt, ref slot.BodyRef, loc Location) ([]byte, error) {
	at := loc.Offset - loc.headBytes()
	if at < preambleBytes || loc.NoteBytes > maxNoteBytes {
		return nil, errors.New("no record can lie there")
	}
	b := make([]byte, loc.headBytes())
	if err := readFull(r, b, at); err != nil {
		return nil, err
	}
	h, ok := parseHeader(b)
	rest := b[headerBytes:]
	if !ok || !h.proves(b[:headerBytes], rest) {
		return nil, errors.New("its header fails its checksum")
	}
	// A header's lengths say nothing about loc before they are compared.
	if h.encoding != loc.Encoding || int64(len(rest)) != extra(h.encoding)+int64(h.noteBytes) {
		return nil, errors.New("another record lies there")
	}
	if got, ok := h.at(loc.Pack, at, rest); !ok || got != loc || h.ref != ref {
		return nil, fmt.Errorf("body %s lies there", h.ref)
	}
	return rest[extra(h.encoding):], nil
}
