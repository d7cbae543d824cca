package local

import (
	"errors"
	"fmt"

	"mailnode/storage/blob"
	"mailnode/storage/event"
)

// provedTail is how many records at the end of each pack have their bodies proved: a
// crash may have left some there that were never synced. Of those before only the
// headers are proved, since a rebuild that read every body would take hours; the scrub
// does.
const provedTail = 64

// places enters where each body lies of whose record the header proves, and calls see,
// if not nil, for each of these records.
func (rb *rebuild) places(s *Slot, to *sink, see func(blob.Found)) error {
	numbers, err := s.packs.Packs()
	if err != nil {
		return err
	}
	for i, n := range numbers {
		var tail []blob.Found
		enter := func(f blob.Found, proved bool) error {
			if see != nil {
				see(f)
			}
			return rb.place(s, to, f, proved)
		}
		err := s.packs.Scan(n, func(f blob.Found) error {
			if err := rb.spend(int64(f.Location.NoteBytes) + 4096); err != nil {
				return err
			}
			if tail = append(tail, f); len(tail) <= provedTail {
				return nil
			}
			first := tail[0]
			tail = tail[1:]
			return enter(first, false)
		}, func(offset, bytes int64) {
			rb.lost("pack %d: %d bytes at %d are no record", n, bytes, offset)
		})
		for j := 0; err == nil && j < len(tail); j++ {
			err = enter(tail[j], true)
		}
		// A pack that cannot be read now is not damaged: to go on without it would give
		// up all that lies in it. The rebuild ends, and is tried again.
		if err != nil && blob.Unread(err) {
			return fmt.Errorf("read pack %d: %w; if the disk is lost there, move that pack out of %q: the rebuild goes on without it", n, err, s.o.PacksDir)
		}
		if errors.Is(err, blob.ErrDamaged) {
			rb.lost("pack %d: %v", n, err)
			err = nil
		}
		if err == nil {
			err = to.room()
		}
		if err != nil {
			return err
		}
		if rb.ro.Progress != nil {
			rb.ro.Progress(int64(i+1), int64(len(numbers)))
		}
	}
	return nil
}

// place enters where a body lies. It lies in two places after a damaged one was
// replaced, or when a compaction was cut off: the place whose body proves counts, the
// later when both do.
func (rb *rebuild) place(s *Slot, to *sink, f blob.Found, prove bool) error {
	_, twice, err := to.Get(event.BodyKey(f.Ref))
	if err != nil {
		return err
	}
	if prove || twice {
		if err := rb.spend(f.Location.Size); err != nil {
			return err
		}
		b, err := s.packs.Open(f.Ref, f.Location)
		if err != nil {
			if !twice {
				rb.lost("body %s in pack %d at %d: %v", f.Ref, f.Location.Pack, f.Location.Offset, err)
			}
			return nil
		}
		b.Close()
	}
	if !twice {
		rb.out.Bodies++
	}
	return to.Set(event.BodyKey(f.Ref), encodeLocation(f.Location))
}
