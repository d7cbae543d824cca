package local

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/errors/oserror"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/check"
	"mailnode/storage/event"
	"mailnode/storage/index"
	"mailnode/storage/slot"
)

// ScrubOptions are what a Scrub needs. Only Spend and Found are required.
type ScrubOptions struct {
	// Spend waits until so many bytes may be read (law 12); its error ends the Scrub.
	Spend func(ctx context.Context, bytes int64) error
	// Total is called once, with how many bytes there are to read, of bodies and index.
	Total func(bytes int64)
	// FromPack passes over the bodies in lower packs: where an earlier Scrub was cut off.
	FromPack uint32
	// Reached is called when everything in lower packs has been read.
	Reached func(pack uint32)
	Found   func(ScrubFinding)
}

// MessageName is a message as operators name it.
type MessageName struct {
	Account slot.Address
	Mailbox string
	UID     storage.UID
	Size    int64 // bytes
}

// String returns for instance "u7@example.test INBOX uid 18630".
func (n MessageName) String() string {
	return fmt.Sprintf("%s %s uid %d", n.Account, n.Mailbox, n.UID)
}

// FindingKind decides what has to be done about a finding.
type FindingKind string

// The kinds of findings.
const (
	BodyDamaged   FindingKind = "body-damaged"   // its bytes are not what was put there
	BodyMissing   FindingKind = "body-missing"   // the index names it and it has no place
	IndexDamaged  FindingKind = "index-damaged"  // a block of the index or an event fails its checksum
	RecordDiffers FindingKind = "record-differs" // records contradict each other (storage/check)
)

// ScrubFinding is one thing that is not as it should be on this copy.
type ScrubFinding struct {
	Kind FindingKind
	Slot slot.ID
	Body slot.BodyRef // BodyDamaged, BodyMissing
	// Messages name the body; none when only expunged ones do.
	Messages []MessageName
	Record   check.Finding // RecordDiffers
	Err      error         // IndexDamaged, BodyDamaged
}

// Scrub reads everything that this copy has, from the disk and not from memory:
// every body with its header, every block of the index, every event; then it
// proves the laws on a snapshot (storage/check). It repairs nothing. The error is
// about the Scrub itself. Changes go on meanwhile; Close ends it.
func (s *Slot) Scrub(ctx context.Context, o ScrubOptions) error {
	if s.building.Load() {
		return storage.Errorf(storage.ErrUnavailable, "scrub slot %s: this copy is being built", s.o.Slot)
	}
	ctx, cancel := s.whileOpen(ctx)
	defer cancel()
	x := &scrubbing{s: s, o: o, ctx: ctx}
	for _, step := range []func() error{x.plan, x.bodies, x.lacking, x.tables, x.records} {
		if err := step(); err != nil {
			if ctx.Err() != nil {
				err = storage.Errorf(storage.ErrUnavailable, "%w", context.Cause(ctx))
			}
			return fmt.Errorf("scrub slot %s: %w", s.o.Slot, err)
		}
	}
	return nil
}

// windowBodies is how many bodies' places are held in memory at one time.
const windowBodies = 1 << 16

type scrubbing struct {
	s   *Slot
	o   ScrubOptions
	ctx context.Context

	windowBodies int64
	perPack      map[uint32]packLoad
	packs        []uint32 // in order
}

// packLoad is how many live bodies a pack has, and their bytes.
type packLoad struct{ bodies, bytes int64 }

func (x *scrubbing) found(f ScrubFinding) {
	f.Slot = x.s.o.Slot
	x.o.Found(f)
}

// plan counts what there is to read.
func (x *scrubbing) plan() error {
	x.perPack, x.windowBodies = map[uint32]packLoad{}, windowBodies
	var total int64
	err := x.s.read(func(v *view) error {
		return each(v, event.SpanOf([]byte{event.PrefixBody}), func(_, value []byte) error {
			loc, err := decodeLocation(value)
			if err != nil || loc.Pack < x.o.FromPack {
				return err
			}
			l := x.perPack[loc.Pack]
			x.perPack[loc.Pack] = packLoad{l.bodies + 1, l.bytes + loc.RecordBytes()}
			total += loc.RecordBytes()
			return nil
		})
	})
	if err = x.damagedOr(err); err != nil {
		return err
	}
	for n := range x.perPack {
		x.packs = append(x.packs, n)
	}
	slices.Sort(x.packs)
	tables, err := x.s.tables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		total += t.Bytes * 2 // its blocks, and its records
	}
	if x.o.Total != nil {
		x.o.Total(total)
	}
	return nil
}

