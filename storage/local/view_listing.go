package local

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"mailnode/storage"
	"mailnode/storage/event"
)

// A listing is one mailbox as lists show it (UID, MODSEQ, flags, date, size of each
// message), in memory, in one durable state of the mailbox. It never
// changes: a newer state is another listing, which shares with the older one all
// chunks that are the same. All sessions with the mailbox open share it.
//
// It mirrors the message records, and their state is known by MailboxStats: the highest
// MODSEQ, which every change of a message raises, and the digest of all messages (law 8).
// So a listing is never used for a state that is newer, whatever changed the records.
type listing struct {
	generation uint64 // of the slot's state: see view
	view       uint64 // number of the view that it was made from
	at         storage.ModSeq
	digest     event.Digest
	chunks     [][]entry
	uids       []storage.UID // of all entries
	sets       [][]string    // keyword sets; 0 is the empty one
	index      map[string]uint32
	setBytes   int64 // what sets and index take
	messages   int
	bodyBytes  int64
}

// entry is one message: 32 bytes.
type entry struct {
	modSeq    storage.ModSeq
	date      int64  // Unix seconds
	sizeFlags uint64 // size in bytes <<8 | system flags
	uid       storage.UID
	set       uint32 // index in listing.sets
}

const (
	chunkEntriesMax = 512
	entryBytes      = 32
	chunkBytes      = 24 // a chunk's slice header
	listingBytes    = 256
	// setsSlack is how many keyword sets may have fallen out of use before a
	// listing is built again.
	setsSlack = 1024
	// catchUpMin changes are always brought in one by one; more of them only up to an
	// eighth of the mailbox.
	catchUpMin = 64
)

// errListing ends the building of a listing that may not be, or need not be. It never
// leaves these files (view_listing*.go).
var errListing = errors.New("no listing")

// fits reports whether the listing shows exactly the state that st describes.
func (l *listing) fits(v *view, st *event.MailboxStats) bool {
	return l != nil && l.generation == v.generation && uint64(l.at) == st.HighestModseq && l.digest == event.ParseDigest(st.Digest)
}

// newer reports whether the listing shows a later state than v, which is durable too: the
// reader's snapshot was taken before that of the listing's builder. MODSEQs do not tell
// that: a Recount lowers one that no event can have led to.
func (l *listing) newer(v *view) bool {
	return l != nil && l.generation == v.generation && l.view > v.number
}

// bytes is what the listing holds, without what its readers add.
func (l *listing) bytes() int64 {
	n := int64(cap(l.uids))*4 + int64(cap(l.chunks))*chunkBytes
	for _, c := range l.chunks {
		n += int64(cap(c)) * entryBytes
	}
	return n + l.setBytes + listingBytes
}

// buildListing reads all records of a mailbox; errListing when it would take
// more than bytesMax.
func buildListing(v *view, ref storage.Ref, st *event.MailboxStats, bytesMax int64) (*listing, error) {
	l := &listing{generation: v.generation, view: v.number, at: storage.ModSeq(st.HighestModseq), digest: event.ParseDigest(st.Digest),
		sets: [][]string{nil}, index: map[string]uint32{"": 0}}
	expect := int(st.Messages) // a counter, which may be wrong: only the room is made by it
	if int64(expect)*(entryBytes+4) > bytesMax {
		return nil, errListing
	}
	l.uids = make([]storage.UID, 0, expect)
	l.chunks = make([][]entry, 0, expect/chunkEntriesMax+1)
	var chunk []entry
	var rec event.Listed
	err := each(v, event.MessagesIn(ref, 0, ^storage.UID(0)), func(key, value []byte) error {
		if err := event.ParseListed(value, &rec); err != nil {
			return err
		}
		if rec.UID != event.UIDOf(key) {
			return storage.Errorf(storage.ErrCorrupt, "read record of UID %d: it says UID %d", event.UIDOf(key), rec.UID)
		}
		if len(chunk) == chunkEntriesMax || chunk == nil {
			if chunk != nil {
				l.chunks = append(l.chunks, chunk)
			}
			chunk = make([]entry, 0, min(chunkEntriesMax, max(expect-len(l.uids), 8)))
		}
		chunk = append(chunk, l.entry(&rec))
		if l.uids = append(l.uids, rec.UID); int64(len(l.uids))*(entryBytes+4)+l.setBytes > bytesMax {
			return errListing
		}
		l.bodyBytes += rec.Size
		return nil
	})
	if chunk != nil {
		l.chunks = append(l.chunks, chunk)
	}
	l.messages = len(l.uids)
	return l, err
}

