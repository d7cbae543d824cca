package local

import (
	"slices"

	"mailnode/storage"
)

// edit is what became of one UID.
type edit struct {
	uid   storage.UID
	live  bool // entry is its record now; else it is gone
	entry entry
}

// edit brings edits, in the order of UIDs, into a listing that still shares all
// arrays with an older one. What lies below the older one's ends is copied
// before it changes; what comes behind them is appended.
func (l *listing) edit(edits []edit) {
	var last storage.UID
	if n := len(l.uids); n > 0 {
		last = l.uids[n-1]
	}
	known, _ := slices.BinarySearchFunc(edits, last+1, func(e edit, uid storage.UID) int { return int(int64(e.uid) - int64(uid)) })
	if last == ^storage.UID(0) {
		known = len(edits)
	}
	l.chunks = slices.Clone(l.chunks)
	reordered := false
	for rest := edits[:known]; len(rest) > 0; {
		i := l.chunkOf(rest[0].uid)
		c := l.chunks[i]
		n := 1
		for n < len(rest) && rest[n].uid <= c[len(c)-1].uid {
			n++
		}
		merged, same := l.merge(c, rest[:n])
		reordered = reordered || !same
		rest = rest[n:]
		if l.chunks[i] = merged; len(merged) == 0 {
			l.chunks = slices.Delete(l.chunks, i, i+1)
		}
	}
	if reordered {
		l.pack()
	}
	for i := range edits[known:] {
		if e := &edits[known+i]; e.live {
			l.append(e.entry)
		}
	}
}

// merge returns a chunk with edits, none of which lies above its last UID, and reports
// whether it has the same UIDs as before.
func (l *listing) merge(c []entry, edits []edit) (out []entry, same bool) {
	out, same = make([]entry, 0, len(c)+len(edits)), true
	for len(c) > 0 || len(edits) > 0 {
		if len(edits) == 0 || len(c) > 0 && c[0].uid < edits[0].uid {
			out = append(out, c[0])
			c = c[1:]
			continue
		}
		was := len(c) > 0 && c[0].uid == edits[0].uid
		same = same && was == edits[0].live
		if was {
			l.count(&c[0], -1)
			c = c[1:]
		}
		if edits[0].live {
			l.count(&edits[0].entry, 1)
			out = append(out, edits[0].entry)
		}
		edits = edits[1:]
	}
	return slices.Clip(out), same
}

func (l *listing) count(e *entry, n int) {
	l.messages += n
	l.bodyBytes += int64(n) * e.size()
}

// append takes in a message above all others.
func (l *listing) append(e entry) {
	l.count(&e, 1)
	l.uids = append(l.uids, e.uid)
	last := len(l.chunks) - 1
	if last < 0 || len(l.chunks[last]) >= chunkEntriesMax {
		l.chunks = append(l.chunks, []entry{e})
		return
	}
	l.chunks[last] = append(l.chunks[last], e)
}

// pack makes the array of UIDs again after messages have gone, and the chunks too when
// there are too many for what is in them.
func (l *listing) pack() {
	l.uids = make([]storage.UID, 0, l.messages)
	for _, c := range l.chunks {
		for i := range c {
			l.uids = append(l.uids, c[i].uid)
		}
	}
	if len(l.chunks) <= 2+2*l.messages/chunkEntriesMax {
		return
	}
	chunks := make([][]entry, 0, l.messages/chunkEntriesMax+1)
	var all []entry
	for _, c := range l.chunks {
		for len(c) > 0 {
			if len(all) == 0 {
				all = make([]entry, 0, chunkEntriesMax)
			}
			n := min(chunkEntriesMax-len(all), len(c))
			all = append(all, c[:n]...)
			if c = c[n:]; len(all) == chunkEntriesMax {
				chunks = append(chunks, all)
				all = nil
			}
		}
	}
	if len(all) > 0 {
		chunks = append(chunks, slices.Clone(all))
	}
	l.chunks = chunks
}