// damagedOr makes damage of the index a finding, and lets the Scrub go on.
func (x *scrubbing) damagedOr(err error) error {
	if errors.Is(err, storage.ErrCorrupt) {
		x.found(ScrubFinding{Kind: IndexDamaged, Err: err})
		return nil
	}
	return err
}

type placed struct {
	ref slot.BodyRef
	loc blob.Location
}

// bodies proves the bodies in the order in which they lie on the disk, a window
// of packs after the other.
func (x *scrubbing) bodies() error {
	for i := 0; i < len(x.packs); {
		first, n, j := x.packs[i], int64(0), i
		for ; j < len(x.packs) && (j == i || n+x.perPack[x.packs[j]].bodies <= x.windowBodies); j++ {
			n += x.perPack[x.packs[j]].bodies
		}
		if err := x.window(first, x.packs[j-1]); err != nil {
			return err
		}
		if i = j; x.o.Reached != nil {
			x.o.Reached(x.packs[j-1] + 1)
		}
	}
	return nil
}

func (x *scrubbing) window(first, last uint32) error {
	var list []placed
	err := x.s.read(func(v *view) error {
		return each(v, event.SpanOf([]byte{event.PrefixBody}), func(key, value []byte) error {
			loc, err := decodeLocation(value)
			if err == nil && loc.Pack >= first && loc.Pack <= last {
				list = append(list, placed{event.BodyOf(key), loc})
			}
			return err
		})
	})
	if err = x.damagedOr(err); err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.loc.Pack, b.loc.Pack), cmp.Compare(a.loc.Offset, b.loc.Offset))
	})
	bad := map[slot.BodyRef]error{}
	for i, p := range list {
		if i == 0 || p.loc.Pack != list[i-1].loc.Pack {
			if err := x.s.packs.UncachePack(p.loc.Pack); err != nil {
				x.s.log.Debug("read from memory", "pack", p.loc.Pack, "err", err)
			}
		}
		if err := x.body(p, bad); err != nil {
			return err
		}
	}
	return x.name(BodyDamaged, bad)
}

func (x *scrubbing) body(p placed, bad map[slot.BodyRef]error) error {
	if err := x.o.Spend(x.ctx, p.loc.RecordBytes()); err != nil {
		return err
	}
	err := x.s.proveAt(p.ref, p.loc)
	if err == nil {
		return nil
	}
	// It may have been moved, replaced or freed meanwhile.
	switch err = x.s.ProveBody(p.ref); {
	case errors.Is(err, storage.ErrCorrupt):
		bad[p.ref] = err
	case errors.Is(err, errUnfound): // tables finds out which
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return err
	}
	return nil
}

// name returns findings about bodies, each with the messages that name it.
func (x *scrubbing) name(kind FindingKind, bad map[slot.BodyRef]error) error {
	if len(bad) == 0 {
		return nil
	}
	names, err := x.s.NamesOf(x.ctx, bad)
	if err = x.damagedOr(err); err != nil {
		return err
	}
	for ref, err := range bad {
		if n, named := names[ref]; named && (kind != BodyMissing || len(n) > 0) {
			x.found(ScrubFinding{Kind: kind, Body: ref, Messages: n, Err: err})
		}
	}
	return nil
}

// NamesOf finds the messages that name bodies, by one scan of the index. A body
// that the index does not name at all is not in the result; one that only expunged
// messages, or messages of deleted mailboxes, name is in it with no name.
func (s *Slot) NamesOf(ctx context.Context, bodies map[slot.BodyRef]error) (map[slot.BodyRef][]MessageName, error) {
	out := map[slot.BodyRef][]MessageName{}
	err := s.read(func(v *view) error {
		for ref := range bodies {
			if _, named, err := v.Get(event.RefsKey(ref)); err != nil {
				return err
			} else if named {
				out[ref] = nil
			}
		}
		rec := &event.MessageRecord{}
		var at storage.Ref
		var box MessageName
		return each(v, event.SpanOf([]byte{event.PrefixMessage}), func(key, value []byte) error {
			if err := unmarshal(value, rec); err != nil {
				return err
			}
			ref := rec.Body()
			if _, wanted := bodies[ref]; !wanted {
				return ctx.Err()
			}
			if r := event.RefOf(key); r != at {
				at, box = r, MessageName{}
				a, b, err := in(v, r)
				if err == nil {
					box = MessageName{Account: slot.Address(a.Address), Mailbox: b.Name}
				} else if !errors.Is(err, storage.ErrNotFound) {
					return err
				}
			}
			if box.Account != "" {
				box.UID, box.Size = event.UIDOf(key), rec.Size
				out[ref] = append(out[ref], box)
			}
			return ctx.Err()
		})
	})
	return out, err
}

