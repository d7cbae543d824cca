package imapd

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"mailnode/imapd/wire"
	"mailnode/storage"
)

// view is the selected mailbox as this session's client was told.
//
// \Recent is not kept, RECENT is always 0: it would need a durable write each
// time that a mailbox is opened, no client that still exists depends on it, and
// RFC 9051 has dropped it.
type view struct {
	ref      storage.Ref
	name     string
	readOnly bool
	uids     []storage.UID // uids[i] has sequence number i+1
	shared   bool          // uids is the store's: not to be changed
	maxUID   storage.UID   // the highest that was ever in uids
	gone     []storage.UID // sorted; in uids, but expunged: not told yet
	since    storage.ModSeq
	poll     bool // ask for changes although none were signalled
	changed  <-chan struct{}
	stop     func()
	keywords map[string]string // told in FLAGS: lower case to as first seen
	// own has the flags that this session set, for as long as the store may
	// show older ones: it shows only what is durable (LAWS §4.8), and a client
	// must see what it has just stored.
	own map[storage.UID]ownFlags
}

type ownFlags struct {
	modSeq storage.ModSeq
	flags  storage.Flags
}

// span is a run of messages of a view: indices lo <= i < hi of uids.
type span struct{ lo, hi int }

// index finds a UID.
func (v *view) index(uid storage.UID) (int, bool) { return slices.BinarySearch(v.uids, uid) }

// spans finds the messages that a set names. A sequence number beyond the last
// message is an error of the client, and "*" of an empty mailbox (RFC 3501,
// section 9: seq-number); a UID that is not there is passed over (section 6.4.8).
func (v *view) spans(set wire.Set, isUID bool) ([]span, error) {
	var out []span
	add := func(s span) {
		if n := len(out); n > 0 && out[n-1].hi == s.lo {
			out[n-1].hi = s.hi
		} else if s.lo < s.hi {
			out = append(out, s)
		}
	}
	if !isUID {
		count := uint32(len(v.uids))
		for _, r := range set {
			all := r == wire.Range{Lo: 1} || r == wire.Range{Hi: 1} // 1:*, which clients ask of an empty mailbox, too
			if !all && (count == 0 || max(r.Lo, r.Hi) > count) {
				return nil, &wire.SyntaxError{Want: "sequence numbers of messages that exist"}
			}
		}
		for _, r := range set.Resolve(count) {
			add(span{int(r.Lo) - 1, int(min(r.Hi, count))})
		}
		return out, nil
	}
	var star uint32
	if n := len(v.uids); n > 0 {
		star = uint32(v.uids[n-1])
	}
	for _, r := range set.Resolve(star) {
		lo, _ := v.index(storage.UID(r.Lo))
		hi, found := v.index(storage.UID(r.Hi))
		if found {
			hi++
		}
		add(span{lo, hi})
	}
	return out, nil
}

// list returns the UIDs of spans.
func (v *view) list(spans []span) []storage.UID {
	var out []storage.UID
	for _, s := range spans {
		out = append(out, v.uids[s.lo:s.hi]...)
	}
	return out
}

// noteOwn remembers what this session's change left. The client must know it:
// told, or by its own STORE.
func (v *view) noteOwn(m *storage.Message) {
	if m.ModSeq <= v.since {
		return // the store shows it already
	}
	if v.own == nil {
		v.own = map[storage.UID]ownFlags{}
	}
	if o, ok := v.own[m.UID]; !ok || o.modSeq < m.ModSeq {
		v.own[m.UID] = ownFlags{m.ModSeq, m.Flags}
	}
}

// knows reports whether the client knows the flags that a message had at before.
func (v *view) knows(uid storage.UID, before storage.ModSeq) bool {
	return before <= v.since || before <= v.own[uid].modSeq
}

// overlay puts the session's own newer flags on a record that was read.
func (v *view) overlay(m *storage.Message) {
	if len(v.own) == 0 {
		return
	}
	if o, ok := v.own[m.UID]; ok && o.modSeq > m.ModSeq {
		m.Flags, m.ModSeq = o.flags, o.modSeq
	}
}

// remove takes UIDs out of the view and calls told for each with its sequence
// number at that moment. uids is sorted.
func (v *view) remove(uids []storage.UID, told func(seq int)) {
	if len(uids) == 0 {
		return
	}
	if v.shared {
		v.uids, v.shared = slices.Clone(v.uids), false
	}
	first, _ := v.index(uids[0])
	kept, j := first, 0
	for i := first; i < len(v.uids); i++ {
		for j < len(uids) && uids[j] < v.uids[i] {
			j++
		}
		if j < len(uids) && uids[j] == v.uids[i] {
			told(kept + 1)
			delete(v.own, uids[j])
			continue
		}
		v.uids[kept] = v.uids[i]
		kept++
	}
	v.uids = v.uids[:kept]
}

// take brings a ChangeSet into the view. It returns the messages whose new flags
// the client must hear, and whether messages were added.
func (v *view) take(cs storage.ChangeSet) (flags []storage.Message, added bool) {
	for _, uid := range cs.Expunged {
		if _, ok := v.index(uid); ok {
			v.gone = append(v.gone, uid)
		}
	}
	slices.Sort(v.gone)
	v.gone = slices.Compact(v.gone)
	var more []storage.UID
	for _, m := range cs.Changed {
		switch o, own := v.own[m.UID]; {
		case m.UID > v.maxUID:
			more = append(more, m.UID)
			v.maxUID = m.UID
		case own && m.ModSeq <= o.modSeq:
		default:
			if _, ok := v.index(m.UID); ok {
				flags = append(flags, m)
			}
		}
	}
	if len(more) > 0 {
		v.extend(more, cs.UIDs)
	}
	v.since = cs.Head
	maps.DeleteFunc(v.own, func(_ storage.UID, o ownFlags) bool { return o.modSeq <= cs.Head })
	return flags, len(more) > 0
}