// entry packs a record, with its keywords among the listing's sets.
func (l *listing) entry(rec *event.Listed) entry {
	var set uint32
	if len(rec.Flags.Keywords) > 0 {
		key := strings.Join(rec.Flags.Keywords, " ") // keywords are atoms
		known := false
		if set, known = l.index[key]; !known {
			set = uint32(len(l.sets))
			l.index[key] = set
			l.sets = append(l.sets, strings.Split(key, " "))
			// The key, out of which the words are cut; a string per word; the
			// places in sets and in the map.
			l.setBytes += int64(len(key)) + 16*int64(len(rec.Flags.Keywords)) + 24 + 48
		}
	}
	return entry{modSeq: rec.ModSeq, date: rec.InternalDateUnix, sizeFlags: uint64(rec.Size)<<8 | uint64(rec.Flags.System), uid: rec.UID, set: set}
}

func (e *entry) size() int64 { return int64(e.sizeFlags >> 8) }

func (l *listing) message(e *entry, floor storage.ModSeq) storage.Message {
	return storage.Message{UID: e.uid, ModSeq: max(e.modSeq, floor), InternalDate: time.Unix(e.date, 0).UTC(), Size: e.size(),
		Flags: storage.Flags{System: storage.SystemFlags(e.sizeFlags), Keywords: l.sets[e.set]}}
}

// chunkOf returns the first chunk that ends at or above a UID.
func (l *listing) chunkOf(uid storage.UID) int {
	i, _ := slices.BinarySearchFunc(l.chunks, uid, func(c []entry, uid storage.UID) int { return cmp.Compare(c[len(c)-1].uid, uid) })
	return i
}

func position(c []entry, uid storage.UID) (int, bool) {
	return slices.BinarySearchFunc(c, uid, func(e entry, uid storage.UID) int { return cmp.Compare(e.uid, uid) })
}

// scan calls fn for the messages with lo <= UID <= hi, as storage.Messages says.
func (l *listing) scan(lo, hi storage.UID, floor storage.ModSeq, fn func(storage.Message) error) error {
	for i := l.chunkOf(lo); i < len(l.chunks); i++ {
		c := l.chunks[i]
		if c[0].uid < lo {
			first, _ := position(c, lo)
			c = c[first:]
		}
		for j := range c {
			if c[j].uid > hi {
				return nil
			}
			if err := fn(l.message(&c[j], floor)); err != nil {
				return err
			}
		}
	}
	return nil
}

// find returns one message; nil when the mailbox does not have it.
func (l *listing) find(uid storage.UID) *entry {
	if i := l.chunkOf(uid); i < len(l.chunks) {
		if j, found := position(l.chunks[i], uid); found {
			return &l.chunks[i][j]
		}
	}
	return nil
}

// catchUp makes the listing of the state that v shows out of an older one, by
// the change index. Only one caller at a time may go on from a listing: what it
// appends lies behind the older one's, in the same arrays. errListing says that
// it must be built again: too much has changed, the change index does not reach back, or
// the result is not what the mailbox's counters say.
func (l *listing) catchUp(v *view, ref storage.Ref, box *event.MailboxRecord, st *event.MailboxStats) (*listing, error) {
	if l.generation != v.generation || uint64(l.at) >= st.HighestModseq || box.ExpungeFloorModseq > uint64(l.at) ||
		len(l.sets) > l.messages+setsSlack {
		return nil, errListing
	}
	changedMax := catchUpMin + l.messages/8
	var changed []storage.UID
	if err := each(v, event.ChangedSince(ref, l.at), func(key, _ []byte) error {
		if changed = append(changed, event.UIDOf(key)); len(changed) > changedMax {
			return errListing
		}
		return nil
	}); err != nil {
		return nil, err
	}
	slices.Sort(changed)
	changed = slices.Compact(changed)
	next := *l
	next.view = v.number
	next.at, next.digest = storage.ModSeq(st.HighestModseq), event.ParseDigest(st.Digest)
	edits := make([]edit, len(changed))
	var rec event.Listed
	for i, uid := range changed {
		edits[i].uid = uid
		value, live, err := v.Get(event.MessageKey(ref, uid))
		if err != nil {
			return nil, err
		}
		if live {
			if err := event.ParseListed(value, &rec); err != nil {
				return nil, err
			}
			edits[i].live, edits[i].entry = true, next.entry(&rec)
		}
	}
	next.edit(edits)
	if next.messages != int(st.Messages) || next.bodyBytes != st.Bytes {
		return nil, errListing
	}
	return &next, nil
}
