package blob

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/klauspost/compress/zstd"

	"mailnode/storage/slot"
)

const (
	// shrinkMin is how much of a body zstd must save to be worth decoding it at
	// each read: less than it saves of base64, more than of headers around binary.
	shrinkMin = 0.1
	// rewriteSyncBytes is how much a Rewriter leaves unsynced: one sync of a whole
	// pack would hold up those of deliveries beside it.
	rewriteSyncBytes = 8 << 20
)

// Rewriter copies bodies into packs of its own, so that neither its syncs nor
// its errors are those of deliveries: a pack of which a write or sync failed is
// left alone, and holds nothing that a Sync has promised since. One goroutine
// uses a Rewriter.
type Rewriter struct {
	s        *Store
	enc      *zstd.Encoder
	f        vfs.File // nil: no pack is begun
	number   uint32
	end      int64 // first free offset
	unsynced int64
	raw      []byte // buffers, kept from record to record
	small    []byte
	record   []byte
	failed   error // of a write or sync; final
}

// NewRewriter makes one; its Close must be called.
func (s *Store) NewRewriter() (*Rewriter, error) {
	// The first level leaves 1% more than the third, in half the time. Base64 has
	// no matches to find, but 6 bits in 8: a quarter of most mail, and only saved
	// when literals are always coded (measured, docs/BENCHMARKS.md).
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithAllLitEntropyCompression(true),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(EncodedBytesMax), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	return &Rewriter{s: s, enc: enc}, nil
}

// Copy proves a body and its birth note and writes them to a new place, encoded
// when that saves enough. The new place counts only after the next Sync.
// ErrDamaged: the old one is not what it should be, and nothing was written; any
// other error is final.
func (r *Rewriter) Copy(ref slot.BodyRef, from Location) (Location, error) {
	if r.failed != nil {
		return Location{}, r.failed
	}
	h, err := r.s.reader(from.Pack)
	if err != nil {
		return Location{}, err
	}
	defer r.s.o.Handles.release(h)
	damaged := func(err error) (Location, error) {
		return Location{}, fmt.Errorf("copy body %s in %q at %d: %w: %w", ref, r.s.path(from.Pack), from.Offset, ErrDamaged, err)
	}
	note, err := readNote(h.f, ref, from)
	if err != nil {
		return damaged(err)
	}
	to := Location{Size: from.Size, NoteBytes: from.NoteBytes}
	if from.Size > EncodedBytesMax {
		err := r.stream(h.f, ref, from, &to, note)
		var bad sourceError
		if errors.As(err, &bad) {
			return damaged(bad.error)
		}
		return to, err
	}
	stored, err := r.encoded(h.f, ref, from, &to)
	if err != nil {
		return damaged(err)
	}
	if err := r.place(&to); err != nil {
		return Location{}, err
	}
	r.record = append(appendEncoded(r.record[:0], ref, to, note), stored...)
	return to, r.write(r.record, to.Offset-to.headBytes(), &to)
}

// encoded returns a proved body in the form in which it is to be stored.
func (r *Rewriter) encoded(f io.ReaderAt, ref slot.BodyRef, from Location, to *Location) ([]byte, error) {
	if from.Encoding != plainBody {
		_, stored, err := r.s.decode(f, ref, from, atOnce)
		to.Encoding, to.Stored = from.Encoding, from.Stored
		return stored, err
	}
	r.raw = slices.Grow(r.raw[:0], int(from.Size))[:from.Size]
	raw := r.raw
	if err := readFull(f, raw, from.Offset); err != nil {
		return nil, err
	}
	if got := slot.SumGUID(raw); got != ref.GUID {
		return nil, fmt.Errorf("its SHA-256 is %s", got)
	}
	r.small = r.enc.EncodeAll(raw, r.small[:0])
	small := r.small
	if float64(len(small)) > float64(len(raw))*(1-shrinkMin) {
		return raw, nil
	}
	to.Encoding, to.Stored = zstdBody, int64(len(small))
	return small, nil
}