// extend adds UIDs at the end. latest is what the store has, or nil: when it is
// the array that the view shares already, grown by the same UIDs, it is shared
// further, and nothing is copied.
func (v *view) extend(more, latest []storage.UID) {
	n := len(v.uids)
	if v.shared && n > 0 && len(latest) == n+len(more) && &latest[0] == &v.uids[0] && slices.Equal(latest[n:], more) {
		v.uids = latest
		return
	}
	v.uids, v.shared = append(v.uids, more...), false // what is shared has no room behind it
}

// share takes the store's array instead of an equal one of the session's own.
func (v *view) share(latest []storage.UID) {
	if !v.shared && len(latest) > 0 && slices.Equal(v.uids, latest) {
		v.uids, v.shared = latest, true
	}
}

// newKeywords reports whether flags have keywords that FLAGS did not name yet, and
// takes them in.
func (v *view) newKeywords(f storage.Flags) bool {
	found := false
	for _, k := range f.Keywords {
		low := strings.ToLower(k)
		if _, ok := v.keywords[low]; !ok && len(v.keywords) < keywordsShownMax {
			v.keywords[strings.Clone(low)] = strings.Clone(k)
			found = true
		}
	}
	return found
}

// nameKeywords writes FLAGS when f has a keyword that the client was not told
// of: before any response that shows it (RFC 3501, section 7.2.6).
func (c *session) nameKeywords(f storage.Flags) {
	if len(f.Keywords) > 0 && c.view.newKeywords(f) {
		c.writeFlagsList()
	}
}

// tellChanges writes what others did to the selected mailbox. It asks the store
// only when something was signalled.
func (c *session) tellChanges(expunges bool) *byeError {
	v := c.view
	select {
	case <-v.changed:
		v.poll = true
	default:
	}
	var flags []storage.Message
	var added, named bool
	var latest []storage.UID
	if v.poll {
		cs, err := c.store.Changes(c.ctx, v.ref, v.since)
		if err != nil {
			return c.changesFailed(err)
		}
		v.poll = false
		latest = cs.UIDs
		flags, added = v.take(cs)
		for i := range cs.Changed {
			named = v.newKeywords(cs.Changed[i].Flags) || named
		}
	}
	if expunges && len(v.gone) > 0 {
		c.tellExpunged(v.gone)
		v.gone = nil
	}
	v.share(latest)
	if named {
		c.writeFlagsList()
	}
	if added {
		c.w.Str("* ").Uint(uint64(len(v.uids))).Str(" EXISTS").CRLF()
	}
	for i := range flags {
		if err := c.ctx.Err(); err != nil {
			return c.changesFailed(err)
		}
		c.tellFlags(&flags[i])
		c.w.FlushIfFull()
	}
	return nil
}

func (c *session) changesFailed(err error) *byeError {
	if errors.Is(err, storage.ErrNotFound) && !errors.Is(err, storage.ErrUnavailable) {
		// What a session with a mailbox that is gone could still do is not
		// worth the confusion; Dovecot says the same.
		return &byeError{"", "selected mailbox was deleted"}
	}
	r, bye := replyTo(err)
	if bye == nil && !known(r) {
		c.log().Error("read changes of the selected mailbox", "err", err)
	}
	return bye
}

// tellExpunged takes UIDs, sorted, out of the view and tells the client.
func (c *session) tellExpunged(uids []storage.UID) {
	c.view.remove(uids, func(seq int) {
		c.w.Str("* ").Uint(uint64(seq)).Str(" EXPUNGE").CRLF()
		c.w.FlushIfFull()
	})
}

// tellFlags writes an untagged FETCH with a message's flags.
func (c *session) tellFlags(m *storage.Message) {
	i, ok := c.view.index(m.UID)
	if !ok {
		return
	}
	if _, gone := slices.BinarySearch(c.view.gone, m.UID); gone {
		return
	}
	c.nameKeywords(m.Flags)
	c.w.Str("* ").Uint(uint64(i + 1)).Str(" FETCH (UID ").Uint(uint64(m.UID)).Str(" FLAGS ")
	c.writeFlags(m.Flags)
	c.w.Str(")").CRLF()
}

// writeFlags writes a flag list without making a slice of it.
func (c *session) writeFlags(f storage.Flags) {
	c.w.Byte('(')
	sep := ""
	for _, s := range systemFlags {
		if f.Has(s.flag) {
			c.w.Str(sep).Str(s.name)
			sep = " "
		}
	}
	for _, k := range f.Keywords {
		c.w.Str(sep).Str(k)
		sep = " "
	}
	c.w.Byte(')')
}

var systemFlags = []struct {
	flag storage.SystemFlags
	name string
}{
	{storage.Answered, `\Answered`}, {storage.Flagged, `\Flagged`}, {storage.Deleted, `\Deleted`},
	{storage.Seen, `\Seen`}, {storage.Draft, `\Draft`},
}
