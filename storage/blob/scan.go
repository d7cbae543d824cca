package blob

import (
	"bytes"
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
	p, err := s.reader(n)
	if err != nil {
		return err
	}
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
	if !ok || at+headerBytes+int64(h.noteBytes)+h.bodyBytes > size {
		return nil, 0, nil
	}
	note := make([]byte, h.noteBytes)
	if err := readFull(r, note, at+headerBytes); err != nil {
		return nil, 0, err
	}
	f := &Found{Ref: h.ref, Note: &BirthNote{},
		Location: Location{Pack: n, Offset: at + headerBytes + int64(h.noteBytes), Size: h.bodyBytes, NoteBytes: h.noteBytes}}
	if !h.proves(fixed, note) || proto.Unmarshal(note, f.Note) != nil {
		return nil, 0, nil
	}
	end := f.Location.Offset + h.bodyBytes
	return f, (end + alignBytes - 1) &^ (alignBytes - 1), nil
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

// Note gives the birth note of a stored body, proved against its CRC.
func (s *Store) Note(loc Location) ([]byte, error) {
	f, err := s.reader(loc.Pack)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	b := make([]byte, headerBytes+int(loc.NoteBytes))
	if err := readFull(f, b, loc.Offset-int64(len(b))); err != nil {
		return nil, fmt.Errorf("read birth note in %q: %w: %w", s.path(loc.Pack), ErrDamaged, err)
	}
	h, ok := parseHeader(b)
	if !ok || !h.proves(b[:headerBytes], b[headerBytes:]) {
		return nil, fmt.Errorf("read birth note in %q at %d: %w", s.path(loc.Pack), loc.Offset, ErrDamaged)
	}
	return b[headerBytes:], nil
}