// sourceError is about the record that is copied.
type sourceError struct{ error }

// stream copies a large body as it is. It is proved before, so that no garbage
// is left behind in the new pack, and again on the way.
func (r *Rewriter) stream(f io.ReaderAt, ref slot.BodyRef, from Location, to *Location, note []byte) error {
	if err := prove(io.NewSectionReader(f, from.Offset, from.Size), ref, atOnce); err != nil {
		return sourceError{err}
	}
	if err := r.place(to); err != nil {
		return err
	}
	w := &rewriting{r: r, at: to.Offset, sum: sha256.New()}
	if _, err := io.CopyBuffer(w, struct{ io.Reader }{io.NewSectionReader(f, from.Offset, from.Size)}, make([]byte, 256<<10)); r.failed != nil {
		return r.failed
	} else if err != nil {
		return sourceError{err}
	}
	if got := slot.GUID(w.sum.Sum(nil)); w.at != to.Offset+to.Size || got != ref.GUID {
		return sourceError{fmt.Errorf("its SHA-256 is %s", got)}
	}
	return r.write(appendEncoded(nil, ref, *to, note), to.Offset-to.headBytes(), to)
}

type rewriting struct {
	r   *Rewriter
	at  int64
	sum hash.Hash
}

func (w *rewriting) Write(b []byte) (int, error) {
	w.sum.Write(b)
	n, err := w.r.f.WriteAt(b, w.at)
	w.at += int64(n)
	if err != nil {
		w.r.failed = fmt.Errorf("write pack %q: %w", w.r.s.path(w.r.number), err)
	}
	return n, err
}

// place sets where the next record goes; it begins a pack when it must.
func (r *Rewriter) place(to *Location) error {
	if r.f != nil && r.end+to.RecordBytes() > r.s.o.PackBytesMax && r.end > preambleBytes {
		if err := r.finish(); err != nil {
			return err
		}
	}
	if r.f == nil {
		if err := r.begin(); err != nil {
			return err
		}
	}
	to.Pack, to.Offset = r.number, r.end+to.headBytes()
	return nil
}

func (r *Rewriter) begin() error {
	s := r.s
	s.mu.Lock()
	n := s.next
	s.next++
	s.rewriting[n] = struct{}{}
	s.mu.Unlock()
	f, err := s.create(s.path(n), rewrittenMagic, 0)
	if err != nil {
		r.number = n
		r.unlist()
		r.failed = fmt.Errorf("create pack %q: %w", s.path(n), err)
		return r.failed
	}
	r.f, r.number, r.end, r.unsynced = f, n, preambleBytes, 0
	return nil
}

func (r *Rewriter) write(b []byte, at int64, to *Location) error {
	if _, err := r.f.WriteAt(b, at); err != nil {
		r.failed = fmt.Errorf("write pack %q: %w", r.s.path(r.number), err)
		return r.failed
	}
	r.end = at + to.RecordBytes()
	if r.unsynced += to.RecordBytes(); r.unsynced >= rewriteSyncBytes {
		return r.Sync()
	}
	return nil
}

// Sync makes durable every body that was copied.
func (r *Rewriter) Sync() error {
	if r.failed != nil || r.f == nil || r.unsynced == 0 {
		return r.failed
	}
	if err := r.f.SyncData(); err != nil {
		r.failed = fmt.Errorf("sync pack %q: %w", r.s.path(r.number), err)
		return r.failed
	}
	r.unsynced = 0
	return nil
}

// finish ends the pack; it is one like any other then.
func (r *Rewriter) finish() error {
	err := r.Sync()
	r.f.Close()
	r.f = nil
	r.unlist()
	return err
}

func (r *Rewriter) unlist() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	delete(r.s.rewriting, r.number)
}

// Close ends the last pack. What was not synced may be lost.
func (r *Rewriter) Close() {
	if r.f != nil {
		r.f.Close()
		r.f = nil
		r.unlist()
	}
	r.enc.Close()
}