// lacking finds bodies that the index names and that have no place here: both
// kinds of records are in the order of the same keys.
func (x *scrubbing) lacking() error {
	bad := map[slot.BodyRef]error{}
	err := x.s.read(func(v *view) error {
		it, err := v.iter(event.SpanOf([]byte{event.PrefixBody}))
		if err != nil {
			return err
		}
		defer it.Close()
		have := it.First()
		if err := each(v, event.SpanOf([]byte{event.PrefixRefs}), func(key, _ []byte) error {
			for have && bytes.Compare(it.Key()[1:], key[1:]) < 0 {
				have = it.Next()
			}
			if !have || !bytes.Equal(it.Key()[1:], key[1:]) {
				bad[event.BodyOf(key)] = nil
			}
			return x.ctx.Err()
		}); err != nil {
			return err
		}
		if err := it.Error(); err != nil {
			return readError(err)
		}
		return nil
	})
	if err = x.damagedOr(err); err != nil {
		return err
	}
	return x.name(BodyMissing, bad)
}

// tables lists the files of the index.
func (s *Slot) tables() (list []index.Table, err error) {
	err = s.read(func(*view) (err error) { // so that Close waits for it
		list, err = s.db.Tables()
		return err
	})
	if err != nil {
		return nil, storage.Errorf(storage.ErrUnavailable, "list tables of %s: %w", s.o.Slot, err)
	}
	return list, nil
}

// tables proves every block of the index.
func (x *scrubbing) tables() error {
	list, err := x.s.tables()
	if err != nil {
		return err
	}
	for _, t := range list {
		if err := x.o.Spend(x.ctx, t.Bytes); err != nil {
			return err
		}
		path := x.s.o.FS.PathJoin(x.s.o.indexDir(), t.Name)
		err := index.ProveTable(x.s.o.FS, path)
		switch {
		case oserror.IsNotExist(err): // compacted meanwhile
		case err != nil && blob.Unread(err): // that tells nothing about the table
			x.found(ScrubFinding{Kind: IndexDamaged, Err: storage.Errorf(storage.ErrUnavailable, "%q: %w", path, err)})
		case err != nil:
			x.found(ScrubFinding{Kind: IndexDamaged, Err: storage.Errorf(storage.ErrCorrupt, "%w: %q: %w", index.ErrDamaged, path, index.FirstLine(err))})
		}
	}
	return nil
}

// spendEvery is how many bytes of records are read between two calls of Spend.
const spendEvery = 1 << 20

// records proves the laws on a snapshot, at the pace of Spend.
func (x *scrubbing) records() error {
	var list []check.Finding
	err := x.s.Snapshot(func(snap Snapshot) (err error) {
		p := &paced{Snapshot: snap, x: x}
		list, err = check.Run(p, check.Options{})
		return err
	})
	for _, f := range list {
		x.found(ScrubFinding{Kind: RecordDiffers, Record: f})
	}
	return x.damagedOr(err)
}

// paced is a Snapshot that is read no faster than Spend allows.
type paced struct {
	Snapshot
	x    *scrubbing
	read int64
}

// Each implements check.Snapshot.
func (p *paced) Each(sp event.Span, fn func(key, value []byte) error) error {
	return p.Snapshot.Each(sp, func(k, v []byte) error {
		if p.read += int64(len(k) + len(v)); p.read >= spendEvery {
			if err := p.x.o.Spend(p.x.ctx, p.read); err != nil {
				return err
			}
			p.read = 0
		}
		return fn(k, v)
	})
}

// Weight is how much a Scrub of this copy reads, about, in bytes.
func (s *Slot) Weight() (int64, error) {
	x := &scrubbing{s: s, ctx: context.Background()}
	var total int64
	x.o = ScrubOptions{Total: func(n int64) { total = n }, Found: func(ScrubFinding) {}}
	err := x.plan()
	return total, err
}
